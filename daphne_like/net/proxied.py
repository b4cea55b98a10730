"""Connections that begin with a PROXY protocol header (--proxy-protocol)."""

import logging
from typing import Any

from daphne_like import logs
from daphne_like.asgi.stream import ServerContext
from daphne_like.errors import RemoteProtocolError
from daphne_like.net.protocol import ServerProtocol
from daphne_like.net.proxy_protocol import ProxyHeaderParser

__all__ = ["ProxiedServerProtocol"]

log = logging.getLogger(logs.PROTOCOL)


class ProxiedServerProtocol(ServerProtocol):
    """
    What the header says replaces the socket's addresses before the first request is read.
    """

    __slots__ = ("_header",)

    def __init__(self, context: ServerContext, factory: Any) -> None:
        super().__init__(context, factory)
        self._header: ProxyHeaderParser | None = ProxyHeaderParser()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the socket: the header first."""
        if self._header is not None:
            try:
                answer = self._header.feed(data)
            except RemoteProtocolError as error:
                log.info("PROXY header refused", extra={"peer": self.client, "reason": error.reason})
                self.reset(error.reason)
                return
            if answer is None:
                return
            self._header = None
            info, data = answer
            if not info.keep:
                self.client = info.source
                self.server = info.destination or self.server
            if info.tls:
                self.scheme = "https"
            if not data:
                return
        super().dataReceived(data)
