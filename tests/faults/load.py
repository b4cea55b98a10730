"""
Clients that count: every frame and request has a number, so that what is lost, doubled or disordered shows.

All of them run until `Load.stop()`, then take what is still on its way, and `Load.report` has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

# How long what is on its way may take to arrive, once nothing is sent any more.
SETTLE = 10.0
# Pace of one client, seconds between two things that it says.
FRAME_EVERY = 0.05
REQUEST_EVERY = 0.02
NEWS_EVERY = 0.05


@dataclass
class Report:
    """
    Attributes:
        sockets_closed: WebSockets that ended; their close codes.
        frames, echoes: sent, answered. unanswered: the difference; doubled, disordered: answers.
        requests, failed: GETs; sentences about those that were not answered right.
        published, news_lost, news_doubled: group messages, over all sockets.
    """

    sockets: int = 0
    sockets_closed: list[int] = field(default_factory=list)
    frames: int = 0
    echoes: int = 0
    unanswered: int = 0
    doubled: int = 0
    disordered: int = 0
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    published: int = 0
    news_failed: int = 0
    news_lost: int = 0
    news_doubled: int = 0
    longest_silence: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.sockets} sockets ({len(self.sockets_closed)} closed), {self.frames} frames"
            f" ({self.unanswered} unanswered, {self.doubled} doubled, {self.disordered} out of order),"
            f" {self.requests} GETs ({len(self.failed)} failed), {self.published} group messages"
            f" ({self.news_lost} lost, {self.news_doubled} doubled),"
            f" longest silence {self.longest_silence:.2f} s"
        )


class Socket:
    """One WebSocket: speaks at its pace, whatever comes back."""

    def __init__(self, load: Load, connection: ClientConnection) -> None:
        self._load = load
        self._connection = connection
        self._spoken = 0
        self.echoes: list[int] = []
        self.news: list[int] = []
        self._heard_all = asyncio.Event()

    async def run(self) -> None:
        listener = asyncio.create_task(self._listen())
        try:
            while not self._load.stopping.is_set():
                self._spoken += 1
                await self._connection.send(str(self._spoken))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._load.stopping.wait(), FRAME_EVERY)
            await self._load.published_all.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard_all.wait(), self._load.settle)
        except ConnectionClosed:
            pass
        finally:
            listener.cancel()
            await asyncio.wait((listener,))
            self._count()
            await self._connection.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.time()
        try:
            async for text in self._connection:
                now = loop.time()
                self._load.report.longest_silence = max(self._load.report.longest_silence, now - heard)
                heard = now
                number = int(text[1:])
                (self.echoes if text[:1] == "e" else self.news).append(number)
                if self._load.last_news is not None and self._complete():
                    self._heard_all.set()
        finally:
            if self._connection.close_code is not None:
                self._load.report.sockets_closed.append(self._connection.close_code)

    def _complete(self) -> bool:
        return len(self.echoes) >= self._spoken and len(self.news) >= (self._load.last_news or 0)

    def recheck(self) -> None:
        if self._complete():
            self._heard_all.set()

    def _count(self) -> None:
        report = self._load.report
        report.frames += self._spoken
        report.echoes += len(self.echoes)
        report.unanswered += self._spoken - len(set(self.echoes))
        report.doubled += len(self.echoes) - len(set(self.echoes))
        report.disordered += sum(1 for a, b in zip(self.echoes, self.echoes[1:], strict=False) if b < a)
        report.news_doubled += len(self.news) - len(set(self.news))
        if self._load.last_news is not None:
            report.news_lost += self._load.last_news - len(set(self.news))


class Load:
    """
    Args:
        port: of the server.
        sockets, connections: how many WebSockets, and HTTP connections.
        publish: whether group messages are published all the while.
        settle: seconds to wait for what is on its way at the end.
    """

    def __init__(
        self, port: int, sockets: int, connections: int, *, publish: bool, settle: float = SETTLE
    ) -> None:
        self.port = port
        self.settle = settle
        self.report = Report(sockets=sockets)
        self.stopping = asyncio.Event()
        self.published_all = asyncio.Event()
        self.last_news: int | None = None
        self._sockets = sockets
        self._connections = connections
        self._publish = publish
        self._clients: list[Socket] = []
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Report]:
        """Load while the block runs; the report is complete after it."""
        for _ in range(self._sockets):
            connection = await connect(
                f"ws://127.0.0.1:{self.port}/echo", compression=None, ping_interval=None, open_timeout=30
            )
            self._clients.append(Socket(self, connection))
        self._tasks = [asyncio.create_task(client.run()) for client in self._clients]
        http = [asyncio.create_task(self._request_all_the_time(n)) for n in range(self._connections)]
        publisher = asyncio.create_task(self._publish_all_the_time())
        try:
            yield self.report
        finally:
            self.stopping.set()
            await asyncio.wait((publisher,))
            self.last_news = self.report.published if self._publish else 0
            self.published_all.set()
            for client in self._clients:
                client.recheck()
            await asyncio.wait((*self._tasks, *http))
        for task in (publisher, *self._tasks, *http):
            task.result()

    async def _request_all_the_time(self, number: int) -> None:
        """GETs, one after another on a connection that is kept; a new one after a failure."""
        report = self.report
        reader = writer = None
        count = 0
        while not self.stopping.is_set():
            count += 1
            expected = b"%d.%d" % (number, count)
            report.requests += 1
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                assert reader is not None
                status, body = await fetch(reader, writer, b"GET", b"/?" + expected)
                if status != 200 or body != expected:
                    report.failed.append(f"GET: status {status}, {body[:60]!r}")
            except (OSError, EOFError, ValueError) as error:
                report.failed.append(f"GET: {type(error).__name__}: {error}")
                if writer is not None:
                    writer.close()
                reader = writer = None
            await asyncio.sleep(REQUEST_EVERY)  # the pace
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _publish_all_the_time(self) -> None:
        if not self._publish:
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self.stopping.is_set():
            self.report.published += 1
            body = b"%d" % self.report.published
            status, answer = await fetch(reader, writer, b"POST", b"/publish", body)
            if status != 200:
                self.report.failed.append(f"POST /publish: status {status}, {answer[:60]!r}")
            await asyncio.sleep(NEWS_EVERY)  # the pace
        writer.close()
        await writer.wait_closed()


async def fetch(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: bytes,
    target: bytes,
    body: bytes = b"",
) -> tuple[int, bytes]:
    """
    One exchange on a connection that is kept.

    Raises:
        OSError, EOFError: the connection ended in the middle. ValueError: no HTTP.
    """
    writer.write(
        b"%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (method, target, len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    status = int(line.split(b" ")[1])
    length = 0
    for each in fields:
        name, _, value = each.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, await reader.readexactly(length)
