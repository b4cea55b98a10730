"""
The way to one node: what is asked of it, in batches.

**Group commit.** One batch is under way at a time. All that is asked meanwhile leaves as the next, in one write.
So the busier it is the larger are the batches, and an idle node is asked at the end of the turn.

**What is sent once is never sent twice.** A call whose reply is lost gets ReplyLost, as nobody knows whether it
was done. A call that was surely not done is tried again until its time is up: it was never written, or the reply
says so (NEVER_DONE). After NOSCRIPT its script is loaded first. The others wait a little (backlog.py says in
which order), some for another connection, because this one's engine has become a replica.

**Bounds.** A call waits `send_timeout` at most, then it gets LayerUnavailable; a little longer where it was sent
just before, as the answer says whether it was done. A connection on which nothing is answered for so long is
given up. The octets that wait are bounded by the engine.

Each second the node's clock is read, which shows, too, whether it still answers.
"""

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from daphne_like import logs
from daphne_like.errors import LayerError, LayerUnavailable

from .backlog import LEAD, Backlog, Call
from .clock import EngineClock
from .connection import NEVER_DONE, Refused
from .hosts import Host
from .lane_user import LaneUser, ReplyLost
from .refusals import sort_out
from .scripts import Script
from .tether import Tether, pauses

__all__ = ["Lane"]

log = logging.getLogger(logs.LAYERS)

# A batch ends with the call that passes one of these. So much is lost at most when a connection breaks.
BATCH_OCTETS = 1024 * 1024
BATCH_CALLS = 1000

# Seconds between attempts of what was refused: the first, and the longest.
RETRY_PAUSES = (0.01, 0.25)
# Seconds between readings of the clock.
TICK = 1.0

# Seconds without an answer after which the node may be frozen, and others may have what it had.
SILENCE = 1.0

# Seconds that what was sent again just before its time was up has for the answer, which says what became of it;
# half of `send_timeout` if that is less.
LAST_ANSWER = 0.5

# Does nothing; refused by what takes no writes, or is still loading.
PROBE = ("EVAL", "#!lua flags=allow-oom\nreturn 1", 0)

# What is answered before a transaction is.
_QUEUED = (LEAD, LEAD, LEAD)


