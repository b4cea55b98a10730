"""
Where the members of an own layer meet: queues of shared channels, who is in which group, who takes a stream.

A *member* is a process that has joined; the hub reaches it through its `End`. What a member's own channels
(names with "!") hold is kept by the member itself, in its Mailbox: the hub passes it on at once and only counts,
so that send() can be told of a full channel. Payloads are octets that the hub never looks into.

Nothing here waits, does I/O or knows a thread: callers lock, and call expire() about once a second.

What when full: a channel takes `capacity` messages, then put() says False. Groups: the member drops and counts.
Offers: refused at the offerer's limit. Relay envelopes: bounded by credit. Gaps: see `daphne_like.layers.gap`.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daphne_like.errors import LayerError

from .base import Capacities
from .groups import Groups, owner_name
from .member import End
from .offers import Offers

__all__ = ["End", "Hub"]

# How long (seconds) a channel that nothing happens on is remembered, for its statistics.
_REMEMBERED = 3600.0
_MAX_WAYS = 20_000


class _Queue:
    """A shared channel, or a channel of a member that is not here: what waits, and who waits."""

    __slots__ = ("capacity", "count", "full", "messages", "used", "wants")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # (channel, payload, expires)
        self.messages: deque[tuple[str, bytes, float]] = deque()
        # In the order of turns: member -> how many receive()s it has waiting.
        self.wants: dict[End, int] = {}
        self.count = 0
        self.full = 0
        # When the newest message expires.
        self.used = 0.0


class _Route:
    """The way to a member's own channels of one prefix; `pending` is what it has not read yet."""

    __slots__ = ("capacity", "count", "end", "full", "pending", "used")

    def __init__(self, end: End, capacity: int) -> None:
        self.end = end
        self.capacity = capacity
        self.pending = 0
        self.count = 0
        self.full = 0
        self.used = 0.0


