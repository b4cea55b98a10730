"""
A Django site on PostgreSQL, whose answers say over which connection they came.

DATABASE in the environment is JSON; its `application_name` is who the site is for the database.
"""

import asyncio
import json
import os
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of the end-to-end tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["daphne_like.django"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    DATABASES={"default": json.loads(os.environ["DATABASE"])},
    USE_TZ=True,
)
django.setup(set_prefix=False)

from asgiref.sync import sync_to_async  # noqa: E402  all below needs settings
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from daphne_like.django import get_asgi_application  # noqa: E402


class Seat(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "hall"
        db_table = "seat"


def seat(seconds: float) -> Any:
    """A query for seats, the connection that they are read over, and as much of the database's time."""
    backend = models.Func(function="pg_backend_pid", output_field=models.IntegerField())
    found = Seat.objects.annotate(backend=backend)
    if seconds:
        sleep = models.Func(models.Value(seconds), function="pg_sleep", output_field=models.TextField())
        found = found.annotate(slept=sleep)
    return found


def backend(seconds: float) -> int:
    """The same without the ORM, which is what most of a quick view's time goes to."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(%s)", [seconds])
        return int(cursor.fetchone()[0])


def seconds_of(request: HttpRequest) -> float:
    return float(request.GET.get("seconds", "0"))


def told(*backends: int) -> JsonResponse:
    return JsonResponse({"process": os.getpid(), "backends": sorted(set(backends))})


def sync_view(request: HttpRequest) -> JsonResponse:
    return told(backend(seconds_of(request)))


def in_transaction(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        return told(seat(0).get(pk=1).backend, backend(seconds_of(request)))


async def aget(request: HttpRequest) -> JsonResponse:
    return told((await seat(seconds_of(request)).aget(pk=1)).backend)


async def calls(request: HttpRequest) -> JsonResponse:
    """Two calls into the database, with something else to wait for in between."""
    seconds = seconds_of(request)
    first = await sync_to_async(backend)(seconds)
    await asyncio.sleep(seconds)
    return told(first, await sync_to_async(backend)(0))


async def walk(request: HttpRequest) -> JsonResponse:
    """Rows of one cursor, which stays open in its thread while the view waits for other things."""
    seconds = seconds_of(request)
    found = []
    async for row in seat(0).order_by("pk").aiterator(chunk_size=5):
        found.append(row)
        await asyncio.sleep(seconds)
    assert [row.pk for row in found] == list(range(1, 21))
    return told(*(row.backend for row in found))


class Reader(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(str((await seat(0).aget(pk=1)).backend))


urlpatterns = [
    path("sync/", sync_view),
    path("transaction/", in_transaction),
    path("aget/", aget),
    path("calls/", calls),
    path("walk/", walk),
]

application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": Reader.as_asgi()})
