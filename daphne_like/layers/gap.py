"""
Group messages while nobody is there to receive them: between two instances of a relayed stream.

A *gap* opens when a stream's memberships end without its application's will: it is being handed over, or its
process is gone. Until the next instance has added itself to a group again, what is sent to that group is kept
here, and given to it right after its group_add(), in order. First goes what the leaving instance's channels
still held, which its process hands over when the session has ended.

States of one group in a gap:

    collecting --group_add--> over                          nothing is to come from the old instance any more
    collecting --group_add--> claimed --held--> over        the old instance may still hand over; older than all
               --10 s--> over, what was collected is lost and counted

Claimed groups wait PATIENCE for the old instance, then go on without it.

What when full: a gap keeps MAX_MESSAGES over all of its groups; the newest are dropped and counted.

Pure: no clock of its own, no lock; the hub calls.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

__all__ = ["MAX_AGE", "MAX_MESSAGES", "PATIENCE", "Gaps"]

# Per stream.
MAX_MESSAGES = 1000
# Seconds.
MAX_AGE = 10.0
PATIENCE = 1.0

EndT = TypeVar("EndT")

# (payload, expires)
_Kept = tuple[bytes, float]


class _Gap(Generic[EndT]):
    __slots__ = ("claims", "count", "deadline", "groups", "holder", "patience")

    def __init__(self) -> None:
        # Still diverted: group -> what was sent to it.
        self.groups: dict[str, list[_Kept]] = {}
        self.count = 0
        self.deadline = 0.0
        # Who may still hand over what the old instance held; and until when claims wait for it.
        self.holder: EndT | None = None
        self.patience = 0.0
        # group -> the channels that have added themselves meanwhile.
        self.claims: dict[str, list[tuple[EndT, str]]] = {}


class Gaps(Generic[EndT]):
    """
    All gaps of a hub.

    Attributes:
        groups: group -> labels of the streams that it is diverted for. What is in here goes to collect().
        overflowed: messages dropped because a gap was full.
        expired: messages dropped because nobody came in time.

    Args:
        enter: makes a membership live: (end, group, channel, stream).
        give: gives a kept message to a member: (end, channel, group, payload, expires).
    """

    def __init__(
        self,
        enter: Callable[[EndT, str, str, str], None],
        give: Callable[[EndT, str, str, bytes, float], None],
    ) -> None:
        self._enter = enter
        self._give = give
        self._gaps: dict[str, _Gap[EndT]] = {}
        self.groups: dict[str, set[str]] = {}
        self.overflowed = 0
        self.expired = 0

    def __len__(self) -> int:
        return len(self._gaps)

    def open(self, stream: str, groups: Iterable[str], holder: EndT | None, now: float) -> None:
        """
        Divert *groups* for *stream*; a gap that is open already goes on with them too.

        Args:
            holder: who will call held(); None if nobody will.
        """
        gap = self._gaps.get(stream)
        if gap is None:
            gap = self._gaps[stream] = _Gap()
        for group in groups:
            gap.groups.setdefault(group, [])
            self.groups.setdefault(group, set()).add(stream)
        gap.deadline = now + MAX_AGE
        gap.holder = holder
        gap.patience = now + PATIENCE

    def collect(self, group: str, payload: bytes, expires: float) -> None:
        """A message to a group that is in `groups`."""
        for stream in self.groups[group]:
            gap = self._gaps[stream]
            if gap.count < MAX_MESSAGES:
                gap.count += 1
                gap.groups[group].append((payload, expires))
            else:
                self.overflowed += 1

    def claim(self, stream: str, group: str, end: EndT, channel: str) -> bool:
        """
        The stream's next instance has added *channel* to *group*.

        Returns:
            True if that is all for now: the membership goes live, with what was kept, here or later. False if
            there is no such gap.
        """
        gap = self._gaps.get(stream)
        if gap is None or group not in gap.groups:
            return False
        claims = gap.claims.setdefault(group, [])
        if (end, channel) not in claims:
            claims.append((end, channel))
        if gap.holder is None:
            self._resolve(stream, gap)
        return True

    def unclaim(self, group: str, channel: str) -> None:
        """It has left the group again, before it got anything."""
        for stream in self.groups.get(group, ()):
            claims = self._gaps[stream].claims
            left = [claim for claim in claims.get(group, ()) if claim[1] != channel]
            if left:
                claims[group] = left
            else:
                claims.pop(group, None)

    def held(self, stream: str, holder: EndT, kept: Sequence[tuple[str, bytes, float]]) -> bool:
        """
        What the leaving instance still held, oldest first, as (group, payload, expires).

        It goes before the rest.

        Returns:
            False if no gap waits for this: it was too late.
        """
        gap = self._gaps.get(stream)
        if gap is None or gap.holder is not holder:
            return False
        gap.holder = None
        before: dict[str, list[_Kept]] = {}
        for group, payload, expires in kept:
            if group not in gap.groups or gap.count >= MAX_MESSAGES:
                self.overflowed += 1
                continue
            gap.count += 1
            before.setdefault(group, []).append((payload, expires))
        for group, messages in before.items():
            gap.groups[group][:0] = messages
        self._resolve(stream, gap)
        return True

    def leave(self, end: EndT) -> None:
        """A member is gone: it claims nothing any more, and hands nothing over."""
        for stream, gap in list(self._gaps.items()):
            for group, claims in list(gap.claims.items()):
                gap.claims[group] = [claim for claim in claims if claim[0] is not end]
                if not gap.claims[group]:
                    del gap.claims[group]
            if gap.holder is end:
                gap.holder = None
                self._resolve(stream, gap)

    def expire(self, now: float) -> None:
        """Close what is too old."""
        for stream, gap in list(self._gaps.items()):
            if gap.claims and gap.patience <= now:
                gap.holder = None
                self._resolve(stream, gap)
            if gap.deadline <= now and stream in self._gaps:
                for group in list(gap.groups):
                    self.expired += len(gap.groups[group])
                    self._end_group(stream, gap, group)

    def clear(self) -> None:
        """Forget it all, claims too."""
        self._gaps.clear()
        self.groups.clear()

    def _resolve(self, stream: str, gap: _Gap[EndT]) -> None:
        """Make claims live: first what was kept, so that nothing newer overtakes it."""
        for group, claims in list(gap.claims.items()):
            kept = gap.groups[group]
            self._end_group(stream, gap, group)
            for end, channel in claims:
                self._enter(end, group, channel, stream)
                for payload, expires in kept:
                    self._give(end, channel, group, payload, expires)

    def _end_group(self, stream: str, gap: _Gap[EndT], group: str) -> None:
        gap.count -= len(gap.groups.pop(group))
        gap.claims.pop(group, None)
        streams = self.groups[group]
        streams.discard(stream)
        if not streams:
            del self.groups[group]
        if not gap.groups:
            del self._gaps[stream]
