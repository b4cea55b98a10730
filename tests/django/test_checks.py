"""
The app's system checks, by `manage.py check`; and what a server process says of its site.
"""

import signal
from pathlib import Path

import pytest

from tests.django.projects import make_project
from tests.end_to_end.processes import serving

RUNSERVER_OF_ANOTHER = """
from django.core.management.commands.runserver import Command
"""


def messages(
    directory: Path, settings: str, *words: str, environment: dict[str, str] | None = None
) -> set[str]:
    """Ids of ours among what `check` finds."""
    project = make_project(directory, settings)
    done = project.run("check", *words, environment=environment)
    assert "Traceback" not in done.stderr, done.stderr
    words_seen = done.stderr.replace("(", " ").replace(")", " ").replace(":", " ").split()
    return {word.removeprefix("daphne_like.") for word in words_seen if word.startswith("daphne_like.")} & {
        "E001",
        "E002",
        "W001",
        "W002",
        "W003",
        "W004",
        "W005",
        "W006",
    }


def test_a_plain_site_is_well(tmp_path):
    assert messages(tmp_path, "") == set()


def test_staticfiles_before_us(tmp_path):
    project = make_project(
        tmp_path, "INSTALLED_APPS = ['django.contrib.staticfiles', 'daphne_like.django', 'shop']\n"
    )
    done = project.run("check")
    assert done.returncode != 0
    assert "(daphne_like.E001)" in done.stderr
    assert 'Put "daphne_like.django" before "django.contrib.staticfiles" in INSTALLED_APPS.' in done.stderr


def test_another_apps_runserver_before_us(tmp_path):
    project = make_project(tmp_path, "INSTALLED_APPS.insert(0, 'other')\n")
    for folder in ("other", "other/management", "other/management/commands"):
        project.write(f"{folder}/__init__.py", "")
    project.write("other/management/commands/runserver.py", RUNSERVER_OF_ANOTHER)
    done = project.run("check")
    assert done.returncode == 0
    assert "(daphne_like.W001)" in done.stderr
    assert 'runserver is that of "other"' in done.stderr


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"BACKEND": "daphne_like.layers.ChannelLayer"}, set()),
        ({"BACKEND": "daphne_like.layers.ChannelLayer", "CONFIG": {"url": "ipc:/run/site.sock"}}, set()),
        ({"BACKEND": "daphne_like.layers.ChannelLayer", "CONFIG": {"url": "ipc:nowhere/"}}, {"E002"}),
        (
            {"BACKEND": "daphne_like.layers.ChannelLayer", "CONFIG": {"url": "memory:", "colour": 1}},
            {"E002"},
        ),
        ({"BACKEND": "daphne_like.layers.NoSuchLayer"}, {"E002"}),
        ({"CONFIG": {}}, {"E002"}),
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, set()),
    ],
)
def test_layers(tmp_path, layer, expected):
    assert messages(tmp_path, f"CHANNEL_LAYERS = {{'default': {layer!r}}}\n") == expected


PRODUCTION = "DEBUG = False\n"
MEMORY = "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}}\n"
BEHIND = {"DAPHNE_LIKE_PROXY_HEADERS": "true"}


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ("ALLOWED_HOSTS = ['site.example']\n", {}, set()),
        ("ALLOWED_HOSTS = ['site.example']\n", BEHIND, set()),
        ("ALLOWED_HOSTS = ['site.example']\n" + MEMORY, {}, {"W002"}),
        ("ALLOWED_HOSTS = ['site.example']\nUSE_X_FORWARDED_HOST = True\n", BEHIND, {"W003"}),
        (
            "ALLOWED_HOSTS = ['a.example']; SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')\n",
            BEHIND,
            {"W003"},
        ),
        ("ALLOWED_HOSTS = ['*']\n", {}, set()),
        ("ALLOWED_HOSTS = ['*']\n", BEHIND, {"W004"}),
        ("ALLOWED_HOSTS = ['*']\nUSE_X_FORWARDED_HOST = True\n", {}, {"W004"}),
        ("ALLOWED_HOSTS = ['localhost', '127.0.0.1']\n", {}, set()),
        ("ALLOWED_HOSTS = ['localhost', '127.0.0.1']\n", BEHIND, {"W005"}),
    ],
)
def test_deployment(tmp_path, settings, environment, expected):
    assert messages(tmp_path, PRODUCTION + settings, "--deploy", environment=environment) == expected


def test_deployment_is_not_checked_unasked(tmp_path):
    assert messages(tmp_path, "ALLOWED_HOSTS = ['*']\n", environment=BEHIND) == set()


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["embedded", "workers"])
def test_debug_in_a_server_process(tmp_path, more):
    """Said once, whatever the number of workers, and of their successors."""
    project = make_project(tmp_path, "LOGGING = {'version': 1}\n")  # switches existing loggers off
    with serving("-p", "0", "mysite.asgi:application", *more, directory=project.directory) as server:
        server.stderr.wait_for(r"DEBUG is on in a server process.* check=daphne_like\.W006")
        if more:
            server.signal(signal.SIGHUP)
            server.stderr.wait_for("all workers are new")
    assert server.stderr.text.count("DEBUG is on") == 1
    project.replace("mysite/settings.py", "DEBUG = True", "DEBUG = False")
    with serving("-p", "0", "mysite.asgi:application", *more, directory=project.directory) as server:
        assert "DEBUG is on" not in server.stderr.text


def test_debug_is_what_reload_is_for(tmp_path):
    project = make_project(tmp_path)
    with serving("-p", "0", "mysite.asgi:application", "--reload", directory=project.directory) as server:
        assert "DEBUG is on" not in server.stderr.text