class Hub:
    """
    Args:
        clock: seconds; all `expires` are on it.
        expiry, group_expiry, capacity, channel_capacity: as the layers'.

    Attributes:
        expired: messages that grew too old here.
        groups: with their own counts, and those of the gaps of handoffs.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        expiry: float = 60.0,
        group_expiry: float = 86400.0,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        self._clock = clock
        self.expiry = expiry
        self.group_expiry = group_expiry
        self._capacity_of = Capacities(capacity, channel_capacity).of
        self._ends: dict[str, End] = {}
        # Shared channels by name; channels of members that are not here by the part up to the "!".
        self._queues: dict[str, _Queue] = {}
        # Prefix -> route; and, found faster, name of a channel -> route: forgotten whenever a route is.
        self._routes: dict[str, _Route] = {}
        self._ways: dict[str, _Route] = {}
        self._offers: dict[str, Offers[End]] = {}
        self._suspended: set[End] = set()
        self.groups = Groups(self._ends.get, self.put, clock, group_expiry)
        self.expired = 0

    # Members.

    def join(self, end: End) -> None:
        """
        Raises:
            LayerError: a member of this name is here.
        """
        if end.name in self._ends:
            raise LayerError(f"a member named {end.name!r} has joined already")
        self._ends[end.name] = end
        waiting = [key for key in self._queues if key.endswith("!") and owner_name(key) == end.name]
        for prefix in waiting:
            for channel, payload, expires in self._queues.pop(prefix).messages:
                if expires > self._clock():
                    self.put(channel, payload, expires)

    def leave(self, end: End) -> None:
        """Forget a member; gaps open for its labelled memberships. One that is not here: nothing happens."""
        if self._ends.get(end.name) is not end:
            return
        del self._ends[end.name]
        for queue in self._queues.values():
            queue.wants.pop(end, None)
        for prefix in [prefix for prefix, route in self._routes.items() if route.end is end]:
            del self._routes[prefix]
        self._ways.clear()
        self._suspended.discard(end)
        self.groups.leave(end)
        for offers in self._offers.values():
            offers.leave(end)
        for other in self._ends.values():
            other.member_gone(end.name)

    # Channels.

    def put(self, channel: str, payload: bytes, expires: float | None = None) -> bool:
        """
        Send to a channel.

        Returns:
            False if it is full.
        """
        if expires is None:
            expires = self._clock() + self.expiry
        key = channel
        route = self._ways.get(channel)
        if route is None and "!" in channel:
            key = channel[: channel.find("!") + 1]
            route = self._find_route(key, channel)
        if route is not None:
            if route.pending >= route.capacity:
                route.full += 1
                return False
            route.pending += 1
            route.count += 1
            route.used = expires
            route.end.deliver(channel, payload, expires, True)
            return True
        queue = self._queues.get(key) or self._open_queue(key, channel)
        wants = queue.wants
        if wants:
            queue.count += 1
            queue.used = expires
            self._next_wanting(wants).deliver(channel, payload, expires, False)
            return True
        messages = queue.messages
        if len(messages) >= queue.capacity and not self._drop_expired(queue):
            queue.full += 1
            return False
        queue.count += 1
        queue.used = expires
        messages.append((channel, payload, expires))
        return True

    def take(self, channel: str) -> bytes | None:
        """The next message of a shared channel, for a member in this process; None if there is none."""
        queue = self._queues.get(channel)
        if queue is not None:
            messages = queue.messages
            while messages:
                _, payload, expires = messages.popleft()
                if expires > self._clock():
                    return payload
                self.expired += 1
        return None

    def want(self, end: End, channel: str, count: int) -> None:
        """*end* has *count* more receive()s waiting for a shared channel."""
        queue = self._queues.get(channel) or self._open_queue(channel, channel)
        messages = queue.messages
        while count and messages:
            _, payload, expires = messages.popleft()
            if expires <= self._clock():
                self.expired += 1
                continue
            count -= 1
            end.deliver(channel, payload, expires, False)
        if count:
            queue.wants[end] = queue.wants.get(end, 0) + count

    def unwant(self, end: End, channel: str, count: int) -> None:
        """
        *count* of them wait no longer.

        What crosses with a delivery comes back by put_back().
        """
        queue = self._queues.get(channel)
        if queue is not None:
            left = queue.wants.get(end, 0) - count
            if left > 0:
                queue.wants[end] = left
            else:
                queue.wants.pop(end, None)

    def put_back(self, channel: str, payload: bytes, expires: float) -> None:
        """What was delivered of a shared channel and nobody took: the next to be delivered, full or not."""
        if expires <= self._clock():
            self.expired += 1
            return
        queue = self._queues.get(channel) or self._open_queue(channel, channel)
        if queue.wants:
            self._next_wanting(queue.wants).deliver(channel, payload, expires, False)
        else:
            queue.messages.appendleft((channel, payload, expires))

    def took(self, end: End, prefix: str, count: int) -> None:
        """*end* has read, or found too old, so many counted messages of a prefix (with its "!")."""
        route = self._routes.get(prefix)
        if route is not None and route.end is end:
            left = route.pending - count
            # Less than nothing: they were of before a flush().
            route.pending = left if left > 0 else 0

    def taken(self, end: End, prefix_counts: Mapping[str, int]) -> None:
        """The same for several prefixes."""
        for prefix, count in prefix_counts.items():
            self.took(end, prefix, count)

    # Groups.

    def group_add(self, end: End | None, group: str, channel: str, stream: str = "") -> None:
        """
        Make *channel* a member of *group*; what it is already is renewed.

        Args:
            end: who asks; None for somebody who is no member.
            stream: the label, where the channel is the asker's own.
        """
        self.groups.add(end, group, channel, stream)

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership, whoever asks."""
        self.groups.discard(group, channel)

    def put_group(self, group: str, payload: bytes, expires: float | None = None) -> None:
        """Send to a group: once to each member that has channels in it."""
        now = self._clock()
        self.groups.send(group, payload, now + self.expiry if expires is None else expires, now)

    def group_losses(self) -> dict[str, int]:
        """Group messages that did not get to a member, since the start, by the reason."""
        gaps = self.groups.gaps
        return {
            "channel_full": self.groups.dropped,
            "gap_full": gaps.overflowed,
            "gap_expired": gaps.expired,
        }

    def stream_leaving(self, end: End, stream: str) -> None:
        """*end* gives a stream away: its memberships end here and now, and a gap opens for them."""
        self.groups.stream_leaving(end, stream)

    def stream_held(self, end: End, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None:
        """
        The session that *end* had of a stream is over.

        Args:
            held: (group, payload, expires): what its channels still held if it was leaving, oldest first.
        """
        self.groups.stream_held(end, stream, held)

    # Traffic of the relay.

    def post(self, sender: str, to: str, payload: bytes) -> bool:
        """Envelopes for another member. False: there is none of this name."""
        end = self._ends.get(to)
        if end is None:
            return False
        end.deliver_post(sender, payload)
        return True

    def offer(self, end: End, channel: str, ref: int, payload: bytes, limit: int) -> str | None:
        """
        A stream for whoever serves *channel*.

        Returns:
            the name of the member that has got it; "" if it waits, and *end* will be told claimed(); None if
            *limit* (0: none) wait already.
        """
        offers = self._offers.get(channel) or self._open_offers(channel)
        chosen = offers.choose()
        if chosen is None:
            if limit and len(offers.waiting) >= limit:
                offers.refused += 1
                return None
            offers.waiting[end, ref] = payload
            return ""
        chosen.deliver_offer(channel, end.name, ref, payload)
        return chosen.name

    def withdraw(self, end: End, channel: str, ref: int) -> None:
        """An offer that waits does so no longer. One that somebody has already: nothing happens."""
        offers = self._offers.get(channel)
        if offers is not None:
            offers.waiting.pop((end, ref), None)

    def serve(self, end: End, channel: str, places: int) -> None:
        """*end* takes so many more offers; fewer where the number is negative."""
        offers = self._offers.get(channel) or self._open_offers(channel)
        offers.serve(end, places)
        if offers.waiting:
            self._hand_out(channel, offers)

    def suspend(self, name: str) -> None:
        """
        No offers to this member until resume(): its free places count as none. Unknown names: nothing.

        For a worker that cannot say itself that it is stuck; having the most places, it would get every offer.
        """
        end = self._ends.get(name)
        if end is not None:
            self._suspended.add(end)

    def resume(self, name: str) -> None:
        """See suspend()."""
        end = self._ends.get(name)
        if end in self._suspended:
            self._suspended.discard(end)
            for channel, offers in self._offers.items():
                self._hand_out(channel, offers)

    # Age, and the whole.

    def expire(self) -> None:
        """Drop what is too old. Reading never gives out what is; this frees its memory, and closes gaps."""
        now = self._clock()
        for name, queue in list(self._queues.items()):
            self._drop_expired(queue)
            if not queue.messages and not queue.wants and (name[-1] == "!" or queue.used + _REMEMBERED < now):
                del self._queues[name]
        for prefix, route in list(self._routes.items()):
            if not route.pending and route.used + _REMEMBERED < now:
                del self._routes[prefix]
                self._ways.clear()
        self.groups.expire(now)

    def flush(self) -> None:
        """Forget messages, groups and gaps. Who waits for a message waits on; streams are untouched."""
        for queue in self._queues.values():
            queue.messages.clear()
        for route in self._routes.values():
            route.pending = 0
        self.groups.clear()
        for end in self._ends.values():
            end.flushed()

    def statistics(self) -> dict[str, dict[str, float]]:
        """
        Per channel (of those with "!": per part up to it; of those that are served: offers).

        `messages_count` sent since it came to be, `messages_pending` waiting now, `messages_max_age` in
        seconds of the oldest one that waits here, `channel_full_count` refused.
        """
        now = self._clock()
        found: dict[str, dict[str, float]] = {}
        for name, queue in self._queues.items():
            age = now - (queue.messages[0][2] - self.expiry) if queue.messages else 0.0
            found[name] = _figures(queue.count, len(queue.messages), max(0.0, age), queue.full)
        for prefix, route in self._routes.items():
            found[prefix] = _figures(route.count, route.pending, 0.0, route.full)
        for channel, offers in self._offers.items():
            waiting = len(offers.waiting)
            found[channel] = _figures(offers.taken + waiting, waiting, 0.0, offers.refused)
        return found

    # Private.

    def _find_route(self, prefix: str, channel: str) -> _Route | None:
        route = self._routes.get(prefix)
        if route is None:
            end = self._ends.get(owner_name(prefix))
            if end is None:
                return None
            route = self._routes[prefix] = _Route(end, self._capacity_of(channel))
        if len(self._ways) >= _MAX_WAYS:
            self._ways.clear()
        self._ways[channel] = route
        return route

    def _open_queue(self, name: str, channel: str) -> _Queue:
        queue = self._queues[name] = _Queue(self._capacity_of(channel))
        queue.used = self._clock()
        return queue

    def _open_offers(self, channel: str) -> Offers[End]:
        offers = self._offers[channel] = Offers(self._suspended)
        return offers

    def _hand_out(self, channel: str, offers: Offers[End]) -> None:
        """Give what waits to those with free places."""
        while offers.waiting:
            chosen = offers.choose()
            if chosen is None:
                return
            (offerer, ref), payload = offers.waiting.popitem(last=False)
            chosen.deliver_offer(channel, offerer.name, ref, payload)
            offerer.claimed(ref, chosen.name)

    @staticmethod
    def _next_wanting(wants: dict[End, int]) -> End:
        """Whose turn it is; its next one is after all others'."""
        end = next(iter(wants))
        left = wants.pop(end) - 1
        if left:
            wants[end] = left
        return end

    def _drop_expired(self, queue: _Queue) -> bool:
        messages, now = queue.messages, self._clock()
        before = len(messages)
        while messages and messages[0][2] <= now:
            messages.popleft()
        dropped = before - len(messages)
        self.expired += dropped
        return dropped > 0


def _figures(count: int, pending: int, age: float, full: int) -> dict[str, float]:
    return {
        "messages_count": count,
        "messages_pending": pending,
        "messages_max_age": age,
        "channel_full_count": full,
    }
