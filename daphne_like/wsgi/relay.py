"""
RelayWSGI: the relay under a WSGI server, so that gunicorn, uWSGI or mod_wsgi can be the front.

    # front.py, for any WSGI server
    application = RelayWSGI("ipc:/run/mysite/layer.sock")

    # beside it
    daphne-like worker mysite.asgi:application --layer ipc:/run/mysite/layer.sock

The relay itself runs in an event loop in a thread of its own, made in each process when its first request comes
(after a fork, where the server preloads). A request's thread, the WSGI server's, waits for what the relay says;
it alone reads `wsgi.input`, when the relay asks for more of the body. HTTP only: WSGI has no WebSockets.

A response that breaks off (its worker was lost) raises RelayError out of the iterator, so that the WSGI server
cuts the connection, too: it must not look whole.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import http
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from daphne_like.errors import ClientDisconnected, LayerError, RelayError
from daphne_like.layers.loading import open_layer
from daphne_like.layers.loop_thread import LoopThread
from daphne_like.relay.application import RelayApplication
from daphne_like.relay.keeper import Terms
from daphne_like.typing import Headers, Message, Scope

__all__ = ["RelayWSGI"]

# Octets that one read of wsgi.input asks for; a body that is no longer is read before the relay is asked.
READ_SIZE = 64 * 1024
# Seconds that a process which ends gives the relay to leave its layer.
LEAVE_WITHIN = 5.0

# "HTTP/1.1 hop-by-hop headers [...] must not be used by WSGI applications."
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    )
)


class RelayWSGI:
    """
    Args:
        layer: a channel layer, or its URL. One of the machine's own (`ipc:`) is hosted by the first process that
            asks, and by another when that is gone.
        terms: times and limits of the relay.
    """

    def __init__(self, layer: Any, *, terms: Terms | None = None) -> None:
        self._given = layer
        self._terms = terms
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        """PEP 3333."""
        running = self._running
        if running is None or running.process != os.getpid():
            running = self._start()
        conversation = _Conversation(environ, running.loop)
        conversation.begin(running.relay)
        try:
            status, headers = conversation.head()
            start_response(status, headers)
        except BaseException:
            conversation.close()
            raise
        return conversation

    def _start(self) -> _Running:
        with self._lock:
            running = self._running
            if running is None or running.process != os.getpid():
                layer = open_layer(self._given) if isinstance(self._given, str) else self._given
                running = self._running = _Running(layer, self._terms)
            return running

    def close(self) -> None:
        """Leave the layer; what is in course ends. A further request begins anew."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None and running.process == os.getpid():
            running.stop()


class _Running:
    """The relay of one process, in its loop."""

    def __init__(self, layer: Any, terms: Terms | None) -> None:
        self.process = os.getpid()
        self._thread = LoopThread("daphne_like relay")
        self.loop = self._thread.loop
        self._layer = layer
        self.relay = RelayApplication(layer, terms=terms)
        asyncio.run_coroutine_threadsafe(self._join(), self.loop).result()
        self._at_exit = functools.partial(_stop_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)

    async def _join(self) -> None:
        serve = getattr(self._layer, "serve", None)
        try:
            if serve is not None:
                await serve()
            await self.relay.start()
        except LayerError:
            pass  # the relay tries again with each request, answers 503 until it works, and logs that

    def stop(self) -> None:
        atexit.unregister(self._at_exit)
        future = asyncio.run_coroutine_threadsafe(self._leave(), self.loop)
        try:
            future.result(LEAVE_WITHIN)
        except concurrent.futures.TimeoutError:
            future.cancel()
        self._thread.stop()

    async def _leave(self) -> None:
        await self.relay.stop()
        close = getattr(self._layer, "close", None)
        if close is not None:
            await close()


def _stop_at_exit(reference: weakref.ref[_Running]) -> None:
    running = reference()
    if running is not None and running.process == os.getpid():
        running.stop()


