"""
The same as test_contracts.py of Django's connections, signals, responses, middleware and URLs.
"""

import importlib
import inspect
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core import signals
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.core.signals import request_finished
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls.resolvers import RoutePattern
from django.utils.deprecation import MiddlewareMixin

from daphne_like.django import inline, receivers
from daphne_like.django.handler import ASGIHandler as OurHandler
from tests.django import handler_site
from tests.django.contracts import holds

assert handler_site  # importing it has configured Django


# -- Django's connections --------------------------------------------------------------------------


def test_connections_of_a_thread_are_attributes_of_a_threading_local() -> None:
    """Where it is anything else, receivers._initialized() takes the slower way, so that nothing breaks."""
    holds(
        receivers._IS_KNOWN and type(connections._connections._storage) is threading.local,
        "django: connections._connections._storage is no threading.local; receivers, each request slower",
    )

    def in_thread() -> tuple[list[Any], list[Any]]:
        connection.ensure_connection()
        try:
            return receivers._initialized(), list(connections.all(initialized_only=True))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        ours, djangos = thread.submit(in_thread).result()
    holds(
        len(ours) == 1 and ours == djangos,
        f"django: a thread's storage has {ours}, connections.all() says {djangos}; receivers._initialized()",
    )


FIELDS = {
    "in_atomic_block": "receivers.in_hand",
    "autocommit": "receivers.in_hand, channels_patch",
    "settings_dict": "receivers.in_hand",
    "queries_log": "receivers.start_in_thread",
    "errors_occurred": "channels_patch",
    "health_check_enabled": "channels_patch",
    "close_at": "channels_patch",
    "execute_wrappers": "cursors, testing",
}


@pytest.mark.parametrize("field", FIELDS)
def test_field_of_connections(field: str) -> None:
    holds(hasattr(connection, field), f"django: connections have no {field}; {FIELDS[field]}")


def test_connections_are_closed_as_channels_patch_foresees() -> None:
    """It asks beforehand whether this would do anything, and reads the same fields for that."""
    source = inspect.getsource(BaseDatabaseWrapper.close_if_unusable_or_obsolete)
    names = {word for word in source.replace("(", " ").replace(".", " ").split() if word.isidentifier()}
    # What else it looked at would be missing in _something_to_close().
    for name in ("health_check_done", "errors_occurred", "close_at", "monotonic", "get_autocommit"):
        holds(
            name in names, f"django: close_if_unusable_or_obsolete() does not look at {name}; channels_patch"
        )
    conditions = [line.strip() for line in source.splitlines() if line.strip().startswith(("if ", "elif "))]
    holds(
        len(conditions) == 5,
        f"django: close_if_unusable_or_obsolete() decides by {conditions}; channels_patch",
    )
    holds(
        connection.close_at is None or connection.close_at <= time.monotonic() + 1e6,
        "django: close_at is no time of time.monotonic(); channels_patch",
    )


def test_execute_wrappers_are_given_cursors_that_can_be_referred_to_weakly() -> None:
    given: list[Any] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        given.append(weakref.ref(context["cursor"]))
        return execute(sql, params, many, context)

    def in_thread() -> bool:
        with connection.execute_wrapper(wrapper):
            cursor = connection.chunked_cursor()
            cursor.execute("SELECT 1")
            alive = given[0]() is cursor
            del cursor
        connections.close_all()
        return alive and given[0]() is None

    with ThreadPoolExecutor(1) as thread:
        fine = thread.submit(in_thread).result()
    holds(fine, "django: an execute wrapper is not given the cursor that its caller has; cursors")


# -- Django's signals and responses ----------------------------------------------------------------


def test_signals_have_the_receivers_that_are_run_without_a_thread() -> None:
    """In a process of its own, as tests connect others here."""
    code = """
        from django.conf import settings
        settings.configure()
        import django
        django.setup()
        from daphne_like.django import receivers
        print(receivers.started_is_plain(), receivers.finished_is_plain())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    holds(
        done.stdout.split() == ["True", "True"],
        "django: request_started or request_finished has other receivers of its own, or Signal.receivers is of "
        f"another form (as receivers._are() sees it: {done.stdout.strip()}): all requests take the slow way",
    )


def test_a_signals_receivers_are_known_by_their_ids() -> None:
    signal = signals.Signal()

    def receiver(**_: Any) -> None:
        """Connected."""

    signal.connect(receiver)
    holds(
        receivers._are(signal.receivers, frozenset([id(receiver)])),
        f"django: an entry of Signal.receivers is {signal.receivers}; receivers._are()",
    )


CLOSE = """
    for closer in self._resource_closers:
        try:
            closer()
        except Exception:
            pass
    self._resource_closers.clear()
    self.closed = True
    signals.request_finished.send(sender=self._handler_class)
