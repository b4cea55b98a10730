"""
The ASGI application: django.core.handlers.asgi.ASGIHandler, with threads used as sparingly as can be.

A request for a sync view takes one hop (hop.py); one for an async view none, unless something needs one
(async_path.py). Under our own server and worker a sync request comes without a coroutine (asgi/direct.py);
elsewhere, and for async views, this is plain ASGI. docs/explanation/django.md has the whole.

What Django's own treatment is for: subclasses that change how requests are handled, scopes that are not HTTP.
And where asgiref says which thread sync code belongs to, because a sync caller waits for us or another
ThreadSensitiveContext is around, it is taken, not one of ours.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers import asgi
from django.core.handlers.base import BaseHandler
from django.utils.module_loading import import_string

from daphne_like import logs
from daphne_like.asgi.direct import Exchange, exchange_of
from daphne_like.thread_pools import pool_for
from daphne_like.threads import ThreadPool
from daphne_like.typing import Receive, Scope, Send

from .async_path import AsyncPath
from .cursors import watch_new_connections
from .departure import Departure
from .hints import ViewHints
from .hop import Hop, take_over
from .receivers import close_connections, in_hand, start_in_leased_thread
from .streams import SyncStream

__all__ = ["ASGIHandler"]

log = logging.getLogger(logs.APPLICATION)


class SyncChain(BaseHandler):
    """The site's middleware around sync views, as Django's WSGI handler has it."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware(is_async=False)


class ASGIHandler(AsyncPath):
    """
    Attributes:
        sync_chain: None where some middleware is async only: then everything is as for async views.
    """

    sync_chain: BaseHandler | None = None
    _is_plain = False  # as long as __init__() has not been there, which ASGIStaticFilesHandler's leaves out

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self._is_plain = type(self) is ASGIHandler or _is_unchanged(type(self))
        if self._is_plain and _all_sync_capable():
            self.sync_chain = SyncChain()
        else:
            self.load_middleware(is_async=True)
        self._hints = ViewHints()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ThreadPool | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_plain:
            await super().__call__(scope, receive, send)
            return
        exchange = exchange_of(send)
        try:
            body_file = await self._read_body(receive, exchange)
        except RequestAborted:
            return
        departure = Departure(exchange, receive)
        try:
            if self.sync_chain is None or self._hints.is_async(_path_info(scope)):
                if self._middleware_chain is None:
                    self.load_middleware(is_async=True)
                await self.serve_async(scope, send, body_file, departure, self._own_pool())
            else:
                await self._serve_sync(scope, send, body_file, departure)
        finally:
            await departure.end()
        departure.check()

    # ---- sync views

    def daphne_like_direct(self, exchange: Exchange) -> bool:
        """See asgi.direct."""
        if self.sync_chain is None or self._hints.is_async(_path_info(exchange.scope)):
            return False
        pool = self._own_pool()
        if pool is None:
            return False
        assert self._loop is not None
        hop = _DirectHop(self, pool, self._loop, exchange)
        exchange.tell_departure(hop.departed)
        pool.submit(hop)
        return True

    async def _serve_sync(self, scope: Scope, send: Send, body_file: Any, departure: Departure) -> None:
        loop = asyncio.get_running_loop()
        pool = self._own_pool()
        response_there: asyncio.Future[None] = loop.create_future()
        over: asyncio.Future[None] = loop.create_future()

        def on_response() -> None:
            if not response_there.done():
                response_there.set_result(None)

        def on_end() -> None:
            on_response()
            if not over.cancelled():
                over.set_result(None)
            elif hop.response is not None and hop.response.streaming:
                SyncStream(hop.response, pool_for(loop), hop.stream_lease, hop.context, 1).close_later()

        hop = Hop(self, pool, loop, dict(scope), body_file, on_response, on_end)
        departure.on_departed = hop.abandon
        try:
            if pool is not None:
                pool.submit(hop)
                await response_there
            else:
                await sync_to_async(hop.run)()
                hop.finished()
            if hop.response is not None and not hop.response.streaming:
                await self._send_whole(hop, send)
            await over
        except BaseException:
            hop.abandon()
            over.cancel()
            raise
        if hop.error is not None:
            if departure.departed and isinstance(hop.error, asyncio.CancelledError):
                return
            raise hop.error
        if hop.response.streaming:
            await self._send_stream(hop, send, departure)

    async def _send_whole(self, hop: Hop, send: Send) -> None:
        exchange = exchange_of(send)
        if exchange is not None:
            exchange.respond(hop.response.status_code, hop.headers, hop.body)
            return
        await send(
            {"type": "http.response.start", "status": hop.response.status_code, "headers": hop.headers}
        )
        for chunk, last in self.chunk_bytes(hop.body):
            await send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def _send_stream(self, hop: Hop, send: Send, departure: Departure) -> None:
        """A streaming response of a sync view."""
        take_over(hop.context)
        departure.cancels_current_task()
        stream: SyncStream | None = None
        if not hop.response.is_async and self._pool is not None:
            stream = SyncStream(hop.response, self._pool, hop.stream_lease, hop.context, self.chunk_size)
        try:
            if stream is not None:
                await stream.send_to(send)
            else:
                await self.send_response(hop.response, send)
        except asyncio.CancelledError:
            if not departure.absorb_cancel():
                raise
        finally:
            departure.on_departed = None
            if stream is not None:
                await stream.close()
            else:
                await sync_to_async(hop.response.close)()

    # ---- what both need

    def _own_pool(self) -> ThreadPool | None:
        """Our pool; None where asgiref has a thread for the sync code of this task."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._pool = pool = pool_for(loop)
            pool.in_hand = in_hand
            pool.at_lease = start_in_leased_thread
            pool.at_end = close_connections
            watch_new_connections()
        if (
            getattr(AsyncToSync.executors, "current", None) is not None
            or SyncToAsync.thread_sensitive_context.get(None) is not None
        ):
            return None
        return self._pool

    async def _read_body(self, receive: Receive, exchange: Exchange | None) -> Any:
        """The request's body as a file, whole. Raises RequestAborted."""
        message = exchange.receive_arrived() if exchange is not None else None
        if message is None:
            message = await receive()
        limit = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
        if message["type"] == "http.request" and not message.get("more_body", False):
            body = message.get("body", b"")
            if len(body) <= limit:
                return io.BytesIO(body)

        async def receive_all() -> Any:
            nonlocal message
            first, message = message, None
            return first if first is not None else await receive()

        return await self.read_body(receive_all)


