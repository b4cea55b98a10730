"""
Streams that are offered on lists of the engine: those that a port offers, and those that it takes.

Who offers keeps in mind what nobody has claimed. What waits in the list does so for as long as its user likes.
What is not there any more has been taken, and its claim is on the way; where none comes for UNCLAIMED seconds
(less, if somebody has just died, or the engine was away), it is lost.

What when full: the limit that comes with an offer, for the part of the list that this member writes to.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .engine import Engine, ReplyLost
from .keys import STAMP, Keys
from .outbox import MAX_ELEMENTS, MAX_OCTETS, OVERHEAD, Keeper
from .pair import NAME
from .port_scripts import OFFER, OFFER_HEAD, OFFERS_LEFT, WITHDRAW_OFFER
from .reader import Reader
from .scripts import ADMIT_CHANNEL, PUT_BACK, stamp

__all__ = ["Offering", "Serving", "give_back"]

log = logging.getLogger(logs.LAYERS)

# Seconds: until an offer is looked for, and how long it may be neither in the list nor claimed.
LOOK_AFTER = 1.0
UNCLAIMED = 5.0
UNCLAIMED_IN_A_HURRY = 1.0
HURRY = 5.0

# How long an offer stays in its list, whoever has made it, milliseconds. The offerer takes it back before.
OFFER_LIFETIME = 3600_000

# Taken at once; the next worker is to have some, too.
MAX_OFFERS = 8


def _offers_key(prefix: str, part: str) -> str:
    return f"{prefix}:offers:{{{part}}}"


def give_back(engine: Engine, prefix: str, channel: str, name: bytes, ref: int, payload: bytes) -> None:
    """Put an offer that was taken, and not claimed, in front of the others again."""
    part = Keys(prefix, engine.topology.parts).part_for(channel, name.decode())
    head = stamp(engine.time(part), OFFER_LIFETIME)
    _put_back(engine, prefix, part, [head + OFFER + name + ref.to_bytes(8, "big") + payload])


def _put_back(engine: Engine, prefix: str, part: str, elements: list[bytes]) -> None:
    def answered(answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled() and isinstance(error := answer.exception(), LayerUnavailable):
            log.warning(
                "could not give an offer back; it will be made again",
                extra={"channel": part, "reason": str(error)},
            )

    args = [OFFER_LIFETIME, *reversed(elements)]
    engine.run(PUT_BACK, part, [_offers_key(prefix, part)], args).add_done_callback(answered)


class _Offer:
    __slots__ = ("granted_to", "missing_since", "part", "since")

    def __init__(self, part: str, since: float) -> None:
        self.part = part
        self.since = since
        self.missing_since: float | None = None
        # Who has asked for it.
        self.granted_to = ""


class _Push:
    """Offers for one part that leave together; grows until it is called."""

    def __init__(self, engine: Engine, keeper: Keeper, pushes: "dict[str, _Push]", part: str) -> None:
        self.octets = 0
        self._engine = engine
        self._keeper = keeper
        self._pushes = pushes
        self._part = part
        self._elements: list[tuple[int, bytes]] = []
        self.refs: list[int] = []

    def add(self, ref: int, element: bytes, limit: int) -> None:
        self.refs.append(ref)
        self._elements.append((limit, element))
        self.octets += len(element) + OVERHEAD
        if self.octets >= MAX_OCTETS or len(self.refs) >= MAX_ELEMENTS:
            self.close()

    def __call__(self) -> tuple[list[bytes], list[Any]]:
        self.close()
        head = stamp(self._engine.time(self._part), OFFER_LIFETIME)
        stamped = [head + element for _, element in self._elements]
        args: list[Any] = [self._keeper.word(self._part, OFFER_LIFETIME), len(stamped)]
        for limit, run in itertools.groupby(self._elements, key=lambda each: each[0]):
            args += (b"", limit, OFFER_LIFETIME, len(list(run)))
        self._elements.clear()
        return stamped, args

    def close(self) -> None:
        if self._pushes.get(self._part) is self:
            del self._pushes[self._part]


class Offering:
    """
    The offers of one member.

    Args:
        engine: the port's.
        prefix: of the keys.
        name: of the member.
        refused: called with the ref of an offer that found its list full, or could not be made.
        lost: called with the ref of an offer that somebody has taken who will never say so.
    """

    def __init__(
        self,
        engine: Engine,
        prefix: str,
        name: str,
        refused: Callable[[int], None],
        lost: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._keys = Keys(prefix, engine.topology.parts)
        self._name = name
        self._head = OFFER + name.encode()
        self._refused = refused
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._offers: dict[int, _Offer] = {}
        self._pushes: dict[str, _Push] = {}
        self._keeper = Keeper()
        self._hurry_until = 0.0

    def offer(self, channel: str, ref: int, payload: bytes, limit: int) -> None:
        part = self._keys.part_for(channel, self._name)
        element = self._head + ref.to_bytes(8, "big") + payload
        self._offers[ref] = _Offer(part, self._loop.time())
        try:
            self._engine.reserve(len(element) + OVERHEAD)
        except LayerUnavailable:
            self._loop.call_soon(self._refuse, ref)
            return
        push = self._pushes.get(part)
        if push is None:
            push = self._pushes[part] = _Push(self._engine, self._keeper, self._pushes, part)
            keys = [_offers_key(self._keys.prefix, part), self._keys.statistics(part)]
            answer = self._engine.push(part, keys, ADMIT_CHANNEL, push)
            answer.add_done_callback(functools.partial(self._pushed, push))
        push.add(ref, element, limit)

    def _pushed(self, push: _Push, answer: "asyncio.Future[list[int]]") -> None:
        push.close()
        self._engine.release(push.octets)
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            for place in answer.result():
                self._refuse(push.refs[place])
        elif not isinstance(error, ReplyLost):  # else they may be there: look() will see
            log.warning("could not offer streams", extra={"streams": len(push.refs), "reason": str(error)})
            for ref in push.refs:
                self._refuse(ref)

    def _refuse(self, ref: int) -> None:
        if self._offers.pop(ref, None) is not None:
            self._refused(ref)

    def withdraw(self, channel: str, ref: int) -> None:
        offer = self._offers.pop(ref, None)
        if offer is not None:
            keys = [_offers_key(self._keys.prefix, offer.part)]
            head = self._head + ref.to_bytes(8, "big")
            answer = self._engine.run(WITHDRAW_OFFER, offer.part, keys, [head])
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def claimed(self, ref: int) -> None:
        self._offers.pop(ref, None)

    def grant(self, ref: int, to: str) -> bool:
        """Whether *to*, who has taken an offer and doubts, is the one who has it."""
        offer = self._offers.get(ref)
        if offer is None or offer.granted_to not in ("", to):
            return False
        offer.granted_to = to
        offer.missing_since = self._loop.time()
        return True

    def hurry(self) -> None:
        """Somebody died, or the engine was away: who does not claim soon will never."""
        self._hurry_until = self._loop.time() + HURRY

    def look(self) -> None:
        """Once a second: look for what nobody has claimed."""
        now = self._loop.time()
        old: dict[str, list[int]] = {}
        for ref, offer in self._offers.items():
            if now - offer.since >= LOOK_AFTER:
                old.setdefault(offer.part, []).append(ref)
        for part, refs in old.items():
            keys = [_offers_key(self._keys.prefix, part)]
            answer = self._engine.run(OFFERS_LEFT, part, keys, [self._head])
            answer.add_done_callback(functools.partial(self._looked, refs))

    def _looked(self, refs: list[int], answer: "asyncio.Future[list[bytes]]") -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        left = {int.from_bytes(ref, "big") for ref in answer.result()}
        now = self._loop.time()
        patience = UNCLAIMED_IN_A_HURRY if now < self._hurry_until else UNCLAIMED
        for ref in refs:
            offer = self._offers.get(ref)
            if offer is None:
                continue
            if ref in left:
                offer.missing_since = None
            elif offer.missing_since is None:
                offer.missing_since = now
            # A tick comes a little early or late.
            elif now - offer.missing_since >= patience - 0.1:
                del self._offers[ref]
                self._lost(ref)


class Serving:
    """
    The offers that one member takes of one channel.

    Args:
        engine: the port's.
        prefix: of the keys.
        channel: what is served.
        taken: called with the offerer's name, the ref and the payload of each offer, and whether that may have
            been taken before; the place is used up.

    Attributes:
        free: places.
    """

    def __init__(
        self, engine: Engine, prefix: str, channel: str, taken: Callable[[bytes, int, bytes, bool], None]
    ) -> None:
        self._engine = engine
        self._taken = taken
        self.free = 0
        self._held = False
        self._channel = channel
        self._parts = Keys(prefix, engine.topology.parts).all_parts(channel)
        self._prefix = prefix
        self._readers: list[Reader] = []

    def add(self, places: int) -> None:
        """More places, or fewer."""
        before = self.free
        self.free += places
        if not self._readers:
            if self.free > 0:
                self._readers = [self._reader(part) for part in self._parts]
        elif before <= 0 < self.free:
            for reader in self._readers:
                reader.wake()

    def hold(self, held: bool) -> None:
        """Take nothing for now, or go on."""
        self._held = held
        if not held:
            for reader in self._readers:
                reader.wake()

    def _reader(self, part: str) -> Reader:
        def deliver(key: bytes, elements: list[bytes]) -> None:
            self._delivered(part, elements, reader.doubtful)

        reader = self._engine.reader(part, [_offers_key(self._prefix, part)], self._count, deliver)
        # What is there already may have been taken by others, before the engine went back in time.
        reader.behind = 1
        return reader

    def _count(self) -> int:
        if self.free <= 0 or self._held:
            return 0
        return max(1, min(MAX_OFFERS, self.free // len(self._parts)))

    def _delivered(self, part: str, elements: list[bytes], doubtful: bool) -> None:
        for place, element in enumerate(elements):
            if self.free <= 0:
                # Places were taken back meanwhile, or another part's reader was faster.
                _put_back(self._engine, self._prefix, part, elements[place:])
                return
            if len(element) < STAMP + OFFER_HEAD or element[STAMP : STAMP + 1] != OFFER:
                log.warning("a message that is no offer", extra={"channel": self._channel})
                continue
            name = element[STAMP + 1 : STAMP + 1 + NAME]
            ref = int.from_bytes(element[STAMP + 1 + NAME : STAMP + OFFER_HEAD], "big")
            self.free -= 1
            self._taken(name, ref, element[STAMP + OFFER_HEAD :], doubtful)

    async def stop(self) -> None:
        """Take no more. What was taken already goes back."""
        self.free = 0
        await asyncio.gather(*(reader.stop() for reader in self._readers))
        self._readers.clear()
