"""From a request's head to the stream that holds the conversation about it."""

from daphne_like.asgi.departure import offer_departure
from daphne_like.asgi.http import HTTPStream
from daphne_like.asgi.scope import http_scope, websocket_scope
from daphne_like.asgi.stream import StreamTransport
from daphne_like.asgi.websocket import WebSocketStream
from daphne_like.http.events import RequestReceived
from daphne_like.websocket.handshake import check

__all__ = ["open_stream"]


def open_stream(event: RequestReceived, transport: StreamTransport) -> HTTPStream | WebSocketStream:
    """
    Make the stream for a request, and start its application.

    Raises:
        RemoteProtocolError: a WebSocket handshake that is not in order; handshake.refusal_headers() has
            what belongs into the answer.
    """
    context = transport.context
    stream: HTTPStream | WebSocketStream
    if event.upgrade:
        offer = check(event.method, event.http_version, event.headers)
        stream = WebSocketStream(
            transport, event, offer, websocket_scope(event, transport, offer.subprotocols)
        )
    else:
        context.requests += 1
        stream = HTTPStream(transport, event, http_scope(event, transport))
    context.running.add(stream)
    if context.takes_shortcuts:
        if (
            context.direct is not None
            and event.end_stream
            and type(stream) is HTTPStream
            and context.direct(stream)
        ):
            return stream
        if context.tells_departure:
            offer_departure(stream)
    stream.task = context.spawn(stream.run())
    return stream
