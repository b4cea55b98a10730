"""
Whether the thread that runs jobs gets on, computes, or waits for something; and how often to look.

Two looks tell: how many jobs were begun between them, how much processor time the thread has had, and how
much the event loop. A thread that is still in the same job, and has used little of the time that it could
have, waits: for a database, for a sleep to end. What the event loop took it could not have, for one at a time
has the interpreter; so a thread that is kept from running is not taken for one that waits, which would bring
in another one to fight for the same interpreter. (What other threads took says nothing: they may be in code
that does without the interpreter, hashing a password.)

Each look takes the interpreter from the thread, too: the event loop wakes up for it. While the thread has
come on, and done nothing but compute, at many looks, fewer of them do.
"""

from __future__ import annotations

import time

from .thread_jobs import PoolThread

__all__ = ["RunnerWatch"]

# Seconds between looks: the shortest time that an event loop's timer knows.
TICK = 0.001
# Seconds between looks once it has computed, and come on, at CALM_AFTER of them.
LONG_TICK = 0.004
CALM_AFTER = 8
# Seconds in one job for which a thread that computes is left alone.
BUSY_LIMIT = 0.02
# Of the time that the event loop left it, the share of processor time that makes it computing. Less than half,
# for one that was the runner before may be at its job's end.
BUSY_SHARE = 0.3
# And of all the time: to begin a job, and then wait, takes less.
LEAST_SHARE = 0.05
# Where the event loop left it less than this share of all the time, one look does not tell; so many seconds do.
# (Python lets a thread keep the interpreter for 5 ms from another that wants it.)
LEFT_SHARE = 0.2
UNSURE_LIMIT = 0.0025


class RunnerWatch:
    """What was seen at the last look, and what the next one says."""

    def __init__(self) -> None:
        self._runner: PoolThread | None = None
        self._begun = -1
        self._seen_at = self._still_since = 0.0
        self._used = self._used_by_loop = 0.0
        self._calm = 0

    @property
    def tick(self) -> float:
        """Seconds until the next look."""
        return TICK if self._calm < CALM_AFTER else LONG_TICK

    def rest(self) -> None:
        """There is none that runs jobs."""
        self._calm = 0

    def is_stuck(self, runner: PoolThread, begun: int) -> bool:
        """
        Look at it: whether it has been in one job since the last look, and waits, or computes for too long.

        In the event loop's thread.

        Args:
            begun: how many jobs were begun so far, by any thread.
        """
        now, used, used_by_loop = time.monotonic(), _used_by(runner), time.thread_time()
        own, passed = used - self._used, now - self._seen_at
        left = passed - (used_by_loop - self._used_by_loop)
        computes = own >= max(BUSY_SHARE * left, LEAST_SHARE * passed)
        gets_on, same = begun != self._begun, runner is self._runner
        self._runner, self._begun, self._seen_at = runner, begun, now
        self._used, self._used_by_loop = used, used_by_loop
        self._calm = self._calm + 1 if gets_on and same and computes else 0
        if gets_on:
            self._still_since = now
            return False
        still = now - self._still_since
        if computes:
            return still >= BUSY_LIMIT
        return left >= LEFT_SHARE * passed or still >= UNSURE_LIMIT


def _used_by(runner: PoolThread) -> float:
    """Seconds of processor time; 0 where nobody tells, or it is ending."""
    if runner.processor_clock is None:
        return 0.0
    try:
        return time.clock_gettime(runner.processor_clock)
    except OSError:
        runner.processor_clock = None
        return 0.0