class _DirectHop(Hop):
    """One without a coroutine around it."""

    __slots__ = ("_exchange", "_owner")

    def __init__(
        self, handler: ASGIHandler, pool: ThreadPool, loop: asyncio.AbstractEventLoop, exchange: Exchange
    ) -> None:
        message = exchange.receive_arrived()
        body = io.BytesIO(message["body"] if message is not None else b"")
        super().__init__(handler, pool, loop, exchange.scope, body, self._respond, self._end)
        self._exchange = exchange
        self._owner = handler

    def departed(self, lost: bool) -> None:
        self.abandon()

    def _respond(self) -> None:
        self._exchange.answer(self.response.status_code, self.headers, self.body)

    def _end(self) -> None:
        exchange = self._exchange
        exchange.tell_departure(None)
        if self.error is None and self.response.streaming:
            exchange.proceed(self._go_on())
        else:
            exchange.ended(self.error)

    async def _go_on(self) -> None:
        exchange = self._exchange
        departure = Departure(exchange, None)
        try:
            await self._owner._send_stream(self, exchange.send, departure)
        finally:
            await departure.end()


def _path_info(scope: Scope) -> str:
    """As ASGIRequest has it from Django 6.1 on; before, it looked less closely at what is below the prefix."""
    path: str = scope["path"]
    prefix: str = asgi.get_script_prefix(scope)
    if not prefix:
        return path
    prefix = prefix.rstrip("/")
    return path[len(prefix) :] if path == prefix or path.startswith(prefix + "/") else path


def _all_sync_capable() -> bool:
    return all(getattr(import_string(path), "sync_capable", True) for path in settings.MIDDLEWARE)


def _is_unchanged(kind: type) -> bool:
    """Whether a subclass handles requests as we do; else everything is as with Django's own handler."""
    return all(
        inspect.getattr_static(kind, name) is inspect.getattr_static(ASGIHandler, name)
        for name in dir(BaseHandler) + dir(asgi.ASGIHandler)
        if not name.startswith("__") and name not in _MAY_DIFFER
    )


_MAY_DIFFER = frozenset(("request_class", "chunk_size", "handle_uncaught_exception"))
