"""
Django's own receivers of request_started and request_finished, and what they would have to do.

Django runs them in a thread, because they look at database connections, which belong to threads. A request
that has used no thread has no connections, and a thread for nothing is what async views are slow by. So where
all receivers are Django's, they are run only where there is something for them:

    reset_queries, close_old_connections    in a thread when a request first uses it (start_in_thread())
    close_old_connections                   in that thread, at the end, if a connection is open there
    close_caches                            if a cache of this request has something to close
    reset_urlconf                           always; it touches nothing but the context

A receiver that is not Django's, or another set of them (tests take some away), and everything is as Django
has it.
"""

from __future__ import annotations

import threading
from typing import Any

from django.core import signals
from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http.response import HttpResponseBase
from django.urls import set_urlconf

from daphne_like.thread_jobs import ATOMIC, CLEAN, OPEN, READING

from .cursors import begin, is_read_from

__all__ = [
    "caches_are_closed",
    "close_connections",
    "close_response",
    "finished_is_plain",
    "in_hand",
    "send_started",
    "start_in_leased_thread",
    "start_in_thread",
    "started_is_plain",
]

_STARTED = frozenset(map(id, (reset_queries, close_old_connections)))
_ANY_SENDER = id(None)
_FINISHED = frozenset(map(id, (close_caches, close_old_connections, reset_urlconf)))


def started_is_plain() -> bool:
    """Whether request_started has exactly Django's receivers."""
    return _are(signals.request_started.receivers, _STARTED)


def finished_is_plain() -> bool:
    """Whether request_finished has exactly Django's receivers."""
    return _are(signals.request_finished.receivers, _FINISHED)


def _are(receivers: Any, known: frozenset[int]) -> bool:
    if len(receivers) != len(known):
        return False
    # An entry begins with the ids of receiver and sender; how many members follow differs from Django to Django.
    for entry in receivers:
        receiver, sender = entry[0]
        if receiver not in known or sender != _ANY_SENDER:
            return False
    return True


def caches_are_closed() -> bool:
    """Whether close_caches() would have nothing to do."""
    return all(type(each).close is BaseCache.close for each in caches.all(initialized_only=True))


def start_in_thread() -> None:
    """What Django's receivers of request_started do, in a thread that a request begins to use."""
    for connection in _initialized():
        connection.queries_log.clear()
        connection.close_if_unusable_or_obsolete()


def start_in_leased_thread() -> None:
    """The same, in a thread that several calls of the request are going to share."""
    start_in_thread()
    for connection in _initialized():
        begin(connection)


def send_started(sender: type, scope: Any) -> None:
    """Send request_started, in a thread."""
    if started_is_plain():
        start_in_thread()
    else:
        signals.request_started.send(sender=sender, scope=scope)


def close_response(response: Any) -> None:
    """response.close(), which sends request_finished; in the thread of a sync view."""
    if type(response).close is not HttpResponseBase.close or not finished_is_plain():
        response.close()
        return
    # HttpResponseBase.close(), with what its signal would do.
    for closer in response._resource_closers:
        try:
            closer()
        except Exception:  # as Django has it: nobody is left who could be told
            continue
    response._resource_closers.clear()
    response.closed = True
    close_caches()
    for connection in _initialized():
        connection.close_if_unusable_or_obsolete()
    set_urlconf(None)


def _initialized() -> list[Any]:
    """connections.all(initialized_only=True) of this thread, which runs no event loop."""
    if _IS_KNOWN:
        return [each for each in vars(_STORAGE).values() if isinstance(each, BaseDatabaseWrapper)]
    return list(connections.all(initialized_only=True))


# Where Django keeps a thread's connections, if that is what it was when this was written: asking for each
# alias, as all() does, is what a small request spends a tenth of its time with.
_STORAGE: Any = getattr(connections._connections, "_storage", None)
_IS_KNOWN = type(_STORAGE) is threading.local


def in_hand() -> int:
    """What this thread's database connections have in hand: see daphne_like.thread_jobs."""
    level = CLEAN
    connection: Any
    for connection in _initialized():
        if connection.connection is not None:
            if connection.in_atomic_block or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]:
                return ATOMIC
            level = max(level, READING if is_read_from(connection) else OPEN)
    return level


def close_connections() -> None:
    """Before a thread ends."""
    connections.close_all()
