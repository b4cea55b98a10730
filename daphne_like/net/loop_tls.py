"""
The event loop's own TLS (Python's ssl module, driven by uvloop or asyncio), above a transport that we keep.

A TLS connection is two transports, one above the other, each with a buffer. The upper one tells what it holds
and when that has become less; nobody tells of the lower one, where what is encrypted waits for the client to
read. Who takes "nothing above" for "all has left", and closes, cuts the end of a response off for every slow
client. So plain connections are accepted here, and TLS is put above each (start_tls()): the lower transport is
known then, and can be asked.

* A write goes down in pieces, one when the last has left; the rest waits here, and the producer is paused. So
  what nobody tells of is one piece.
* Closing waits until both are empty, as long as the client reads (`write_timeout`); only then TLS is ended,
  and the client has TLS_GOODBYE seconds to answer that.
* Handshakes have a limit of time and of number, for they are no connections yet that anybody counts. When the
  server stops, those under way may end, as connections that were accepted last may send a request; not for long.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.interfaces import IProtocolFactory

from daphne_like import logs
from daphne_like.net.loop_transport import LoopTransport

__all__ = ["Handshakes", "TLSTransport"]

log = logging.getLogger(logs.SERVER)

# Seconds that we wait for the client's close_notify. Clients that pool connections do not answer ours; 30 s, the
# loops' default, would hold up a stop.
TLS_GOODBYE = 1.0
# Octets of a write that are encrypted at once: four records.
PIECE = 65536
# Handshakes that may be under way where as many connections may be: 50 KiB each, and 256 KiB with asyncio.
MAX_HANDSHAKES = 8192
# Seconds that handshakes have when the server stops; a connection has as much for its first request.
LAST_HANDSHAKES = 5.0
# Seconds between two looks whether a closing connection's client has read on.
CLOSING_LOOK = 0.05


class Handshakes:
    """
    Makes TLS connections of plain ones.

    Args:
        limit: how many handshakes may be under way, MAX_HANDSHAKES at most; further connections are closed.
        timeout: seconds that one may take; 0 for no limit but the loop's own, a minute.
        on_end: called when one has ended, whatever became of it.
    """

    def __init__(
        self, context: ssl.SSLContext, *, limit: int, timeout: float, on_end: Callable[[], None]
    ) -> None:
        self._context = context
        self._on_end = on_end
        self._limit = min(limit or MAX_HANDSHAKES, MAX_HANDSHAKES)
        self._timeout = timeout or None
        self._under_way: set[asyncio.Task[None]] = set()

    def accepting(self, factory: IProtocolFactory) -> Callable[[], asyncio.Protocol]:
        """For LoopServerEndpoint."""
        return lambda: _Hello(self, factory)

    @property
    def under_way(self) -> int:
        """How many there are at present."""
        return len(self._under_way)

    def stop(self) -> None:
        """Those under way are the last, with those that begin in this turn, and have LAST_HANDSHAKES."""
        asyncio.get_running_loop().call_later(LAST_HANDSHAKES, self.cut)

    def cut(self) -> None:
        """End those under way."""
        for task in self._under_way:
            task.cancel()

    def begin(self, hello: "_Hello", lower: asyncio.Transport, factory: IProtocolFactory) -> None:
        """Put TLS above *lower*, and what *factory* builds above that."""
        if len(self._under_way) >= self._limit:
            peer = lower.get_extra_info("peername")
            client = peer[:2] if isinstance(peer, tuple) else peer
            log.warning("refused a connection: too many TLS handshakes under way", extra={"client": client})
            lower.abort()
            return
        task = asyncio.get_running_loop().create_task(self._shake(hello, lower, factory))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._on_end()

    async def _shake(self, hello: "_Hello", lower: asyncio.Transport, factory: IProtocolFactory) -> None:
        if lower.is_closing():
            return  # the client has left; a handshake would hold on to its memory until its time is over
        loop = asyncio.get_running_loop()
        transport = TLSTransport(factory, lower)
        loop.call_soon(hello.pass_on)  # when TLS is there, and before its own calls
        try:
            upper = await loop.start_tls(
                lower,
                transport,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=TLS_GOODBYE,
            )
        except OSError as error:  # as ssl.SSLError is
            log.debug("no TLS handshake", extra={"reason": str(error)})
            lower.abort()
            return
        except asyncio.CancelledError:
            lower.abort()
            raise
        if upper is None or upper.is_closing():
            lower.abort()
        else:
            transport.connection_made(upper)


class _Hello(asyncio.Protocol):
    """What an accepted connection has first: keeps what comes before TLS is there, for uvloop reads at once."""

    def __init__(self, handshakes: Handshakes, factory: IProtocolFactory) -> None:
        self._handshakes = handshakes
        self._factory = factory
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._lower.pause_reading()
        self._handshakes.begin(self, self._lower, self._factory)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def pass_on(self) -> None:
        """Give it to the protocol that has taken our place."""
        early, self._early = self._early, b""
        protocol: Any = self._lower.get_protocol()
        while early and protocol is not self:
            buffer = memoryview(protocol.get_buffer(len(early)))
            taken = min(len(early), len(buffer))
            buffer[:taken] = early[:taken]
            protocol.buffer_updated(taken)
            early = early[taken:]


class TLSTransport(LoopTransport):
    """
    One connection with TLS.

    Args:
        lower: the plain transport under the loop's.
    """

    __slots__ = ("_early", "_look", "_lower", "_over", "_paused", "_rest")

    def __init__(self, factory: IProtocolFactory, lower: asyncio.Transport) -> None:
        super().__init__(factory)
        self._lower = lower
        self._paused = False
        self._over = False  # the client has ended TLS: nothing that is written leaves
        self._rest: deque[memoryview] = deque()  # not encrypted yet; the loop is paused while there is any
        self._look: asyncio.TimerHandle | None = None
        # asyncio brings what came with the handshake's end before it says that this is there.
        self._early: list[bytes] = []
        self.data_received = self._early.append

    def _set_up(self, transport: asyncio.Transport) -> None:
        super()._set_up(transport)
        self.write = self._write
        self.writeSequence = self._write_all
        self._lower.set_write_buffer_limits(high=0, low=0)
        transport.set_write_buffer_limits(high=1, low=0)  # unlike plain transports, it pauses from *high* on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._early and self._protocol is not None:
            self._protocol.dataReceived(b"".join(self._early))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        self._rest.clear()
        super().connection_lost(exc)

    def _write_all(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._write(b"".join(list_of_data))

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_over():
            return  # the loop would complain
        if len(data) <= PIECE and not self._rest:
            self._loop_transport.write(data)
        else:
            self._rest.append(memoryview(data))
            self._write_on()

    def _write_on(self) -> None:
        rest = self._rest
        while rest and not self._paused:
            if self._is_over():
                rest.clear()
                return
            view = rest.popleft()
            if len(view) > PIECE:
                rest.appendleft(view[PIECE:])
                view = view[:PIECE]
            self._loop_transport.write(view)

    def _is_over(self) -> bool:
        return self._over or self._loop_transport.is_closing() or self._lower.is_closing()

    def eof_received(self) -> bool:
        self._over = True
        self._rest.clear()
        return super().eof_received()

    def pause_writing(self) -> None:
        self._paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self._write_on()
        # A closing one has to wait for the lower transport, too.
        if not self._paused and not self.disconnecting:
            super().resume_writing()

    def bytes_unsent(self) -> int:
        upper, lower = self._loop_transport, self._lower
        return sum(map(len, self._rest)) + upper.get_write_buffer_size() + lower.get_write_buffer_size()

    def loseConnection(self) -> None:
        if self.disconnecting:
            return
        self.disconnecting = True
        if self.bytes_unsent() and self._producer is not None:
            self._producer.pauseProducing()  # it is the client's time to read that counts
        self._close_when_sent()

    def _close_when_sent(self) -> None:
        if self._loop_transport.is_closing():
            return
        if self.bytes_unsent():
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(CLOSING_LOOK, self._close_when_sent)
            return
        self._loop_transport.close()
        if self._producer is not None:
            self._producer.resumeProducing()
