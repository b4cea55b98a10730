"""
A bare ASGI 3 application: says what it was told, and misbehaves on demand.

Each path is one behaviour. `/scope` answers with the scope as JSON; everything unknown is 404.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

TEXT = [(b"content-type", b"text/plain")]
NOTES: list[str] = []  # what behaviours have noticed, in order; GET /notes


async def answer(send: Send, body: bytes = b"ok\n", status: int = 200, headers: Any = TEXT) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(key): readable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(each) for each in value]
    return value if isinstance(value, (str, int, float, type(None))) else repr(value)


async def ping(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"%d\n" % os.getpid())


async def show_scope(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, json.dumps(readable(scope)).encode())


async def show_notes(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, json.dumps(NOTES).encode())


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await answer(send, body)


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """The body's size, without keeping it."""
    size = 0
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, b"%d" % size)


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without looking at the body."""
    await answer(send)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(float(scope["query_string"] or b"0.5"))
    await answer(send, b"%d\n" % os.getpid())


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Server-Sent Events until the client leaves; the notes say how the application learnt of it."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    )
    gone = asyncio.ensure_future(disconnected(receive))
    number = 0
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            number += 1
            await asyncio.wait((gone,), timeout=0.05)
        NOTES.append("events: disconnect")
    except OSError as error:
        NOTES.append(f"events: {type(error).__name__}")
    except asyncio.CancelledError:
        NOTES.append("events: cancelled")
        raise
    finally:
        gone.cancel()


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Never answers; notes when its client has gone."""
    NOTES.append("hold: begun")
    await disconnected(receive)
    NOTES.append("hold: disconnect")


async def two_large(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": bytes(8 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": bytes(8 << 20)})


async def block(scope: Scope, receive: Receive, send: Send) -> None:
    """Blocks the event loop, as no application should."""
    time.sleep(float(scope["query_string"] or b"1"))
    await answer(send)


async def block_a_thread(scope: Scope, receive: Receive, send: Send) -> None:
    NOTES.append("thread: begun")
    seconds = float(scope["query_string"] or b"1")
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, seconds)
    await answer(send)


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("on purpose, before the start")


async def raises_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("on purpose, after the start")


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    sys.exit(5)


async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes no cancellation for an answer, for a while."""
    NOTES.append("stubborn: begun")
    until = asyncio.get_running_loop().time() + float(scope["query_string"] or b"60")
    while (left := until - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            NOTES.append("stubborn: cancelled")


async def watched(scope: Scope, receive: Receive, send: Send) -> None:
    """How many things of the server, or worker, are alive: what is not released grows with each request."""
    import gc

    gc.collect()
    streams = ("HTTPStream", "WebSocketStream", "HTTPSession", "WebSocketSession")
    names = (*streams, "ServerProtocol", "H1Connection", "Codec")
    counts = dict.fromkeys(names, 0)
    for each in gc.get_objects():
        name = type(each).__name__
        if name in counts and type(each).__module__.startswith("daphne_like."):
            counts[name] += 1
    await answer(send, json.dumps(counts).encode())


HTTP = {
    "/": ping,
    "/scope": show_scope,
    "/notes": show_notes,
    "/echo": echo,
    "/count": count,
    "/unread": unread,
    "/slow": slow,
    "/events": events,
    "/hold": hold,
    "/two-large": two_large,
    "/block": block,
    "/block-a-thread": block_a_thread,
    "/raises": raises,
    "/raises-after-start": raises_after_start,
    "/exits": exits,
    "/stubborn": stubborn,
    "/alive": watched,
}


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    path = scope["path"]
    if path == "/ws/never-accepts":
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "websocket.accept"})
    if path == "/ws/scope":
        await send({"type": "websocket.send", "text": json.dumps(readable(scope))})
    if path == "/ws/deaf":
        NOTES.append("deaf: begun")
        await asyncio.sleep(0.3)
        await send({"type": "websocket.close", "code": 4000})
        NOTES.append("deaf: closed")
        return
    if path == "/ws/raises":
        raise RuntimeError("on purpose, in a WebSocket")
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            NOTES.append(f"websocket: {message['code']} {message.get('reason')}")
            return
        await send({**message, "type": "websocket.send"})


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await asyncio.sleep(float(os.environ.get("PLAIN_" + message["type"].upper().replace(".", "_"), "0")))
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            print("plain: lifespan shutdown", flush=True)
            return


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["path"] in HTTP:
        await HTTP[scope["path"]](scope, receive, send)
    else:
        await answer(send, b"not here\n", 404)
