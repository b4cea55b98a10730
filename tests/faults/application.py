"""
The site that is served while workers come and go.

    WebSocket /echo   answers "5" with "e5"; a member of the group that POST /publish speaks to: "n17"
    GET /?17          "17", from whichever worker
    GET /pid          the worker's process
    POST /publish     its body, a number, goes to every WebSocket
    GET /slow?0.5     an answer after so many seconds
    GET /half         a response that never ends: its first half is sent
"""

import asyncio
import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

GROUP = "everybody"

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for tests",
        CHANNEL_LAYERS={"default": {"BACKEND": "daphne_like.layers.ChannelLayer"}},
    )
    django.setup()


class Echo(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send("e" + (text_data or ""))

    async def news(self, event: dict[str, Any]) -> None:
        await self.send(f"n{event['number']}")


async def http(scope: Any, receive: Any, send: Any) -> None:
    path, query = scope["path"], scope["query_string"]
    if path == "/pid":
        body = b"%d" % os.getpid()
    elif path == "/publish":
        number = int((await receive())["body"])
        await get_channel_layer().group_send(GROUP, {"type": "news", "number": number})
        body = b"published"
    elif path == "/slow":
        await asyncio.sleep(float(query))
        body = b"slept"
    elif path == "/half":
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"200")]}
        await send(start)
        await send({"type": "http.response.body", "body": b"h" * 100, "more_body": True})
        await asyncio.sleep(3600)
        return
    else:
        body = query
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("echo", Echo.as_asgi())])}  # type: ignore[arg-type]
)
