"""An ASGI 2 application runs through asgiref's shim, without being asked about its lifespan."""

import pytest

from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import APPLICATIONS, serving

websockets = pytest.importorskip("websockets.sync.client")


def test_asgi_2_application(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, f"{APPLICATIONS}.asgi2:Application") as server:
        answer = fetch(server.port, method="PUT", body=b"x" * 300_000)
        assert answer.headers["x-asgi"] == "2"
        assert answer.body == b"PUT " + b"x" * 300_000
        with websockets.connect(f"ws://127.0.0.1:{server.port}/") as socket:
            socket.send("straw")
            assert socket.recv(timeout=10) == "warts"
