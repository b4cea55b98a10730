"""
What a member has to say to inboxes and shared channels, in as few script calls as can be.

Everything for one list goes into one call, which grows until the engine takes it: that is at the end of the
turn of the event loop, or, while the engine works on the batch before, when that is answered. Each element has
its own answer.

What when full: the engine bounds the octets that wait for it, and what comes is refused with LayerUnavailable
at once.

Lives in one event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from daphne_like.errors import LayerError, LayerUnavailable

from ..gap import MAX_MESSAGES
from .keys import Keys
from .scripts import PUSH_CHANNEL, PUSH_INBOX, Script

__all__ = ["Outbox", "Runner"]

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

    def run(
        self, script: Script, tag: str, keys: Sequence[str], args: Sequence[Any] | Callable[[], Sequence[Any]]
    ) -> "asyncio.Future[Any]": ...

    def reserve(self, octets: int) -> None: ...

    def release(self, octets: int) -> None: ...


class _Call:
    """A script call that grows. Called, it is over: gives its arguments."""

    __slots__ = (
        "_calls",
        "_counter",
        "_key",
        "_lifetime",
        "_limit",
        "_run",
        "answers",
        "args",
        "octets",
        "open_until",
    )

    def __init__(self, calls: "dict[str, _Call]", key: str, open_until: float) -> None:
        self._calls = calls
        self._key = key
        self.args: list[Any] = []
        # One for each element: where its answer goes, if anywhere.
        self.answers: list[asyncio.Future[bool] | None] = []
        self.octets = 0
        self.open_until = open_until
        # The run that is being added to: where its count is in `args`.
        self._run = 0
        self._counter: bytes | None = None
        self._limit = 0
        self._lifetime = 0

    def add(
        self,
        element: bytes,
        counter: bytes,
        limit: int,
        lifetime: int,
        answer: "asyncio.Future[bool] | None",
    ) -> None:
        args = self.args
        if counter != self._counter or limit != self._limit or lifetime != self._lifetime:
            self._counter, self._limit, self._lifetime = counter, limit, lifetime
            self._run = len(args) + 3
            args += (counter, limit, lifetime, 0)
        args[self._run] += 1
        args.append(element)
        self.answers.append(answer)
        self.octets += len(element) + OVERHEAD

    def __call__(self) -> list[Any]:
        self.close()
        return self.args

    def close(self) -> None:
        """What is said from now on is another call's."""
        if self._calls.get(self._key) is self:
            del self._calls[self._key]


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

    def to_member(
        self, member: str, element: bytes, counter: bytes = b"", limit: int = 0, lifetime: int = 60_000
    ) -> "asyncio.Future[bool]":
        """
        Put an element into an inbox.

        Args:
            counter: what it is counted under; with a limit above 0.
            limit: see scripts.
            lifetime: milliseconds.

        Returns:
            a future: False where it was refused.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._inboxes, self._open_inbox, member, element, counter, limit, lifetime, answer)
        return answer

    def tell_member(self, member: str, element: bytes, limit: int = 0, lifetime: int = 60_000) -> None:
        """The same, and nobody waits for an answer; see `lost`."""
        self._put(self._inboxes, self._open_inbox, member, element, b"", limit, lifetime, None)

    def to_gap(self, gap: str, element: bytes, lifetime: int) -> "asyncio.Future[bool]":
        """
        Put an element into the gap of a stream's handoff.

        Returns:
            a future: False where it was full.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._gaps, self._open_gap, gap, element, b"gap", MAX_MESSAGES, lifetime, answer)
        return answer

    def tell_gap(self, gap: str, element: bytes, lifetime: int) -> None:
        """The same, uncounted, and nobody waits for an answer."""
        self._put(self._gaps, self._open_gap, gap, element, b"", 0, lifetime, None)

    def to_channel(
        self, part: str, element: bytes, limit: int, lifetime: int = 60_000
    ) -> "asyncio.Future[bool]":
        """
        Put an element into a part of a shared channel (Keys.part_for).

        Returns:
            a future: False where it was full.

        Raises:
            LayerUnavailable: too much is pending.
        """
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._channels, self._open_channel, part, element, b"", limit, lifetime, answer)
        return answer

    def _put(
        self,
        calls: dict[str, _Call],
        open_call: Callable[[str], _Call],
        tag: str,
        element: bytes,
        counter: bytes,
        limit: int,
        lifetime: int,
        answer: "asyncio.Future[bool] | None",
    ) -> None:
        call = calls.get(tag)
        if call is None or call.open_until < self._time():
            call = open_call(tag)
        self._engine.reserve(len(element) + OVERHEAD)
        call.add(element, counter, limit, lifetime, answer)
        if call.octets >= MAX_OCTETS or len(call.answers) >= MAX_ELEMENTS:
            call.close()

    def _open_inbox(self, member: str) -> _Call:
        keys = [self._keys.inbox(member), self._keys.counts(member)]
        return self._open(self._inboxes, member, PUSH_INBOX, keys)

    def _open_gap(self, gap: str) -> _Call:
        return self._open(self._gaps, gap, PUSH_INBOX, [self._keys.gap(gap), self._keys.gap_count(gap)])

    def _open_channel(self, part: str) -> _Call:
        keys = [self._keys.channel(part), self._keys.statistics(part)]
        return self._open(self._channels, part, PUSH_CHANNEL, keys)

    def _open(self, calls: dict[str, _Call], tag: str, script: Script, keys: list[str]) -> _Call:
        call = calls[tag] = _Call(calls, tag, self._time() + MAX_OPEN)
        done = self._engine.run(script, tag, keys, call)
        done.add_done_callback(lambda future: self._answered(call, future))
        return call

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
