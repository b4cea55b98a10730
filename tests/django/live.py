"""A real server on the test's event loop, with a Django handler in it or in a worker behind a channel layer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from daphne_like.layers.memory import MemoryChannelLayer
from daphne_like.relay.application import RelayApplication
from daphne_like.relay.worker import Worker
from daphne_like.server import Server
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["Client", "live_server"]


@asynccontextmanager
async def live_server(
    application: ASGIApplication, *, relayed: bool = False, settings: Settings | None = None
) -> AsyncIterator[int]:
    """The port it listens on."""
    settings = settings or Settings(port=0, access_log="")
    worker = None
    if relayed:
        layer = MemoryChannelLayer()
        worker = Worker(application, layer, settings)
        application = RelayApplication(layer)
    server = Server(application, settings)
    await server.start()
    if worker is not None:
        await worker.start()
    try:
        yield int(server.addresses[0].rpartition(":")[2])
    finally:
        if worker is not None:
            await worker.drain(5)
            await worker.stop()
        await server.stop()


@dataclass
class Client:
    """One connection, as HTTP/1.1 has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    async def connect(cls, port: int, **options: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options))

    async def send(self, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: site.example\r\n{headers}{length}\r\n"
        self.writer.write(head.encode("latin1") + body)
        await self.writer.drain()

    async def head(self) -> int:
        """Read the response's head; its status."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        self.headers = []
        for line in lines[1:-2]:
            name, _, value = line.partition(b": ")
            self.headers.append((name.lower(), value))
        return int(lines[0].split()[1])

    async def chunk(self) -> bytes:
        """One chunk of a chunked body."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(
        self, path: str, method: str = "GET", headers: str = "", body: bytes = b""
    ) -> tuple[int, bytes]:
        """Status and body."""
        await self.send(path, method, headers, body)
        status = await self.head()
        found = dict(self.headers)
        if method == "HEAD" or status in (204, 304):
            return status, b""
        if b"content-length" in found:
            return status, await self.reader.readexactly(int(found[b"content-length"]))
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return status, b"".join(pieces)

    def close(self) -> None:
        self.writer.close()

    def vanish(self) -> None:
        self.writer.transport.abort()