class Lane:
    """
    Args:
        node: where it goes; None: nowhere, until somebody is known to have what is asked for.
        user: the engine.

    Attributes:
        name: for logs and errors.
        connected: there is a connection.
        reason: why there is none.
        clock: the node's.
    """

    def __init__(self, node: str | None, user: LaneUser) -> None:
        self.node = node
        self.name = f"redis:{node}" if node is not None else user.topology.name
        self.connected = False
        self.reason = "nobody has answered"
        self.clock = EngineClock()
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._backlog = Backlog()
        self._under_way: collections.deque[Call] = collections.deque()
        # Of the batch under way: what was surely not done, with the replies that say so.
        self._again: list[tuple[Call, str]] = []
        # time.monotonic() of the last batch's write and of the last read; loop time of the later of the two.
        self._written_at = 0.0
        self._answered_at = 0.0
        self._progress = 0.0
        self._flushing = False
        # Why a command of a transaction was not even queued.
        self._not_queued: Refused | None = None
        # By their names: scripts that are to be loaded again.
        self._missing: dict[str, Script] = {}
        # Why calls are held, and when they are tried again.
        self._refusal = ""
        self._pauses = pauses(*RETRY_PAUSES)
        self._retry: asyncio.TimerHandle | None = None
        self._retry_due = False
        # Tags that are elsewhere now: their calls are kept back until what is under way is answered.
        self._leaving: set[str] = set()
        # Set when nothing is under way any more.
        self._idle: asyncio.Future[None] | None = None
        # Calls of lane_back(), which go before all others.
        self._first: list[Call] | None = None
        self._deadlines: asyncio.TimerHandle | None = None
        self._ticks: asyncio.TimerHandle | None = None
        self._closing = False
        # What was logged last of being out of reach, so that it is said once.
        self._said = ""
        self._tether = Tether(self, self.name)

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, call: Call) -> None:
        """Do *call* as soon as may be."""
        if self._first is not None:
            self._first.append(call)
        else:
            self._backlog.add(call)
            if not self._flushing and not self._under_way:
                self._flush_soon()
        if self._deadlines is None:
            self._look_at_deadlines_by(call.deadline)

    def take_over(self, calls: Sequence[Call]) -> None:
        """Do *calls*, which another lane had, before what was asked after them."""
        self._backlog.merge(calls)
        if not self._under_way:
            self._flush_soon()
        self._look_at_deadlines_by(self._backlog.next_deadline())

    def send_away(self, tags: Iterable[str | None]) -> None:
        """An ASK has sent calls of *tags* to another node: keep the others back until came_back()."""
        self._backlog.send_away(tags)

    def came_back(self, tag: str | None) -> None:
        """It was settled there, or given back."""
        self._backlog.come_back(tag)
        if not self._under_way:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing and self.connected:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """The next batch, if none is under way."""
        self._flushing = False
        if self._retry_due and not self._under_way:
            self._try_again()
        ready, batch, connection = self._backlog.ready, self._under_way, self._tether.connection
        if not ready or batch or connection is None:
            return
        out: list[bytes] = []
        size = 0
        for script in self._missing.values():
            self._add_own(("SCRIPT", "LOAD", script.lua), out)
        self._missing.clear()
        while ready and size < BATCH_OCTETS and len(out) < BATCH_CALLS:
            call = ready.popleft()
            if call.future.done():
                # Nobody waits for it any more, and it was never done.
                self._user.settled(call)
                continue
            try:
                packed = call.packed or call.encode()
            except Exception as error:
                # Of whoever gives the words: it is not to cost the others their place in the order of replies.
                log.exception("error in a user of the engine", extra={"call": "words"})
                self._user.settled(call)
                call.fail(LayerError(f"{self.name}: could not be put into words: {error!r}"))
                continue
            if call.asking:
                self._add_own(("ASKING",), out)
            if call.in_transaction:
                batch.extend(_QUEUED)
            batch.append(call)
            out.append(packed)
            size += len(packed)
        if out:
            self._progress = self._loop.time()
            self._written_at = time.monotonic()
            connection.write(b"".join(out))

    def _add_own(self, words: tuple[Any, ...], out: list[bytes]) -> None:
        """Something in front of a call, whose answer says nothing: the call's will."""
        own = self._own(words)
        self._under_way.append(own)
        out.append(own.packed)

    def _own(self, words: tuple[Any, ...]) -> Call:
        return Call(words, None, self._loop.create_future(), self._loop.time() + self._user.send_timeout)

    # -- replies -----------------------------------------------------------------------------------

    def replied(self, replies: list[Any]) -> None:
        """See TetherUser."""
        self._answered_at = time.monotonic()
        batch, settled, held = self._under_way, self._user.settled, self._backlog.held
        for reply in replies:
            if not batch:
                self._tether.drop("it answered what nobody asked")
                return
            call = batch.popleft()
            if call is LEAD:
                if type(reply) is Refused and self._not_queued is None:
                    self._not_queued = reply
                continue
            if call.in_transaction:
                reply = self._result_of(call, reply)
            if type(reply) is Refused:
                self._refused(call, reply)
                continue
            settled(call)
            if not call.future.done():
                call.future.set_result(reply)
            if held:
                self._release(call.tag)
        if batch:
            self._progress = self._loop.time()
        else:
            self._batch_done()

    def _result_of(self, call: Call, reply: Any) -> Any:
        """What its script says, of a transaction's reply."""
        not_queued, self._not_queued = self._not_queued, None
        if type(reply) is Refused:
            if reply.code != "EXECABORT":
                self._tether.drop(f"out of step: {not_queued or reply}")
            # It says only that something was refused.
            return not_queued or reply
        for part in reply:
            if type(part) is Refused:
                if part.code == "NOSCRIPT" and call.script is not None:
                    self._missing[call.script.sha] = call.script
                    return []
                # Of what was done in part nothing is done again.
                return Refused(f"ERR within a transaction: {part}")
        return reply[-1]

    def _refused(self, call: Call, reply: Refused) -> None:
        never_done = reply.code in NEVER_DONE and call.tag is not None
        if never_done and not call.future.done() and self._loop.time() < call.deadline:
            self._again.append((call, str(reply)))
            return
        self._user.settled(call)
        if never_done:
            call.fail(self._not_done(NEVER_DONE[reply.code]))
        call.fail(LayerError(f"{self.name}: the engine refused: {reply}"))
        self._release(call.tag)

    def _release(self, tag: str | None) -> None:
        """It has been answered."""
        self._backlog.release(tag)
        if not self._backlog.held:
            self._pauses = pauses(*RETRY_PAUSES)

    def _batch_done(self) -> None:
        again, self._again = self._again, []
        reason = self._put_back(again) if again else ""
        self._leave()
        if reason:
            self._tether.drop(reason)
            return
        if self._backlog.ready or self._retry_due:
            self._flush_soon()

    # -- what was refused --------------------------------------------------------------------------

    def _put_back(self, again: Sequence[tuple[Call, str]]) -> str:
        """
        See to what was refused in a batch that is over.

        Returns:
            why there should be another connection, or "".
        """
        found = sort_out(again, self._backlog.held)
        self._missing.update(found.missing)
        self._refusal = found.why or self._refusal
        if found.is_down:
            self._user.look_around(self)
        if found.held:
            self._backlog.hold(found.held)
            self._retry_due = False
            self._try_again_later()
        self._backlog.add_first(found.at_once)
        if found.moved:
            self._user.moved(self, found.moved)
        return found.drops

    def _try_again(self) -> None:
        self._retry = None
        if self._under_way or self._flushing:
            self._retry_due = True  # the last attempt may be among what is under way
            return
        self._retry_due = False
        self._backlog.try_again()
        self._try_again_later()
        self._flush_soon()

    def _try_again_later(self) -> None:
        if self._backlog.held and self._retry is None:
            self._retry = self._loop.call_later(next(self._pauses), self._try_again)

    # -- time --------------------------------------------------------------------------------------

    def _look_at_deadlines(self) -> None:
        """Fail what has waited for too long. Called when the first of what waited then has."""
        now, limit = self._loop.time(), self._user.send_timeout
        if self._under_way and now >= self._progress + limit:
            self._tether.drop(f"no answer in {limit:g} s")
        deadlines = [self._progress + limit] if self._under_way else []
        patience = min(LAST_ANSWER, limit / 2)
        for call in self._under_way:
            last = min(max(call.deadline, self._progress + patience), call.deadline + patience)
            if now >= last:
                # It stays in the order of replies.
                call.fail(
                    ReplyLost(f"{self.name}: no answer in {limit:g} s: nobody knows whether it was done")
                )
            elif not call.future.done():
                deadlines.append(last)
        trouble = self._trouble()
        for call in self._backlog.take_expired(now):
            self._user.settled(call)
            call.fail(self._not_done(trouble))
        self._deadlines = None
        self._look_at_deadlines_by(min((*deadlines, self._backlog.next_deadline())))

    def _look_at_deadlines_by(self, when: float) -> None:
        timer = self._deadlines
        if when < (timer.when() if timer is not None else float("inf")):
            if timer is not None:
                timer.cancel()
            self._deadlines = self._loop.call_at(when, self._look_at_deadlines)

    def _not_done(self, trouble: str) -> LayerUnavailable:
        return LayerUnavailable(f"{self.name}: not done in {self._user.send_timeout:g} s: {trouble}")

    def _trouble(self) -> str:
        if not self.connected:
            return self.reason
        return self._refusal if self._backlog.held else "no answer to what was asked before"

    @property
    def silent(self) -> bool:
        """Nothing that was asked has been answered for a while."""
        return bool(self._under_way) and self._loop.time() - self._progress >= SILENCE

    def _tick(self) -> None:
        self._ticks = self._loop.call_later(TICK, self._tick)
        if self.silent:
            self._user.look_around(self)
            if not self.connected:
                return
        call = self._own(("TIME",))
        call.future.add_done_callback(self._read_clock)
        self.ask(call)

    def _read_clock(self, answered: "asyncio.Future[Any]") -> None:
        if not answered.exception():
            self.clock.read(answered.result(), self._written_at, self._answered_at)

    # -- staying connected: see TetherUser -----------------------------------------------------------

    def first_words(self) -> Sequence[tuple[Any, ...]]:
        return [
            ("TIME",),
            PROBE,
            ("MULTI",),
            ("EXEC",),
            *(("SCRIPT", "LOAD", script.lua) for script in self._user.scripts),
        ]

    async def where(self) -> Host:
        if self.node is None:
            await self._user.topology.refresh()
            raise LayerUnavailable("nobody is known to have the keys")
        return await self._user.topology.host(self.node)

    async def look_around(self) -> None:
        try:
            await self._user.topology.refresh()
        except LayerUnavailable:
            # Nobody answers; the next attempt asks again.
            return

    def begin(self, replies: Sequence[Any], asked_at: float) -> None:
        now = time.monotonic()
        for reply in replies[:4]:
            if isinstance(reply, Refused) and (reply.code in NEVER_DONE or reply.code == "NOPERM"):
                raise LayerUnavailable(NEVER_DONE.get(reply.code, str(reply)))
        self.clock.read(replies[0], asked_at, now)
        self.connected = True
        if self._said:
            log.info("layer joined", extra={"layer": self.name})
            self._said = ""
        self._first = []
        try:
            self._user.lane_back(self)
        finally:
            first, self._first = self._first, None
            self._backlog.add_first(first)
        self._tick()
        self._flush_soon()

    def unreachable(self, reason: str) -> None:
        self.reason = reason
        # Once per reason, not per attempt.
        if reason != self._said:
            self._said = reason
            log.warning("layer out of reach", extra={"layer": self.name, "reason": reason})

    def lost(self, reason: str) -> None:
        self.connected = False
        self.reason = self._said = reason
        if not self._closing:
            log.warning("layer lost", extra={"layer": self.name, "reason": reason})
        self._cancel_timers()
        self._not_queued = None
        error = ReplyLost(f"{self.name}: {reason}: nobody knows whether it was done")
        for call in self._under_way:
            self._user.settled(call)
            call.fail(error)
        self._under_way.clear()
        again, self._again = self._again, []
        self._backlog.restore([call for call, _ in again])
        self._leave()
        self._user.lane_lost(self, reason)

    def _cancel_timers(self) -> None:
        for timer in (self._ticks, self._retry):
            if timer is not None:
                timer.cancel()
        self._ticks = self._retry = None
        self._retry_due = False

    def relocate(self) -> None:
        """The node is elsewhere now."""
        self._tether.drop("the node is elsewhere now")

    # -- the end -----------------------------------------------------------------------------------

    def take_others(self, belongs: Callable[[str], bool]) -> tuple[list[Call], set[str]]:
        """
        Give up what waits and has its tag elsewhere now.

        Returns:
            the calls, in order; and the tags of which something is under way, whose calls stay until left().
        """

        def is_elsewhere(call: Call) -> bool:
            # What is asked of a node, and not of a tag, is not asked of another.
            return call.tag is not None and call.tag != "" and not belongs(call.tag)

        under_way = (*self._under_way, *(call for call, _ in self._again))
        self._leaving.update(call.tag for call in under_way if call.tag and is_elsewhere(call))
        calls = self._backlog.take(is_elsewhere)
        self._backlog.hold(call for call in calls if call.tag in self._leaving)
        for tag in self._leaving:
            self._backlog.held.setdefault(tag, collections.deque())
        return [call for call in calls if call.tag not in self._leaving], set(self._leaving)

    def _leave(self) -> None:
        """Nothing is under way."""
        if self._leaving:
            tags, self._leaving = self._leaving, set()
            self._user.left(self, tags)
            self._try_again_later()  # what has come back meanwhile
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def abandon(self) -> None:
        """See Engine.abandon()."""
        self._tether.abandon()

    async def close(self, timeout: float) -> None:
        """Let what waits be done, for *timeout* seconds while there is a connection; fail the rest."""
        self._closing = True
        self._tether.stop()
        until = self._loop.time() + timeout
        while self.connected and (self._under_way or self._backlog.ready):
            self._idle = self._loop.create_future()
            if not (await asyncio.wait([self._idle], timeout=until - self._loop.time()))[0]:
                break
        closed = LayerUnavailable(f"{self.name}: the layer was closed")
        for call in self._backlog.take():
            self._user.settled(call)
            call.fail(closed)
        self._tether.drop("the layer was closed")
        self._cancel_timers()
        if self._deadlines is not None:
            self._deadlines.cancel()
        await self._tether.stopped()
