"""A Server on real sockets within the running event loop, and clients for it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from daphne_like import Server, Settings
from tests.asgi.conversation import GET
from tests.corpus.responses import Response, read_responses

__all__ = [
    "Streams",
    "ask",
    "connect",
    "echo_scope",
    "port_of",
    "read_all",
    "read_until",
    "scope_told",
    "served",
]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo_scope(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with what it was told."""
    if scope["type"] != "http":
        raise ValueError("no such scope here")
    told = {name: scope[name] for name in ("client", "server", "scheme", "path", "extensions")}
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


@contextlib.asynccontextmanager
async def served(application: Any = echo_scope, **settings: Any) -> AsyncIterator[Server]:
    """A server on a free port of 127.0.0.1, or where the settings say; stopped at the end."""
    if not {"bind", "port", "unix_socket", "file_descriptor", "endpoint"} & set(settings):
        settings["port"] = 0
    server = Server(application, Settings(verbosity=0, **settings))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def port_of(server: Server, index: int = 0) -> int:
    return int(server.addresses[index].rpartition(":")[2])


@contextlib.asynccontextmanager
async def connect(server: Server, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Streams]:
    """A connection to the server's first TCP socket, or Unix socket."""
    address = server.addresses[0]
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection(host, port_of(server), **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_all(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What comes until the end; and whether the end was a reset."""
    found = b""
    try:
        while data := await reader.read(65536):
            found += data
    except ConnectionError:
        return found, True
    return found, False


async def read_until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    return await reader.readuntil(end)


async def ask(server: Server, octets: bytes = GET, **options: Any) -> Response:
    """The response to one request on a connection of its own."""
    async with connect(server, **options) as (reader, writer):
        writer.write(octets.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        data, reset = await read_all(reader)
    assert not reset
    found = read_responses(data, closed=True)
    assert found.faults == []
    (response,) = found.final
    return response


async def scope_told(server: Server, **options: Any) -> dict[str, Any]:
    """What echo_scope() was told."""
    told: dict[str, Any] = json.loads((await ask(server, **options)).body)
    return told
