"""
The live server for tests of sites: TestCase and pytest fixture, each as a site's own test suite would use it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.django.projects import Project, make_project
from tests.end_to_end.processes import ROOT

TESTS = """
import pathlib
import tempfile
import threading
import urllib.error
import urllib.request

import websockets.sync.client
from django.db import transaction
from django.test import override_settings

from daphne_like.django.testing import ChannelsLiveServerTestCase, LiveServerTestCase
from shop.models import Item


def get(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


def status(url):
    # of a refusal; None for an answer
    try:
        get(url)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


class LiveTests(LiveServerTestCase):
    def test_pages(self):
        self.assertEqual(get(self.live_server_url + "/"), "first version")
        self.assertEqual(get(self.live_server_url + "/interface/"), "asgi")
        self.assertEqual(get(self.live_server_url + "/static/shop/hello.txt"), "a static file\\n")

    def test_both_see_what_the_other_has_stored(self):
        Item.objects.create(name="ours")
        self.assertEqual(get(self.live_server_url + "/items/"), "ours")
        get(self.live_server_url + "/add/?name=theirs")
        self.assertEqual(Item.objects.count(), 2)

    def test_each_test_begins_with_nothing(self):
        self.assertEqual(get(self.live_server_url + "/items/"), "")

    def test_transactions_of_many_threads(self):
        done = []

        def ask(number):
            for each in range(5):
                done.append(get(self.live_server_url + f"/add/?name={number}-{each}"))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for number in range(20):
            with transaction.atomic():
                Item.objects.create(name=f"of the test {number}")
                Item.objects.count()
        for thread in threads:
            thread.join(60)
        self.assertEqual(done, ["added"] * 40)
        self.assertEqual(Item.objects.count(), 60)

    def test_websocket(self):
        with websockets.sync.client.connect(
            self.live_server_ws_url + "/ws/count/", origin=self.live_server_url
        ) as socket:
            socket.send("")
            self.assertEqual(socket.recv(timeout=20), "0")
            Item.objects.create(name="one")
            socket.send("")
            self.assertEqual(socket.recv(timeout=20), "1")

    def test_groups(self):
        with (
            websockets.sync.client.connect(
                self.live_server_ws_url + "/ws/room/", origin=self.live_server_url
            ) as one,
            websockets.sync.client.connect(
                self.live_server_ws_url + "/ws/room/", origin=self.live_server_url
            ) as other,
        ):
            one.send("to all")
            self.assertEqual(other.recv(timeout=20), "to all")

    def test_overridden_settings_are_the_sites_too(self):
        with override_settings(FORCE_SCRIPT_NAME="/overridden"):
            self.assertEqual(get(self.live_server_url + "/script-name/"), "/overridden")


    def test_media(self):
        # From wherever MEDIA_ROOT is in this test. What is not there is the site's to answer.
        self.assertEqual(status(self.live_server_url + "/media/films/a%20film.bin"), 404)
        for number in range(2):
            with tempfile.TemporaryDirectory() as folder, override_settings(MEDIA_ROOT=folder):
                content = bytes([number]) * 300_000
                pathlib.Path(folder, "films").mkdir()
                pathlib.Path(folder, "films", "a film.bin").write_bytes(content)
                with urllib.request.urlopen(self.live_server_url + "/media/films/a%20film.bin") as response:
                    self.assertEqual(response.read(), content)
                    self.assertEqual(response.headers["content-length"], "300000")
                for path in ("films/", "films", "none.bin", "../manage.py", "%2e%2e/manage.py", "a%00b"):
                    self.assertEqual(status(self.live_server_url + "/media/" + path), 404)
                self.assertEqual(get(self.live_server_url + "/media/from-the-site/"), "first version")
        self.assertEqual(status(self.live_server_url + "/manage.py"), 404)

    @override_settings(MEDIA_URL="", MEDIA_ROOT="")
    def test_no_media(self):
        self.assertEqual(get(self.live_server_url + "/"), "first version")
        self.assertEqual(status(self.live_server_url + "/manage.py"), 404)


class NoFiles(ChannelsLiveServerTestCase):
    serve_static = serve_media = False

    def test_static_file(self):
        self.assertEqual(status(self.live_server_url + "/static/shop/hello.txt"), 404)

    def test_media(self):
        with override_settings(MEDIA_ROOT=pathlib.Path.cwd()):
            self.assertEqual(status(self.live_server_url + "/media/manage.py"), 404)


async def tiny(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"tiny"})


class AnotherApplication(LiveServerTestCase):
    application = staticmethod(tiny)
    serve_static = False

    def test_it(self):
        self.assertEqual(get(self.live_server_url), "tiny")
