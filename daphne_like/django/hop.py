"""
A sync request in one hop: request, middleware, view, response and close, in one thread, one after the other.

What happens, in which order, is what django.core.handlers.asgi does; there it takes one thread hop for each
step. The response leaves before it is closed: what request_finished does, the client does not wait for.

Each request has a context of its own (contextvars), which the thread enters. asgiref's `Local` is kept there
too; what it held in the event loop's context comes along, as with sync_to_async. async_to_sync() in a view
runs its coroutine on the event loop that serves the request, and is cancelled when the client leaves.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from typing import Any, Protocol

from asgiref.sync import SyncToAsync, _restore_context
from django.core import signals
from django.core.handlers.asgi import get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse
from django.urls import set_script_prefix

from daphne_like.thread_jobs import Job, Lease
from daphne_like.threads import ThreadPool
from daphne_like.typing import Headers

from .receivers import close_response, in_hand, send_started

__all__ = ["Hop", "enter", "response_headers", "take_over"]


class Handler(Protocol):
    """What a hop needs of the handler."""

    chunk_size: int
    sync_chain: BaseHandler | None

    def create_request(self, scope: dict[str, Any], body_file: Any) -> tuple[Any, Any]: ...


class Hop(Job):
    """
    Args:
        pool: None where run() is called in a thread that is not one of ours.
        on_response: called in the event loop when `response` is there and does not stream.
        on_end: called in the event loop after run().

    Attributes:
        response: None where there is none; where it is `streaming` it is still to be closed.
        headers, body: of a response that does not stream.
        stream_lease: of the thread that a sync stream has to stay in; None where any will do.
        error: what was raised, instead of a response, or by closing it.
    """

    __slots__ = (
        "_abandoned",
        "_body_file",
        "_handler",
        "_loop",
        "_on_end",
        "_on_response",
        "_pool",
        "_scope",
        "_tasks",
        "body",
        "context",
        "error",
        "headers",
        "lease",
        "response",
        "stream_lease",
    )

    def __init__(
        self,
        handler: Handler,
        pool: ThreadPool | None,
        loop: asyncio.AbstractEventLoop,
        scope: dict[str, Any],
        body_file: Any,
        on_response: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._pool = pool
        self._loop = loop
        self._scope = scope
        self._body_file = body_file
        self._on_response = on_response
        self._on_end = on_end
        self._tasks: list[asyncio.Task[Any]] = []
        self._abandoned = False
        self.lease = None
        self.stream_lease: Lease | None = None
        self.context = contextvars.copy_context()
        self.response: Any = None
        self.headers: Headers = []
        self.body = b""
        self.error: BaseException | None = None

    # ---- in the event loop

    def abandon(self) -> None:
        """The client has left: do not begin; cancel what async_to_sync() waits for."""
        self._abandoned = True
        if self._tasks:
            self._tasks[0].cancel()

    def finished(self) -> None:
        self._on_end()

    # ---- in a thread

    def run(self) -> None:
        if self._abandoned:
            self._body_file.close()
            self.error = asyncio.CancelledError()
        else:
            self.context.run(self._run)

    def _run(self) -> None:
        enter(self.context, self._loop, self._tasks)
        response = None
        try:
            response = self._get_response()
            if response.streaming:
                self._prepare_stream(response)
                self.response = response
                return
            self.headers = response_headers(response)
            self.body = response.content
            self.response = response
            if self._pool is not None:
                self._pool.deliver(self._on_response)
            else:
                self._loop.call_soon_threadsafe(self._on_response)
        except BaseException as error:
            self.error = error
        try:
            if response is not None:
                close_response(response)
        except BaseException as error:
            self.error = error
        self._body_file.close()

    def _get_response(self) -> Any:
        handler = self._handler
        scope = self._scope
        sender = handler.__class__
        set_script_prefix(get_script_prefix(scope))
        send_started(sender, scope)
        request, response = handler.create_request(scope, self._body_file)
        if request is None:
            return response
        chain = handler.sync_chain
        assert chain is not None
        try:
            response = chain.get_response(request)
        except asyncio.CancelledError:
            signals.request_finished.send(sender=sender)
            raise
        response._handler_class = sender
        if isinstance(response, FileResponse):
            response.block_size = handler.chunk_size
        return response

    def _prepare_stream(self, response: Any) -> None:
        """A stream that may be reading from a database stays in this thread, or is pulled here and now."""
        if response.is_async or self._pool is None or isinstance(response, FileResponse) or not in_hand():
            return
        if self._pool.may_hold():
            self.stream_lease = self._pool.hold()
        else:
            response.streaming_content = list(response.streaming_content)


def enter(
    context: contextvars.Context, loop: asyncio.AbstractEventLoop, tasks: list[asyncio.Task[Any]]
) -> None:
    """Make this thread, which has entered *context*, one that asgiref takes for one of its own."""
    if len(context):
        take_over(context)
    local = SyncToAsync.threadlocal
    local.main_event_loop = loop
    local.main_event_loop_pid = os.getpid()
    local.task_context = tasks


def take_over(context: contextvars.Context) -> None:
    """Have everything of *context*, which another thread has had, here; as asgiref does between its threads."""
    _restore_context(context.copy())


def response_headers(response: Any) -> Headers:
    """The response's fields, as Django's own handler encodes them."""
    headers = []
    for name, value in response.items():
        if isinstance(name, str):
            name = name.encode("ascii")
        if isinstance(value, str):
            value = value.encode("latin1")
        headers.append((bytes(name), bytes(value)))
    for cookie in response.cookies.values():
        headers.append((b"Set-Cookie", cookie.output(header="").encode("ascii").strip()))
    return headers
