"""
The one patch of the package: consumers without a thread hop for each event.

Before each event of a consumer Channels closes old database connections, in the thread that owns them. That hop
is half of what an event costs and more, and nearly always there is nothing to close. What replaces it asks
first, from the event loop, whether Django's `close_old_connections` would find anything to do there:

* No connection is open in that thread, or those that are open are as Django would leave them: no hop.
* Anything else, or a thread that is not known: Channels' own way.

Which thread that is follows from asgiref's rules; looked at is only the case in which nearly every consumer is,
that of the process' one thread for thread-sensitive code. What is open there is told by Django, at each new
connection. DAPHNE_LIKE_PATCH_CHANNELS = False leaves Channels as it is.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
import weakref
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.conf import settings
from django.db import close_old_connections, connections
from django.db.backends.signals import connection_created

__all__ = ["aclose_old_connections", "apply", "is_applied"]

SETTING = "DAPHNE_LIKE_PATCH_CHANNELS"


def apply() -> None:
    """Put it in place, where Channels is installed and the site does not say otherwise."""
    if not getattr(settings, SETTING, True) or importlib.util.find_spec("channels") is None:
        return
    from channels import consumer

    # Channels before 4.2 had no such function.
    if hasattr(consumer, "aclose_old_connections") and not is_applied():
        connection_created.connect(_note_connection, dispatch_uid="daphne_like.channels_patch")
        consumer.aclose_old_connections = aclose_old_connections


def is_applied() -> bool:
    """Whether consumers use it."""
    from channels import consumer

    return getattr(consumer, "aclose_old_connections", None) is aclose_old_connections


class _Owner:
    """
    The thread for thread-sensitive code, and the connections that were ever opened there.

    Attributes:
        executor: asgiref's, whose only thread it is; None before the first hop.
        connections: weak references; replaced, never changed, so that other threads may walk over it.
    """

    executor: object = None
    thread: int = 0
    connections: tuple[weakref.ref[Any], ...] = ()


def _note_connection(connection: Any, **_: object) -> None:
    if threading.get_ident() == _Owner.thread:
        _remember(connection)


def _remember(connection: Any) -> None:
    known = [each for each in _Owner.connections if each() is not None]
    if all(each() is not connection for each in known):
        _Owner.connections = (*known, weakref.ref(connection))


def _close_and_learn(executor: object) -> None:
    """In the thread that owns the connections: what Channels does, and whose thread it is."""
    if _Owner.thread != threading.get_ident() or _Owner.executor is not executor:
        # Noted in this order: whoever sees the new executor must see the new connections.
        _Owner.executor = None
        _Owner.connections = tuple(weakref.ref(each) for each in connections.all(initialized_only=True))
        _Owner.thread = threading.get_ident()
        _Owner.executor = executor
    close_old_connections()


async def aclose_old_connections() -> None:
    """In the place of `channels.db.aclose_old_connections`, for consumers."""
    executor: object = SyncToAsync.single_thread_executor
    if not _uses_single_thread():
        await sync_to_async(close_old_connections)()
    elif _Owner.executor is not executor or _something_to_close():
        await sync_to_async(_close_and_learn)(executor)


def _uses_single_thread() -> bool:
    """Whether asgiref would run thread-sensitive code of this task in the process' one thread for that."""
    return (
        getattr(AsyncToSync.executors, "current", None) is None
        and SyncToAsync.thread_sensitive_context.get(None) is None
        # Hardly ever is there any; asking for the loop is a system call before Python 3.12.
        and not (
            AsyncToSync.loop_thread_executors
            and asyncio.get_running_loop() in AsyncToSync.loop_thread_executors
        )
    )


def _something_to_close() -> bool:
    """
    Whether `close_if_unusable_or_obsolete()` of any connection would do more than nothing.

    Another thread may be at work on the connection. What it is in the middle of shows in one of these fields, or
    else is followed by a look of its own.
    """
    for reference in _Owner.connections:
        connection = reference()
        if connection is None or connection.connection is None:
            continue
        if (
            connection.errors_occurred
            or connection.health_check_enabled
            or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
            or (connection.close_at is not None and time.monotonic() >= connection.close_at)
        ):
            return True
    return False
