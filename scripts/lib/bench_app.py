"""
The application that every server of `scripts/bench` serves: plain ASGI 3, no framework, one file for all.

    GET  /        13 bytes, fixed length       (keep-alive, new connections, pipelining, memory)
    POST /echo    the body, sent back whole    (the body is read to its end first)
    GET  /chunks  100 body messages of 1 KiB   (no Content-Length, so the server chunks)
    GET  /large   1 MiB in one body message
    GET  /gigabyte  2^30 bytes, 64 KiB at a time
    POST /count   the body is read and thrown away; its length comes back
    WebSocket     every text or binary message is sent back

It costs next to nothing, so that what is measured is the server. Nothing here imports another file: the
servers import this one by name, in processes of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!"
CHUNK = b"c" * 1024
CHUNKS = 100
LARGE = b"L" * 1024 * 1024
PIECE = b"G" * 65536
GIGABYTE = 1 << 30

CONTENT_TYPE = (b"content-type", b"text/plain")

HELLO_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [CONTENT_TYPE, (b"content-length", b"%d" % len(HELLO))],
}
HELLO_BODY = {"type": "http.response.body", "body": HELLO}
CHUNKS_START = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE]}
CHUNKS_BODY = {"type": "http.response.body", "body": CHUNK, "more_body": True}
CHUNKS_LAST = {"type": "http.response.body", "body": CHUNK}
LARGE_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [CONTENT_TYPE, (b"content-length", b"%d" % len(LARGE))],
}
LARGE_BODY = {"type": "http.response.body", "body": LARGE}


async def hello(receive: Receive, send: Send) -> None:
    # A copy each time: a server may own, and change, the messages it is given.
    await send(HELLO_START.copy())
    await send(HELLO_BODY.copy())


async def echo(receive: Receive, send: Send) -> None:
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    headers = [CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def chunks(receive: Receive, send: Send) -> None:
    await send(CHUNKS_START.copy())
    for _ in range(CHUNKS - 1):
        await send(CHUNKS_BODY.copy())
    await send(CHUNKS_LAST.copy())


async def large(receive: Receive, send: Send) -> None:
    await send(LARGE_START.copy())
    await send(LARGE_BODY.copy())


async def gigabyte(receive: Receive, send: Send) -> None:
    headers = [CONTENT_TYPE, (b"content-length", b"%d" % GIGABYTE)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(1, GIGABYTE // len(PIECE) + 1):
        more = number * len(PIECE) < GIGABYTE
        await send({"type": "http.response.body", "body": PIECE, "more_body": more})


async def count(receive: Receive, send: Send) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % size
    headers = [CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def not_found(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def websocket_echo(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.receive":
            # Servers differ in whether the key of the other kind is absent or None.
            text = message.get("text")
            if text is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
        elif message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            return


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


ROUTES = {
    "/": hello,
    "/echo": echo,
    "/chunks": chunks,
    "/large": large,
    "/gigabyte": gigabyte,
    "/count": count,
}


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await ROUTES.get(scope["path"], not_found)(receive, send)
    elif scope["type"] == "websocket":
        await websocket_echo(receive, send)
    else:
        await lifespan(receive, send)
