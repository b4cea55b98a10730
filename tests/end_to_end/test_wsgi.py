"""A WSGI application as its user runs it, in the server and in a worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients import connect, drain, fetch, random_octets, read_until
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, complaint_of, serving

SITE = f"{APPLICATIONS}.wsgi_site"


@pytest.fixture(scope="module")
def site(workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    with serving("-p", "0", *workers, f"{SITE}:application", expected_trouble=True) as server:
        yield server


def test_it_is_told_from_asgi_and_runs_in_our_threads(site: ServerProcess, workers: tuple[str, ...]) -> None:
    pid, thread, multiprocess = fetch(site.port).text.split()
    assert (int(pid) == site.process.pid) == (workers == ())
    assert thread.startswith("daphne-like-")
    assert multiprocess == "False", "there is one worker at most"


@pytest.mark.parametrize("size", [0, 10, 65536, 65537, 5_000_000])
def test_bodies(site: ServerProcess, size: int) -> None:
    assert fetch(site.port, "/count", method="POST", body=bytes(size)).text == str(size)


def test_chunked_body(site: ServerProcess) -> None:
    with connect(site.port) as client:
        client.sendall(
            b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        for _ in range(100):
            client.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert drain(client).endswith(b"\r\n\r\n1638400")


def test_a_body_that_the_application_does_not_want_is_never_sent(site: ServerProcess) -> None:
    with connect(site.port) as client:
        client.sendall(
            b"PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        )
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 403 ")


def test_a_body_that_it_wants_is_asked_for(site: ServerProcess) -> None:
    with connect(site.port) as client:
        client.sendall(b"PUT /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_stream_that_a_slow_client_takes(site: ServerProcess) -> None:
    """64 KiB, 200 times, with a client that begins to read late."""
    with connect(site.port) as client:
        client.sendall(b"GET /stream?200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert fetch(site.port).status == 200, "others are served meanwhile"
        answer = drain(client)
    assert sum(answer.count(b"%8d" % number * 8192) for number in (0, 100, 199)) == 3
    assert answer.endswith(b"0\r\n\r\n")


def test_a_client_that_leaves_in_the_middle(site: ServerProcess) -> None:
    for _ in range(60):  # more than there are threads
        with connect(site.port) as client:
            client.sendall(b"GET /stream?100000 HTTP/1.1\r\nHost: a\r\n\r\n")
            client.recv(1)
    assert fetch(site.port).status == 200


def test_a_file(site: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(random_octets(3_000_000))
    answer = fetch(site.port, f"/file?{path}")
    assert answer.headers["content-length"] == "3000000"
    assert answer.body == path.read_bytes()


def test_a_failure_is_500_and_a_traceback(site: ServerProcess) -> None:
    assert fetch(site.port, "/fail").status == 500
    site.stderr.wait_for("ZeroDivisionError")


def test_two_workers_are_several_processes() -> None:
    with serving("-p", "0", "--workers", "2", f"{SITE}:application") as server:
        assert fetch(server.port).text.endswith(" True")


def test_interface_wsgi_where_the_signature_tells_nothing() -> None:
    with serving("-p", "0", "--interface", "wsgi", f"{SITE}:hidden") as server:
        assert fetch(server.port).status == 200


def test_what_does_not_fit_is_said() -> None:
    code, lines = complaint_of("-p", "0", "--interface", "asgi", f"{SITE}:application")
    assert (code, len(lines)) == (2, 1)
    assert "is a WSGI application" in lines[0]
    code, lines = complaint_of("-p", "0", "--interface", "wsgi", f"{APPLICATIONS}.plain:application")
    assert (code, len(lines)) == (2, 1)
    assert "no WSGI application" in lines[0]


def test_django_as_wsgi() -> None:
    pytest.importorskip("django")
    words = ("--interface", "auto", "--factory", "django.core.wsgi:get_wsgi_application")
    environment = {"DJANGO_SETTINGS_MODULE": f"{APPLICATIONS}.wsgi_settings"}
    with serving("-p", "0", *words, environment={**os.environ, **environment}) as server:
        answer = fetch(server.port, "/hello")
        assert (answer.status, answer.text) == (200, "hello from /hello")
