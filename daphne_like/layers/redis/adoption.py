"""
A stream that this process has got from another one, and what its groups were told in between: see handoff.py.

Where the other one gave it away there is a gap; where it has died there are legacies (estates.py) in its place.
Pure: no engine, no lock; handoff.py calls.
"""

import asyncio

from ..gap import MAX_MESSAGES
from .door import Told
from .estates import Legacy

__all__ = ["Adoption", "Kept"]

# (group, payload, expires)
Kept = tuple[str, Told, float]


class Adoption:
    """
    Attributes:
        known: done once it is known whether there is a gap at all.
        gap: its name; "" for none.
        legacies: in place of a gap, by group.
        groups: those that something was kept of.
        held, sent: what the old process held, and what was sent to the groups since; not given yet.
        waiting: what came since the mark did, by group, until that is live.
        channels: by group, those that are in it by now.
        given: ids of what the channels were given.
        ended: the end of what was held has come, or is not waited for any longer.
        closed: groups of which nothing more comes this way.
        task: looks for what comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self.known: asyncio.Future[None] = loop.create_future()
        self.begun_at = now
        self.gap = ""
        self.legacies: dict[str, Legacy] = {}
        self.groups: set[str] = set()
        self.held: list[Kept] = []
        self.sent: list[Kept] = []
        self.waiting: dict[str, list[Kept]] = {}
        self.channels: dict[str, dict[str, None]] = {}
        self.given: set[bytes] = set()
        self.ended = False
        self.closed: set[str] = set()
        self.task: asyncio.Task[None] | None = None
        self._inherited = 0

    def inherit(self, now: float) -> int:
        """Take what the legacies have. Gives how many messages were too many for one stream."""
        dropped = 0
        for group, legacy in self.legacies.items():
            for payload, expires in legacy.take():
                if payload.number in self.given or expires <= now:
                    continue
                if self._inherited < MAX_MESSAGES:
                    self._inherited += 1
                    self.sent.append((group, payload, expires))
                elif group not in self.closed:
                    # Else it comes live, too.
                    dropped += 1
        return dropped

    def take(self, group: str) -> list[Kept]:
        """What was kept of a group, in its order; it is to be given now."""
        kept = [each for each in self.held if each[0] == group]
        kept += [each for each in self.sent if each[0] == group]
        self.held = [each for each in self.held if each[0] != group]
        self.sent = [each for each in self.sent if each[0] != group]
        return kept

    def clear(self) -> None:
        """Everything was flushed."""
        self.legacies.clear()
        self.held.clear()
        self.sent.clear()
        self.waiting = {group: [] for group in self.waiting}