"""


def test_a_response_closes_as_ours_does() -> None:
    lines = inspect.getsource(HttpResponse.close).splitlines()[1:]
    source = textwrap.dedent("\n".join(line for line in lines if not line.strip().startswith("#")))
    holds(
        source.split() == CLOSE.split(),
        f"django: HttpResponseBase.close() is now\n{source}\nreceivers.close_response() does what it was",
    )


def test_what_a_response_closes_begins_with_its_request() -> None:
    """By which async_path knows that nothing else is to be closed."""
    source = inspect.getsource(BaseHandler.get_response)
    holds(
        "response._resource_closers.append(request.close)" in source,
        "django: BaseHandler.get_response() does not append request.close; async_path._has_more_to_close()",
    )
    holds(hasattr(HttpRequest(), "close"), "django: requests have no close()")


def test_a_cache_has_nothing_to_close_unless_it_says_so() -> None:
    source = inspect.getsource(BaseCache.close)
    holds(
        "pass" in source.split(),
        f"django: BaseCache.close() does something:\n{source}\nreceivers.caches_are_closed",
    )


def test_request_finished_is_sent_by_closing() -> None:
    sent: list[Any] = []

    def receiver(sender: Any, **_: Any) -> None:
        sent.append(sender)

    request_finished.connect(receiver)
    try:
        response = HttpResponse()
        response._handler_class = OurHandler
        response.close()
    finally:
        request_finished.disconnect(receiver)
    holds(
        sent == [OurHandler], f"django: request_finished comes from {sent}; hop sets response._handler_class"
    )


# -- Django's middleware and URLs ------------------------------------------------------------------


def test_a_converted_handler_shows_what_it_wraps() -> None:
    async def get_response(request: Any) -> Any:
        return HttpResponse()

    class Middleware(MiddlewareMixin):
        def process_request(self, request: Any) -> None:
            """Nothing."""

    middleware = Middleware(get_response)
    converted = convert_exception_to_response(middleware)
    holds(
        getattr(converted, "__wrapped__", None) is middleware,
        "django: convert_exception_to_response() hides what it wraps; fused.fused() fuses nothing",
    )
    holds(
        getattr(middleware, "async_mode", False) is True and hasattr(MiddlewareMixin, "__acall__"),
        "django: MiddlewareMixin has no async_mode or __acall__; fused.fused()",
    )


@pytest.mark.parametrize("name", inline._CONDITIONS)
def test_middleware_that_runs_inline_is_there(name: str) -> None:
    if (
        name.startswith("django.middleware.csp.")
        and importlib.util.find_spec("django.middleware.csp") is None
    ):
        pytest.skip("this middleware comes with Django 6.0")
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind, None)
    holds(found is not None, f"django: {name} is gone; inline._CONDITIONS")
    methods = [each for each in ("process_request", "process_response") if hasattr(found, each)]
    holds(methods, f"django: {name} has neither process_request nor process_response; inline._CONDITIONS")
    for method in methods:
        function: Any = getattr(found, method)
        described = f"{function.__module__}.{function.__qualname__}"
        holds(
            described == f"{name}.{method}",
            f"django: {name}.{method} is {described}; inline takes it for patched",
        )


def test_a_pattern_matches_with_the_rest_first() -> None:
    pattern = RoutePattern("items/<int:number>/")
    match = pattern.match("items/7/x")
    holds(match is not None and match[0] == "x", f"django: a pattern's match() gives {match}; hints._match()")
    holds(
        list(pattern.converters) == ["number"] and pattern.regex.search("items/7/"),
        "django: RoutePattern has no converters by name, or no regex; hints._match()",
    )


@override_settings(MIDDLEWARE=[])
def test_a_chain_is_there_once_it_is_loaded() -> None:
    handler = BaseHandler()
    holds(
        handler._middleware_chain is None,
        "django: _middleware_chain is not None at first; handler.__call__()",
    )
    handler.load_middleware(is_async=True)
    holds(handler._middleware_chain is not None, "django: load_middleware() sets no _middleware_chain")
