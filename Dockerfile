# syntax=docker/dockerfile:1
#
# An image with the server, for an application mounted or copied into /app:
#
#   docker build -t daphne-like .
#   docker run -p 8000:8000 -v "$PWD:/app:ro" daphne-like mysite.asgi:application --workers 4
#
# or, with the application's own requirements, in a Dockerfile of its own: docs/examples/deploy/site.Dockerfile.
# docs/how-to/container.md tells the rest; scripts/container performs these steps without a container engine.

ARG PYTHON=3.13

# What is built stays here: the image gets the virtual environment alone.
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir .

FROM python:${PYTHON}-slim
COPY --from=build /venv /venv
# A number, because Kubernetes' runAsNonRoot cannot read names. No home, no shell, nothing that it owns.
RUN useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --uid 10001 server
WORKDIR /app
USER 10001
# These two paths are the server's own, and no application's.
ENV PATH="/venv/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DAPHNE_LIKE_BIND=0.0.0.0 \
    DAPHNE_LIKE_PORT=8000 \
    DAPHNE_LIKE_HEALTH_PATH=/healthz \
    DAPHNE_LIKE_READY_PATH=/readyz
EXPOSE 8000

# The server's event loop turns, and answers. With --workers it listens once a worker has the application. Whether the
# database is there is another question, and no reason to start the container anew.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --start-interval=2s \
    CMD ["python3", "-c", "import os, urllib.request as r; e = os.environ; r.urlopen('http://127.0.0.1:' + e['DAPHNE_LIKE_PORT'] + e['DAPHNE_LIKE_HEALTH_PATH'], timeout=4)"]

# Exec form: the server is process 1, and gets the SIGTERM of `docker stop` itself. Its graceful stop is to end before
# docker's patience does: `docker run --stop-timeout 110`, or a shorter --graceful-timeout.
ENTRYPOINT ["daphne-like"]
CMD ["--help"]
