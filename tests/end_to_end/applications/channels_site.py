"""A Django + Channels project in one module, on a channel layer of ours."""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of the end-to-end tests",
    ALLOWED_HOSTS=["good.example"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "channels",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CHANNEL_LAYERS={"default": {"BACKEND": "daphne_like.layers.ChannelLayer"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup(set_prefix=False)

from asgiref.sync import async_to_sync  # noqa: E402  all below needs settings
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.consumer import SyncConsumer  # noqa: E402
from channels.exceptions import StopConsumer  # noqa: E402
from channels.generic.http import AsyncHttpConsumer  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse("from Django")


urlpatterns = [path("", index)]


class Room(AsyncWebsocketConsumer):
    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)
        await self.channel_layer.group_send(self.room, {"type": "room.text", "text": f"left with {code}"})

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send(self.room, {"type": "room.text", "text": text_data})

    async def room_text(self, event):
        await self.send(text_data=event["text"])


class SyncRoom(WebsocketConsumer):
    """The same in threads; closes with a code of its own when told to."""

    groups = ("sync",)

    def receive(self, text_data=None, bytes_data=None):
        if text_data == "go away":
            self.close(code=4001, reason="as you said")
        else:
            async_to_sync(self.channel_layer.group_send)("sync", {"type": "sync.text", "text": text_data})

    def sync_text(self, event):
        self.send(text_data=event["text"].upper())


class Chooser(JsonWebsocketConsumer):
    """Chooses a subprotocol, and tells who is logged in."""

    def connect(self):
        if "json.v2" not in self.scope["subprotocols"]:
            self.close()
            return
        self.accept(subprotocol="json.v2", headers=[(b"x-chosen", b"json.v2")])
        self.send_json({"user": str(self.scope["user"]), "session": self.scope["session"].session_key})


class LongPoll(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_headers(headers=[(b"content-type", b"text/plain")])
        await self.send_body(b"you sent ", more_body=True)
        await self.send_body(body)


class RawHttp(SyncConsumer):
    """Without the generic classes: what Channels passes through is ASGI."""

    def http_request(self, message):
        self.send({"type": "http.response.start", "status": 202, "headers": []})
        self.send({"type": "http.response.body", "body": b"raw"})

    def http_disconnect(self, message):
        raise StopConsumer


application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                path("poll/", LongPoll.as_asgi()),
                path("raw/", RawHttp.as_asgi()),
                path("", get_asgi_application()),
            ]
        ),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(
                URLRouter(
                    [
                        path("room/<str:room>/", Room.as_asgi()),
                        path("sync/", SyncRoom.as_asgi()),
                        path("chooser/", Chooser.as_asgi()),
                    ]
                )
            )
        ),
    }
)
