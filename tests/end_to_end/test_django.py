"""A Django site, unmodified: views of both kinds, streams of both kinds, an upload, static files."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients import connect, fetch, random_octets, read_until, upload
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

pytest.importorskip("django", reason="the demo's requirements are not installed: pip install -e '.[demo]'")

SITE = f"{APPLICATIONS}.django_site:application"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def site(workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    """Django raises on the lifespan scope, and is served without."""
    with serving("-p", "0", *workers, SITE) as server:
        yield server


def test_sync_view(site: ServerProcess) -> None:
    assert fetch(site.port, "/sync/").text == "GET /sync/ 127.0.0.1"


def test_async_view(site: ServerProcess) -> None:
    answer = fetch(site.port, "/async/?a=%C3%A9")
    assert answer.json == {"path": "/async/", "query": {"a": "é"}, "secure": False}


def test_sync_stream(site: ServerProcess) -> None:
    assert fetch(site.port, "/sync-stream/").text.split() == [str(number) for number in range(100)]


def test_async_stream_comes_piece_by_piece_and_ends_with_its_client(site: ServerProcess) -> None:
    with connect(site.port) as sock:
        sock.sendall(b"GET /async-stream/ HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(sock, b"data: 0\n\n")
        read_until(sock, b"data: 5\n\n")
    eventually(lambda: "stream: cancelled" in fetch(site.port, "/notes/").json)


def test_async_view_notices_that_its_client_has_left(site: ServerProcess) -> None:
    with connect(site.port) as sock:
        sock.sendall(b"GET /patient/ HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: "view: begun" in fetch(site.port, "/notes/").json)
    eventually(lambda: "view: cancelled" in fetch(site.port, "/notes/").json)


def test_upload_of_20_megabytes(site: ServerProcess) -> None:
    content = random_octets(20_000_000)
    answer = upload(site.port, "/upload/", "film.bin", content)
    assert answer.json == {
        "name": "film.bin",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "on disk": True,
    }


def test_static_files(site: ServerProcess) -> None:
    assert fetch(site.port, "/static/hello.txt").body == (HERE / "applications/static/hello.txt").read_bytes()
    assert fetch(site.port, "/static/absent.txt").status == 404


def test_file_response(site: ServerProcess) -> None:
    assert fetch(site.port, "/file/").body == (HERE / "applications/django_site.py").read_bytes()


def test_redirect_of_common_middleware_keeps_host_and_query(site: ServerProcess) -> None:
    answer = fetch(site.port, "/async?x=1")
    assert (answer.status, answer.headers["location"]) == (301, "/async/?x=1")


def test_under_a_root_path(workers: tuple[str, ...]) -> None:
    """Django takes the root path off, whether or not the proxy has."""
    with serving("-p", "0", "--root-path", "/app", *workers, SITE) as server:
        assert fetch(server.port, "/app/async/").json["path"] == "/app/async/"
        assert fetch(server.port, "/async/").json["path"] == "/app/async/"


def test_exception_in_a_view_is_a_500_of_djangos(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, SITE, expected_trouble=True) as server:
        assert fetch(server.port, "/raises/").status == 500
        assert fetch(server.port, "/sync/").status == 200
        assert "application failed" not in server.stderr.text
