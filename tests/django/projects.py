"""
Django projects as their users have them: files in a directory of their own, run by `manage.py`.

    project = make_project(tmp_path)
    project.run("check")
    with project.serving("runserver", "0") as server: ...

A project is what `startproject` writes, with the app, some WebSockets, and a model of one field; settings that a
test wants otherwise are appended to settings.py as they are.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import ROOT, START_WITHIN, ServerProcess, eventually, serving

__all__ = ["BANNER", "Project", "make_project", "port_of"]

BANNER = r"development server at (https?)://(\S+):(\d+)/"

MANAGE = """
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
"""

SETTINGS = """
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "of the tests"
DEBUG = True
ALLOWED_HOSTS = []
INSTALLED_APPS = ["daphne_like.django", "django.contrib.staticfiles", "shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "mysite.urls"
WSGI_APPLICATION = "mysite.wsgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
"""

URLS = """
import time

from django.db import transaction
from django.http import HttpResponse
from django.urls import path

from shop.models import Item


def index(request):
    return HttpResponse("first version")


def asgi_or_wsgi(request):
    return HttpResponse("asgi" if hasattr(request, "scope") else "wsgi")


def script_name(request):
    return HttpResponse(request.META["SCRIPT_NAME"])


def slow(request):
    time.sleep(float(request.GET["seconds"]))
    return HttpResponse("slept")


def items(request):
    return HttpResponse(",".join(Item.objects.order_by("name").values_list("name", flat=True)))


def add(request):
    with transaction.atomic():
        Item.objects.count()
        Item.objects.create(name=request.GET["name"])
        with transaction.atomic():
            Item.objects.filter(name="nobody").update(name="somebody")
    return HttpResponse("added")


urlpatterns = [
    path("", index),
    path("interface/", asgi_or_wsgi),
    path("script-name/", script_name),
    path("slow/", slow),
    path("items/", items),
    path("add/", add),
    path("media/from-the-site/", index),
]
"""

ASGI = """
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from shop.models import Item


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data)


class Count(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(str(await Item.objects.acount()))


class Room(AsyncWebsocketConsumer):
    groups = ["room"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("room", {"type": "room.said", "text": text_data})

    async def room_said(self, message):
        await self.send(message["text"])


class Jobs(AsyncConsumer):
    async def job_done(self, message):
        print("did", message["what"], flush=True)


application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(
            URLRouter(
                [
                    path("ws/echo/", Echo.as_asgi()),
                    path("ws/count/", Count.as_asgi()),
                    path("ws/room/", Room.as_asgi()),
                ]
            )
        ),
        "channel": ChannelNameRouter({"jobs": Jobs.as_asgi()}),
    }
)
"""

WSGI = """
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
"""

MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=40)
"""

FILES = {
    "manage.py": MANAGE,
    "mysite/__init__.py": "",
    "mysite/settings.py": SETTINGS,
    "mysite/urls.py": URLS,
    "mysite/asgi.py": ASGI,
    "mysite/wsgi.py": WSGI,
    "shop/__init__.py": "",
    "shop/models.py": MODELS,
    "shop/static/shop/hello.txt": "a static file\n",
}


@dataclass
class Project:
    """
    Attributes:
        directory: where manage.py is.
    """

    directory: Path

    def write(self, name: str, text: str) -> None:
        """Put *text* into a file of the project."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file; *old* must be there."""
        path = self.directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def change(self, server: ServerProcess, name: str, old: str, new: str, *, count: int = 1) -> None:
        """
        Edit a file under `runserver`, and wait until that is seen, for the *count*-th time.

        Django's autoreloader misses what changes before its first look, which nothing tells of: the file is
        touched until it has looked.
        """
        self.replace(name, old, new)

        def seen() -> bool:
            if server.stderr.text.count("changed, reloading.") >= count:
                return True  # and not touched once more, which the next start would take for a change
            os.utime(self.directory / name)
            return False

        eventually(seen)

    def run(
        self, *words: str, environment: dict[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`manage.py` with *words*, to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=self.directory,
            env=self._environment(environment),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    @contextmanager
    def serving(
        self,
        *words: str,
        environment: dict[str, str] | None = None,
        expected_trouble: bool = False,
        ready: str = BANNER,
    ) -> Iterator[ServerProcess]:
        """`manage.py` with *words*, which serves inside of the block; SIGTERM ends it."""
        with serving(
            *words,
            environment=environment,
            directory=self.directory,
            program=(sys.executable, "manage.py"),
            ready=lambda server: (server.stdout if ready == BANNER else server.stderr).wait_for(
                ready, timeout=START_WITHIN
            ),
            expected_trouble=expected_trouble,
        ) as server:
            yield server

    def _environment(self, more: dict[str, str] | None) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}


def make_project(directory: Path, settings: str = "") -> Project:
    """A project in *directory*, with the lines of *settings* after its own."""
    project = Project(directory)
    for name, text in FILES.items():
        project.write(name, text)
    if settings:
        project.write("mysite/settings.py", SETTINGS + "\n" + settings)
    return project


def port_of(server: ServerProcess, *, count: int = 1) -> int:
    """Where the *count*-th start of the site listens."""
    match = server.stdout.wait_for(BANNER, count=count)
    assert isinstance(match, re.Match)
    return int(match[3])
