"""
`manage.py runworker`: for a server at a layer, and for background jobs as Channels' own.
"""

from pathlib import Path

import pytest
import websockets.sync.client

from tests.django.projects import Project, make_project
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import serving

READY = "worker ready"
SAY = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
async_to_sync(get_channel_layer().send)("jobs", {"type": "job.done", "what": "something"})
"""


@pytest.fixture
def layer(tmp_path: Path) -> str:
    return f"ipc:{tmp_path}/layer.sock"


@pytest.fixture
def project(tmp_path: Path, layer: str) -> Project:
    return make_project(
        tmp_path,
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'daphne_like.layers.ChannelLayer', "
        f"'CONFIG': {{'url': {layer!r}}}}}, 'memory': {{'BACKEND': 'channels.layers.InMemoryChannelLayer'}}}}\n",
    )


def test_serves_a_server(project, layer):
    with serving("-p", "0", "--layer", layer, "--no-access-log") as server:
        with project.serving("runworker", ready=READY) as worker:
            assert fetch(server.port, "/interface/").text == "asgi"
            address = f"ws://localhost:{server.port}/ws/echo/"
            with websockets.sync.client.connect(address, origin="http://localhost") as client:
                client.send("hello")
                assert client.recv(timeout=20) == "hello"
            assert "DEBUG is on" not in worker.stderr.text  # a management command is for development


def test_layer_by_url(tmp_path, layer):
    """The site's CHANNEL_LAYERS need not name it: ChannelLayer finds the one of this process."""
    project = make_project(
        tmp_path, "CHANNEL_LAYERS = {'default': {'BACKEND': 'daphne_like.layers.ChannelLayer'}}\n"
    )
    with serving("-p", "0", "--layer", layer, "--no-access-log") as server:
        with project.serving("runworker", "--layer", layer, ready=READY):
            address = f"ws://localhost:{server.port}/ws/room/"
            with websockets.sync.client.connect(address, origin="http://localhost") as client:
                client.send("to all")
                assert client.recv(timeout=20) == "to all"


def test_named_channels_only(project, layer):
    """As Channels' runworker: these channels, and nothing of the server's."""
    with serving("-p", "0", "--layer", layer, "--no-access-log", "--queue-timeout", "0.2") as server:
        with project.serving("runworker", "jobs", ready=READY) as worker:
            done = project.run("shell", "-c", SAY)
            assert done.returncode == 0, done.stderr
            worker.stdout.wait_for("did something")
            assert fetch(server.port, "/interface/").status == 503


def test_one_kind_of_what_a_server_has(project, layer):
    with serving("-p", "0", "--layer", layer, "--no-access-log", "--queue-timeout", "0.2") as server:
        with project.serving("runworker", "websocket.*", ready=READY):
            address = f"ws://localhost:{server.port}/ws/echo/"
            with websockets.sync.client.connect(address, origin="http://localhost") as client:
                client.send("hello")
                assert client.recv(timeout=20) == "hello"
            assert fetch(server.port, "/interface/").status == 503


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--layer", "memory"), "This layer is in the memory of one process"),
        (("--layer", "memory:"), "This layer is in the memory of one process"),
        (("--layer", "nothing"), "--layer nothing: CHANNEL_LAYERS has no such alias ('default', 'memory')"),
        (("--layer", "nothing:"), "layer 'nothing:': nothing is called 'nothing'"),
    ],
)
def test_layers_that_cannot_be(project, words, complaint):
    done = project.run("runworker", "jobs", *words)
    assert done.returncode != 0
    assert f"CommandError: {complaint}" in done.stderr


def test_without_layers(tmp_path):
    """In Channels' words."""
    done = make_project(tmp_path).run("runworker", "jobs")
    assert done.returncode == 1
    assert "CommandError: You do not have any CHANNEL_LAYERS configured." in done.stderr
