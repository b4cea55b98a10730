"""
Threads for code that blocks: long-lived, few, and one of them running at a time while that is enough.

Python runs one thread at a time. Ten threads with something to do are no faster than one; they are slower,
since each of them, and the event loop between them, waits for the interpreter to be passed on. So jobs go to
one thread, the *runner*, one after the other. Only when nothing has moved for about a millisecond, because
the runner waits for a database or sleeps, another thread is woken and becomes the runner. The first one, when
it comes back, finishes its job and lies down. Whoever lay down last is woken first, so that few threads stay
warm, and few database connections open.

    submit(job)      in the event loop. Threads are woken at the end of the turn, with all that it brought
    job.run()        in a thread
    job.finished()   in the event loop again, together with all others that are finished

A runner that computes is left alone for longer: a second one would only fight it for the interpreter. See
runner_watch.py.

Bounds. `threads` are kept once they were needed; up to `max_threads` there are while jobs wait, and those end
when they were idle for IDLE_LIMIT. When all are taken, jobs wait, first come first served; how many can wait
is the business of who takes requests in (--max-concurrent-requests, --worker-sessions). Leases, see `Lease`,
add their own.

One pool for an event loop: see thread_pools.py.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from . import logs
from .runner_watch import RunnerWatch
from .thread_jobs import ATOMIC, CLEAN, OPEN, READING, Call, Job, Lease, PoolThread

__all__ = ["ATOMIC", "CLEAN", "OPEN", "READING", "Job", "Lease", "ThreadPool"]

log = logging.getLogger(logs.APPLICATION)

# Seconds without a thread for a job that has none yet, after which leases at rest lose theirs.
FAMINE_AFTER = 0.05
# Likewise, after which there is a thread more than `max_threads` where leases cannot lose theirs. Most get on.
STANDSTILL_AFTER = 1.0
# Seconds after which a thread that is more than `threads` ends.
IDLE_LIMIT = 10.0

DEFAULT_THREADS = 8
DEFAULT_MAX_THREADS = 40


class ThreadPool:
    """
    Args:
        loop: where jobs come from and go back to. It is not kept alive.
        threads, max_threads: see the module's text.

    Attributes:
        closed: it takes no more jobs.
        in_hand: called in a thread between two jobs of a lease: CLEAN, OPEN, READING or ATOMIC.
        at_lease: called in a thread that a lease has just taken, before its first job.
        at_end: called in a thread before it ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: int = DEFAULT_THREADS,
        max_threads: int = DEFAULT_MAX_THREADS,
    ) -> None:
        self.threads = threads
        self.max_threads = max(threads, max_threads)
        self.in_hand: Callable[[], int] = lambda: CLEAN
        self.at_lease: Callable[[], None] = _nothing
        self.at_end: Callable[[], None] = _nothing
        self._loop = weakref.ref(loop, lambda _: self.close())
        self._lock = threading.Lock()
        # Under the lock:
        self._workers: set[PoolThread] = set()
        self._idle: list[PoolThread] = []  # who lay down last is at the end
        self._runner: PoolThread | None = None
        self._moved = 0  # jobs begun
        self._taken_up = 0  # of these, such as had no thread yet
        self._famine = False  # since FAMINE_AFTER none was, and until a thread is idle again
        self._standstill = False  # since STANDSTILL_AFTER none was
        self._short_of_threads = False  # and said so
        # Of leases that have their thread: these go first, to end what was begun.
        self._bound: deque[Job] = deque()
        self._resting: OrderedDict[Lease, None] = (
            OrderedDict()
        )  # leases whose thread has nothing to do, oldest first
        self.closed = False
        self._numbers = itertools.count(1)
        # Appended to here and taken from there, without it:
        self._waiting: deque[Job] = deque()
        self._done: deque[Callable[[], None]] = deque()
        self._wake_due = False
        # Of the event loop alone:
        self._in_flight = 0
        self._stir_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._watch = RunnerWatch()
        self._taken_up_seen = (-1, 0.0)  # `_taken_up`, and since when

    # ---- in the event loop

    def submit(self, job: Job) -> None:
        """Have *job* run. In the event loop's thread."""
        self._in_flight += 1
        self._waiting.append(job)
        if not self._stir_due:
            self._stir_soon()

    def call(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """The result of *function*, called in a thread. Cancelling the future does not stop it once it runs."""
        call = Call(self.new_future(), function, args)
        self.submit(call)
        return call.future

    def lease(self) -> Lease:
        """A lease, which takes a thread when it is used."""
        return Lease(self)

    def submit_leased(self, job: Job, lease: Lease) -> None:
        """See Lease.submit_job()."""
        self._in_flight += 1
        with self._lock:
            if lease.busy:
                lease.waiting.append(job)
                return
            lease.busy = True
            if lease.worker is not None:
                del self._resting[lease]
                self._bound.append(job)
            else:
                self._waiting.append(job)
        if not self._stir_due:
            self._stir_soon()

    def let_go(self, lease: Lease, highest: int) -> None:
        """Take the thread of *lease*, if it rests and has no more than *highest* in hand."""
        if lease.worker is None:
            return
        with self._lock:
            if not lease.busy and lease.worker is not None and lease.level <= highest:
                self._lie_down(self._unbind(lease))
                if self._runner is None:
                    self._pass_on(None)

    def new_future(self) -> asyncio.Future[Any]:
        """Of the pool's event loop."""
        loop = self._loop()
        assert loop is not None
        return loop.create_future()

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return len(self._waiting) + len(self._bound)

    def close(self) -> None:
        """End idle threads, and the others when their jobs are done: what was submitted still runs."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for worker in idle:
                self._dismiss(worker)
        for timer in (self._timer, self._reaper):
            if timer is not None:
                timer.cancel()
        self._timer = self._reaper = None

    def _stir_soon(self) -> None:
        loop = self._loop()
        if loop is not None:
            self._stir_due = True
            loop.call_soon(self._stir)

    def _stir(self) -> None:
        """At the end of a turn: see to it that somebody works."""
        self._stir_due = False
        with self._lock:
            if self._runner is None:
                self._pass_on(None)
        if self._timer is None:
            self._tick_later()

    def _tick_later(self) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            self._timer = loop.call_later(self._watch.tick, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._collect()
        if not self._in_flight:
            return
        with self._lock:
            if self._waiting:
                self._look_for_famine()
            if self._runner is None:
                self._watch.rest()
                self._pass_on(None)
            elif self.waiting and self._watch.is_stuck(self._runner, self._moved):
                self._pass_on(None)
        if not self.closed:
            self._tick_later()

    def _look_for_famine(self) -> None:
        seen, since = self._taken_up_seen
        now = time.monotonic()
        if seen != self._taken_up or self._idle:
            self._taken_up_seen = (self._taken_up, now)
            self._standstill = False
        elif now - since >= FAMINE_AFTER:
            self._famine = True
            self._standstill = now - since >= STANDSTILL_AFTER

    def _collect(self) -> None:
        """Call back all that threads have left."""
        self._wake_due = False
        done = self._done
        while done:
            callback = done.popleft()
            try:
                callback()
            except Exception:
                log.exception("what follows a job failed")

    def _finished(self, job: Job) -> None:
        self._in_flight -= 1
        job.finished()

    def _reap(self) -> None:
        """End threads that were idle for long and are more than `threads`."""
        self._reaper = None
        limit = time.monotonic() - IDLE_LIMIT
        with self._lock:
            while len(self._workers) > self.threads and self._idle and self._idle[0].idle_since <= limit:
                self._dismiss(self._idle.pop(0))
            more = len(self._workers) > self.threads
        if more:
            self._reap_later()

    def _reap_later(self) -> None:
        loop = self._loop()
        if self._reaper is None and not self.closed and loop is not None and not loop.is_closed():
            self._reaper = loop.call_later(IDLE_LIMIT / 2, self._reap)

    # ---- in threads

    def deliver(self, callback: Callable[[], None]) -> None:
        """
        Have *callback* called in the event loop, together with what else is finished: at its next look, or when
        nothing waits any more.

        For a job that has something to say before it ends.
        """
        self._done.append(callback)

    def hold(self) -> Lease:
        """In a job: a lease of the thread that runs it, for what has to go on in the same thread."""
        worker = threading.current_thread()
        assert isinstance(worker, PoolThread) and worker in self._workers
        if worker.lease is None:
            lease = Lease(self)
            with self._lock:
                lease.worker, lease.busy, worker.lease = worker, True, lease
        return worker.lease

    def may_hold(self) -> bool:
        """In a job: whether one more may keep its thread for long; half of them are for others."""
        with self._lock:
            return sum(each.pins for each in self._resting) < self.max_threads // 2

    def _serve(self, me: PoolThread) -> None:
        """What a thread does until it ends."""
        while True:
            me.sleep.acquire()
            job = me.job
            if job is None:
                break
            while job is not None:
                me.job = None
                if me.lease is not None and me.lease.fresh:
                    me.lease.fresh = False
                    self._call_hook(self.at_lease)
                try:
                    job.run()
                except BaseException:
                    log.exception("a job failed")
                self._done.append(_Finished(self, job))
                level = self.in_hand() if me.lease is not None else CLEAN
                with self._lock:
                    if me.lease is not None:
                        self._rest(me.lease, level)
                    if self._runner is None:
                        self._runner = me
                    job = self._pass_on(me) if self._runner is me else None
                    if job is None:
                        self._lie_down(me)
                    last = self._runner is None
                if job is None and last:
                    self._wake_loop()
        self._call_hook(self.at_end)

    def _call_hook(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception:
            log.exception("a thread could not be prepared, or not be ended")

    def _wake_loop(self) -> None:
        loop = self._loop()
        if self._done and not self._wake_due and loop is not None:
            self._wake_due = True
            try:
                loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                pass  # the event loop is closed: nobody waits any more

    # ---- under the lock

    def _pass_on(self, me: PoolThread | None) -> Job | None:
        """
        Make somebody the runner who has something to do, or nobody.

        Returns:
            the next job, where that is *me*.
        """
        worker: PoolThread | None
        if self._bound:
            job = self._bound.popleft()
            assert job.lease is not None
            worker = job.lease.worker
            assert worker is not None
        elif self._waiting:
            worker = me if me is not None and me.lease is None and not me.spent else self._free_worker()
            if worker is None:
                self._runner = None
                return None
            job = self._waiting.popleft()
            self._taken_up += 1
            lease = job.lease
            if lease is not None:
                lease.worker, worker.lease, lease.fresh = worker, lease, True
        else:
            self._runner = None
            return None
        self._runner = worker
        self._moved += 1
        if worker is me:
            return job
        worker.job = job
        worker.sleep.release()
        return None

    def _free_worker(self) -> PoolThread | None:
        """One that nobody uses; None when there is none."""
        if self._idle:
            return self._idle.pop()
        if len(self._workers) < self.max_threads:
            return self._hire()
        if not self._famine:
            return None
        for lease in self._resting:
            if lease.level == CLEAN or (lease.level == OPEN and not lease.pins):
                return self._unbind(lease)
        if self._standstill and len(self._resting) == len(self._workers):
            # None of them goes on, perhaps not before somebody else does: one more is the way out.
            self._standstill = False
            log.warning(
                "all threads are held within transactions or open results, made one more",
                extra={"threads": self.size},
            )
            return self._hire()
        return None

    def _hire(self) -> PoolThread | None:
        """A new thread; None where the system has none for now: jobs wait, and it is asked again."""
        worker = PoolThread(self._serve, next(self._numbers))
        try:
            worker.start()
        except RuntimeError as error:
            if not self._short_of_threads:
                self._short_of_threads = True
                log.warning("could not start a thread", extra={"threads": self.size, "reason": str(error)})
            return None
        self._short_of_threads = False
        self._workers.add(worker)
        if len(self._workers) > self.threads:
            self._done.append(self._reap_later)
        return worker

    def _dismiss(self, worker: PoolThread) -> None:
        self._workers.discard(worker)
        worker.job = None
        worker.sleep.release()

    def _lie_down(self, me: PoolThread) -> None:
        if me.lease is not None:
            return
        # One more than max_threads stays while all others are held: the next job would wait as long again.
        free = self._idle or len(self._resting) + 1 < len(self._workers)
        if self.closed or me.spent or (len(self._workers) > self.max_threads and free):
            self._dismiss(me)
        else:
            self._famine = self._standstill = False
            me.idle_since = time.monotonic()
            self._idle.append(me)

    def _rest(self, lease: Lease, level: int) -> None:
        """A job of *lease* has ended."""
        lease.level = level
        if lease.waiting:
            self._bound.append(lease.waiting.popleft())
            return
        lease.busy = False
        self._resting[lease] = None
        if lease.ended or (lease.loose and level == CLEAN):
            self._unbind(lease)

    def _unbind(self, lease: Lease) -> PoolThread:
        """Take the thread away from a lease at rest."""
        del self._resting[lease]
        worker = lease.worker
        assert worker is not None
        worker.spent = lease.level == ATOMIC
        lease.worker = worker.lease = None
        return worker


def _nothing() -> None:
    """No hook."""


class _Finished:
    __slots__ = ("_job", "_pool")

    def __init__(self, pool: ThreadPool, job: Job) -> None:
        self._pool = pool
        self._job = job

    def __call__(self) -> None:
        self._pool._finished(self._job)
