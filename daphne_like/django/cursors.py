"""
Which results are still being read over a database connection.

    async for row in queryset.aiterator(): ...

reads a part of them at a time, each part with a call of its own, from a cursor that stays open in the thread of
the first call. While it does, that thread must not go to another request, which might close the connection: the
cursor would be gone in the middle. Neither Django nor most drivers can be asked what is open. But Django hands
each cursor that executes something to the connection's `execute_wrappers`; here they are noted there, by weak
references: who reads from one keeps it alive, and nobody else does for long.

Noted are those of threads that a request has leased (thread_jobs.Lease). A sync view ends in the job that it
began in.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from django.db.backends.signals import connection_created

from daphne_like.thread_jobs import PoolThread

__all__ = ["begin", "is_read_from", "watch_new_connections"]


class _Cursors:
    """An execute wrapper: the cursors of one connection that somebody holds."""

    def __init__(self) -> None:
        self.held: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        result = execute(sql, params, many, context)
        # Not of one that has failed: its traceback would keep it for a while.
        self.held.add(context["cursor"])
        return result


def begin(connection: Any) -> None:
    """Note the cursors of *connection* from now on; what there was before is nobody's any more."""
    cursors = _cursors_of(connection)
    if cursors is None:
        # First, which is outermost: whoever leaves connection.execute_wrapper() takes off the last one.
        connection.execute_wrappers.insert(0, _Cursors())
    else:
        cursors.held.clear()


def is_read_from(connection: Any) -> bool:
    """Whether a cursor of *connection* is in use, as far as begin() has been called."""
    cursors = _cursors_of(connection)
    # sqlite3's do not say whether they are closed; they are gone when nobody reads them.
    return cursors is not None and any(not getattr(each, "closed", False) for each in cursors.held)


def _cursors_of(connection: Any) -> _Cursors | None:
    for wrapper in connection.execute_wrappers:
        if type(wrapper) is _Cursors:
            return wrapper
    return None


def watch_new_connections() -> None:
    """Call begin() for what leased threads connect to."""
    connection_created.connect(_created, dispatch_uid="daphne_like.cursors")


def _created(connection: Any, **_: object) -> None:
    thread = threading.current_thread()
    if isinstance(thread, PoolThread) and thread.lease is not None and _cursors_of(connection) is None:
        begin(connection)
