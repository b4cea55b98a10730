"""
A server without sockets: bytes in, bytes out, and a clock that stands still until told to move.

    server = MemoryServer(application, Settings(keep_alive_timeout=5))
    wire = server.connect()
    wire.receive(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
    assert wire.take().startswith(b"HTTP/1.1 200")
    server.advance(6)
    assert wire.closed

Everything is the real thing from ServerProtocol upwards: HTTP, streams, tasks, deadlines. Each call returns
when nothing is left to do at this moment of the clock, so that a test never sleeps and never waits.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Any, Literal

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from daphne_like.asgi.stream import ServerContext
from daphne_like.http.identity import Identity
from daphne_like.net.deadlines import Deadlines
from daphne_like.net.factory import ServerFactory
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["MemoryServer", "StillLoop", "Wire"]

# More turns than any finite conversation takes: an application that never comes to rest is a test's bug.
MAX_TURNS = 100_000


class StillLoop(asyncio.SelectorEventLoop):
    """
    An event loop whose time moves only by advance(), and that knows when nothing is left to do.

    What it reads from sockets counts: a process that talks to itself over a Unix socket comes to rest too.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._scheduled_calls = 0
        super().__init__()

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._scheduled_calls += 1
        return super().call_soon(callback, *args, context=context)

    def _add_callback(self, handle: asyncio.Handle) -> None:
        """A socket is ready."""
        self._scheduled_calls += 1
        super()._add_callback(handle)  # type: ignore[misc]

    def settle(self) -> None:
        """Run until nothing is left to do at this time."""
        quiet = 0
        for _ in range(MAX_TURNS):
            before = self._scheduled_calls
            self.call_soon(self.stop)
            self.run_forever()
            if self._scheduled_calls > before + 1:
                quiet = 0
            elif quiet:
                return
            else:
                # What ran in this turn may have written to a socket, which only the next one reads.
                quiet += 1
        raise AssertionError("the application never comes to rest")

    def settle_until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Settle until *condition* holds, for what happens in threads; real seconds at most."""
        end = time.monotonic() + seconds
        self.settle()
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("it did not happen")
            # A real, short wait for a thread's call_soon_threadsafe().
            self._selector.select(0.01)
            self.settle()

    _selector: Any


class MemoryServer:
    """
    A server whose connections are in memory. Usable as a context manager, which closes its event loop.

    Args:
        application: ASGI 3; lifespan is not part of this.
        state: what a lifespan would have left; None for no "state" in scopes.

    Attributes:
        loop: runs the applications.
        context: as a real server's.
    """

    def __init__(
        self,
        application: ASGIApplication,
        settings: Settings | None = None,
        *,
        state: dict[str, Any] | None = None,
    ) -> None:
        settings = settings if settings is not None else Settings(verbosity=0)
        self.loop = loop = StillLoop()
        identity = Identity(settings.server_name, 784111777.0)  # Sun, 06 Nov 1994 08:49:37 GMT
        self.deadlines = Deadlines(lambda now: None)
        self.context = ServerContext(
            application=application,
            settings=settings,
            clock=loop.time,
            spawn=loop.create_task,
            watch=self.deadlines.watch,
            unwatch=self.deadlines.unwatch,
            identity=identity,
            state=state,
        )
        self.factory = ServerFactory(self.context, loop.call_soon, lambda: None)

    def __enter__(self) -> "MemoryServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(
        self,
        peer: IAddress | None = None,
        host: IAddress | None = None,
    ) -> "Wire":
        """Open a connection; addresses as Twisted has them."""
        wire = Wire(
            self, peer or IPv4Address("TCP", "127.0.0.1", 50000), host or IPv4Address("TCP", "127.0.0.1", 80)
        )
        self.loop.settle()
        return wire

    def advance(self, seconds: float) -> None:
        """Move the clock, a second at a time, looking at the deadlines as often."""
        while seconds > 0:
            step = min(1.0, seconds)
            seconds -= step
            self.loop.now += step
            self.deadlines.tick(self.loop.now)
            self.loop.settle()

    def close(self) -> None:
        """Cancel what still runs, and close the event loop."""
        for stream in list(self.context.running):
            if stream.task is not None:
                stream.task.cancel()
        self.loop.settle()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class Wire:
    """
    One connection, from the client's side.

    Attributes:
        state: "open"; "half-closed": the server has closed its side; "closed"; "reset".
        reading: the server takes data; False while it has paused the socket.
    """

    def __init__(self, server: MemoryServer, peer: IAddress, host: IAddress) -> None:
        self._server = server
        self._peer = peer
        self._host = host
        self._sent: list[bytes] = []
        self._unread = 0
        self._client_reads = True
        self._producer: Any = None
        self._waiting: list[bytes] = []
        self._closing = False
        self.reading = True
        self.state: Literal["open", "half-closed", "closed", "reset"] = "open"
        self.writes = 0
        self.protocol = server.factory.buildProtocol(peer)
        self.protocol.makeConnection(self)

    # ---- the client

    @property
    def closed(self) -> bool:
        """The server has ended the connection, or its side of it."""
        return self.state != "open"

    def receive(self, *pieces: bytes) -> None:
        """Send each of *pieces* as a packet of its own. While the server has paused, they wait."""
        for piece in pieces:
            if self.reading and not self._waiting:
                self._deliver(piece)
            else:
                self._waiting.append(piece)

    def _deliver(self, piece: bytes) -> None:
        if self.state in ("open", "half-closed"):
            self.protocol.dataReceived(piece)
            self._server.loop.settle()

    def close_sending(self) -> None:
        """Close the client's side (FIN), and go on reading."""
        if self.state in ("open", "half-closed"):
            self.protocol.readConnectionLost()
            self._server.loop.settle()

    def vanish(self) -> None:
        """The connection breaks (RST)."""
        self._lose("closed")
        self._server.loop.settle()

    def take(self) -> bytes:
        """What the server has sent since the last call."""
        data = b"".join(self._sent)
        self._sent = []
        return data

    def stop_reading(self) -> None:
        """The client reads no more: what the server writes next fills the socket's buffer."""
        self._client_reads = False

    def read_on(self) -> None:
        """The client reads all there is, and goes on."""
        self._client_reads = True
        if self._unread:
            self._unread = 0
            if self._producer is not None:
                self._producer.resumeProducing()
            if self._closing and not self._unread:
                self._server.loop.call_soon(self._lose, "closed")
        self._server.loop.settle()

    # ---- the transport, as ServerProtocol sees it

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        self.writes += 1
        if self.state == "open":
            self._sent.append(data)
            if not self._client_reads:
                self._unread += len(data)
                self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def bytes_unsent(self) -> int:
        return self._unread

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        if self._waiting:
            self._server.loop.call_soon(self._deliver_waiting)

    def _deliver_waiting(self) -> None:
        while self.reading and self._waiting and self.state in ("open", "half-closed"):
            self.protocol.dataReceived(self._waiting.pop(0))

    def loseConnection(self) -> None:
        self._closing = True
        if not self._unread:
            self._server.loop.call_soon(self._lose, "closed")

    def loseWriteConnection(self) -> None:
        if self.state == "open":
            self.state = "half-closed"

    def abortConnection(self) -> None:
        self._server.loop.call_soon(self._lose, "reset")

    def _lose(self, state: Literal["closed", "reset"]) -> None:
        if self.state not in ("closed", "reset"):
            self.state = state
            self.protocol.connectionLost(Failure(error.ConnectionDone()))

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._host
