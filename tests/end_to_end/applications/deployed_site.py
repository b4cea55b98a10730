"""
A Django site as it is deployed: our handler, startproject's middleware, pages, uploads, events, and a WebSocket.

Each answer says which process gave it, and who the client is taken for.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=["www.example.com", "127.0.0.1", "localhost", "load"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)

from daphne_like.django import get_asgi_application  # noqa: E402  # settings come first

PID = os.getpid()


def page(request: HttpRequest) -> JsonResponse:
    told = ("REMOTE_ADDR", "REMOTE_PORT", "SCRIPT_NAME", "HTTP_X_FORWARDED_FOR")
    return JsonResponse(
        {
            "pid": PID,
            "host": request.get_host(),
            "scheme": request.scheme,
            **{name: request.META.get(name) for name in told},
        }
    )


def upload(request: HttpRequest) -> JsonResponse:
    """Size and digest of the body, read in pieces; and whose it is."""
    digest = hashlib.sha256()
    size = 0
    while piece := request.read(1 << 20):
        digest.update(piece)
        size += len(piece)
    told = {"size": size, "sha256": digest.hexdigest(), "client": request.META["REMOTE_ADDR"]}
    return JsonResponse({"pid": PID, **told})


async def events(request: HttpRequest) -> StreamingHttpResponse:
    """Numbered events, on and on; a client that comes again gets what follows its last one."""
    client = request.META["REMOTE_ADDR"]
    last = int(request.headers.get("Last-Event-ID", "0"))

    async def generate() -> AsyncIterator[str]:
        number = last
        while True:
            number += 1
            yield f"id: {number}\ndata: {PID} {client}\n\n"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(generate(), content_type="text/event-stream")


urlpatterns = [path("", page), path("upload/", upload), path("events/", events), path("static/page", page)]

django_application = get_asgi_application()

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
    else:
        await django_application(scope, receive, send)


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{PID} {scope['client'][0]} {message['text']}"})
