"""
What waits to be asked of a node, in order, without I/O.

Calls that were refused, though they may be possible later, *hold* their tag: what is asked of that tag
meanwhile waits behind them, while other tags go on. When it is tried again the first of each tag goes alone,
and the others follow it when it is answered. Likewise what a node was asked for that another one has for the
time being (ASK): until those calls are settled there, their tag is held here. What comes from another node's
backlog, for the tag has moved, takes the place that it had by its number.

So of two calls of one tag the later is never done first; but for two that left in the same batch, where the
earlier may be refused and the later not.
"""

import asyncio
import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from daphne_like.errors import LayerError

from .connection import pack
from .scripts import Script

__all__ = ["LEAD", "Backlog", "Call", "Words"]

# What a command is, given when it is written.
Words = Callable[[], tuple[Any, ...] | bytes]

_NUMBERS = itertools.count()


class Call:
    """
    Something asked of a node.

    Args:
        words: of the command; or what gives them when they are written for the first time, packed or not.
        tag: of its keys. None: a lane's own, which nobody waits for.
        deadline: loop time at which it fails.
        script: that it calls.
        in_transaction: it is four commands (MULTI, RPUSH, EVALSHA, EXEC), and its reply is the script's.

    Attributes:
        asking: ASKING has to precede it: the slot is on its way.
        hops: how often it was told to go elsewhere.
        number: of two calls, the one that was asked first has the smaller one.
        packed: as it is written, or b"" before it is known.
        octets: that it was counted with.
    """

    __slots__ = (
        "_words",
        "asking",
        "deadline",
        "future",
        "hops",
        "in_transaction",
        "number",
        "octets",
        "packed",
        "script",
        "tag",
    )

    def __init__(
        self,
        words: "tuple[Any, ...] | Words",
        tag: str | None,
        future: "asyncio.Future[Any]",
        deadline: float,
        script: Script | None = None,
        in_transaction: bool = False,
    ) -> None:
        self.tag = tag
        self.future = future
        self.deadline = deadline
        self.script = script
        self.in_transaction = in_transaction
        self.asking = False
        self.hops = 0
        self.number = next(_NUMBERS)
        if callable(words):
            self._words = words
            self.packed = b""
        else:
            self.packed = pack(words)
        self.octets = len(self.packed) if tag is not None else 0

    def encode(self) -> bytes:
        """Once, if it was not packed from the beginning."""
        words = self._words()
        self.packed = words if isinstance(words, bytes) else pack(words)
        return self.packed

    def fail(self, error: LayerError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            # Who did not want to know is not told by asyncio either.
            self.future.exception()


class _Nobody:
    """In place of a future: nobody waits for it."""

    def done(self) -> bool:
        return True


# Among calls under way: stands for a reply that comes before that of a transaction.
LEAD: Final = Call((), None, cast("asyncio.Future[Any]", _Nobody()), float("inf"))


class Backlog:
    """
    Attributes:
        ready: calls to be written next.
        held: by tag, calls behind a refused one, which is not among them while it is being tried again; or
            behind such as are away.
    """

    def __init__(self) -> None:
        self.ready: collections.deque[Call] = collections.deque()
        self.held: dict[str | None, collections.deque[Call]] = {}
        # By tag: how many calls another node is asked for.
        self._away: collections.Counter[str | None] = collections.Counter()
        # The deadlines of those that wait may be out of order.
        self._mixed = False

    def add(self, call: Call) -> None:
        if self.held and call.tag in self.held:
            self.held[call.tag].append(call)
        else:
            self.ready.append(call)

    def merge(self, calls: Iterable[Call]) -> None:
        """*calls* of another backlog, before whatever of their tags is younger."""
        self._mixed = True
        by_tag: dict[str | None, collections.deque[Call]] = {}
        for call in sorted(calls, key=lambda call: call.number):
            by_tag.setdefault(call.tag, collections.deque()).append(call)
        for tag in by_tag.keys() & self.held.keys():
            self.held[tag] = _merged(self.held[tag], {tag: by_tag.pop(tag)})
        self.ready = _merged(self.ready, by_tag)

    def add_first(self, calls: Sequence[Call]) -> None:
        """*calls* before all others that are ready."""
        self.ready.extendleft(reversed(calls))

    def hold(self, refused: Iterable[Call]) -> None:
        """Hold the tags of *refused*, which are older than whatever waits here."""
        tags: dict[str | None, list[Call]] = {}
        for call in refused:
            tags.setdefault(call.tag, []).append(call)
        for tag, calls in tags.items():
            self.held.setdefault(tag, collections.deque()).extendleft(reversed(calls))
        self._add_again()

    def _add_again(self) -> None:
        """Tags are held that were not."""
        waiting, self.ready = self.ready, collections.deque()
        for call in waiting:
            self.add(call)

    def send_away(self, tags: Iterable[str | None]) -> None:
        """Calls of *tags*, each as often as there are, go to another node; what is asked here waits for them."""
        for tag in tags:
            self._away[tag] += 1
            self.held.setdefault(tag, collections.deque())
        self._add_again()

    def come_back(self, tag: str | None) -> None:
        """It was settled there."""
        self._away[tag] -= 1
        if not self._away[tag]:
            del self._away[tag]
            self.release(tag)

    def try_again(self) -> None:
        """Make the first of each tag that is held ready; not while one that was so made is under way."""
        first = []
        ready = {call.tag for call in self.ready}
        for tag, waiting in list(self.held.items()):
            if tag in self._away or tag in ready:
                continue
            if waiting:
                first.append(waiting.popleft())
            else:
                # The only one, and nobody waits for it any more.
                del self.held[tag]
        self.add_first(first)

    def release(self, tag: str | None) -> None:
        """*tag* is not refused any longer."""
        if tag in self.held and tag not in self._away:
            self.add_first(self.held.pop(tag))

    def restore(self, refused: Sequence[Call]) -> None:
        """Everything may be tried: *refused* first, which are older than whatever waits here."""
        for tag in self.held.keys() - self._away.keys():
            self.ready.extend(self.held.pop(tag))
        for call in reversed(refused):
            self.held.get(call.tag, self.ready).appendleft(call)

    def take_expired(self, now: float) -> list[Call]:
        """Those whose deadline has come."""
        expired = []
        queues = (self.ready, *self.held.values())
        for waiting in queues:
            while waiting and waiting[0].deadline <= now:
                expired.append(waiting.popleft())
            if self._mixed:
                expired += [call for call in waiting if call.deadline <= now]
                kept = [call for call in waiting if call.deadline > now]
                waiting.clear()
                waiting.extend(kept)
        self._mixed = self._mixed and any(
            one.deadline > following.deadline
            for waiting in queues
            for one, following in itertools.pairwise(waiting)
        )
        return expired

    def next_deadline(self) -> float:
        """The next of them, or infinity."""
        queues = (self.ready, *self.held.values())
        candidates = itertools.chain(*queues) if self._mixed else (each[0] for each in queues if each)
        return min((call.deadline for call in candidates), default=float("inf"))

    def take(self, wanted: Callable[[Call], bool] = lambda call: True) -> list[Call]:
        """Those that are *wanted*, those of a tag in order."""
        taken: list[Call] = []
        for waiting in (self.ready, *self.held.values()):
            calls = list(waiting)
            waiting.clear()
            for call in calls:
                (taken if wanted(call) else waiting).append(call)
        return taken


def _merged(
    waiting: Iterable[Call], by_tag: Mapping[str | None, collections.deque[Call]]
) -> collections.deque[Call]:
    """Both, those of *by_tag* as early as need be and no earlier. Empties *by_tag*."""
    merged: collections.deque[Call] = collections.deque()
    for call in waiting:
        older = by_tag.get(call.tag)
        while older and older[0].number < call.number:
            merged.append(older.popleft())
        merged.append(call)
    for rest in by_tag.values():
        merged.extend(rest)
    return merged
