"""
Behind a real NGINX, over TCP and over a Unix socket, configured as docs/how-to/behind-a-proxy.md says.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.clients import Load, connect, drain, fetch, random_octets, read_until
from tests.end_to_end.nginx import Nginx, nginx_before
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

websockets = pytest.importorskip("websockets.sync.client")

pytestmark = pytest.mark.needs("nginx")

PLAIN = f"{APPLICATIONS}.plain:application"
REQUESTS = 4000


@dataclass
class Site:
    nginx: Nginx
    server: ServerProcess

    @property
    def port(self) -> int:
        return self.nginx.port


@pytest.fixture(scope="module", params=["tcp", "unix"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("nginx")
    path = directory / "site.sock"
    words = ("-p", "0") if request.param == "tcp" else ("-u", str(path))
    with serving(*words, "--proxy-headers", PLAIN) as server:
        upstream = f"127.0.0.1:{server.port}" if request.param == "tcp" else f"unix:{path}"
        with nginx_before(upstream, directory) as nginx:
            yield Site(nginx, server)
        assert nginx.complaints == []


def test_client_and_scheme_are_the_browsers(site: Site) -> None:
    with connect(site.port) as sock:
        port = sock.getsockname()[1]
        sock.sendall(b"GET /scope?a=b HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n")
        scope = json.loads(drain(sock).partition(b"\r\n\r\n")[2])
    assert scope["client"] == ["127.0.0.1", port]
    assert scope["scheme"] == "http"
    assert ["host", "www.example.com"] in scope["headers"]
    assert scope["query_string"] == "a=b"


def test_address_that_a_client_claims_is_not_believed(site: Site) -> None:
    """
    NGINX appends the address it was called from; all to the left of the rightmost untrusted one is hearsay.
    Here that one is 203.0.113.9, because NGINX's own client, 127.0.0.1, is on the list.
    """
    told = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "Daphne-Root-Path": "/evil"}
    scope = fetch(site.port, "/scope", headers=told).json
    assert scope["client"][0] == "203.0.113.9"
    assert scope["root_path"] == ""


@pytest.mark.parametrize("path", ["/count", "/unbuffered-upload/count"])
def test_upload(site: Site, path: str) -> None:
    body = random_octets(20_000_000)
    assert fetch(site.port, path, method="POST", body=body).body == b"%d" % len(body)


def test_download(site: Site) -> None:
    assert fetch(site.port, "/two-large").body == bytes(16 << 20)


def test_websocket(site: Site) -> None:
    with websockets.connect(f"ws://127.0.0.1:{site.port}/ws/scope") as talk:
        scope = json.loads(talk.recv(timeout=10))
        assert (scope["scheme"], scope["client"][0]) == ("ws", "127.0.0.1")
        for size in (0, 10, 200, 100_000):
            talk.send("x" * size)
            assert talk.recv(timeout=10) == "x" * size
    eventually(lambda: "websocket: 1000 " in fetch(site.port, "/notes").json)


def test_server_sent_events_are_not_held_back(site: Site) -> None:
    """And end when the browser leaves, which NGINX passes on."""
    with connect(site.port) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        for number in range(4):
            assert read_until(sock, b"data: %d\n\n" % number).count(b"data: ") <= 2
    eventually(lambda: any(note.startswith("events: ") for note in fetch(site.port, "/notes").json))


def test_failures_pass_through(site: Site) -> None:
    assert fetch(site.port, "/unknown").status == 404
    assert fetch(site.port, "/unread", method="POST", body=bytes(100_000)).status == 200


@pytest.mark.time_limit(120)
async def test_kept_upstream_connections_never_give_502(site: Site) -> None:
    load = Load(site.port, 32)
    enough = asyncio.Event()
    clients = asyncio.create_task(load.run(enough))
    await asyncio.to_thread(eventually, lambda: load.answered >= REQUESTS or load.failures, 60)
    enough.set()
    await clients
    assert load.failures == []


@pytest.mark.time_limit(120)
async def test_short_keep_alive_gives_no_502_either(tmp_path: Path) -> None:
    """
    The server closes idle connections just when NGINX may be about to use them. NGINX tries again when
    nothing of an answer has come; a reset in the middle of one would show as 502.
    """
    with serving("-p", "0", "--keep-alive-timeout", "0.1", PLAIN) as server:
        with nginx_before(f"127.0.0.1:{server.port}", tmp_path) as nginx:
            load = Load(nginx.port, 4, "/slow?0.09")
            enough = asyncio.Event()
            clients = asyncio.create_task(load.run(enough))
            await asyncio.to_thread(eventually, lambda: load.answered >= 150 or load.failures, 60)
            enough.set()
            await clients
            assert load.failures == []
