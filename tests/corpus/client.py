"""
Play a case over a socket and observe what comes of it.

Plain non-blocking sockets, because a stream abstraction gives up reading once writing fails, and many a
refusal comes while the client is still sending. What the application was asked for is fetched from the
application itself (`/corpus/seen`), by the port that the case was sent from: no octet of a case is changed to
tell it apart.

Nothing is waited for longer than needed: a case is over when the server closes, or when it has said all that
the verdict can depend on and then says nothing for GRACE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable

from tests.corpus import Case, EndOfInput, Read, Send, Sleep
from tests.corpus.application import Seen
from tests.corpus.judge import Observation, judge
from tests.corpus.responses import Responses, read_responses

# A server may take this long for whatever it owes.
PATIENCE = 5.0
# What might come unasked for (a second response, a close) comes within this.
GRACE = 0.1
# An unfinished request obliges the server to nothing; if it closes, it does so by then.
INCOMPLETE_PATIENCE = 1.0


class Connection:
    """A client's socket: `received` grows while the block that opened it runs; `closed` by the server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.received = bytearray()
        self.closed = False
        self._news = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, address: tuple[str, int]) -> AsyncIterator[Connection]:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, address)
            connection = cls(sock)
            reading = asyncio.create_task(connection._read())
            try:
                yield connection
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.closed:
            try:
                data = await loop.sock_recv(self.sock, 65536)
            except ConnectionError:
                data = b""
            self.received += data
            self.closed = not data
            self._news.set()

    async def send(self, data: bytes) -> None:
        """All of it, as far as the server takes it: who has refused a request need not read its rest."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def end_input(self) -> None:
        with contextlib.suppress(OSError):  # already reset
            self.sock.shutdown(socket.SHUT_WR)

    async def news(self, seconds: float) -> bool:
        """Whether anything came, or the server closed, within *seconds*."""
        if self.closed:
            return False
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


async def play(case: Case, address: tuple[str, int]) -> Observation:
    async with Connection.open(address) as connection:
        said_before = 0
        for step in case.steps:
            match step:
                case Send(data):
                    said_before = len(connection.received)
                    await connection.send(data)
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Read(seconds):
                    if len(connection.received) == said_before:
                        await connection.news(seconds)
                case EndOfInput():
                    connection.end_input()
        await settle(case, connection)
        seen = await fetch_seen(address, connection.port)
        return Observation(bytes(connection.received), connection.closed, seen)


async def settle(case: Case, connection: Connection) -> None:
    patience = INCOMPLETE_PATIENCE if case.expect.kind == "incomplete" else PATIENCE
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.suppress(TimeoutError))
        await stack.enter_async_context(asyncio.timeout(patience))
        while not connection.closed:
            responses = read_responses(bytes(connection.received), heads=case.head, closed=False)
            if not is_over(case, responses):
                await connection.news(patience)
            elif not await connection.news(GRACE):
                return


def is_over(case: Case, responses: Responses) -> bool:
    """Whether the verdict waits for nothing more, though more might come."""
    expect = case.expect
    if responses.faults:
        return True
    if expect.closed or expect.cut_short or expect.kind == "incomplete":
        return False
    wanted = max(expect.n, default=1) + bool(expect.then)
    if expect.kind == "response":
        wanted = b"".join(case.segments()).count(b" HTTP/1.1\r\n")
    return len(responses.whole) >= wanted


async def fetch_seen(address: tuple[str, int], port: int) -> list[Seen]:
    request = b"GET /corpus/seen?port=%d HTTP/1.1\r\nHost: corpus\r\nConnection: close\r\n\r\n" % port
    async with Connection.open(address) as connection:
        await connection.send(request)
        async with asyncio.timeout(PATIENCE):
            while not connection.closed:
                await connection.news(PATIENCE)
        responses = read_responses(bytes(connection.received), closed=True)
        if [response.status for response in responses.final] != [200]:
            raise CorpusServerError(f"/corpus/seen answers {bytes(connection.received[:200])!r}")
        return [Seen(**seen) for seen in json.loads(responses.final[0].body)]


class CorpusServerError(Exception):
    """The server under test does not run the application of the corpus, or has stopped to."""


async def run(
    cases: Iterable[Case], address: tuple[str, int], *, concurrency: int = 16
) -> dict[str, list[str]]:
    """
    The complaints about each case, by id, empty where the verdict is met.

    Raises CorpusServerError if the server does not run the application of the corpus; that it stops answering
    later is a complaint.
    """
    await fetch_seen(address, 0)
    complaints: dict[str, list[str]] = {}
    # Large cases first: the last to begin decides how long the whole takes.
    waiting = sorted(cases, key=lambda case: case.size)

    async def work() -> None:
        while waiting:
            case = waiting.pop()
            try:
                complaints[case.id] = judge(case, await play(case, address))
            except (CorpusServerError, OSError) as error:
                complaints[case.id] = [f"the server serves no more: {error}"]

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return complaints
