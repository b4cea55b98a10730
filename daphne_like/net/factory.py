"""Builds the protocol for each connection, and knows how many there are."""

import logging
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory
from zope.interface import implementer

from daphne_like import logs
from daphne_like.asgi.stream import ServerContext
from daphne_like.net.protocol import ServerProtocol
from daphne_like.net.proxied import ProxiedServerProtocol
from daphne_like.net.tls import TLSCertificate
from daphne_like.typing import ServerAddress

__all__ = ["ServerFactory"]

log = logging.getLogger(logs.PROTOCOL)

# Our own addresses are few; a server behind many is no reason to keep all of them.
_MAX_SHARED = 64


@implementer(IProtocolFactory)
class ServerFactory:
    """
    Args:
        context: of the server.
        call_soon: the event loop's.
        on_lost: called when a connection is gone.
        certificate: of connections with the loop's own TLS.

    Attributes:
        connections: the open ones.
        to_flush: those that have something to write at the end of this turn of the event loop. Who appends
            the first calls call_at_end_of_turn(): one callback serves all.
    """

    noisy = False  # Twisted: no log line at each start and stop

    def __init__(
        self,
        context: ServerContext,
        call_soon: Callable[[Callable[[], None]], Any],
        on_lost: Callable[[], None],
        certificate: TLSCertificate | None = None,
    ) -> None:
        self._context = context
        self._protocol = ProxiedServerProtocol if context.settings.proxy_protocol else ServerProtocol
        self._addresses: dict[ServerAddress, ServerAddress] = {}
        self._on_lost = on_lost
        self._call_soon = call_soon
        self.to_flush: list[ServerProtocol] = []
        self.certificate = certificate
        self.connections: set[ServerProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> ServerProtocol:
        protocol = self._protocol(self._context, self)
        self.connections.add(protocol)
        return protocol

    def doStart(self) -> None:
        """Twisted: a port begins to use the factory."""

    def doStop(self) -> None:
        """Twisted: a port uses the factory no more."""

    @property
    def is_full(self) -> bool:
        """There are more connections than --max-connections allows, the newest counted."""
        limit = self._context.settings.max_connections
        return bool(limit) and len(self.connections) > limit

    def connection_lost(self, protocol: ServerProtocol) -> None:
        """*protocol* is gone."""
        self.connections.discard(protocol)
        self._on_lost()

    def shared_address(self, address: ServerAddress) -> ServerAddress:
        """One and the same tuple for the same address of ours: thousands of connections have it."""
        if len(self._addresses) < _MAX_SHARED:
            return self._addresses.setdefault(address, address)
        return self._addresses.get(address, address)

    def call_at_end_of_turn(self) -> None:
        """Have everybody in `to_flush` flushed when this turn of the event loop is over."""
        self._call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        protocols = self.to_flush
        self.to_flush = []
        for protocol in protocols:
            if protocol.flush_scheduled:
                try:
                    protocol.end_of_turn()
                except Exception:
                    # The others, marked as scheduled, would never be written to again.
                    log.exception("connection failed at the end of a turn, cut it")
                    protocol.reset("it failed at the end of a turn")
