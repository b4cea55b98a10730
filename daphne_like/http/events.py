"""
What the wire said: the one vocabulary between HTTP connections and streams.

An HTTP connection (:mod:`daphne_like.http.h1`) turns bytes into these events; a stream
(:mod:`daphne_like.asgi`) turns them into ASGI messages. They name no HTTP version, so that both versions
meet the same streams.

The classes are slotted and, by convention, never changed by who is told. They are not declared frozen: a frozen
dataclass sets each field through ``object.__setattr__``, which triples the price of an event. A connection that
reads the same head again tells of it with the same RequestReceived, whose stream_id has moved on.
"""

from dataclasses import dataclass

from daphne_like.typing import Headers

__all__ = ["DataReceived", "Event", "RequestReceived", "StreamReset"]


@dataclass(slots=True)
class RequestReceived:
    """
    A request's head is complete and acceptable.

    Attributes:
        stream_id: counts up from 1 on HTTP/1.
        method: as sent, case kept (methods are case-sensitive, RFC 9110 §9.1).
        raw_path: the path as sent, still percent-encoded, never empty; ``b"*"`` for ``OPTIONS *``.
        query_string: what follows the first ``?``, still encoded, ``b""`` when there is none.
        headers: lower-case names, values without surrounding white space, in order. ``host`` is present
            at most once, and agrees with an absolute-form target.
        http_version: ``"1.0"`` or ``"1.1"``.
        end_stream: the request has no body.
        upgrade: the request asks to become a WebSocket.
    """

    stream_id: int
    method: str
    raw_path: bytes
    query_string: bytes
    headers: Headers
    http_version: str
    end_stream: bool
    upgrade: bool


@dataclass(slots=True)
class DataReceived:
    """
    Octets of a request body, or of what follows an upgrade.

    Attributes:
        data: may be empty only together with *end_stream*.
        end_stream: the body is complete; no event for this stream follows.
    """

    stream_id: int
    data: bytes
    end_stream: bool


@dataclass(slots=True)
class StreamReset:
    """
    The peer ended this stream, or broke the rules within it, before its request was complete.

    Attributes:
        reason: for the log.
    """

    stream_id: int
    reason: str


Event = RequestReceived | DataReceived | StreamReset
