"""
What has been read once, and comes out of the engine a second time, is dropped.

An engine goes back in time when it is started from an older snapshot, or when a replica takes over that is
behind: then what was popped since then is there again. To Redis it is new. So of each list what was read lately
is kept, as it came. Only when a reader comes back to an engine that is not the one that it has left does anybody
look at it: until the list has been read to its end (Reader.behind), elements that are among what was kept are
dropped, and counted, as often as they are.

Elements carry a time to the microsecond. So equal ones are the same one, but for equal messages of one sender's
moment, of which, if the engine went back to between them, one may be taken for another.

What this cannot know: what another process has read of a shared channel.

What when full: MAX_ELEMENTS, MAX_OCTETS, or as old as messages get; the oldest are forgotten.

Lives in one event loop.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from daphne_like import logs

__all__ = ["Rereading"]

log = logging.getLogger(logs.LAYERS)

MAX_ELEMENTS = 10_000
MAX_OCTETS = 8 * 1024 * 1024

# Seconds in which drops are one line of the log.
TELL_AFTER = 1.0


class Behind(Protocol):
    """A Reader, as far as it is needed."""

    behind: int


class Rereading:
    """
    Between a reader of one list and whoever gets what it reads.

    Args:
        name: of the list, for the log.
        max_age: seconds; what is older would have expired.
        deliver: see Reader; gets what has not been read before.
        dropped: gets the elements that have.

    Attributes:
        reader: to be set.
        count: elements dropped so far.
    """

    reader: Behind

    def __init__(
        self,
        name: str,
        max_age: float,
        deliver: Callable[[bytes, list[bytes]], None],
        dropped: Callable[[list[bytes]], None] = lambda elements: None,
    ) -> None:
        self.count = 0
        self._name = name
        self._max_age = max_age
        self._deliver = deliver
        self._dropped = dropped
        # (when, octets, elements): what was read; and how much that is.
        self._read: deque[tuple[float, int, list[bytes]]] = deque()
        self._elements = self._octets = 0
        # (when, element): what was put back since.
        self._returned: deque[tuple[float, bytes]] = deque(maxlen=MAX_ELEMENTS)
        # What was read before the loss of the connection that was `behind` when it was put together.
        self._seen: Counter[bytes] = Counter()
        self._seen_at = 0
        self._told = 0

    def deliver(self, key: bytes, elements: list[bytes]) -> None:
        """For the reader."""
        behind = self.reader.behind
        if behind:
            elements = self._without_seen(behind, elements)
        elif self._seen_at:
            self._seen_at = 0
            self._seen.clear()
        if elements:
            self._note(elements)
            self._deliver(key, elements)

    def returned(self, element: bytes) -> None:
        """It goes back to the list, and may be read again."""
        self._returned.append((time.monotonic(), element))

    def _note(self, elements: list[bytes]) -> None:
        now = time.monotonic()
        octets = sum(map(len, elements))
        self._elements += len(elements)
        self._octets += octets
        read = self._read
        read.append((now, octets, elements))
        too_old = now - self._max_age
        while read and (self._elements > MAX_ELEMENTS or self._octets > MAX_OCTETS or read[0][0] < too_old):
            _, octets, forgotten = read.popleft()
            self._elements -= len(forgotten)
            self._octets -= octets

    def _without_seen(self, behind: int, elements: list[bytes]) -> list[bytes]:
        if self._seen_at != behind:
            self._seen_at = behind
            self._seen = Counter(element for _, _, read in self._read for element in read)
            first = self._read[0][0] if self._read else 0.0
            self._seen.subtract(element for when, element in self._returned if when >= first)
        seen = self._seen
        again, others = [], []
        for element in elements:
            if seen[element] > 0:
                seen[element] -= 1
                again.append(element)
            else:
                others.append(element)
        if again:
            if self.count == self._told:
                asyncio.get_running_loop().call_later(TELL_AFTER, self._tell)
            self.count += len(again)
            self._dropped(again)
        return others

    def _tell(self) -> None:
        log.warning(
            "the engine went back in time: dropped what had been read before",
            extra={"list": self._name, "messages": self.count - self._told},
        )
        self._told = self.count
