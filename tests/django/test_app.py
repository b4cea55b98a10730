"""
The app as a new user meets it: what `startproject` writes, and one line.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.django.projects import Project, make_project, port_of
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import ROOT, serving

SHOW = "from django.apps import apps; c = apps.get_app_config('daphne_like'); print(c.name, c.label)"

COMMANDS = """
from django.core.management import get_commands
print(get_commands()["runserver"], get_commands()["runworker"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Made by Django's own startproject."""
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "mysite", str(tmp_path)], check=True, timeout=60
    )
    project = Project(tmp_path)
    project.replace(
        "mysite/settings.py", "INSTALLED_APPS = [\n", "INSTALLED_APPS = [\n    'daphne_like.django',\n"
    )
    return project


def test_one_line_has_runserver(project):
    assert "no issues" in project.run("check").stdout
    project.run("migrate", "--verbosity", "0")
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        assert "The install worked successfully" in fetch(port).text
        assert fetch(port, "/static/admin/css/base.css").status == 200
        assert fetch(port, "/admin/login/").status == 200


def test_one_more_line_has_our_handler(project):
    project.replace(
        "mysite/asgi.py",
        "from django.core.asgi import get_asgi_application",
        "from daphne_like.django import get_asgi_application",
    )
    project.run("migrate", "--verbosity", "0")
    with project.serving("runserver", "0", "--noreload") as server:
        port = port_of(server)
        assert fetch(port, "/admin/login/").status == 200
        assert fetch(port, "/static/admin/css/base.css").status == 200
    with serving("-p", "0", "mysite.asgi:application", directory=project.directory) as server:
        assert fetch(server.port, "/admin/login/").status == 200


def test_the_label_leaves_django_to_others(tmp_path):
    """An app's label is its last word; that would have been "django"."""
    project = make_project(tmp_path)
    done = project.run("shell", "--verbosity", "0", "-c", SHOW)
    assert done.stdout.strip().splitlines()[-1] == "daphne_like.django daphne_like", done.stderr


def test_commands_come_from_the_app(tmp_path):
    """Both are listed before the apps that have commands of the same names."""
    project = make_project(tmp_path, "INSTALLED_APPS.append('channels')\n")
    done = project.run("shell", "--verbosity", "0", "-c", COMMANDS)
    assert done.stdout.strip().splitlines()[-1] == "daphne_like.django daphne_like.django", done.stderr


def test_the_demo_site_has_runserver(tmp_path):
    site = Project(ROOT / "docs" / "examples" / "seatmap")
    environment = {
        "SECRET_KEY": "of the tests",
        "SEATMAP_DATABASE": str(tmp_path / "db.sqlite3"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for words in (("migrate", "--verbosity", "0"), ("seed_theatre",)):
        done = site.run(*words, environment=environment)
        assert done.returncode == 0, done.stderr
    with site.serving("runserver", "0", "--noreload", environment=environment) as server:
        port = port_of(server)
        assert fetch(port).status == 200
        assert fetch(port, "/static/theatre/feed.js").status == 200
