"""
What daphne_like.django and daphne_like.threads take for granted of asgiref, Django and Channels unpromised.

Names that are private, or public ones whose inside matters. Each test says, when it fails, what has changed and
which part of ours stands on it: read that part beside the new release, and mend either.
"""

import asyncio
import contextvars
import importlib
import inspect
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.local import Local
from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler

from daphne_like.thread_jobs import PoolThread
from daphne_like.threads import ThreadPool
from tests.django import handler_site
from tests.django.contracts import holds

assert handler_site  # importing it has configured Django


# -- names ----------------------------------------------------------------------------------------

NAMES = [
    ("asgiref.sync:_restore_context", "hop.take_over"),
    ("asgiref.sync:SyncToAsync.threadlocal", "hop.enter"),
    ("asgiref.sync:SyncToAsync.thread_sensitive_context", "async_path, handler._own_pool, channels_patch"),
    ("asgiref.sync:SyncToAsync.context_to_thread_executor", "async_path.serve_async"),
    ("asgiref.sync:SyncToAsync.single_thread_executor", "channels_patch"),
    ("asgiref.sync:AsyncToSync.executors", "handler._own_pool, channels_patch"),
    ("asgiref.sync:AsyncToSync.loop_thread_executors", "channels_patch"),
    ("django.core.handlers.asgi:get_script_prefix", "handler, hop, async_path"),
    ("django.core.handlers.asgi:ASGIHandler.create_request", "hop, async_path"),
    ("django.core.handlers.asgi:ASGIHandler.read_body", "handler._read_body"),
    ("django.core.handlers.asgi:ASGIHandler.run_get_response", "async_path"),
    ("django.core.handlers.asgi:ASGIHandler.send_response", "handler, async_path"),
    ("django.core.handlers.asgi:ASGIHandler.chunk_bytes", "handler._send_whole"),
    ("django.core.handlers.asgi:ASGIHandler.chunk_size", "hop, handler"),
    ("django.core.handlers.base:BaseHandler._middleware_chain", "handler.__call__"),
    ("django.core.handlers.base:BaseHandler.load_middleware", "handler.SyncChain"),
    ("django.core.handlers.base:reset_urlconf", "receivers"),
    ("django.core.handlers.exception:response_for_exception", "fused"),
    ("django.contrib.messages.storage.base:BaseStorage._queued_messages", "inline._no_messages"),
    ("django.contrib.sessions.backends.base:SessionBase.modified", "inline._session_ends"),
    ("django.contrib.staticfiles.handlers:ASGIStaticFilesHandler._should_handle", "site.with_media_files"),
    ("django.contrib.staticfiles.handlers:ASGIStaticFilesHandler.serve", "site.with_media_files"),
    ("django.core.management.commands.runserver:Command.inner_run", "runserver"),
    ("django.core.management.commands.runserver:Command.on_bind", "runserver"),
    ("django.test:LiveServerTestCase.setUpClass", "testing.LiveServerTestCase"),
    ("django.urls.converters:DEFAULT_CONVERTERS", "hints"),
    ("django.urls.resolvers:LocalePrefixPattern", "hints"),
    ("django.utils.autoreload:raise_last_exception", "runserver.inner_run"),
    ("django.utils.autoreload:get_child_arguments", "runserver._run_parent"),
    ("django.utils.autoreload:DJANGO_AUTORELOAD_ENV", "runserver.run"),
]
# Set in __init__() or declared in annotations.
OF_INSTANCES = {"BaseStorage._queued_messages", "SessionBase.modified"}


@pytest.mark.parametrize(("name", "user"), NAMES, ids=[name for name, _ in NAMES])
def test_name(name: str, user: str) -> None:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    *owners, last = path.split(".")
    for each in owners:
        found = getattr(found, each, None)
    if path in OF_INSTANCES:
        there = f"self.{last} =" in inspect.getsource(found)
    else:
        there = hasattr(found, last)
    holds(there, f"{name} is gone; daphne_like.django: {user}")


PARAMETERS = [
    (BaseHandler.adapt_method_mode, ["self", "is_async", "method", "method_is_async", "debug", "name"]),
    (BaseHandler.load_middleware, ["self", "is_async"]),
    (ASGIHandler.create_request, ["self", "scope", "body_file"]),
    (ASGIHandler.send_response, ["self", "response", "send"]),
    (ASGIHandler.run_get_response, ["self", "request"]),
    (ASGIHandler.read_body, ["self", "receive"]),
]


@pytest.mark.parametrize(
    ("function", "expected"), PARAMETERS, ids=lambda each: getattr(each, "__qualname__", "")
)
def test_parameters(function: Any, expected: list[str]) -> None:
    found = list(inspect.signature(function).parameters)
    holds(
        found == expected,
        f"{function.__qualname__} takes {found}, not {expected}; daphne_like.django.handler",
    )


# -- asgiref --------------------------------------------------------------------------------------