class _Conversation:
    """
    A request of the WSGI server's, and the iterator of its response.

    The loop puts into `_said`: messages, _READ, and _ENDED or the exception that ended the relay's coroutine. A
    message is acknowledged when the thread takes it, which is when the one before has been written: the relay is
    never more than one ahead of the client.
    """

    def __init__(self, environ: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._environ = environ
        self._input = environ["wsgi.input"]
        self._loop = loop
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._scope, self._left = _scope_of(environ)
        self._body_ended = self._left == 0
        # What the relay's first receive() gets without asking.
        self._first = self._read() if self._left is not None and self._left <= READ_SIZE else None
        self._waiter: asyncio.Future[None] | None = None  # of send(): the message before has been taken
        self._piece: asyncio.Future[bytes | None] | None = None  # of receive()
        self._gone: asyncio.Event = asyncio.Event()  # the thread has closed the response
        self._over = False

    # ---- in the thread

    def begin(self, relay: RelayApplication) -> None:
        future = asyncio.run_coroutine_threadsafe(self._relay(relay), self._loop)
        future.add_done_callback(self._ended)

    async def _relay(self, relay: RelayApplication) -> None:
        await relay(self._scope, self._receive, self._send)

    def _ended(self, future: concurrent.futures.Future[None]) -> None:
        if future.cancelled():
            self._said.put(RelayError("the relay was stopped"))
        else:
            error = future.exception()
            self._said.put(_ENDED if error is None else error)

    def head(self) -> tuple[str, list[tuple[str, str]]]:
        """Wait for the response's head; what start_response() takes."""
        message = self._next()
        if message is None:
            raise RelayError("the relay ended without a response")
        status = message["status"]
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in message.get("headers", ())
            if name.lower() not in _HOP_BY_HOP
        ]
        return f"{status} {phrase}", headers

    def _next(self) -> Message | None:
        """Wait for the next message, reading the body for the relay meanwhile; None when it has ended."""
        while True:
            item = self._said.get()
            if item is _READ:
                self._hand_over(self._read_or_none())
            elif item is _ENDED:
                return None
            elif isinstance(item, BaseException):
                raise item
            else:
                self._call(self._taken)
                message: Message = item
                return message

    def _read_or_none(self) -> bytes | None:
        """None: the client has left in the middle of its body."""
        try:
            return self._read()
        except OSError:
            return None

    def _read(self) -> bytes:
        left = self._left
        if left == 0:
            return b""
        data: bytes = self._input.read(READ_SIZE if left is None else min(READ_SIZE, left))
        if left is not None:
            self._left = left - len(data)
            if not data and self._left:
                raise ClientDisconnected("the body ended before its Content-Length")
        self._body_ended = not data if left is None else self._left == 0
        return data

    def _hand_over(self, data: bytes | None) -> None:
        def set_result() -> None:
            if self._piece is not None and not self._piece.done():
                self._piece.set_result(data)

        self._call(set_result)

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop has been stopped: nobody waits there any more
            self._over = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._over:
            message = self._next()
            if message is None:
                self._over = True
                raise RelayError("the response broke off")
            if message["type"] == "http.response.body":
                self._over = not message.get("more_body", False)
                body: bytes = message.get("body", b"")
                if body:
                    return body
        raise StopIteration

    def close(self) -> None:
        """The response has been sent, or never will be."""
        self._over = True
        self._call(self._leave)

    # ---- in the loop

    def _taken(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _leave(self) -> None:
        self._gone.set()
        self._taken()
        if self._piece is not None and not self._piece.done():
            self._piece.set_result(None)

    async def _receive(self) -> Message:
        if self._first is not None:
            body, self._first = self._first, None
            return {"type": "http.request", "body": body, "more_body": not self._body_ended}
        if not self._body_ended and not self._gone.is_set():
            self._piece = self._loop.create_future()
            self._said.put(_READ)
            data = await self._piece
            if data is not None:
                return {"type": "http.request", "body": data, "more_body": not self._body_ended}
        else:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._waiter is not None:
            await self._waiter
        if self._gone.is_set():
            raise ClientDisconnected("the client has left")
        self._waiter = self._loop.create_future()
        self._said.put(message)


_READ, _ENDED = object(), object()


def _scope_of(environ: dict[str, Any]) -> tuple[Scope, int | None]:
    """The scope of a request, and how long its body is; None where only reading it tells."""
    headers: Headers = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            headers.append((key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            headers.append((key.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
    root = environ.get("SCRIPT_NAME", "").encode("latin-1")
    path = root + environ.get("PATH_INFO", "").encode("latin-1")
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    raw_path = target.partition("?")[0].encode("latin-1")
    if unquote_to_bytes(raw_path) != path:  # missing, or rewritten on the way here
        raw_path = quote(path).encode("ascii")
    client = environ.get("REMOTE_ADDR")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": path.decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root.decode("utf-8", "replace"),
        "headers": headers,
        "client": (client, _number(environ.get("REMOTE_PORT"))) if client else None,
        "server": (environ["SERVER_NAME"], _number(environ["SERVER_PORT"])),
        "extensions": {},
    }
    if environ.get("CONTENT_LENGTH"):
        return scope, _number(environ["CONTENT_LENGTH"])
    # Without a length, reading ends only where the server promises that it does.
    return scope, None if environ.get("wsgi.input_terminated") else 0


def _number(text: Any) -> int:
    return int(text) if str(text or "").isdigit() else 0
