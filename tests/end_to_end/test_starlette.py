"""A Starlette application, unmodified."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients import abandon, connect, fetch, random_octets, read_until, upload
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

pytest.importorskip("starlette")
websockets = pytest.importorskip("websockets.sync.client")

SITE = f"{APPLICATIONS}.starlette_site:application"
SOURCE = Path(__file__).parent / "applications" / "starlette_site.py"


@pytest.fixture(scope="module")
def site(workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    """One server for all; afterwards its log has no traceback, whatever its clients did."""
    with serving("-p", "0", *workers, SITE) as server:
        yield server
        assert server.stop() == 0
        assert "pool closed" in server.stdout.text


def test_state_of_the_lifespan_reaches_requests(site: ServerProcess) -> None:
    assert fetch(site.port, "/state").json == ["opened at startup"]


def test_background_task_runs_after_the_response(site: ServerProcess) -> None:
    assert fetch(site.port, "/background").text == "accepted"
    eventually(lambda: "mail sent" in fetch(site.port, "/finished").json)


def test_streaming_response(site: ServerProcess) -> None:
    answer = fetch(site.port, "/numbers?to=2000")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text.split() == [str(number) for number in range(2000)]


@pytest.mark.parametrize("leave", [lambda sock: sock.close(), abandon], ids=["close", "reset"])
def test_stream_ends_with_its_client(site: ServerProcess, leave) -> None:
    """And quietly: Starlette turns our OSError into an exception of its own, which is no failure."""
    before = fetch(site.port, "/finished").json.count("endless: ended")
    sock = connect(site.port)
    sock.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    read_until(sock, b"....")
    leave(sock)
    eventually(lambda: fetch(site.port, "/finished").json.count("endless: ended") == before + 1)
    assert "application failed" not in site.stderr.text


def test_file_response(site: ServerProcess) -> None:
    """Through http.response.pathsend, which Starlette uses where the server offers it."""
    answer = fetch(site.port, "/file")
    assert answer.body == SOURCE.read_bytes()
    assert answer.headers["content-length"] == str(SOURCE.stat().st_size)
    head = fetch(site.port, "/file", method="HEAD")
    assert (head.body, head.headers["content-length"]) == (b"", answer.headers["content-length"])
    part = fetch(site.port, "/file", headers={"Range": "bytes=5-14"})
    assert (part.status, part.body) == (206, SOURCE.read_bytes()[5:15])


def test_upload_is_streamed(site: ServerProcess) -> None:
    body = random_octets(5_000_000)
    assert fetch(site.port, "/upload", method="POST", body=body).json == len(body)


def test_multipart_form(site: ServerProcess) -> None:
    body = random_octets(100_000)
    answer = upload(site.port, "/form", "a.bin", body)
    assert answer.json == {"name": "a.bin", "size": len(body)}


def test_websocket(site: ServerProcess) -> None:
    with websockets.connect(f"ws://127.0.0.1:{site.port}/talk", subprotocols=["chat.1", "chat.2"]) as socket:
        assert socket.subprotocol == "chat.2"
        socket.send("hello")
        assert socket.recv(timeout=10) == "opened at startup: hello"
    eventually(lambda: "talk: ended" in fetch(site.port, "/finished").json)


def test_denial_response(site: ServerProcess) -> None:
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused, contextlib.ExitStack() as opened:
        opened.enter_context(websockets.connect(f"ws://127.0.0.1:{site.port}/denied"))
    assert refused.value.response.status_code == 418
    assert refused.value.response.body == b'{"why":"no seat"}'
