"""
What threads do, and how some of it keeps to one thread. See threads.py, whose pool runs them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["ATOMIC", "CLEAN", "OPEN", "READING", "Call", "Job", "Lease", "PoolThread"]

# What a thread has in hand between two jobs of a lease: nothing; something that others had better not find;
# something that would be lost if they did; something that nobody else may have, not even afterwards.
CLEAN, OPEN, READING, ATOMIC = 0, 1, 2, 3


class Job:
    """Something to do in a thread. What run() raises is logged; finished() is called all the same."""

    __slots__ = ()

    lease: Lease | None = None

    def run(self) -> None:
        """In a thread."""
        raise NotImplementedError

    def finished(self) -> None:
        """In the event loop, after run()."""


class Call(Job):
    """A function whose result a future gets."""

    __slots__ = ("_args", "_error", "_function", "_result", "future", "lease")

    def __init__(
        self,
        future: asyncio.Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        lease: Lease | None = None,
    ) -> None:
        self.future = future
        self.lease = lease
        self._function = function
        self._args = args
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        if self.future.cancelled():
            return
        try:
            self._result = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def finished(self) -> None:
        future, error = self.future, self._error
        self._error = None  # or it would hold itself, by its traceback
        if future.done():
            return
        if isinstance(error, StopIteration):  # which a future does not take
            future.set_exception(RuntimeError("a call in a thread raised StopIteration"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(self._result)


class Lessor(Protocol):
    """The pool, as its leases see it."""

    def new_future(self) -> asyncio.Future[Any]: ...

    def submit_leased(self, job: Job, lease: Lease) -> None: ...

    def let_go(self, lease: Lease, highest: int) -> None: ...


class Lease:
    """
    One thread for several calls that have to share one: an executor, as far as asyncio and asgiref use it.

    A thread is taken with the first call. It is nobody else's until end(), so that what the calls leave in it
    (database connections, cursors) is theirs. What ends sooner:

    * loosen() says that what was to share a thread is over: from then on a thread is kept from call to call
      only while it has something in hand.
    * When somebody has waited for long (threads.FAMINE_AFTER) because all threads are taken, the lease that has
      rested longest loses its thread, and takes another with its next call: so leases cannot wait for each
      other. Not while results are being read (READING) or within a transaction (ATOMIC): if all threads are
      held so, there is one more than `max_threads` after a while (threads.STANDSTILL_AFTER).

    A thread that is within a transaction at the end is not given to anybody else: it ends.

    Attributes, for the pool:
        worker: the thread; busy: a job of it runs, or waits for the thread; waiting: further ones;
        level: what its thread had in hand after the last; loose, ended: see above;
        fresh: it has just got its thread; pins: what is OPEN counts as READING.
    """

    __slots__ = (
        "__weakref__",
        "_pool",
        "busy",
        "ended",
        "fresh",
        "level",
        "loose",
        "pins",
        "waiting",
        "worker",
    )

    def __init__(self, pool: Lessor) -> None:
        self._pool = pool
        self.worker: PoolThread | None = None
        self.busy = False
        self.waiting: deque[Job] = deque()
        self.level = CLEAN
        self.loose = self.ended = self.fresh = self.pins = False

    def submit(self, function: Callable[..., Any], /, *args: Any) -> asyncio.Future[Any]:
        """As Executor.submit(), but from the event loop's thread, and with one of asyncio's futures."""
        call = Call(self._pool.new_future(), function, args, self)
        self._pool.submit_leased(call, self)
        return call.future

    def submit_job(self, job: Job) -> None:
        """Have *job* run, whose `lease` this is. In the event loop's thread."""
        self._pool.submit_leased(job, self)

    def loosen(self) -> None:
        """Keep the thread from now on only while something is in hand."""
        self.loose = True
        self._pool.let_go(self, CLEAN)

    def end(self) -> None:
        """Let go of the thread, or do so after the call in course."""
        self.ended = True
        self._pool.let_go(self, ATOMIC)


class PoolThread(threading.Thread):
    """
    A thread of the pool, and what the pool knows of it.

    Args:
        serve: what it does until it ends.

    Attributes:
        job: to begin with when woken; None: end.
        sleep: locked while the thread sleeps; whoever wakes it releases it, exactly once for each sleep.
        spent: what it has in hand is for nobody else: it ends.
    """

    def __init__(self, serve: Callable[[PoolThread], None], number: int) -> None:
        super().__init__(name=f"daphne-like-{number}", daemon=True)
        self.job: Job | None = None
        self.lease: Lease | None = None
        self.idle_since = 0.0
        self.spent = False
        self.processor_clock: int | None = None
        self.sleep = threading.Lock()
        self.sleep.acquire()
        self._serve = serve

    def run(self) -> None:
        try:
            self.processor_clock = time.pthread_getcpuclockid(threading.get_ident())
        except (AttributeError, OSError):  # not known on this system: it counts as waiting
            pass
        self._serve(self)