def test_restore_context_copies_variables_and_locals_into_the_current_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    local = Local()

    def elsewhere() -> contextvars.Context:
        variable.set("set")
        local.value = "kept"
        return contextvars.copy_context()

    with ThreadPoolExecutor(1) as thread:
        context = thread.submit(contextvars.Context().run, elsewhere).result()

    def here() -> tuple[str, str]:
        importlib.import_module("asgiref.sync")._restore_context(context.copy())
        return variable.get(), getattr(local, "value", "lost")

    found = contextvars.Context().run(here)
    holds(
        found == ("set", "kept"),
        f"asgiref.sync._restore_context() brings {found} over to another thread; hop.take_over() relies on both",
    )


async def test_async_to_sync_goes_to_the_loop_that_the_threadlocal_names() -> None:
    loop = asyncio.get_running_loop()
    tasks: list[Any] = []

    async def where() -> tuple[bool, bool]:
        return asyncio.get_running_loop() is loop, asyncio.current_task() in tasks

    def in_thread() -> tuple[bool, bool]:
        local = SyncToAsync.threadlocal
        local.main_event_loop = loop
        local.main_event_loop_pid = os.getpid()
        local.task_context = tasks
        return async_to_sync(where)()

    with ThreadPoolExecutor(1) as thread:
        here, noted = await asyncio.wrap_future(thread.submit(in_thread))
    holds(here, "asgiref: async_to_sync() ignores SyncToAsync.threadlocal.main_event_loop; hop.enter()")
    holds(noted, "asgiref: async_to_sync() puts no task into threadlocal.task_context; hop.abandon()")


async def test_sync_to_async_uses_what_its_context_has_for_an_executor() -> None:
    """Something with submit() is enough, that gives a future of asyncio's."""
    asked: list[Any] = []

    class Executor:
        def submit(self, function: Any, *args: Any) -> asyncio.Future[Any]:
            asked.append(function)
            future = asyncio.get_running_loop().create_future()
            future.set_result(function(*args))
            return future

    context = ThreadSensitiveContext()
    token = SyncToAsync.thread_sensitive_context.set(context)
    SyncToAsync.context_to_thread_executor[context] = Executor()  # type: ignore[assignment]
    try:
        result = await sync_to_async(lambda: 7)()
    finally:
        SyncToAsync.thread_sensitive_context.reset(token)
    holds(
        asked and result == 7,
        "asgiref: thread-sensitive calls do not go to SyncToAsync.context_to_thread_executor[context].submit(); "
        "async_path.serve_async()",
    )


async def test_sync_callers_are_known_by_executors_current() -> None:
    async def within() -> object:
        return getattr(AsyncToSync.executors, "current", None)

    with ThreadPoolExecutor(1) as thread:
        found = await asyncio.wrap_future(thread.submit(async_to_sync(within)))
    holds(
        found is not None and await within() is None,
        "asgiref: AsyncToSync.executors.current is not set within async_to_sync() alone; handler._own_pool()",
    )


async def test_outside_of_all_contexts_there_is_one_thread() -> None:
    loop = asyncio.get_running_loop()
    plain = SyncToAsync.thread_sensitive_context.get(None) is None
    holds(
        plain and loop not in AsyncToSync.loop_thread_executors,
        "asgiref: a plain task has a thread of its own",
    )
    mine = await sync_to_async(threading.get_ident)()
    one = SyncToAsync.single_thread_executor.submit(threading.get_ident).result()
    holds(mine == one, "asgiref: thread-sensitive calls do not go to single_thread_executor; channels_patch")


# -- Channels --------------------------------------------------------------------------------------


def test_consumers_close_connections_by_the_name_that_is_replaced() -> None:
    consumer = pytest.importorskip("channels.consumer")
    holds(
        hasattr(consumer, "aclose_old_connections"),
        "channels: channels.consumer has no aclose_old_connections; channels_patch.apply() does nothing",
    )
    for function in (consumer.AsyncConsumer.dispatch,):
        holds(
            "aclose_old_connections" in function.__code__.co_names,
            f"channels: {function.__qualname__}() does not use the name that channels_patch replaces",
        )
    from channels import db

    source = inspect.getsource(db.aclose_old_connections)
    holds(
        "sync_to_async(close_old_connections)" in source,
        f"channels: aclose_old_connections() is now\n{source}\nchannels_patch does what it was",
    )


# -- Python ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="not on this system")
async def test_processor_time_of_a_thread_can_be_asked_for() -> None:
    pool = ThreadPool(asyncio.get_running_loop(), 1, 1)
    try:
        worker = await pool.call(threading.current_thread)
        holds(
            isinstance(worker, PoolThread)
            and worker.processor_clock is not None
            and time.clock_gettime(worker.processor_clock) >= 0,
            "Python: time.pthread_getcpuclockid(); a runner that computes counts as waiting",
        )
    finally:
        pool.close()


async def test_loops_take_anything_with_submit_for_an_executor() -> None:
    """uvloop's and asyncio's; what it returns may be a future of the loop's."""
    loop = asyncio.get_running_loop()
    pool = ThreadPool(loop, 1, 1)
    lease = pool.lease()
    try:
        executor: Any = lease
        found = await loop.run_in_executor(executor, threading.get_ident)
        holds(found != threading.get_ident(), "Python: run_in_executor() does not use executor.submit()")
    finally:
        lease.end()
        pool.close()
