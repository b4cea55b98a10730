# syntax=docker/dockerfile:1
#
# An image with the server, for an application mounted or copied into /app:
#
#   docker build -t daphne-like .
#   docker run -p 8000:8000 -v "$PWD:/app:ro" daphne-like mysite.asgi:application
#
# or, with the application's own requirements, in a Dockerfile of its own:
#
#   FROM daphne-like
#   COPY --chown=server . /app
#   RUN /venv/bin/pip install --no-cache-dir -r requirements.txt
#   CMD ["mysite.asgi:application"]

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir .

FROM python:${PYTHON}-slim
COPY --from=build /venv /venv
RUN useradd --system --no-create-home --uid 10001 server
WORKDIR /app
USER server
ENV PATH="/venv/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DAPHNE_LIKE_BIND=0.0.0.0 \
    DAPHNE_LIKE_PORT=8000
EXPOSE 8000

# Is something accepting connections? What a healthy application answers only its owner knows: override with
# `docker run --health-cmd`, or HEALTHCHECK in the image built from this one.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, socket; socket.create_connection(('127.0.0.1', int(os.environ['DAPHNE_LIKE_PORT'])), 3).close()"]

# Exec form: the server is process 1 and gets the SIGTERM of `docker stop` itself. Its graceful stop must end before
# docker's patience does (10 s unless `docker stop --time` says more).
ENTRYPOINT ["daphne-like"]
CMD ["--help"]
