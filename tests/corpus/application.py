"""
The application that the corpus is run against: `tests.corpus.application:application`, for any ASGI server.

It notes what it is asked for, by the client's port, and answers with that as JSON. A few paths behave
otherwise:

    /corpus/seen?port=N     what the connection from that port asked for, as JSON; forgotten afterwards
    /early                  answers without reading the body
    /stream?n=3&size=10     n body messages of that size, without a Content-Length
    /resp/NAME              a response as no application ought to give it: MISDEEDS
    /reject                 refuses a WebSocket; all other paths accept it and echo
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class Seen:
    """
    A request as an application sees it; octets as latin-1. `complete` when its body has ended, or when the
    WebSocket is open.
    """

    type: str
    method: str
    path: str
    raw_path: str | None
    query: str
    headers: list[tuple[str, str]]
    body: str = ""
    complete: bool = False

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header.lower() == name]

    @classmethod
    def of(cls, scope: Message) -> Seen:
        raw_path = scope.get("raw_path")
        return cls(
            type=scope["type"],
            method=scope.get("method", "GET"),
            path=scope["path"],
            raw_path=None if raw_path is None else raw_path.decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        )


@dataclass(slots=True)
class Application:
    """`seen` has the requests of each client port that nobody has asked for yet."""

    seen: dict[int, list[Seen]] = field(default_factory=lambda: defaultdict(list))

    def take(self, port: int) -> list[Seen]:
        return self.seen.pop(port, [])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["path"] == "/corpus/seen":
            port = int(parse_qs(scope["query_string"].decode("ascii"))["port"][0])
            await answer(send, json.dumps([asdict(seen) for seen in self.take(port)]).encode("ascii"))
            return
        seen = Seen.of(scope)
        client = scope.get("client")
        self.seen[int(client[1]) if client else 0].append(seen)
        if scope["type"] == "websocket":
            await websocket(seen, receive, send)
        else:
            await http(seen, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def http(seen: Seen, receive: Receive, send: Send) -> None:
    if seen.path == "/early":
        await answer(send, b"early")
        return
    body = bytearray()
    while not seen.complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        seen.body = body.decode("latin-1")
        seen.complete = not message.get("more_body", False)
    if seen.path.startswith("/resp/"):
        await misbehave(seen.path.removeprefix("/resp/"), send)
    elif seen.path == "/stream":
        options = parse_qs(seen.query)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(int(options["n"][0])):
            body_part = b"x" * int(options["size"][0])
            await send({"type": "http.response.body", "body": body_part, "more_body": True})
        await send({"type": "http.response.body"})
    else:
        await answer(send, json.dumps(asdict(seen)).encode("ascii"))


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def websocket(seen: Seen, receive: Receive, send: Send) -> None:
    await receive()
    if seen.path == "/reject":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    seen.complete = True
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})


# ----------------------------------------------------------------------------------------------------------
# What no application ought to send


def start(status: Any = 200, *headers: tuple[Any, Any]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes, more_body: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


INJECTED = b"\r\nX-Injected: yes"
SPLIT = b"\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: yes\r\nContent-Length: 0\r\n\r\n"


class Misdeed(Exception):
    """The application fails, on purpose."""


MISDEEDS: dict[str, list[Message | type[Misdeed]]] = {
    "crlf-value": [start(200, (b"x-a", b"a" + INJECTED)), part(b"ok")],
    "cr-value": [start(200, (b"x-a", b"a\rX-Injected: yes")), part(b"ok")],
    "lf-value": [start(200, (b"x-a", b"a\nX-Injected: yes")), part(b"ok")],
    "nul-value": [start(200, (b"x-a", b"a\0b")), part(b"ok")],
    "split-value": [start(200, (b"x-a", b"a" + SPLIT)), part(b"ok")],
    "location-crlf": [start(302, (b"location", b"/a" + INJECTED)), part(b"ok")],
    "cookie-crlf": [start(200, (b"set-cookie", b"a=b" + INJECTED)), part(b"ok")],
    "crlf-name": [start(200, (b"x-a: b" + INJECTED + b"\r\nx-b", b"c")), part(b"ok")],
    "nonascii-name": [start(200, (b"x-caf\xe9", b"a")), part(b"ok")],
    "colon-name": [start(200, (b"x-a:", b"b")), part(b"ok")],
    "space-name": [start(200, (b"x a", b"b")), part(b"ok")],
    "empty-name": [start(200, (b"", b"b")), part(b"ok")],
    "header-str": [start(200, ("x-a", "b")), part(b"ok")],
    "upper-name": [start(200, (b"X-Upper", b"b")), part(b"ok")],
    "big-header": [start(200, (b"x-a", b"a" * 32768)), part(b"ok")],
    "date-server": [
        start(200, (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"server", b"corpus")),
        part(b"ok"),
    ],
    "status-str": [start("200 OK" + INJECTED.decode()), part(b"ok")],
    "status-0": [start(0), part(b"ok")],
    "status-99": [start(99), part(b"ok")],
    "status-100": [start(100), part(b"ok")],
    "status-101": [start(101), part(b"ok")],
    "status-599": [start(599), part(b"ok")],
    "status-1000": [start(1000), part(b"ok")],
    "cl-short": [start(200, (b"content-length", b"1")), part(b"ok" + SPLIT)],
    "cl-zero-body": [start(200, (b"content-length", b"0")), part(b"ok" + SPLIT)],
    "cl-long": [start(200, (b"content-length", b"100")), part(b"ok")],
    "cl-long-multi": [start(200, (b"content-length", b"100")), part(b"o", True), part(b"k")],
    "cl-dup-diff": [start(200, (b"content-length", b"2"), (b"content-length", b"3")), part(b"ok")],
    "cl-word": [start(200, (b"content-length", b"two")), part(b"ok")],
    "te-only": [start(200, (b"transfer-encoding", b"chunked")), part(b"ok")],
    "te-gzip": [start(200, (b"transfer-encoding", b"gzip")), part(b"ok")],
    "no-length": [start(200), part(b"ok")],
    "empty-chunks": [start(200), part(b"", True), part(b"o", True), part(b"", True), part(b"k")],
    "conn-close": [start(200, (b"connection", b"close")), part(b"ok")],
    "204-body": [start(204), part(b"ok" + SPLIT)],
    "204-cl": [start(204, (b"content-length", b"0")), part(b"")],
    "205-body": [start(205), part(b"ok" + SPLIT)],
    "304-body": [start(304), part(b"ok" + SPLIT)],
    "304-cl": [start(304, (b"content-length", b"100")), part(b"")],
    "raises": [Misdeed],
    "returns": [],
    "raises-in-chunks": [start(200), part(b"ok", True), Misdeed],
    "raises-in-length": [start(200, (b"content-length", b"100")), part(b"ok", True), Misdeed],
    "body-first": [part(b"ok")],
    "start-twice": [start(200), start(200, (b"x-injected", b"yes")), part(b"ok")],
    "body-after-end": [start(200, (b"content-length", b"2")), part(b"ok"), part(b"more")],
}


async def misbehave(name: str, send: Send) -> None:
    for message in MISDEEDS[name]:
        if isinstance(message, type):
            raise message(name)
        await send(dict(message))


application = Application()
