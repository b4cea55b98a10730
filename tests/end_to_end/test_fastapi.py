"""A FastAPI application, unmodified."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients import fetch, upload
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

pytest.importorskip("fastapi")
websockets = pytest.importorskip("websockets.sync.client")

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def site(workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    with serving("-p", "0", *workers, f"{APPLICATIONS}.fastapi_site:application") as server:
        yield server
        assert server.stop() == 0
        assert "model unloaded" in server.stdout.text


def test_lifespan_state(site: ServerProcess) -> None:
    assert fetch(site.port).json == {"model": "loaded"}


def test_body_is_validated(site: ServerProcess) -> None:
    good = fetch(site.port, "/items/3", method="POST", body=b'{"name": "tea", "price": 2}', headers=JSON)
    assert good.json == {"number": 3, "name": "tea", "price": 2.0}
    bad = fetch(site.port, "/items/3", method="POST", body=b'{"name": "tea"}', headers=JSON)
    assert bad.status == 422


def test_function_in_a_thread_with_a_dependency(site: ServerProcess) -> None:
    assert fetch(site.port, "/in-a-thread").json == "session"
    eventually(lambda: "session closed" in fetch(site.port, "/done").json)


def test_background_task(site: ServerProcess) -> None:
    assert fetch(site.port, "/background").json == "accepted"
    eventually(lambda: "task done" in fetch(site.port, "/done").json)


def test_streaming_response_of_a_plain_generator(site: ServerProcess) -> None:
    assert fetch(site.port, "/stream").text.split() == [str(number) for number in range(1000)]


def test_file_response(site: ServerProcess) -> None:
    answer = fetch(site.port, "/file")
    assert answer.body == (Path(__file__).parent / "applications" / "fastapi_site.py").read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="site.py"'


def test_upload_of_a_file(site: ServerProcess) -> None:
    answer = upload(site.port, "/upload", "a", bytes(2 << 20))
    assert answer.json == {"name": "a", "size": 2 << 20}


def test_openapi(site: ServerProcess) -> None:
    assert "/items/{number}" in fetch(site.port, "/openapi.json").json["paths"]


def test_websocket(site: ServerProcess) -> None:
    with websockets.connect(f"ws://127.0.0.1:{site.port}/echo") as socket:
        socket.send(json.dumps([1, 2]))
        assert json.loads(socket.recv(timeout=10)) == {"you said": [1, 2]}
