"""
What a member has to say to inboxes and shared channels, in as few calls as can be.

Everything for one list goes into one call, which grows until the engine takes it: that is at the end of the
turn of the event loop, or, while the engine works on the batch before, when that is answered. Each element has
its own answer.

What when full: the engine bounds the octets that wait for it, and what comes is refused with LayerUnavailable
at once.

Lives in one event loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from daphne_like.errors import LayerError, LayerUnavailable

from ..gap import MAX_MESSAGES
from .keys import Keys
from .scripts import ADMIT_CHANNEL, ADMIT_INBOX, KEEP_EVERY, Script, stamp

__all__ = ["MAX_ELEMENTS", "MAX_OCTETS", "OVERHEAD", "Keeper", "Outbox", "Runner", "Terms"]

# What one call holds, so that the engine does other things in between: elements, octets.
MAX_ELEMENTS = 256
MAX_OCTETS = 256 * 1024

# Seconds for which a call takes elements: its deadline is that of the first, and who joins it late waits as much
# less.
MAX_OPEN = 0.2

# What an element costs beyond its octets, for that bound.
OVERHEAD = 256


class Runner(Protocol):
    """What of an engine is needed here."""

    def push(
        self,
        tag: str,
        keys: Sequence[str],
        script: Script,
        given: Callable[[], tuple[Sequence[bytes], Sequence[Any]]],
    ) -> "asyncio.Future[Any]": ...

    def reserve(self, octets: int) -> None: ...

    def release(self, octets: int) -> None: ...

    def time(self, tag: str | None = None) -> float: ...


# Tags of which it is known when their keys were last kept.
MAX_KEPT = 10_000

# Counter, limit, lifetime in milliseconds: see scripts. What has the same terms is best the same tuple.
Terms = tuple[bytes, int, int]
UNCOUNTED: Terms = (b"", 0, 60_000)


class _Call:
    """A call that grows. Called, it is over: gives what Engine.push() takes."""

    __slots__ = ("_calls", "_outbox", "_runs", "_tag", "answers", "elements", "octets", "open_until", "terms")

    def __init__(self, outbox: "Outbox", calls: "dict[str, _Call]", tag: str, open_until: float) -> None:
        self._outbox = outbox
        self._calls = calls
        self._tag = tag
        # One for each element: where its answer goes, if anywhere.
        self.answers: list[asyncio.Future[bool] | None] = []
        self.octets = 0
        self.open_until = open_until
        self._runs: list[tuple[Terms, list[bytes]]] = []
        # The run that is being added to.
        self.elements: list[bytes] = []
        self.terms: Terms | None = None

    def begin(self, terms: Terms) -> None:
        """A run."""
        self.terms = terms
        self.elements = []
        self._runs.append((terms, self.elements))

    def __call__(self) -> tuple[list[bytes], list[Any]]:
        self.close()
        return self._outbox.given(self._tag, self._runs)

    def close(self) -> None:
        """What is said from now on is another call's."""
        if self._calls.get(self._tag) is self:
            del self._calls[self._tag]


class Keeper:
    """Knows when keys are to be kept: see scripts. What it does not know is kept once too often."""

    def __init__(self) -> None:
        # By tag: until when (time.monotonic()), and for what lifetime.
        self._kept: dict[str, tuple[float, int]] = {}

    def word(self, tag: str, lifetime: int) -> bytes:
        """The script's first argument."""
        now = time.monotonic()
        until, longest = self._kept.get(tag, (0.0, 0))
        if now < until and lifetime <= longest:
            return b"0"
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[tag] = (now + KEEP_EVERY, lifetime)
        return b"1"


