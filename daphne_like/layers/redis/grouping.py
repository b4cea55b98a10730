"""
A member's groups, as the engine has them: joining, leaving, and sending to all.

A message to a group is looked up and then put into the inbox of each process that has channels in it, once, with
an id of its own. Those who ask for the same group in one turn of the event loop ask once.

An engine that has been away may have come back empty, and then its groups are what has been registered again so
far. So for a while after its return a message goes to those who were in the group before, too; a group that
nobody asked for lately is not asked for before the others have had time to come back.

Lives in the member's event loop; whose channels are in which group is in `memberships`.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from daphne_like.errors import LayerError, LayerUnavailable

from ..encryption import Encryption
from ..groups import owner_name
from .engine import Engine
from .handoff import Handoffs
from .keys import Keys
from .lane_user import ReplyLost
from .memberships import ENTRY_LIFETIME, JOIN, LEAVE, Memberships
from .outbox import Outbox
from .scripts import GROUP_JOIN, GROUP_MEMBERS

__all__ = ["Grouping"]

# What the entries of a group begin with: a process, a shared channel, the gap of a handoff.
_PROCESS, _CHANNEL, _GAP = b"=+~"


# Seconds after the engine's return: until all have registered their groups again, which is longer than the pause
# between two of their attempts; for which it is not trusted to know all.
RETURN = 0.75
DISTRUST = 2.0

# What is remembered of groups: how many, seconds.
MAX_REMEMBERED = 10_000
REMEMBERED = 60.0

# Seconds for which those who ask may join a question that has not left yet: see outbox.
MAX_OPEN = 0.2


class _Lookup:
    __slots__ = ("open_until", "waiting")

    def __init__(self, open_until: float) -> None:
        self.open_until = open_until
        self.waiting: list[asyncio.Future[list[bytes]]] = []


class Grouping:
    """
    Args:
        name: the member's.
        lifetime: milliseconds that messages live.
        listen: has the member read its inbox; is_listening: whether it does.
        lose: see RedisMember.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        keys: Keys,
        outbox: Outbox,
        memberships: Memberships,
        handoffs: Handoffs,
        *,
        capacity_of: Callable[[str], int],
        lifetime: int,
        encryption: Encryption | None,
        listen: Callable[[], None],
        is_listening: Callable[[], bool],
        lose: Callable[[str, int], None],
    ) -> None:
        self._name = name
        self._engine = engine
        self._keys = keys
        self._outbox = outbox
        self._memberships = memberships
        self._handoffs = handoffs
        self._capacity_of = capacity_of
        self._lifetime = lifetime
        self._encryption = encryption
        self._listen = listen
        self._is_listening = is_listening
        self._lose = lose
        self._loop = asyncio.get_running_loop()
        self._lookups: dict[str, _Lookup] = {}
        # group -> when, and what its entries were.
        self._remembered: dict[str, tuple[float, list[bytes]]] = {}
        self._returned_at = float("-inf")
        self._known = False
        self._registering: dict[str, asyncio.Future[Any]] = {}
        self._id_base = os.urandom(4)
        self._id = 0

    async def add(self, group: str, channel: str, label: str = "") -> None:
        """
        Args:
            label: of the relayed stream that an own channel belongs to.

        Raises:
            LayerUnavailable: it is no member; of another process' channel: nobody knows.
        """
        cut = channel.find("!") + 1
        if not cut:
            await self._join(group, f"+{channel}", self._memberships.expiry)
        elif owner_name(channel[:cut]) == self._name:
            await self._add_own(group, channel, label)
        else:
            owner = owner_name(channel[:cut])
            said = self._say(owner, JOIN, group, channel)
            await self._join(group, f"={owner}", ENTRY_LIFETIME)
            if not await said:
                raise LayerUnavailable(f"{channel!r} is a channel of a process that does not read")

    async def _add_own(self, group: str, channel: str, label: str) -> None:
        self._listen()
        in_gap = bool(label) and await self._handoffs.adopt(label, group, channel)
        number = self._memberships.add(group, channel)
        try:
            said = None
            if number is not None:
                said = self._outbox.to_member(self._name, self._memberships.mark(number))
            if not self._memberships.is_registered(group):
                await asyncio.shield(self.register(group))
            if said is not None:
                await said
            if in_gap:
                self._handoffs.added(label, group)
        except LayerUnavailable:
            self._handoffs.not_added(group, channel)
            if number is not None:
                self._memberships.give_up(number)
            raise

    async def discard(self, group: str, channel: str) -> None:
        cut = channel.find("!") + 1
        if not cut:
            await self._engine.command(group, "ZREM", self._keys.group(group), f"+{channel}")
        elif owner_name(channel[:cut]) != self._name:
            await self._say(owner_name(channel[:cut]), LEAVE, group, channel)
        else:
            number = self._memberships.discard(group, channel)
            self._handoffs.not_added(group, channel)
            try:
                if self._engine.reaches(self._name) and self._is_listening():
                    await self._outbox.to_member(self._name, self._memberships.mark(number))
                    return
            except ReplyLost:
                # It comes, or is said again.
                return
            except LayerUnavailable:
                pass  # then without the engine, as if it had not been there
            self._memberships.discard_at_once(number)

    async def send(self, group: str, payload: bytes) -> None:
        """
        Raises:
            LayerUnavailable: it did not get to all, or nobody knows.
        """
        entries = await self._members(group)
        if self._loop.time() < self._returned_at + DISTRUST:
            entries = await self._members_before(group, entries)
        if not entries:
            return
        if self._encryption is not None:
            payload = self._encryption.seal(payload)
        self._id += 1
        number = self._id_base + (self._id & 0xFFFFFFFF).to_bytes(4, "big")
        element = b"".join((b"G", number, group.encode(), b"\0", payload))
        lifetime = self._lifetime
        answers: list[tuple[str, asyncio.Future[bool]]] = []
        failed: LayerError | None = None
        for entry in entries:
            name = entry[1:].decode()
            try:
                if entry[0] == _PROCESS:
                    answers.append(("inbox_full", self._outbox.to_member(name, element, (b"", -1, lifetime))))
                elif entry[0] == _GAP:
                    answers.append(("gap_full", self._outbox.to_gap(name, element, lifetime)))
                elif entry[0] == _CHANNEL:
                    part = self._keys.part_for(name, self._name)
                    message = b"".join((b"M", entry[1:], b"\0", payload))
                    answer = self._outbox.to_channel(part, message, (b"", self._capacity_of(name), lifetime))
                    answers.append(("channel_full", answer))
            except LayerUnavailable as error:
                failed = error
        for reason, answer in answers:
            try:
                if not await answer:
                    self._lose(reason, 1)
            except LayerError as error:
                failed = error
        if failed is not None:
            raise failed

    def _say(self, owner: str, kind: int, group: str, channel: str) -> "asyncio.Future[bool]":
        """Mark the inbox of another process."""
        element = b"".join((bytes((kind,)), bytes(8), group.encode(), b"\0", channel.encode()))
        return self._outbox.to_member(owner, element, (b"", -1, self._lifetime))

    def _join(self, group: str, entry: str, lifetime: float) -> "asyncio.Future[Any]":
        return self._engine.run(
            GROUP_JOIN, group, [self._keys.group(group)], [max(1, int(lifetime * 1000)), entry]
        )

    def register(self, group: str) -> "asyncio.Future[Any]":
        """
        Have our entry in a group for a while.

        Returns:
            a future, not to be cancelled: others may wait for it.
        """
        under_way = self._registering.get(group)
        if under_way is None:
            asked_at = time.monotonic()
            under_way = self._registering[group] = self._join(group, f"={self._name}", ENTRY_LIFETIME)

            def done(answer: "asyncio.Future[Any]") -> None:
                if self._registering.get(group) is answer:
                    del self._registering[group]
                if not answer.cancelled() and answer.exception() is None:
                    self._memberships.registered(group, asked_at)

            under_way.add_done_callback(done)
        return under_way

    def engine_back(self) -> None:
        """A node is there; if it was before, it may have forgotten."""
        if self._known:
            self._returned_at = self._loop.time()
        self._known = True

    async def _members_before(self, group: str, found: list[bytes]) -> list[bytes]:
        """The entries of a group, when the engine may not know all of them."""
        before = self._remembered.get(group)
        if before is None or before[0] + REMEMBERED < self._loop.time():
            wait = self._returned_at + RETURN - self._loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                found = await self._members(group)
            return found
        return [*found, *(entry for entry in before[1] if entry not in found)]

    async def _members(self, group: str) -> list[bytes]:
        """The entries of a group, of a moment after this call. Those who ask in one turn ask once."""
        now = self._loop.time()
        lookup = self._lookups.get(group)
        if lookup is None or lookup.open_until < now:
            lookup = self._lookups[group] = _Lookup(now + MAX_OPEN)
            asked = lookup

            def take() -> list[Any]:
                if self._lookups.get(group) is asked:
                    del self._lookups[group]
                return []

            def answered(answer: "asyncio.Future[list[bytes]]") -> None:
                take()
                self._looked_up(group, asked, answer)

            self._engine.run(GROUP_MEMBERS, group, [self._keys.group(group)], take).add_done_callback(
                answered
            )
        future: asyncio.Future[list[bytes]] = self._loop.create_future()
        lookup.waiting.append(future)
        return await future

    def _looked_up(self, group: str, lookup: _Lookup, answer: "asyncio.Future[list[bytes]]") -> None:
        error = LayerUnavailable("the layer was closed") if answer.cancelled() else answer.exception()
        if error is None and self._loop.time() > self._returned_at + DISTRUST:
            self._remembered.pop(group, None)
            if answer.result():
                if len(self._remembered) >= MAX_REMEMBERED:
                    del self._remembered[next(iter(self._remembered))]
                self._remembered[group] = self._loop.time(), answer.result()
        for waiter in lookup.waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(answer.result())
            else:
                waiter.set_exception(type(error)(str(error)))
                waiter.exception()
