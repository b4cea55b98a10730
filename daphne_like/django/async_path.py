"""
Requests for async views: Django's own way through middleware and view, with hops only where something needs
one.

* request_started and request_finished: see receivers.py.
* Thread-sensitive calls (the ORM, sync middleware, sync_to_async) share one thread, leased from the pool with
  the first of them, until the response has started: see thread_jobs.Lease. Django makes a thread for each
  request.
* Departure: the view is cancelled, as with Django.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, iscoroutinefunction, sync_to_async
from django.core import signals
from django.core.handlers import asgi
from django.core.handlers.asgi import get_script_prefix
from django.urls import set_script_prefix, set_urlconf

from daphne_like import logs
from daphne_like.asgi.direct import exchange_of
from daphne_like.thread_jobs import CLEAN, Lease
from daphne_like.threads import ThreadPool
from daphne_like.typing import Scope, Send

from .departure import Departure
from .fused import fused, step
from .hop import response_headers
from .receivers import caches_are_closed, finished_is_plain, started_is_plain

__all__ = ["AsyncPath"]

log = logging.getLogger(logs.APPLICATION)


class AsyncPath(asgi.ASGIHandler):
    """The async half of the handler."""

    def adapt_method_mode(
        self,
        is_async: bool,
        method: Any,
        method_is_async: bool | None = None,
        debug: bool = False,
        name: str | None = None,
    ) -> Any:
        """As Django's; load_middleware() calls it for what each middleware is put around, and its methods."""
        adapted = super().adapt_method_mode(is_async, method, method_is_async, debug, name)
        if not is_async:
            return adapted
        if adapted is method:
            return fused(method)
        return step(method) if method_is_async is None and not iscoroutinefunction(method) else adapted

    async def serve_async(
        self, scope: Scope, send: Send, body_file: Any, departure: Departure, pool: ThreadPool | None
    ) -> None:
        """
        Args:
            pool: None where asgiref has a thread for this task's sync code already.
        """
        if pool is None:
            async with ThreadSensitiveContext():
                await self._serve(scope, send, body_file, departure, None)
            return
        lease = pool.lease()
        context = ThreadSensitiveContext()
        token = SyncToAsync.thread_sensitive_context.set(context)
        SyncToAsync.context_to_thread_executor[context] = lease  # type: ignore[assignment]
        try:
            await self._serve(scope, send, body_file, departure, lease)
        finally:
            SyncToAsync.thread_sensitive_context.reset(token)
            del SyncToAsync.context_to_thread_executor[context]
            lease.end()

    async def _serve(
        self, scope: Scope, send: Send, body_file: Any, departure: Departure, lease: Lease | None
    ) -> None:
        set_script_prefix(get_script_prefix(scope))
        if lease is None or not started_is_plain():
            await signals.request_started.asend(sender=self.__class__, scope=scope)
        request, response = self.create_request(scope, body_file)
        if request is None:
            body_file.close()
            await self._send(response, send, lease)
            await self._close(response, lease)
            return
        departure.cancels_current_task()
        try:
            try:
                response = await self.run_get_response(request)
            except asyncio.CancelledError:
                if not departure.absorb_cancel():
                    raise
                await signals.request_finished.asend(sender=self.__class__)
                return
            try:
                if not departure.departed:
                    await self._send(response, send, lease)
            except asyncio.CancelledError:
                if not departure.absorb_cancel():
                    raise
            finally:
                departure.on_departed = None
                await self._close(response, lease)
        finally:
            departure.on_departed = None
            body_file.close()

    async def _send(self, response: Any, send: Send, lease: Lease | None) -> None:
        exchange = exchange_of(send)
        if exchange is not None and not response.streaming:
            exchange.respond(response.status_code, response_headers(response), response.content)
        elif lease is not None and lease.worker is not None:

            async def send_and_loosen(message: Any) -> None:
                lease.loosen()
                await send(message)

            await self.send_response(response, send_and_loosen)
        else:
            await self.send_response(response, send)

    async def _close(self, response: Any, lease: Lease | None) -> None:
        """Close the response, in a thread if anything needs one."""
        if lease is None or not finished_is_plain() or not caches_are_closed():
            await sync_to_async(response.close)()
        elif lease.level != CLEAN or lease.busy or _has_more_to_close(response):
            context = contextvars.copy_context()
            lease.submit(context.run, response.close).add_done_callback(_log_failure)
        else:
            response.close()
            set_urlconf(None)


def _has_more_to_close(response: Any) -> bool:
    """Whether anything but the request, which has come by way of memory, is to be closed with it."""
    closers = response._resource_closers
    return len(closers) > 1 or hasattr(getattr(closers[0], "__self__", None), "_files") if closers else False


def _log_failure(closing: asyncio.Future[Any]) -> None:
    if not closing.cancelled() and closing.exception() is not None:
        log.error("closing a response failed", exc_info=closing.exception())
