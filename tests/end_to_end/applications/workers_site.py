"""
A bare ASGI 3 application for workers: says which process it is, and is caught in the middle of things.

Each path is one behaviour; what it does it notes on stderr as `noted <what> <pid>`. Where $GATE names a FIFO,
the import hangs until somebody has opened that for writing, and closed it.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PID = os.getpid()
GATE = os.environ.get("GATE")


def note(what: str) -> None:
    print(f"noted {what} {PID}", file=sys.stderr)


if GATE is not None and os.path.exists(GATE):
    with open(GATE, "rb") as gate:
        gate.read()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        note(f"{scope['method']} {scope['path']}")
        await PATHS.get(scope["path"], name)(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        raise ValueError("no lifespan here")


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def name(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"%d" % PID)


async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers after so many seconds."""
    await asyncio.sleep(float(scope["query_string"]))
    await answer(send, b"%d" % PID)


async def block(scope: Scope, receive: Receive, send: Send) -> None:
    """What nobody should do."""
    time.sleep(1000)


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """So many octets."""
    left = int(scope["query_string"])
    headers = [(b"content-length", b"%d" % left)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while left:
        body = bytes(min(left, 65536))
        left -= len(body)
        await send({"type": "http.response.body", "body": body, "more_body": left > 0})


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Numbered events, each in two pieces, on and on."""
    number = int(dict(scope["headers"]).get(b"last-event-id", b"0"))
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        number += 1
        event = b"id: %d\ndata: %d\n\n" % (number, PID)
        for piece in (event[:6], event[6:]):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0.002)


PATHS = {"/wait": wait, "/block": block, "/download": download, "/events": events}


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes, after its process id; "block" blocks. Some paths are not willing to go on in another worker."""
    await receive()
    path = scope["path"]
    if "daphne_like.resume" in scope["extensions"]:
        if path == "/refuses":
            await send({"type": "websocket.close", "code": 4001})
            return
        if path == "/denies":
            await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
            return
        if path == "/raises":
            raise ValueError("cannot go on")
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("bytes") is not None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
            continue
        note(f"took {message['text']}")
        if message["text"] == "block":
            time.sleep(1000)
        await send({"type": "websocket.send", "text": f"{PID} {message['text']}"})
    if path == "/lingers":
        await asyncio.Event().wait()
