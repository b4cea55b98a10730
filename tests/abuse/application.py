"""
The ASGI application that the abused server runs: one route per kind of behaviour, and counters of what
happened to it.

"The application is held back" and "every call ends" can only be answered by the application, so each call
on a counted route is recorded here and GET /stats gives the numbers as JSON. /ping and /stats are not
counted: they are the observer's.

HTTP
    /ping?size=                         an answer at once
    /stats                              the counters
    /read                               takes the body, answers its length and SHA-256
    /sip?interval=                      one message of the body, then a pause
    /deaf?seconds=                      never receives
    /hold                               waits in receive()
    /stream?size=&chunk=&interval=      sends until it is told or until send() raises

WebSocket
    /echo                               every message back
    /sip?interval=                      one message, then a pause
    /stream?size=&chunk=                sends, never receives
    /close                              accepts, closes with 1000, waits to be told
    /return                             accepts, returns
    /raise                              accepts, raises
    /raise-early                        raises instead of accepting

Plain ASGI 3, no framework, sizes in bytes and times in seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class Counters:
    """What happened to the calls on counted routes since the process began."""

    started: int = 0
    ended: int = 0
    running: int = 0
    waiting: int = 0  # inside receive() on /hold at this moment
    disconnected: int = 0  # calls that were given http.disconnect or websocket.disconnect
    send_refused: int = 0  # calls whose send() raised OSError
    received: int = 0  # octets of bodies and messages that receive() gave
    messages: int = 0  # messages with octets that receive() gave
    handed_over: int = 0  # octets in send() calls that have returned


class Deliberate(Exception):
    """Raised by the routes whose purpose is to raise."""


counters = Counters()


class _Parameters:
    """The query string of a scope, as numbers."""

    def __init__(self, scope: Scope) -> None:
        self._values = parse_qs(scope["query_string"].decode("ascii"))

    def integer(self, name: str, default: int) -> int:
        return int(self._values.get(name, [str(default)])[0])

    def seconds(self, name: str, default: float) -> float:
        return float(self._values.get(name, [str(default)])[0])


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI 3 entry point; see the module's docstring for the routes."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    routes = _HTTP_ROUTES if scope["type"] == "http" else _WEBSOCKET_ROUTES
    path = scope["path"]
    if scope["type"] == "http" and path in _OBSERVER_ROUTES:
        await _OBSERVER_ROUTES[path](scope, receive, send)
        return
    counters.started += 1
    counters.running += 1
    try:
        await routes[path](scope, receive, send)
    except OSError:  # what send() raises after the client has left
        counters.send_refused += 1
    finally:
        counters.running -= 1
        counters.ended += 1


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


# --- HTTP -------------------------------------------------------------------------------------------------


async def _answer(send: Send, body: bytes, content_type: bytes = b"text/plain") -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _ping(scope: Scope, receive: Receive, send: Send) -> None:
    await _answer(send, b"p" * _Parameters(scope).integer("size", 4))


async def _stats(scope: Scope, receive: Receive, send: Send) -> None:
    await _answer(send, json.dumps(asdict(counters)).encode("ascii"), b"application/json")


def _taken(message: Message) -> bytes:
    """The octets of a received message, counted."""
    data: bytes = message.get("body") or message.get("bytes") or (message.get("text") or "").encode()
    if data:
        counters.received += len(data)
        counters.messages += 1
    return data


async def _read_body(receive: Receive, pause: float = 0.0) -> tuple[int, str] | None:
    """Length and SHA-256 of the body; None when the client left before its end."""
    digest = hashlib.sha256()
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            counters.disconnected += 1
            return None
        data = _taken(message)
        digest.update(data)
        length += len(data)
        if not message.get("more_body", False):
            return length, digest.hexdigest()
        if pause:
            await asyncio.sleep(pause)


async def _read(scope: Scope, receive: Receive, send: Send) -> None:
    read = await _read_body(receive)
    if read is not None:
        await _answer(send, b"%d %s" % (read[0], read[1].encode("ascii")))


async def _sip(scope: Scope, receive: Receive, send: Send) -> None:
    read = await _read_body(receive, pause=_Parameters(scope).seconds("interval", 1.0))
    if read is not None:
        await _answer(send, b"%d" % read[0])


async def _deaf(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(_Parameters(scope).seconds("seconds", 5.0))
    await _answer(send, b"not listening")


async def _hold(scope: Scope, receive: Receive, send: Send) -> None:
    counters.waiting += 1
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
        counters.disconnected += 1
    finally:
        counters.waiting -= 1


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    counters.disconnected += 1


async def _stream(scope: Scope, receive: Receive, send: Send) -> None:
    """
    Streams without a Content-Length while a second task listens for http.disconnect, as careful
    applications do: a server may tell of the client's departure either way.
    """
    parameters = _Parameters(scope)
    size, interval = parameters.integer("size", 0), parameters.seconds("interval", 0.0)
    chunk = b"s" * parameters.integer("chunk", 65536)
    listener = asyncio.ensure_future(_until_disconnect(receive))
    try:
        headers = [(b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = 0
        while sent < size and not listener.done():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += len(chunk)
            counters.handed_over += len(chunk)
            await asyncio.sleep(interval)
        await send({"type": "http.response.body", "body": b""})
    finally:
        listener.cancel()


# --- WebSocket --------------------------------------------------------------------------------------------


async def _accept(receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            counters.disconnected += 1
            return
        size = len(_taken(message))
        if message.get("bytes") is not None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        else:
            await send({"type": "websocket.send", "text": message["text"]})
        counters.handed_over += size


async def _websocket_sip(scope: Scope, receive: Receive, send: Send) -> None:
    pause = _Parameters(scope).seconds("interval", 1.0)
    await _accept(receive, send)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            counters.disconnected += 1
            return
        _taken(message)
        await asyncio.sleep(pause)


async def _websocket_stream(scope: Scope, receive: Receive, send: Send) -> None:
    parameters = _Parameters(scope)
    size = parameters.integer("size", 0)
    chunk = b"s" * parameters.integer("chunk", 65536)
    await _accept(receive, send)
    sent = 0
    while sent < size:
        await send({"type": "websocket.send", "bytes": chunk})
        sent += len(chunk)
        counters.handed_over += len(chunk)
        await asyncio.sleep(0)
    await send({"type": "websocket.close", "code": 1000})


async def _websocket_close(scope: Scope, receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    await send({"type": "websocket.close", "code": 1000})
    await receive()
    counters.disconnected += 1


async def _return(scope: Scope, receive: Receive, send: Send) -> None:
    await _accept(receive, send)


async def _raise(scope: Scope, receive: Receive, send: Send) -> None:
    await _accept(receive, send)
    raise Deliberate("after accept")


async def _raise_early(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    raise Deliberate("before accept")


_OBSERVER_ROUTES = {"/ping": _ping, "/stats": _stats}
_HTTP_ROUTES = {"/read": _read, "/sip": _sip, "/deaf": _deaf, "/hold": _hold, "/stream": _stream}
_WEBSOCKET_ROUTES = {
    "/echo": _echo,
    "/sip": _websocket_sip,
    "/stream": _websocket_stream,
    "/close": _websocket_close,
    "/return": _return,
    "/raise": _raise,
    "/raise-early": _raise_early,
}
