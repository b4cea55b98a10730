"""What a mailbox is made of: a box for each channel, and what is known of relayed streams."""

import asyncio
from collections import deque

__all__ = ["Box", "Item", "Stream"]

# (payload, expires, whether the hub counts it, the group it was sent to or "")
Item = tuple[bytes, float, bool, str]


class Box:
    """One channel. `prefix` is "" for shared ones; `readers` are those who wait, or have been woken."""

    __slots__ = ("capacity", "channel", "last", "messages", "prefix", "readers", "stream", "waiters")

    def __init__(self, channel: str, capacity: int) -> None:
        self.channel = channel
        self.prefix = channel[: channel.find("!") + 1]
        self.capacity = capacity
        self.messages: deque[Item] = deque()
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.readers: set[asyncio.Future[None]] = set()
        # Label of the stream whose channel it is, and what was given out of it last.
        self.stream = ""
        self.last: Item | None = None


class Stream:
    """A relayed stream of this process, as far as groups know it."""

    __slots__ = ("channels", "diverted", "ended", "leaving")

    def __init__(self) -> None:
        self.channels: dict[str, None] = {}
        self.leaving = False
        self.diverted = False
        self.ended = False
