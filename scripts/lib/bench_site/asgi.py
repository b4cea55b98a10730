"""The site's applications: with our handler, with Django's, for WSGI, and with Channels around either."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_site.settings")


def ours() -> Any:
    from daphne_like.django import get_asgi_application

    return get_asgi_application()


def djangos() -> Any:
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def with_chat(handler: Any) -> Any:
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter

    class Chat(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.accept()

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.channel_layer.group_send("room", {"type": "chat.message", "text": text_data})

        async def chat_message(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    return ProtocolTypeRouter({"http": handler, "websocket": Chat.as_asgi()})


def ours_with_chat() -> Any:
    return with_chat(ours())


def djangos_with_chat() -> Any:
    return with_chat(djangos())
