"""
An event loop's transport, uvloop's above all, presented as Twisted's ITransport.

Twisted's own TCP transport costs about 10 us a request, this adapter 0.3. It is thin: where the names differ
only, the loop's bound method stands in an attribute under Twisted's name, and the loop calls the protocol's
dataReceived() directly.

The loop's write buffer has a high-water mark of zero: a write goes to the kernel at once, and what the kernel
does not take pauses the producer. Batching is ServerProtocol's, which knows when a turn's output is complete.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import defer, error
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IPushProducer,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["LoopListeningPort", "LoopServerEndpoint", "LoopTransport"]

_DONE = Failure(error.ConnectionDone())

# Close with RST (SO_LINGER with zero seconds): the peer must not take what it has for a whole response.
_RESET = struct.pack("ii", 1, 0)


@implementer(ITransport)
class LoopTransport(asyncio.Protocol):
    """
    One connection: an asyncio protocol below, a Twisted transport above.

    Args:
        factory: builds the protocol, which is half-closeable; None from it refuses the connection. It is not
            told the address: making Twisted's address objects takes longer than all else here.

    Attributes:
        peer_name: the peer's address as the operating system gives it.
        ssl_object: the TLS connection's ssl.SSLObject, None on plain sockets.
    """

    __slots__ = (
        "_factory",
        "_loop_transport",
        "_producer",
        "_protocol",
        "data_received",
        "disconnecting",
        "pauseProducing",
        "peer_name",
        "resumeProducing",
        "ssl_object",
        "write",
        "writeSequence",
    )

    data_received: Callable[[bytes], None]  # type: ignore[assignment]

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory: Any = factory
        self._producer: IPushProducer | None = None
        self._protocol: Any = None
        self.disconnecting = False
        self.peer_name: Any = None
        self.ssl_object: Any = None
        self.data_received = _ignore

    @classmethod
    def accepting(cls, factory: IProtocolFactory) -> Callable[[], asyncio.Protocol]:
        """For LoopServerEndpoint: connections without TLS."""
        return lambda: cls(factory)

    # ---- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop_transport = cast(asyncio.Transport, transport)
        self._set_up(loop_transport)
        self.peer_name = loop_transport.get_extra_info("peername")
        if self.peer_name is None:
            loop_transport.abort()  # reset by the peer before we accepted it
            return
        self.ssl_object = loop_transport.get_extra_info("ssl_object")
        protocol = self._factory.buildProtocol(None)
        if protocol is None:
            loop_transport.abort()
            return
        self._protocol = protocol
        # The loop has looked data_received up already; give it the protocol's own.
        self.data_received = protocol.dataReceived
        loop_transport.set_protocol(self)
        try:
            protocol.makeConnection(self)
        except BaseException:
            loop_transport.abort()
            raise

    def _set_up(self, transport: asyncio.Transport) -> None:
        self._loop_transport = transport
        self.write = transport.write
        self.writeSequence = transport.writelines
        self.pauseProducing = transport.pause_reading
        self.resumeProducing = transport.resume_reading
        transport.set_write_buffer_limits(high=0, low=0)

    def eof_received(self) -> bool:
        if self._protocol is None:
            return False
        self._protocol.readConnectionLost()
        return self.ssl_object is None  # with TLS there is no half-open connection

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        self._producer = None
        self.data_received = _ignore
        if protocol is not None:
            protocol.connectionLost(_DONE if exc is None else Failure(error.ConnectionLost(str(exc))))

    def pause_writing(self) -> None:
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume_writing(self) -> None:
        if self._producer is not None:
            self._producer.resumeProducing()

    # ---- ITransport, as far as it is not an attribute

    def loseConnection(self) -> None:
        """Close when everything written has left."""
        self.disconnecting = True
        self._loop_transport.close()

    def loseWriteConnection(self) -> None:
        """Close our side when everything written has left; go on reading. On TLS: close."""
        if self._loop_transport.can_write_eof():
            self._loop_transport.write_eof()
        else:
            self.loseConnection()

    def abortConnection(self) -> None:
        """Close at once, with a reset; what has not been sent is dropped."""
        self.disconnecting = True
        sock = self._loop_transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # gone already
        self._loop_transport.abort()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def bytes_unsent(self) -> int:
        """Bytes written that the kernel has not taken."""
        return self._loop_transport.get_write_buffer_size()

    def getPeer(self) -> IAddress:
        return _address(self._loop_transport, "peername")

    def getHost(self) -> IAddress:
        return _address(self._loop_transport, "sockname")

    def host_name(self) -> Any:
        """Our own address as the operating system gives it."""
        return self._loop_transport.get_extra_info("sockname")


def _ignore(data: bytes) -> None:
    """Take what comes for a connection that was refused or is lost."""


def _address(transport: asyncio.Transport, kind: str) -> IAddress:
    name = transport.get_extra_info(kind)
    if isinstance(name, tuple):
        if ":" in name[0]:
            return IPv6Address("TCP", name[0], name[1])
        return IPv4Address("TCP", name[0], name[1])
    return UNIXAddress(name or None)


@implementer(IListeningPort)
class LoopListeningPort:
    """A listening socket that an event loop accepts on."""

    def __init__(self, server: asyncio.Server, sock: socket.socket) -> None:
        self._server = server
        self._socket = sock

    def startListening(self) -> None:
        """Nothing: it listens from the start."""

    def stopListening(self) -> None:
        """Close the listening socket; connections stay."""
        self._server.close()

    def getHost(self) -> IAddress:
        name = self._socket.getsockname()
        if isinstance(name, tuple):
            return (IPv6Address if ":" in name[0] else IPv4Address)("TCP", name[0], name[1])
        return UNIXAddress(name or None)


@implementer(IStreamServerEndpoint)
class LoopServerEndpoint:
    """
    Listens on a bound socket with an event loop's own transports.

    Args:
        sock: bound; listening is started here.
        accepting: gives the loop a factory of what accepted connections get, for the factory of what is above.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        backlog: int,
        accepting: Callable[[IProtocolFactory], Callable[[], asyncio.Protocol]],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._backlog = backlog
        self._accepting = accepting

    def listen(self, protocolFactory: IProtocolFactory) -> "defer.Deferred[IListeningPort]":
        return defer.ensureDeferred(self.listen_async(protocolFactory))

    async def listen_async(self, protocolFactory: IProtocolFactory) -> LoopListeningPort:
        """As listen(), for coroutines of the event loop."""
        protocolFactory.doStart()
        server = await self._loop.create_server(
            self._accepting(protocolFactory), sock=self._socket, backlog=self._backlog
        )
        return LoopListeningPort(server, self._socket)
