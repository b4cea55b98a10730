"""Who is at the two ends of a connection, in the words of a scope."""

from typing import Any

from twisted.internet.address import UNIXAddress

from daphne_like.net.loop_transport import LoopTransport
from daphne_like.net.tls import tls_extension
from daphne_like.typing import Address, ServerAddress

__all__ = ["describe_connection"]


def describe_connection(
    transport: Any, factory: Any
) -> tuple[Address | None, ServerAddress | None, str, dict[str, Any] | None]:
    """
    Return ``(client, server, scheme, tls)`` of a transport, ours or one of Twisted's.

    Args:
        factory: shares our own addresses, and has the certificate of the loop's TLS.

    Returns:
        client: None for the peer of a Unix socket; server: ``(path, None)`` for one.
        tls: the scope's "tls" extension, None on plain connections.
    """
    if isinstance(transport, LoopTransport):
        peer, host = transport.peer_name, transport.host_name()
        encrypted = transport.ssl_object is not None
        tls = tls_extension(transport.ssl_object, factory.certificate) if encrypted else None
        scheme = "https" if encrypted else "http"
        if isinstance(peer, tuple):
            return (peer[0], peer[1]), factory.shared_address((host[0], host[1])), scheme, tls
        return None, _unix_address(host), scheme, tls
    peer, host = transport.getPeer(), transport.getHost()
    encrypted = hasattr(transport, "getPeerCertificate")  # Twisted's own TLS, from an endpoint string
    tls = tls_extension(None, None) if encrypted else None
    scheme = "https" if encrypted else "http"
    if isinstance(host, UNIXAddress):
        return None, _unix_address(host.name), scheme, tls
    return (peer.host, peer.port), (host.host, host.port), scheme, tls


def _unix_address(path: str | bytes | None) -> ServerAddress | None:
    """ASGI's address of a Unix socket that we listen on; None where it has no name."""
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    return (path, None) if path else None
