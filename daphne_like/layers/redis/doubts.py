"""
Offers of which their taker cannot know whether they are still meant.

An engine that went back in time gives out again what was taken, claimed and done. And a worker that stood still
finds offers that it was given long ago, which their offerer has given up since. So offers that come first after
such a thing (Reader.doubtful), or were there before their taker, are not claimed at once. It asks, and waits:

    taker                                     offerer
      Q ref ------------------------------->  the engine was away a moment ago: waits GRANT_AFTER, as another's
                                              claim may be on its way
                                              nobody has it: remembers the taker
      claims it, as ever  <----------------- T ref

Where no answer comes in PATIENCE the offer is dropped, and its place is free again. Neither word is said twice:
an offer that is lost by that is found by who has made it, as all that are taken and not claimed.

Bounded by the places of a worker. Lives in one event loop.
"""

import asyncio
import logging
from collections.abc import Callable

from daphne_like import logs

__all__ = ["GRANT_AFTER", "TROUBLED", "Doubts"]

log = logging.getLogger(logs.LAYERS)

# Seconds: for claims that were held up by the engine to arrive; for which they may be.
GRANT_AFTER = 0.2
TROUBLED = 5.0
# Until an offer is dropped.
PATIENCE = 5.0


class Doubts:
    """
    A taker's.

    Args:
        ask: asks the member of that name for its ref.
        granted: called with channel, name, ref and payload of an offer that is meant.
        dropped: called with the channel of one that is not.
    """

    def __init__(
        self,
        ask: Callable[[bytes, int], None],
        granted: Callable[[str, bytes, int, bytes], None],
        dropped: Callable[[str], None],
    ) -> None:
        self._ask = ask
        self._granted = granted
        self._dropped = dropped
        self._loop = asyncio.get_running_loop()
        # (name, ref) -> when it was asked for, channel, payload; the oldest first.
        self._offers: dict[tuple[bytes, int], tuple[float, str, bytes]] = {}

    def __len__(self) -> int:
        return len(self._offers)

    def put(self, channel: str, name: bytes, ref: int, payload: bytes) -> None:
        """An offer that may have been taken before."""
        if (name, ref) in self._offers:
            self._dropped(channel)
            return
        self._offers[name, ref] = self._loop.time(), channel, payload
        self._ask(name, ref)

    def grant(self, name: bytes, ref: int) -> None:
        """Its offerer says that nobody else has it."""
        found = self._offers.pop((name, ref), None)
        if found is not None:
            _, channel, payload = found
            self._granted(channel, name, ref, payload)

    def look(self) -> None:
        """Once a second: drop what nobody means any more."""
        too_old = self._loop.time() - PATIENCE
        dropped = 0
        while self._offers and next(iter(self._offers.values()))[0] < too_old:
            _, channel, _ = self._offers.pop(next(iter(self._offers)))
            self._dropped(channel)
            dropped += 1
        if dropped:
            log.warning("dropped offers that had been taken before", extra={"offers": dropped})
