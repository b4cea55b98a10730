"""
What the dead have left in their inboxes.

A process is in its groups until its leases end, 20 to 30 s after its death, and so its inbox goes on collecting:
what it had not read when it died, and what is sent to its groups from then on. That is the gap of each of its
streams. Who takes such a stream over reads it there, each group's messages for each stream that was in the
group, and takes nothing out: others read it, too. A mark that is found on the way tells from where, or to where,
the stream's channel was in the group.

Read by one process for all of its streams at a time, and kept for a while.

What when full: senders drop and count what an inbox of MAX_INBOX elements has no room for (scripts.py); a
stream gets MAX_MESSAGES of it (handoff.py).

Lives in the member's event loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..encryption import Encryption
from ..gap import MAX_AGE
from .door import Told, expiry_of, read_told
from .engine import Engine
from .keys import STAMP, Keys
from .memberships import JOIN, LEAVE

__all__ = ["Estate", "Estates", "Legacy"]

# Elements that are read at a time.
COUNT = 256

_GROUP = ord("G")


class _Message(NamedTuple):
    payload: Told
    expires: float


class _Mark(NamedTuple):
    kind: int
    channel: str


class Estate:
    """
    One inbox.

    Attributes:
        groups: what was found, by group, the oldest first.
        used: when it was looked into last, time.monotonic().
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        keys: Keys,
        encryption: Encryption | None,
        lose: Callable[[str, int], None],
    ) -> None:
        self._name = name
        self._engine = engine
        self._key = keys.inbox(name)
        self._encryption = encryption
        self._lose = lose
        self._lock = asyncio.Lock()
        self._looks = 0
        self._read = 0
        self.groups: dict[str, list[_Message | _Mark]] = {}
        self.used = time.monotonic()

    async def look(self) -> None:
        """
        Take in what is there at a moment after this call; those who wait for that share a look.

        Raises:
            LayerUnavailable: the engine is out of reach.
        """
        looks = self._looks
        async with self._lock:
            if self._looks > looks:
                return
            self._looks += 1
            self.used = time.monotonic()
            while True:
                first, last = self._read, self._read + COUNT - 1
                elements = await self._engine.command(self._name, "LRANGE", self._key, first, last)
                self._take_in(elements)
                if len(elements) < COUNT:
                    return

    def _take_in(self, elements: list[bytes]) -> None:
        ahead = self._engine.time(self._name) - time.monotonic()
        for element in elements:
            self._read += 1
            kind = element[STAMP] if len(element) > STAMP else 0
            cut = element.find(0, STAMP + 9)
            if cut < 0 or kind not in (_GROUP, JOIN, LEAVE):
                # Messages for its channels: these are no more.
                continue
            group, rest = element[STAMP + 9 : cut].decode(), element[cut + 1 :]
            entries = self.groups.setdefault(group, [])
            if kind != _GROUP:
                entries.append(_Mark(kind, rest.decode()))
                continue
            _, payload = read_told(element, self._encryption)
            if payload is None:
                self._lose("undecipherable", 1)
                continue
            entries.append(_Message(payload, expiry_of(element) - ahead))


class Legacy:
    """
    What of an estate is for one stream and group.

    Args:
        channels: those of the stream that were in the group.
    """

    def __init__(self, estate: Estate, group: str, channels: Iterable[str]) -> None:
        self.estate = estate
        self._group = group
        self._channels = set(channels)
        self._members: set[str] | None = None
        self._place = 0

    def take(self) -> list[tuple[Told, float]]:
        """(payload, expires) of what has come since the last call."""
        entries = self.estate.groups.get(self._group, [])
        if self._members is None:
            # A channel whose first mark says that it joins was not there before that.
            firsts: dict[str, int] = {}
            for entry in entries:
                if isinstance(entry, _Mark):
                    firsts.setdefault(entry.channel, entry.kind)
            self._members = {channel for channel in self._channels if firsts.get(channel) != JOIN}
        found: list[tuple[Told, float]] = []
        for entry in entries[self._place :]:
            if isinstance(entry, _Message):
                if self._members:
                    found.append(entry)
            elif entry.kind == LEAVE:
                self._members.discard(entry.channel)
            elif entry.channel in self._channels:
                self._members.add(entry.channel)
        self._place = len(entries)
        return found


class Estates:
    """
    Those that this process has to do with.

    Args:
        lose: see RedisMember.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        encryption: Encryption | None,
        lose: Callable[[str, int], None],
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._encryption = encryption
        self._lose = lose
        self._estates: dict[str, Estate] = {}

    def of(self, name: str) -> Estate:
        """What the member of that name has left."""
        estate = self._estates.get(name)
        if estate is None:
            estate = Estate(name, self._engine, self._keys, self._encryption, self._lose)
            self._estates[name] = estate
        return estate

    def tick(self) -> None:
        """About once a second: forget what nobody looks into any more."""
        too_old = time.monotonic() - MAX_AGE
        for name, estate in list(self._estates.items()):
            if estate.used < too_old:
                del self._estates[name]

    def clear(self) -> None:
        """Everything was flushed."""
        self._estates.clear()
