"""
What crosses the layer between a server and a worker, and what each piece of it means.

A server offers a stream with an *opening*, a list (build_opening(), read_opening()). From then on both sides
post envelopes: lists whose first item, an int, is one of

    EVENTS    [1, stream, epoch, seq, items, taken]   both ways; seq is the number of the first of items
    CREDIT    [2, stream, epoch, octets, taken]       both ways; so many octets more may be sent
    HANDOFF   [3, stream, epoch]                      worker -> server: take this stream elsewhere
    CANCEL    [4, stream, epoch, reason, code]        server -> worker; overtakes items
    END       [5, stream, epoch, seq, taken, error, items]   worker -> server: the application has ended
    BOUND     [6, stream, epoch]                      worker -> server, foreign layers: I have this stream
    KEEPALIVE [7, stream, epoch, sent, granted]       both ways, foreign layers: this is all that I have sent
    WILL      [8, stream, epoch, name, value]         worker -> server: for the next one, should I die

`stream` counts in one server. `epoch` counts the workers that have had it: envelopes of another epoch than the
present one are dropped. Unknown kinds and further fields at the end are ignored, so that neighbouring versions
live together.

Items are numbered 1, 2, 3 ... per direction and epoch; those inside of the opening count. A number that is
missing means that the layer has lost something: the stream is broken off, never shortened. `taken` is the
number of the last item that the receiver's application (up) or the client (down) has got, 0 for none. END's
`items` are the last ones, `seq` the number of the last of all, `error` the class that was raised, or "".

    up (server -> worker)
        HTTP        bytes: a piece of the body; None: the body has ended (also said by the opening's `ended`)
        WebSocket   str, bytes: websocket.receive; dict: any other message, websocket.disconnect above all
    down (worker -> server)
        str, bytes: websocket.send; dict: any other ASGI message

An item larger than MAX_ITEM is split: bodies into several bodies, anything else into parts, {"part": bytes,
"more": bool}, whose octets joined are the packed item. Each part is an item by number and credit.

CREDIT. Each item costs item_cost(). The initial credit is named in the opening and the same both ways; what
the opening itself carries is spent already. An item may be sent while any credit is left, so it can be
overdrawn by one. Half of it used up by the receiver's consumer is given back at once. Two uses go beyond:
a worker says CREDIT of 0 octets for a WebSocket whose application took something and said nothing in that
turn, so that a server knows what a dead worker's application had taken; and at the first receive() of a
request with `Expect: 100-continue`, because before it the client is not asked for the body.

CANCEL, by its reason:
    SILENT     HTTP: the client has closed its sending side. receive() says http.disconnect after what came;
               send() goes on until the application has been told.
    LOST       the client is gone: send() raises from now on. HTTP: receive() says http.disconnect after what
               came. WebSocket: items still follow, whatever the credit, the last is websocket.disconnect.
    HANDED_OFF the answer to HANDOFF: no more items follow. receive() says websocket.disconnect with *code*
               (HTTP: http.disconnect) after what came. What the application says goes on to the client,
               except a websocket.close said after it has seen that: the worker keeps it. Then END.
    TIMEOUT    the server waits no longer: the application is cancelled. Nothing it says counts.
    GAP        an item was lost; as TIMEOUT.

HANDOFF. A draining worker says it for every WebSocket, and for every HTTP stream whose response is
text/event-stream. The server may ignore it for the latter.

END comes when the application has ended, whatever else has happened; after CANCEL with TIMEOUT or GAP nobody
looks at it.

KEEPALIVE. A layer that is not our own may lose an envelope after which nothing follows. So the server says of
each stream every few seconds the number of the last item and the sum of CREDIT that it has sent; a worker
answers with its own. Envelopes keep their order, so that whoever finds less than that has lost something, and
breaks the stream off. To a KEEPALIVE of a stream that it does not have, a worker answers with END and seq -1.

WILL is the channel layer's business: what it says of a stream in one worker, its layer is told in the next, if
there is a next one because the first died. See `stream_will` in layers/base.py. A value of None ends a name.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daphne_like.asgi.messages import payload_size
from daphne_like.errors import MessageTooLarge, RelayError
from daphne_like.layers.codec import pack

__all__ = [
    "BOUND",
    "CANCEL",
    "CREDIT",
    "END",
    "EVENTS",
    "GAP",
    "HANDED_OFF",
    "HANDOFF",
    "HTTP_CHANNEL",
    "KEEPALIVE",
    "LOST",
    "MAX_ITEM",
    "MAX_JOINED",
    "SILENT",
    "TIMEOUT",
    "VERSION",
    "WEBSOCKET_CHANNEL",
    "WILL",
    "WINDOW",
    "Item",
    "Opening",
    "build_opening",
    "item_cost",
    "read_opening",
    "split_body",
    "split_item",
]

Item = Any  # str, bytes, None or a dict

VERSION = 1

EVENTS, CREDIT, HANDOFF, CANCEL, END, BOUND, KEEPALIVE, WILL = range(1, 9)

SILENT, LOST, HANDED_OFF, TIMEOUT, GAP = "silent", "lost", "handoff", "timeout", "gap"

HTTP_CHANNEL = "http.request"
WEBSOCKET_CHANNEL = "websocket.connect"

# Credit at the beginning, both ways.
WINDOW = 256 * 1024

# The largest item that is sent in one piece, packed.
MAX_ITEM = 192 * 1024

# The largest message that is put together from parts, packed: beyond any sensible one.
MAX_JOINED = 256 * 1024 * 1024

# What an item costs beside its octets: the objects around it, so that empty ones are counted too.
ITEM_OVERHEAD = 64

# Messages other than bodies are few and small, and not measured one by one.
_MESSAGE_COST = 512

# What packing may add to a payload: its header.
_HEADER = 16

_BODIES = frozenset(("http.response.body", "websocket.http.response.body"))


def item_cost(item: Item) -> int:
    """What sending *item* takes off the credit; the same on both sides."""
    if type(item) is dict:
        octets = item.get("body")
        if octets is None:
            octets = item.get("part")
            if octets is None:
                return _MESSAGE_COST
        return len(octets) + ITEM_OVERHEAD
    if item is None:
        return ITEM_OVERHEAD
    return payload_size(item) + ITEM_OVERHEAD


def split_body(body: bytes) -> list[bytes]:
    """Cut a piece of a body into pieces of at most MAX_ITEM octets."""
    return [body[start : start + MAX_ITEM] for start in range(0, len(body), MAX_ITEM)]


def split_item(item: Item) -> list[Item]:
    """
    The items to send for *item*: itself, or where it is too large several.

    Raises:
        MessageTooLarge: beyond MAX_JOINED.
        InvalidMessage: something in it cannot be packed. Only large items are looked at.
    """
    if type(item) is dict:
        if item["type"] in _BODIES:
            return _split_response_body(item)
        if not _may_be_large(item):
            return [item]
    elif len(item) <= (MAX_ITEM - _HEADER if type(item) is bytes else (MAX_ITEM - _HEADER) // 4):
        return [item]
    packed = pack(item)
    if len(packed) <= MAX_ITEM:
        return [item]
    if len(packed) > MAX_JOINED:
        raise MessageTooLarge(f"a message of {len(packed)} octets; the relay carries {MAX_JOINED}")
    return [
        {"part": packed[start : start + MAX_ITEM], "more": start + MAX_ITEM < len(packed)}
        for start in range(0, len(packed), MAX_ITEM)
    ]


def _may_be_large(message: dict[str, Any]) -> bool:
    size = 0
    for value in message.values():
        if type(value) is list:
            for each in value:
                size += sum(map(len, each)) if type(each) in (tuple, list) else len(each)
        elif type(value) in (str, bytes):
            size += 4 * len(value)
    return size > MAX_ITEM // 2


def _split_response_body(message: dict[str, Any]) -> list[Item]:
    body = message.get("body", b"")
    if len(body) <= MAX_ITEM:
        return [message]
    pieces = split_body(body)
    messages = [{**message, "body": piece, "more_body": True} for piece in pieces[:-1]]
    return [*messages, {**message, "body": pieces[-1]}]


@dataclass(slots=True)
class Opening:
    """
    An offered stream, as a worker reads it.

    Attributes:
        scope: as ASGI has it; at epochs after the first with extensions["daphne_like.resume"].
        items: the first items up; ended: HTTP: they are the whole body.
        credit: what may be sent, each way, before CREDIT comes.
        resume: "" at the first epoch; "drain" or "lost": how the epoch before ended.
        closes: a WebSocket that its server closes, at a time of its choice, where others are handed on.
        will: what the lost worker's layer has left for this one's, by name.
    """

    stream: int
    epoch: int
    scope: dict[str, Any]
    items: list[Item]
    ended: bool
    credit: int
    resume: str
    closes: bool = False
    will: Mapping[str, str] = field(default_factory=dict)


def build_opening(
    stream: int,
    epoch: int,
    scope: Mapping[str, Any],
    items: list[Item],
    ended: bool,
    resume: str = "",
    credit: int = WINDOW,
    closes: bool = False,
) -> list[Any]:
    """The list to offer, to which a will may be added; *scope*: the host's. See Opening."""
    extensions = scope.get("extensions") or {}
    others = None if _KNOWN.issuperset(scope) else _others(scope)
    names = _crossing_names(tuple(extensions))
    fields = [*map(scope.get, _FIELDS), names, extensions.get("tls"), others]
    return [VERSION, stream, epoch, fields, items, ended, credit, resume, closes]