"""

SETTINGS = """
CHANNEL_LAYERS = {'default': {'BACKEND': 'daphne_like.layers.ChannelLayer'}}
MEDIA_URL = 'media/'
MEDIA_ROOT = BASE_DIR / 'no such folder'
"""
# Two transactions that have read and then want to write: SQLite would refuse one of them.
IN_A_FILE = """
DATABASES['default']['TEST'] = {'NAME': BASE_DIR / 'test.sqlite3'}
DATABASES['default']['OPTIONS'] = {'transaction_mode': 'IMMEDIATE', 'timeout': 20}
"""

CONFTEST = """
import os

import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
pytest_plugins = ["daphne_like.django.fixtures"]


@pytest.fixture(scope="session", autouse=True)
def site():
    import django
    from django.test.utils import (
        setup_databases,
        setup_test_environment,
        teardown_databases,
        teardown_test_environment,
    )

    django.setup()
    setup_test_environment()
    databases = setup_databases(0, False)
    yield
    teardown_databases(databases, 0)
    teardown_test_environment()
"""

PYTEST_TESTS = """
import urllib.request

import websockets.sync.client


def test_it(asgi_live_server):
    with urllib.request.urlopen(asgi_live_server + "/", timeout=20) as response:
        assert response.read() == b"first version"
    assert str(asgi_live_server) == asgi_live_server.url == f"http://localhost:{asgi_live_server.port}"


def test_websocket(asgi_live_server):
    with websockets.sync.client.connect(
        asgi_live_server.ws_url + "/ws/echo/", origin=asgi_live_server.url
    ) as socket:
        socket.send("hello")
        assert socket.recv(timeout=20) == "hello"
"""

PYTEST_DJANGO_TESTS = """

from shop.models import Item


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read()


def test_database(asgi_live_server):
    Item.objects.create(name="ours")
    fetch(asgi_live_server + "/add/?name=theirs")
    assert fetch(asgi_live_server + "/items/") == b"ours,theirs"


def test_database_again(asgi_live_server, settings):
    settings.FORCE_SCRIPT_NAME = "/here"
    assert fetch(asgi_live_server + "/items/") == b""
    assert fetch(asgi_live_server + "/script-name/") == b"/here"
"""

BROKEN = """
from django.test import SimpleTestCase

from daphne_like.django.testing import LiveServer
from daphne_like.errors import StartupFailed


class Broken(SimpleTestCase):
    databases = ["default"]

    def test_port_in_use(self):
        with LiveServer(host="127.0.0.1") as first:
            with self.assertRaisesRegex(StartupFailed, "address in use"):
                LiveServer(host="127.0.0.1", port=first.port).start()

    def test_lifespan_that_fails(self):
        async def application(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "on purpose"})

        with self.assertRaisesRegex(StartupFailed, "on purpose"):
            LiveServer(application, static=False).start()
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, SETTINGS)


WITHOUT_STATICFILES = """
import pathlib
import tempfile
import urllib.request

from django.test import override_settings

from daphne_like.django.testing import LiveServerTestCase


class Collected(LiveServerTestCase):
    def test_static_file(self):
        with tempfile.TemporaryDirectory() as folder, override_settings(STATIC_ROOT=folder):
            pathlib.Path(folder, "hello.txt").write_text("collected")
            with urllib.request.urlopen(self.live_server_url + "/static/hello.txt") as response:
                self.assertEqual(response.read(), b"collected")
"""


def test_without_staticfiles_it_serves_what_was_collected(project):
    """As Django's own LiveServerTestCase."""
    project.replace("mysite/settings.py", '"django.contrib.staticfiles", ', "")
    project.write("shop/tests.py", WITHOUT_STATICFILES)
    done = project.run("test")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("database", ["in memory", "in a file"])
def test_manage_py_test(project, database):
    if database == "in a file":
        project.write(
            "mysite/settings.py", (project.directory / "mysite/settings.py").read_text() + IN_A_FILE
        )
    project.write("shop/tests.py", TESTS)
    done = project.run("test", environment={"PYTHONWARNINGS": "default::ResourceWarning"})
    assert done.returncode == 0, done.stderr
    assert "Ran 12 tests" in done.stderr
    assert "ResourceWarning" not in done.stderr, done.stderr


def test_what_cannot_start_says_why(project):
    project.write("shop/tests.py", BROKEN)
    done = project.run("test")
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def run_pytest(project: Project, *words: str) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), str(project.directory), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=project.directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_pytest_fixture(project):
    project.write("conftest.py", CONFTEST)
    project.write("test_site.py", PYTEST_TESTS)
    assert "2 passed" in run_pytest(project, "-p", "no:django")


@pytest.mark.skipif(
    importlib.util.find_spec("pytest_django") is None, reason="pytest-django is not installed"
)
def test_pytest_fixture_with_pytest_django(project):
    """Nothing but the fixture asks for the database: pytest-django must learn of that before it makes any."""
    project.write("conftest.py", 'pytest_plugins = ["daphne_like.django.fixtures"]\n')
    project.write(
        "pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\nfilterwarnings = error\n"
    )
    project.write("test_site.py", PYTEST_TESTS + PYTEST_DJANGO_TESTS)
    assert "4 passed" in run_pytest(project)