class Outbox:
    """
    Args:
        engine: runs scripts.
        keys: how they are called.
        lost: told how many elements without an answer were refused, or may not have arrived.
    """

    def __init__(
        self,
        engine: Runner,
        keys: Keys,
        *,
        lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._lost = lost
        self._inboxes: dict[str, _Call] = {}
        self._channels: dict[str, _Call] = {}
        self._gaps: dict[str, _Call] = {}
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._keeper = Keeper()

    def to_member(self, member: str, element: bytes, terms: Terms = UNCOUNTED) -> "asyncio.Future[bool]":
        """
        Put an element into an inbox; its stamp comes with its leaving.

        Returns:
            a future: False where it was refused.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._inboxes, self._open_inbox, member, element, terms, answer)
        return answer

    def tell_member(self, member: str, element: bytes, terms: Terms = UNCOUNTED) -> None:
        """The same, and nobody waits for an answer; see `lost`."""
        self._put(self._inboxes, self._open_inbox, member, element, terms, None)

    def to_gap(self, gap: str, element: bytes, lifetime: int) -> "asyncio.Future[bool]":
        """
        Put an element into the gap of a stream's handoff.

        Returns:
            a future: False where it was full.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._gaps, self._open_gap, gap, element, (b"gap", MAX_MESSAGES, lifetime), answer)
        return answer

    def tell_gap(self, gap: str, element: bytes, lifetime: int) -> None:
        """The same, uncounted, and nobody waits for an answer."""
        self._put(self._gaps, self._open_gap, gap, element, (b"", 0, lifetime), None)

    def to_channel(self, part: str, element: bytes, terms: Terms) -> "asyncio.Future[bool]":
        """
        Put an element into a part of a shared channel (Keys.part_for).

        Returns:
            a future: False where it was full.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._channels, self._open_channel, part, element, terms, answer)
        return answer

    def _put(
        self,
        calls: dict[str, _Call],
        open_call: Callable[[str], _Call],
        tag: str,
        element: bytes,
        terms: Terms,
        answer: "asyncio.Future[bool] | None",
    ) -> None:
        octets = len(element) + OVERHEAD
        # Before a call is opened: one without elements could not be written.
        self._engine.reserve(octets)
        call = calls.get(tag)
        if call is None or call.open_until < self._time():
            call = open_call(tag)
        if terms != call.terms:
            call.begin(terms)
        call.elements.append(element)
        call.answers.append(answer)
        call.octets += octets
        if call.octets >= MAX_OCTETS or len(call.answers) >= MAX_ELEMENTS:
            call.close()

    def _open_inbox(self, member: str) -> _Call:
        keys = [self._keys.inbox(member), self._keys.counts(member)]
        return self._open(self._inboxes, member, ADMIT_INBOX, keys)

    def _open_gap(self, gap: str) -> _Call:
        return self._open(self._gaps, gap, ADMIT_INBOX, [self._keys.gap(gap), self._keys.gap_count(gap)])

    def _open_channel(self, part: str) -> _Call:
        keys = [self._keys.channel(part), self._keys.statistics(part)]
        return self._open(self._channels, part, ADMIT_CHANNEL, keys)

    def _open(self, calls: dict[str, _Call], tag: str, script: Script, keys: list[str]) -> _Call:
        call = calls[tag] = _Call(self, calls, tag, self._time() + MAX_OPEN)
        done = self._engine.push(tag, keys, script, call)
        done.add_done_callback(lambda future: self._answered(call, future))
        return call

    def given(self, tag: str, runs: Sequence[tuple[Terms, list[bytes]]]) -> tuple[list[bytes], list[Any]]:
        """The elements and the script's arguments of a call that is about to be written."""
        now = self._engine.time(tag)
        stamped: list[bytes] = []
        described: list[Any] = []
        for terms, elements in runs:
            head = stamp(now, terms[2])
            stamped += [head + element for element in elements]
            described += (*terms, len(elements))
        keep = self._keeper.word(tag, max(terms[2] for terms, _ in runs))
        return stamped, [keep, len(stamped), *described]

    def _answered(self, call: _Call, future: "asyncio.Future[list[int]]") -> None:
        call.close()
        self._engine.release(call.octets)
        answers = call.answers
        error = LayerUnavailable("the layer was closed") if future.cancelled() else future.exception()
        if error is not None:
            kind = type(error) if isinstance(error, LayerError) else LayerUnavailable
            reason = str(error)
            for answer in answers:
                if answer is not None and not answer.done():
                    answer.set_exception(kind(reason))
                    # Who does not wait for it any more is not told by asyncio either.
                    answer.exception()
            untold = answers.count(None)
            if untold:
                self._lost(untold)
            return
        refused = future.result()
        if refused:
            untold = 0
            for place in refused:
                refusal = answers[place]
                if refusal is None:
                    untold += 1
                elif not refusal.done():
                    refusal.set_result(False)
            if untold:
                self._lost(untold)
        for answer in answers:
            if answer is not None and not answer.done():
                answer.set_result(True)