def read_opening(opening: Sequence[Any]) -> Opening:
    """
    Raises:
        RelayError: it is of a version that we do not know, or not an opening.
    """
    try:
        if opening[0] != VERSION:
            raise RelayError(f"envelope version {opening[0]!r}, not {VERSION}")
        _, stream, epoch, fields, items, ended, credit, resume, closes = opening[:9]
        scope = _read_scope(*fields)
        if resume:
            scope["extensions"]["daphne_like.resume"] = {"epoch": epoch, "reason": resume}
        found = Opening(stream, epoch, scope, items, ended, credit, resume, closes)
        if len(opening) > 9:
            found.will = dict(opening[9])
        return found
    except (LookupError, TypeError, ValueError) as error:
        raise RelayError(f"not an opening: {error!r}") from error


# What of a scope crosses by its place in a list. "state" is of the worker's own lifespan, "asgi" of its server.
_FIELDS = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
    "subprotocols",
)
_KNOWN = frozenset((*_FIELDS, "asgi", "extensions", "state"))

# Extensions, beside "tls", that work through the relay. Others may hold what cannot cross: files, callables.
_EXTENSIONS = frozenset(
    (
        "http.response.early_hint",
        "http.response.pathsend",
        "http.response.push",
        "http.response.trailers",
        "websocket.http.response",
    )
)


