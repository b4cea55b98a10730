"""
What the tests of floors 2 to 4 share: a server in memory, an application that a test plays, strict readers.

`serving()` looks at the end whether anything is left of what was served: that is a promise of every test.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from daphne_like.settings import Settings
from daphne_like.testing.wire import MemoryServer, Wire
from tests.abuse.websocket_client import Frame, FrameParser, frame
from tests.asgi.hosting import RelayedMemoryServer, server_class
from tests.corpus.responses import Response, read_responses

__all__ = [
    "GET",
    "HANDSHAKE",
    "Call",
    "Frame",
    "Puppet",
    "frame",
    "frames",
    "message",
    "open_websocket",
    "request",
    "response",
    "responses",
    "sentences",
    "serving",
]

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def request(target: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request's head, with a Host."""
    lines = [f"{method} {target} HTTP/{version}", "Host: h", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def message(kind: str, **keys: Any) -> dict[str, Any]:
    """message("body", more_body=True): an ASGI message; without a dot in its kind, of http.response."""
    return {"type": kind if "." in kind else f"http.response.{kind}", **keys}


# ---- a server


@contextlib.contextmanager
def serving(
    application: Any, *, state: dict[str, Any] | None = None, **settings: Any
) -> Iterator[MemoryServer]:
    """
    A server in memory. At the end everybody leaves, and nothing of any of them may be left.

    Where the application runs is the test's parameter: see tests/asgi/hosting.py.

    A Puppet's calls return then; other applications are given --application-close-timeout.
    """
    with server_class()(application, Settings(verbosity=0, **settings), state=state) as server:
        yield server
        for protocol in list(server.factory.connections):
            protocol.transport.vanish()
        if isinstance(application, Puppet):
            for call in application.calls:
                if not call.over:
                    call.returns()
        server.advance(server.context.settings.application_close_timeout + 1)
        assert server.context.running == set()
        assert server.context.requests == 0
        assert server.factory.connections == set()
        assert server.deadlines.watched == set()
        if isinstance(server, RelayedMemoryServer):
            server.assert_at_rest()


def responses(wire: Wire, *, heads: tuple[int, ...] = ()) -> list[Response]:
    """What the server has sent since the last look, which must be nothing but well-formed responses."""
    found = read_responses(wire.take(), heads=heads, closed=wire.closed)
    assert found.faults == []
    assert found.partial == b""
    return found.final


def response(wire: Wire, *, heads: tuple[int, ...] = ()) -> Response:
    """The one response that has come, complete."""
    (found,) = responses(wire, heads=heads)
    assert found.complete
    return found


def sentences(caplog: Any, *, level: str | None = None) -> list[str]:
    """What our loggers have said, in order; not the layer that a server may be on when all goes well there."""
    return [
        record.message
        for record in caplog.records
        if record.name.startswith("daphne_like")
        and level in (None, record.levelname)
        and (record.name != "daphne_like.layers" or record.levelno > logging.INFO)
    ]


# ---- an application


class Call:
    """One call of an application that a test plays. What the test sends and receives goes through a task."""

    def __init__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._loop: Any = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self.cancelled = False

    async def wait(self) -> None:
        try:
            await self._end
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def begin_send(self, kind: str, **keys: Any) -> asyncio.Task[None]:
        """Send a message; the task shows whether send() has returned."""
        return self._begin(self._send(message(kind, **keys)))

    def send(self, kind: str, **keys: Any) -> None:
        """Send a message, which must not have to wait. Raises what send() raises."""
        self.send_as_is(message(kind, **keys))

    def send_as_is(self, whole: Any) -> None:
        task = self._begin(self._send(whole))
        assert task.done(), "send() waits"
        task.result()

    def send_at_once(self, *messages: dict[str, Any]) -> None:
        """Send several messages in one turn of the event loop."""

        async def send_all() -> None:
            for each in messages:
                await self._send(each)

        task = self._begin(send_all())
        assert task.done(), "send() waits"
        task.result()

    def begin_receive(self) -> asyncio.Task[dict[str, Any]]:
        return self._begin(self._receive())

    def receive(self) -> dict[str, Any]:
        """The next message, which must be there."""
        task = self.begin_receive()
        if not task.done():
            task.cancel()
            self._loop.settle()
            raise AssertionError("receive() waits")
        return task.result()

    def returns(self) -> None:
        """The application returns."""
        self._end.set_result(None)
        self._loop.settle()

    def raises(self, error: BaseException) -> None:
        """The application raises."""
        self._end.set_exception(error)
        self._loop.settle()

    @property
    def over(self) -> bool:
        """The application has returned, raised, or been cancelled."""
        return self._end.done()

    def _begin(self, coroutine: Any) -> Any:
        task = self._loop.create_task(coroutine)
        self._loop.settle()
        return task


class Puppet:
    """
    An application that a test plays, a message at a time.

    Attributes:
        calls: one for each scope, in order.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        call = Call(scope, receive, send)
        self.calls.append(call)
        await call.wait()

    @property
    def call(self) -> Call:
        """The newest."""
        return self.calls[-1]


# ---- WebSocket


def open_websocket(server: MemoryServer, puppet: Puppet, *fields: str, **accept: Any) -> tuple[Wire, Call]:
    """A WebSocket that the application has accepted; the 101 has been taken off the wire."""
    wire = server.connect()
    wire.receive(HANDSHAKE + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n")
    call = puppet.call
    assert call.receive() == {"type": "websocket.connect"}
    call.send("websocket.accept", **accept)
    (answer,) = responses(wire)
    assert answer.status == 101
    return wire, call


def frames(wire: Wire) -> list[tuple[int, bytes]]:
    """The whole frames that have come since the last look: (opcode, payload)."""
    return [(each.opcode, each.payload) for each in FrameParser().feed(wire.take())]
