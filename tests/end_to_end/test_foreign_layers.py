"""A third-party channel layer carries the relay: channels_redis on a real Redis, both of its layers."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import ServerProcess, complaint_of, eventually, free_port, serving

pytest.importorskip("channels_redis", reason="channels_redis is not installed: pip install -e '.[test]'")
websockets = pytest.importorskip("websockets.sync.client")

APPLICATION = "tests.faults.application:application"
WAIT = 20
LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[int]:
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    engine = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: accepts(port))
        yield port
    finally:
        engine.terminate()
        engine.wait(WAIT)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    """What follows the class' name in --layer."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis(tmp_path) as port:
        # The newest redis-py gives up reading after five seconds, as long as channels_redis waits for a message.
        host = {"address": f"redis://127.0.0.1:{port}", "socket_timeout": 30}
        yield "?" + urlencode({"hosts": json.dumps([host])})


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("name", LAYERS)
def test_groups_of_an_embedded_application(engine: str, name: str) -> None:
    with serving("-p", "0", APPLICATION, "--layer", LAYERS[name] + engine) as server:
        url = f"ws://127.0.0.1:{server.port}/echo"
        with (
            websockets.connect(url, compression=None) as first,
            websockets.connect(url, compression=None) as second,
        ):
            first.send("1")
            assert first.recv(timeout=WAIT) == "e1"
            fetch(server.port, "/publish", method="POST", body=b"7")
            assert first.recv(timeout=WAIT) == second.recv(timeout=WAIT) == "n7"


@pytest.mark.needs("redis-server")
def test_layer_that_broadcasts_cannot_share_work_out(engine: str) -> None:
    """channels_redis' pub/sub gives each message to every process: each worker would run each request."""
    words = ("-p", "0", APPLICATION, "--workers", "2", "--layer", LAYERS["pubsub"] + engine)

    code, lines = complaint_of(*words)

    assert code == 2
    assert "every process" in lines[-1]


@pytest.fixture
def site(engine: str) -> Iterator[ServerProcess]:
    with serving("-p", "0", APPLICATION, "--workers", "2", "--layer", LAYERS["core"] + engine) as server:
        server.stderr.wait_for("worker ready", count=2)
        yield server


@pytest.mark.needs("redis-server")
@pytest.mark.time_limit(180)
def test_requests_sockets_groups_and_restarts(site: ServerProcess) -> None:
    assert fetch(site.port, "/?42").body == b"42"
    url = f"ws://127.0.0.1:{site.port}/echo"
    with (
        websockets.connect(url, compression=None) as first,
        websockets.connect(url, compression=None) as second,
    ):
        first.send("1")
        assert first.recv(timeout=WAIT) == "e1"
        fetch(site.port, "/publish", method="POST", body=b"7")
        assert first.recv(timeout=WAIT) == second.recv(timeout=WAIT) == "n7"
        site.signal(signal.SIGHUP)
        site.stderr.wait_for("worker ended", count=2, timeout=60)
        first.send("2")
        second.send("3")
        assert first.recv(timeout=WAIT) == "e2"
        assert second.recv(timeout=WAIT) == "e3"
        fetch(site.port, "/publish", method="POST", body=b"8")
        assert first.recv(timeout=WAIT) == second.recv(timeout=WAIT) == "n8"
