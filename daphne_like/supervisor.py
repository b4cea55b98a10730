"""
Supervisor: as many workers as there should be, whatever becomes of each.

It lives in the server's process, on its event loop, and never waits in a blocking call. What it does:

* Missing workers are started, all at once. One that dies at once, or does not start, makes the next try wait:
  longer each time, up to MAX_PAUSE, and back to none as soon as a worker has lasted.
* reload() starts a whole new set, one after the other, and only when each of them has proved ready are the old
  ones told to drain: no socket moves twice, and while the new version does not start, the old one serves.
  Asked again meanwhile, it begins anew: what hangs while it starts is not waited for.
* A worker that has become too old, too large, or has served enough, is replaced: one at a time, ready first,
  and the next not before the old one has ended (but for reload(), which does not wait for that).
* A worker whose event loop is silent is reported with the stacks of its threads, and gets no new work. Silent
  for `worker_stuck_timeout`, it is replaced and killed. One that does not beat (paused, or the machine is
  busy) gets no new work until it does, and is never killed.

Told to drain, a worker has `graceful_timeout` and `shutdown_timeout`; then it is killed.

At the very first start, words that cannot be right end the whole command. In development (`patient`) only an
import string that names nothing does; whatever else is wrong waits to be mended, until reload() is called.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from . import logs
from .child import WORKER, Child, Placement, log_failure, log_text
from .errors import ConfigurationError, DaphneLikeError, StartupFailed
from .settings import Settings
from .worker_link import BEAT_INTERVAL

__all__ = ["Supervisor"]

log = logging.getLogger(logs.SERVER)

# Pauses between tries to start a worker: doubled each time, and a random part of it.
FIRST_PAUSE = 0.1
MAX_PAUSE = 30.0
# A worker that has been ready for so long did not die at once.
LASTED = 2.0
# An event loop that has not turned for so long is stuck in something.
SILENT = 10.0
# Without a beat for so long, a worker gets no new work.
LATE = 3.5
# After graceful_timeout and shutdown_timeout, for the interpreter's own end.
KILL_MARGIN = 2.0
# For its thread to say what it has in hand, before it is killed.
ANSWER_TIME = 1.0
# A replacement that did not start is tried again after this.
RETRY_REPLACEMENT = 30.0


class Supervisor:
    """
    Args:
        settings: of the server; `workers` says how many.
        orders: what each worker needs to know; see worker_process.
        environment: of the workers.
        placement: is told which workers get no new work.
        patient: failures to start wait for reload(), as in development.
        command: what a worker is, after the interpreter.
    """

    def __init__(
        self,
        settings: Settings,
        orders: Mapping[str, Any],
        environment: Mapping[str, str],
        placement: Placement,
        *,
        patient: bool = False,
        command: tuple[str, ...] = WORKER,
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._environment = environment
        self._placement = placement
        self._patient = patient
        self._command = command
        self._target = max(settings.workers, 1)
        # A shutdown without a bound has none here either.
        self._grace = (
            settings.graceful_timeout + settings.shutdown_timeout + KILL_MARGIN
            if settings.shutdown_timeout
            else None
        )
        self._started = 0
        self._starting: set[Child] = set()
        self._serving: list[Child] = []  # ready, and not told to end; the oldest first
        self._leaving: set[Child] = set()
        self._suspended: set[Child] = set()
        self._silent: set[Child] = set()  # reported as stuck
        self.warned: set[str] = set()  # sentences of workers that the log has already
        self._failures = 0  # in a row
        self._not_before = 0.0
        self._given_up = False  # patient: nothing is tried before reload()
        self._first: asyncio.Future[None] | None = None  # the outcome of the first start
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._turnover: asyncio.Task[None] | None = None
        self._reload_asked = False
        self._replace_not_before = 0.0
        self._recycled: Child | None = None  # the last
        self._ticker: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def serving(self) -> int:
        """How many workers take work."""
        return len(self._serving)

    # -- from outside -----------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Start all workers, and return when the first is ready.

        Raises:
            ConfigurationError, StartupFailed: none is, for this reason; nothing is left running.
        """
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        self._tick(loop.time() + BEAT_INTERVAL)
        self._balance()
        try:
            await self._first
        except BaseException:
            await self._end_all()
            raise

    def reload(self) -> None:
        """Replace every worker by one that runs the code of now. Asked again meanwhile: that begins anew."""
        self._reload_asked = True
        self._given_up = False
        self._failures = 0
        self._not_before = 0.0
        if self._first is not None and self._first.done():
            self._disown_starting()
            self._turn_over()

    def add(self) -> None:
        """One worker more."""
        self._target += 1
        log.info("one worker more", extra={"workers": self._target})
        self._balance()

    def remove(self) -> None:
        """One worker less, but the last."""
        if self._target > 1:
            self._target -= 1
            log.info("one worker less", extra={"workers": self._target})
            self._balance()

    @property
    def stopping(self) -> bool:
        """Whether stop() was called, or start() has failed."""
        return self._stopping

    async def stop(self, *, gracefully: bool = True) -> None:
        """Drain all workers, and kill those that do not end in time; if not *gracefully*, at once."""
        await self._end_all(gracefully=gracefully)

    def kill(self) -> None:
        """End all workers at once, also those of a stop() in course."""
        for child in (*self._starting, *self._serving, *self._leaving):
            child.kill()

    async def _end_all(self, *, gracefully: bool = False) -> None:
        self._stopping = True
        for timer in (self._ticker, self._retry):
            if timer is not None:
                timer.cancel()
        for child in self._starting:
            child.kill()
        for child in list(self._serving):
            self._release(child)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            if not gracefully:
                self.kill()
            await asyncio.gather(*[self._end_in_time(child) for child in self._leaving])
        finally:
            self.kill()

    def _release(self, child: Child) -> None:
        """It gets no more work, and ends when it is done with what it has."""
        self._serving.remove(child)
        self._leaving.add(child)
        child.drain()

    async def _end_in_time(self, child: Child) -> None:
        if not await child.wait_ended(self._grace):
            log.warning("a worker does not stop, killing it", extra={**child.described, "after": self._grace})
            await self._condemn(child)
            await child.wait_ended()

    async def _condemn(self, child: Child) -> None:
        """Kill it for what it does, whatever that is."""
        try:
            in_hand = await child.in_hand(ANSWER_TIME)
            if child.running:
                self._placement.condemned(child.name, in_hand)
        finally:
            child.kill()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("error in the supervisor", exc_info=error)

    # -- the right number -------------------------------------------------------------------------

    def _balance(self) -> None:
        """Start what is missing, end what is too many."""
        if self._stopping or self._given_up:
            return
        self._retry = None
        missing = self._target - len(self._serving) - len(self._starting)
        now = asyncio.get_running_loop().time()
        if missing > 0 and now < self._not_before:
            self._balance_later(self._not_before - now)
            return
        for _ in range(missing):
            self._spawn(self._start_missing(self._new_child()))
        if self._reload_asked:
            self._turn_over()
        if self._turnover is None:
            while len(self._serving) > self._target:
                self._drain(self._serving[0])

    def _balance_later(self, pause: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(pause, self._balance)

    def _new_child(self) -> Child:
        self._started += 1
        child = Child(self._started, self._orders, self, environment=self._environment, command=self._command)
        self._starting.add(child)
        return child

    async def _start_missing(self, child: Child) -> None:
        try:
            await self._make_ready(child)
        except DaphneLikeError as error:
            if self._stopping or child.unwanted:
                return
            if self._first is not None and not self._first.done():
                self._first_failed(error)
            elif self._patient:
                self._wait_for_change(error)
            else:
                self._failed(str(error), error)
        self._balance()

    async def _make_ready(self, child: Child) -> None:
        """
        Start *child*, and have it serve.

        Raises:
            ConfigurationError, StartupFailed: it does not start; it has ended.
        """
        try:
            try:
                await child.start()
            except OSError as error:
                what = f"{error.filename}: " if error.filename else ""
                raise StartupFailed(f"cannot start a worker: {what}{error.strerror or error}") from error
            if child.unwanted:
                child.kill()
            await child.wait_ready(self._settings.worker_start_timeout)
        except BaseException as error:
            if child.running:
                self._leaving.add(child)
                child.kill()
            if isinstance(error, DaphneLikeError):
                await child.wait_ended(KILL_MARGIN)
            raise
        finally:
            self._starting.discard(child)
        self._serving.append(child)
        child.quota += random.randint(0, self._settings.limit_max_requests_jitter)
        log.info("worker ready", extra={**child.described, "address": child.name})
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _first_failed(self, error: DaphneLikeError) -> None:
        assert self._first is not None
        if not self._patient or isinstance(error, ConfigurationError):
            self._stopping = True
            self._first.set_exception(error)
        else:
            self._first.set_result(None)
            self._wait_for_change(error)

    def _wait_for_change(self, error: DaphneLikeError) -> None:
        self._given_up = True
        log_failure("the application did not start; it starts again after the next change", error)

    def _failed(self, reason: str, error: DaphneLikeError | None = None) -> None:
        """A worker has not started, or not lasted: pause, longer each time."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return  # several of one set: one failure
        pause = min(MAX_PAUSE, FIRST_PAUSE * 2**self._failures) * random.uniform(0.5, 1)
        self._failures = min(self._failures + 1, 16)
        self._not_before = loop.time() + pause
        log_failure("a worker did not last, next try after a pause", error, reason=reason, pause=pause)

    # -- what children do -------------------------------------------------------------------------

    def child_ended(self, child: Child) -> None:
        self._suspended.discard(child)
        self._silent.discard(child)
        if child.name:
            self._placement.ended(child.name)
        if child in self._leaving:
            self._leaving.discard(child)
            if child.name:
                log.info("worker ended", extra={**child.described, "how": child.how_it_ended})
        if child not in self._serving:
            return
        self._serving.remove(child)
        how = child.how_it_ended
        log.error("a worker died", extra={**child.described, "how": how})
        if asyncio.get_running_loop().time() - child.ready_at < LASTED:
            self._failed(how)
        else:
            self._failures = 0
        self._balance()

    def child_beat(self, child: Child) -> None:
        beat = child.beat
        assert beat is not None
        if child not in self._serving:
            return
        if self._patient:
            beat = replace(beat, silent=0.0)  # somebody may be debugging
        if beat.silent < SILENT:
            self._resume(child)
        elif child not in self._silent:
            self._silent.add(child)
            self._suspend(child)
            child.ask_for_stacks()
        limit = self._settings.worker_stuck_timeout
        if limit and beat.silent >= max(limit, SILENT):
            log.error("a worker is stuck, replacing it", extra={**child.described, "silent": beat.silent})
            self._serving.remove(child)
            self._leaving.add(child)
            self._spawn(self._replace_stuck(child))
        elif self._due(child) is not None:
            self._turn_over()

    def child_stacks(self, child: Child, stacks: str) -> None:
        silent = child.beat.silent if child.beat is not None else 0.0
        log_text(
            logging.ERROR,
            "a worker's event loop is stuck, it gets no new work",
            stacks,
            {**child.described, "silent": silent},
        )

    def _suspend(self, child: Child) -> None:
        if child not in self._suspended:
            self._suspended.add(child)
            self._placement.suspend(child.name)

    def _resume(self, child: Child) -> None:
        if child in self._suspended:
            log.warning("a worker goes on, it gets work again", extra=child.described)
            self._silent.discard(child)
            self._suspended.discard(child)
            self._placement.resume(child.name)

    def _tick(self, due: float) -> None:
        """Look for workers that do not beat."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._ticker = loop.call_at(now + BEAT_INTERVAL, self._tick, now + BEAT_INTERVAL)
        if now - due > BEAT_INTERVAL:
            return  # it is we who are late: their beats wait in the sockets
        for child in self._serving:
            if child not in self._suspended and now - child.beat_at > LATE:
                log.warning("a worker does not beat, it gets no new work", extra=child.described)
                self._suspend(child)
        if self._failures and any(now - child.ready_at > LASTED for child in self._serving):
            self._failures = 0

    async def _replace_stuck(self, stuck: Child) -> None:
        """Another one first, if one can be had; then the end of this one, which can hear nothing."""
        missing = self._target > len(self._serving) + len(self._starting)
        new = self._new_child() if missing else None
        try:
            if new is not None:
                await self._make_ready(new)
        except DaphneLikeError as error:
            if new is not None and not new.unwanted:
                self._failed(str(error), error)
        finally:
            await self._condemn(stuck)
        self._balance()

    # -- the old for the new ----------------------------------------------------------------------

    def _due(self, child: Child) -> str | None:
        """Why this one should be replaced."""
        now = asyncio.get_running_loop().time()
        return child.due(self._settings, now) if now >= self._replace_not_before else None

    def _turn_over(self) -> None:
        if self._turnover is None and not self._stopping:
            self._turnover = self._spawn(self._turn_over_all())
            self._turnover.add_done_callback(self._turned_over)

    def _turned_over(self, task: asyncio.Task[None]) -> None:
        self._turnover = None
        if self._reload_asked:
            self._turn_over()
        self._balance_later(0)

    async def _turn_over_all(self) -> None:
        while True:
            if self._reload_asked:
                self._reload_asked = False
                await self._reload_all()
                continue
            for child in self._serving:
                if (why := self._due(child)) is not None and self._recycled not in self._leaving:
                    break
            else:
                return
            await self._recycle(child, why)

    def _disown_starting(self) -> None:
        for child in self._starting:  # with the code of a moment ago, or of now: who knows
            child.unwanted = True
            child.kill()

    async def _reload_all(self) -> None:
        self._disown_starting()
        old = list(self._serving)
        log.info("starting new workers", extra={"workers": self._target})
        new: list[Child] = []
        for _ in range(self._target):
            child = self._new_child()
            try:
                await self._make_ready(child)
            except DaphneLikeError as error:
                if not child.unwanted:
                    self._not_started(error, others=bool(old))
                old = new
                break
            new.append(child)
        for child in old:
            if child in self._serving:
                self._drain(child)
        if len(new) == self._target:
            log.info("all workers are new", extra={"workers": len(self._serving)})

    def _not_started(self, error: DaphneLikeError, *, others: bool) -> None:
        if others:
            log_failure("the new workers do not start, the old ones go on serving", error)
        elif self._patient:
            self._wait_for_change(error)
        else:
            self._failed(str(error), error)

    async def _recycle(self, child: Child, why: str) -> None:
        log.info("replacing a worker", extra={**child.described, "because": why})
        new = self._new_child()
        try:
            await self._make_ready(new)
        except DaphneLikeError as error:
            if not new.unwanted:
                self._replace_not_before = asyncio.get_running_loop().time() + RETRY_REPLACEMENT
                self._not_started(error, others=True)
            return
        if child in self._serving:
            self._recycled = child
            self._drain(child)

    def _drain(self, child: Child) -> None:
        self._release(child)
        self._spawn(self._end_in_time(child))
