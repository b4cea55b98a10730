"""Which pool of threads an event loop has: one, for whoever needs threads in it."""

from __future__ import annotations

import asyncio
import weakref

from .serving import serving
from .threads import ThreadPool

__all__ = ["open_pool", "pool_for"]

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPool] = weakref.WeakKeyDictionary()


def open_pool(loop: asyncio.AbstractEventLoop, threads: int, max_threads: int) -> ThreadPool | None:
    """A new pool of *loop*, for who calls to close; None where there is one already."""
    if _is_open(loop):
        return None
    pool = _pools[loop] = ThreadPool(loop, threads, max_threads)
    return pool


def _is_open(loop: asyncio.AbstractEventLoop) -> bool:
    pool = _pools.get(loop)
    return pool is not None and not pool.closed


def pool_for(loop: asyncio.AbstractEventLoop) -> ThreadPool:
    """The pool of *loop*; where there is none, one is made as the server around us was told to."""
    pool = _pools.get(loop)
    if pool is None or pool.closed:
        settings = serving()
        if settings is None:
            pool = _pools[loop] = ThreadPool(loop)
        else:
            pool = _pools[loop] = ThreadPool(loop, settings.threads, settings.max_threads)
    return pool