@functools.lru_cache(maxsize=64)
def _crossing_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in _EXTENSIONS)


def _others(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What middleware has put into the scope: plain values cross."""
    return {key: scope[key] for key in scope.keys() - _KNOWN if type(scope[key]) in _PLAIN}


def _read_scope(
    kind: str,
    http_version: str,
    method: str | None,
    scheme: str,
    path: str,
    raw_path: bytes,
    query_string: bytes,
    root_path: str | None,
    headers: Any,
    client: Any,
    server: Any,
    subprotocols: Any,
    extensions: Sequence[str],
    tls: dict[str, Any] | None,
    others: dict[str, Any] | None,
) -> dict[str, Any]:
    if type(headers) is not tuple:  # a layer of others: what was a tuple is none any more
        headers = [(name, value) for name, value in headers]
        client = client and tuple(client)
        server = server and tuple(server)
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": http_version,
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query_string,
        "root_path": root_path or "",
        "headers": list(headers),
        "client": client,
        "server": server,
        "extensions": {name: {} for name in extensions},
    }
    if method is not None:
        scope["method"] = method
    if subprotocols is not None:
        scope["subprotocols"] = list(subprotocols)
    if tls is not None:
        scope["extensions"]["tls"] = tls
    if others:
        scope.update(others)
    return scope


_PLAIN = frozenset((str, bytes, int, float, bool, type(None)))
