"""--health-path and --ready-path: the server itself answers, and the application has no part in it."""

import asyncio

import pytest

from daphne_like.server import Server
from daphne_like.settings import Settings
from tests.net.real import connect, echo_scope, read_all, served


async def test_it_is_answered_without_the_application():
    async def application(scope, receive, send):
        raise AssertionError(scope["type"])

    async with served(application, health_path="/healthz", lifespan="off") as server:
        async with connect(server) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data, _ = await read_all(reader)
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncache-control: no-store\r\n" in data
    assert data.endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        (b"POST /healthz", {}),
        (b"GET /healthz/more", {}),
        (b"GET /app/healthz", {}),
        (b"GET /healthz", {"health_path": None}),
    ],
)
async def test_whatever_else_is_the_applications(line, settings):
    async with served(echo_scope, **{"health_path": "/healthz", **settings}) as server:
        async with connect(server) as (reader, writer):
            writer.write(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            data, _ = await read_all(reader)
    assert not data.endswith(b"ok\n")


async def test_a_busy_server_is_not_ill():
    """--max-concurrent-requests is reached, and probes are answered all the same."""
    entered, done = asyncio.Event(), asyncio.Event()

    async def application(scope, receive, send):
        entered.set()
        await done.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    settings = {"health_path": "/healthz", "max_concurrent_requests": 1, "lifespan": "off"}
    async with served(application, **settings) as server, connect(server) as (busy, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await entered.wait()
        for target, status in ((b"/healthz?deep=1", b"200"), (b"/", b"503")):
            async with connect(server) as (reader, probe):
                probe.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                data, _ = await read_all(reader)
                assert data.startswith(b"HTTP/1.1 " + status)
        done.set()
        await read_all(busy)


async def test_it_is_below_the_root_path_or_beside_it():
    async with served(echo_scope, health_path="/healthz", root_path="/app") as server:
        for target in (b"/healthz", b"/app/healthz"):
            async with connect(server) as (reader, writer):
                writer.write(b"HEAD " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                data, _ = await read_all(reader)
                assert b"\r\ncontent-length: 3\r\n" in data
                assert data.endswith(b"\r\n\r\n")


# -- --ready-path ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ready", "status", "body"), [(True, b"200", b"ok\n"), (False, b"503", b"not ready\n")]
)
async def test_the_ready_path_says_whether_requests_can_be_served(ready, status, body):
    server = Server(echo_scope, Settings(verbosity=0, port=0, ready_path="/readyz"), ready=lambda: ready)
    await server.start()
    try:
        async with connect(server) as (reader, writer):
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data, _ = await read_all(reader)
    finally:
        await server.stop()
    assert data.startswith(b"HTTP/1.1 " + status)
    assert data.endswith(b"\r\n\r\n" + body)


async def test_one_path_may_be_alive_and_another_ready():
    async with served(echo_scope, health_path="/healthz", ready_path="/readyz") as server:
        for target in (b"/healthz", b"/readyz"):
            async with connect(server) as (reader, writer):
                writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                data, _ = await read_all(reader)
                assert data.endswith(b"\r\n\r\nok\n")
