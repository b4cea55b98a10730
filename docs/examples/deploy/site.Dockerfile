# A site's own image, built on that of the server (the Dockerfile at the top of daphne_like's repository):
#
#   docker build -t daphne-like .                                   # there
#   docker build -t mysite -f site.Dockerfile .                     # here, beside manage.py and requirements.txt
#   docker run -p 8000:8000 mysite mysite.asgi:application --workers 4

FROM daphne-like

# As root: the server's user owns nothing of what it runs.
USER root
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
# Settings that are read for this alone; the real ones come with the container's environment.
RUN SECRET_KEY=unused python manage.py collectstatic --noinput
# For a socket in a volume, as in compose.yaml: the volume gets the owner of what it is put upon.
RUN install -d -o 10001 /run/mysite
USER 10001

ENV DJANGO_SETTINGS_MODULE=mysite.settings
CMD ["mysite.asgi:application", "--workers", "4"]
