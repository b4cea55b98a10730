"""
Middleware around async views, with as few thread hops as it needs.

Middleware of the usual kind (MiddlewareMixin: process_request, process_response) takes two hops in Django's
async mode, each of it. A run of such middleware is one segment here: on the way in, the first that needs a
thread takes all that are left of the segment along; on the way out likewise. What needs none (inline.py) runs
where it is.

What each of them sees, in which order, and what becomes of exceptions, is as Django has it: an exception
becomes a response at the middleware that raised it, and goes out through those around it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import markcoroutinefunction, sync_to_async
from django.core.handlers.exception import response_for_exception
from django.utils.deprecation import MiddlewareMixin

from .inline import Condition, inline_request, inline_response, inline_view

__all__ = ["fused", "step"]

Handler = Callable[[Any], Awaitable[Any]]


class _Layer:
    __slots__ = ("process_request", "process_response", "request_inline", "response_inline")

    def __init__(self, middleware: Any) -> None:
        self.process_request: Callable[[Any], Any] | None = getattr(middleware, "process_request", None)
        self.process_response: Callable[[Any, Any], Any] | None = getattr(
            middleware, "process_response", None
        )
        self.request_inline: Condition | None = inline_request(middleware)
        self.response_inline: Condition | None = inline_response(middleware)


class _Segment:
    """
    Neighbours, the outermost first, and what is within.

    Called with a request it is their common __acall__(); it is a coroutine function as asgiref has it.
    """

    def __init__(self, layers: list[_Layer], within: Handler) -> None:
        self.layers = layers
        self.within = within
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        layers = self.layers
        response = None
        number = 0
        while number < len(layers):
            layer = layers[number]
            process = layer.process_request
            if process is not None:
                if layer.request_inline is None or not layer.request_inline(request):
                    number, response = await sync_to_async(self._inwards)(request, number)
                    break
                try:
                    response = process(request)
                except Exception as error:
                    response = await _converted(request, error)
                    number -= 1
                    break
                if response:
                    break
            number += 1
        else:
            number -= 1
        if not response:
            response = await self.within(request)
        while number >= 0:
            layer = layers[number]
            finish = layer.process_response
            if finish is not None:
                if layer.response_inline is None or not layer.response_inline(request, response):
                    return await sync_to_async(self._outwards)(request, response, number)
                try:
                    response = finish(request, response)
                except Exception as error:
                    response = await _converted(request, error)
            number -= 1
        return response

    def _inwards(self, request: Any, number: int) -> tuple[int, Any]:
        """In a thread, from layer *number* on: the innermost that gets the response, and one if there is."""
        layers = self.layers
        while number < len(layers):
            process = layers[number].process_request
            if process is not None:
                try:
                    response = process(request)
                except Exception as error:
                    return number - 1, response_for_exception(request, error)
                if response:
                    return number, response
            number += 1
        return number - 1, None

    def _outwards(self, request: Any, response: Any, number: int) -> Any:
        """In a thread: from layer *number* outwards."""
        while number >= 0:
            finish = self.layers[number].process_response
            if finish is not None:
                try:
                    response = finish(request, response)
                except Exception as error:
                    response = response_for_exception(request, error)
            number -= 1
        return response


def _converted(request: Any, error: Exception) -> Awaitable[Any]:
    """While *error* is handled: see django.core.handlers.exception."""
    return sync_to_async(response_for_exception, thread_sensitive=False)(request, error)


def fused(handler: Any) -> Any:
    """An async *handler* as load_middleware() has made it, or what does the same with fewer hops."""
    middleware = getattr(handler, "__wrapped__", None)
    kind: Any = type(middleware)
    if (
        not isinstance(middleware, MiddlewareMixin)
        or kind.__call__ is not MiddlewareMixin.__call__
        or kind.__acall__ is not MiddlewareMixin.__acall__
        or "__acall__" in vars(middleware)
        or not middleware.async_mode
    ):
        return handler
    within: Any = middleware.get_response
    layers = [_Layer(middleware)]
    if isinstance(within, _Segment):
        layers += within.layers
        within = within.within
    return _Segment(layers, within)


def step(method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A sync method of a middleware, for an async chain: in a thread, but for what is known not to wait."""
    in_thread = sync_to_async(method, thread_sensitive=True)
    condition = inline_view(method)
    if condition is None:
        return in_thread

    async def inline_or_not(*args: Any) -> Any:
        if condition(*args):
            return method(*args)
        return await in_thread(*args)

    return inline_or_not
