"""
Small clients for tests of served applications: one request, one raw socket, one stream of load.

Everything has a timeout: a server that does not answer fails the test, it does not hang it.
"""

import asyncio
import http.client
import json
import os
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Answer",
    "Load",
    "abandon",
    "connect",
    "drain",
    "fetch",
    "random_octets",
    "read_until",
    "upload",
]

TIMEOUT = 20.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case; of a repeated one the last
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Connection(http.client.HTTPConnection):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = sock


def connect(
    where: int | str,
    *,
    tls: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    source: str = "127.0.0.1",
) -> socket.socket:
    """A socket connected from *source* to a port on 127.0.0.1, or to a Unix socket's path."""
    if isinstance(where, int):
        sock = socket.create_connection(("127.0.0.1", where), timeout, (source, 0))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(where)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="127.0.0.1")


def fetch(
    where: int | str,
    target: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> Answer:
    """One request on a connection of its own."""
    connection = _Connection(connect(where, tls=tls, timeout=timeout))
    try:
        connection.request(method, target, body, {"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        connection.close()


def upload(where: int | str, target: str, name: str, content: bytes) -> Answer:
    """POST *content* as the file "file" of a form."""
    boundary = "a-word-that-chance-does-not-write"
    head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return fetch(where, target, method="POST", body=body, headers=headers, timeout=60)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """What comes, up to where *end* is in it."""
    data = b""
    while end not in data:
        more = sock.recv(65536)
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


def drain(sock: socket.socket) -> bytes:
    """What comes, up to the connection's end; raises where it does not end well."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def abandon(sock: socket.socket) -> None:
    """Leave as a client does that was killed with data on its way: with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass
class Load:
    """
    Clients that ask again and again over kept connections, as a proxy or a browser would.

    A connection that the server has closed *between* two responses is opened anew, and a request that went
    out on a used connection and brought no byte back is sent again on a new one: RFC 9112 §9.3.1 lets a
    client do that with a GET. Anything else (a refused connection, half a response, a fresh connection closed
    without an answer, a status other than 200) is a failure.

    Args:
        headers: further ones of each request.
        source: the address that they come from.
    """

    port: int
    clients: int
    target: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    source: str = "127.0.0.1"
    answered: int = 0
    repeated: int = 0
    failures: list[str] = field(default_factory=list)
    bodies: dict[bytes, int] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.gather(*(self._client(stop) for _ in range(self.clients)))

    async def _client(self, stop: asyncio.Event) -> None:
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        request = f"GET {self.target} HTTP/1.1\r\nHost: load\r\n{fields}\r\n".encode()
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            while not stop.is_set():
                used = writer is not None
                if reader is None or writer is None:
                    try:
                        reader, writer = await asyncio.open_connection(
                            "127.0.0.1", self.port, local_addr=(self.source, 0)
                        )
                    except OSError as error:
                        self.failures.append(f"connecting: {error!r}")
                        return
                try:
                    writer.write(request)
                    async with asyncio.timeout(TIMEOUT):
                        closes = await self._response(reader)
                except NothingCame as error:
                    await leave(writer)
                    reader = writer = None
                    if used:
                        self.repeated += 1
                        continue
                    self.failures.append(f"a fresh connection brought nothing: {error.__cause__!r}")
                    return
                except (OSError, EOFError, ValueError, TimeoutError) as error:
                    self.failures.append(f"{error!r}")
                    return
                if closes:
                    await leave(writer)
                    reader = writer = None
        finally:
            if writer is not None:
                await leave(writer)

    async def _response(self, reader: asyncio.StreamReader) -> bool:
        """Read a response; whether the connection ends with it."""
        try:
            first = await reader.readexactly(1)
        except (OSError, EOFError) as error:
            raise NothingCame from error
        head = first + await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"answered {head!r}")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(fields[b"content-length"]))
        self.answered += 1
        self.bodies[body] = self.bodies.get(body, 0) + 1
        return fields.get(b"connection") == b"close"


class NothingCame(Exception):
    """The connection ended where a response could have begun."""


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # it was closed already, and not by us
        await writer.wait_closed()


def random_octets(size: int) -> bytes:
    """Octets that no compression and no chance makes equal to others."""
    return os.urandom(size)
