"""Stands between an engine and its Redis: holds replies back, loses them, counts what was written at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Proxy", "proxy_to"]


class Proxy:
    """
    Attributes:
        url: what `hosts=` takes.
        requests: what came, one for each read.
        holding: replies are kept back.
        kept: those, until forget() or let_go().
    """

    def __init__(self, path: str) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.holding = False
        self.kept: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._path = path
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept_something = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        """Keep replies back from now on."""
        self.holding = True
        self.kept = []
        self._kept_something.clear()

    async def held(self) -> None:
        """Wait for a reply that is kept back: Redis has done something of which nobody has been told."""
        await self._kept_something.wait()

    def let_go(self) -> None:
        """Deliver what was kept back."""
        self.holding = False
        for writer, data in self.kept:
            writer.write(data)
        self.kept = []

    def cut(self) -> None:
        """End all connections, with what was kept back."""
        self.holding = False
        self.kept = []
        for client, redis in self._pairs:
            client.transport.abort()
            redis.transport.abort()
        self._pairs = []

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(self._path)
        self._pairs.append((writer, to_redis))
        for task in (
            asyncio.ensure_future(self._forward(reader, to_redis, self.requests)),
            asyncio.ensure_future(self._forward(from_redis, writer, None)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes] | None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if seen is not None:
                    seen.append(data)
                elif self.holding:
                    self.kept.append((writer, data))
                    self._kept_something.set()
                    continue
                writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def proxy_to(path: str) -> AsyncIterator[Proxy]:
    """A proxy to the Redis on a Unix socket."""
    proxy = Proxy(path)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
