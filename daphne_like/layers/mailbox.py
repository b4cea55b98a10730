"""
What a process keeps of a layer: the messages of its own channels, who waits in receive(), who is in a group.

A *box* holds what has arrived for one channel. Messages stay in it until a receive() takes one within a single
step; waking a waiting receive() says only that it is worth looking. So a receive() that is cancelled, in
whatever turn, has taken nothing, and another one is woken in its place. Boxes of shared channels hold only
what was asked for: what nobody waits for any more goes back to the hub.

receive() may wait in several event loops and threads at a time. Everything happens under one lock, which the
owner may share with the hub; a waiter of another loop is woken through its loop.

Streams: channels that a relayed stream's application added to groups carry its label, see
`daphne_like.layers.base`. For these the last message given out is remembered until the next receive(): Channels'
consumers drop it when the stream's end came in the same turn, and then the next instance must have it.

What when full: a box takes group messages up to its channel's capacity (that of a leaving stream as many as a
gap), the newest are dropped and counted. Other messages were let in, and counted, by the hub.
"""

import asyncio
import logging
import threading
import time
from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .boxes import Box, Stream
from .codec import Broadcast
from .gap import MAX_MESSAGES
from .groups import owner_name
from .member import End

__all__ = ["Door", "Mailbox"]

log = logging.getLogger(logs.LAYERS)


class Door(Protocol):
    """What a mailbox asks of the hub: its own methods. They must not wait, and may be called in any thread."""

    def take(self, channel: str) -> bytes | None:
        """The next message of a shared channel if one is at hand; else want() brings it."""

    def want(self, end: End, channel: str, count: int) -> None: ...

    def unwant(self, end: End, channel: str, count: int) -> None: ...

    def put_back(self, channel: str, payload: bytes, expires: float) -> None: ...

    def took(self, end: End, prefix: str, count: int) -> None: ...

    def group_add(self, end: End, group: str, channel: str, stream: str = "") -> None: ...

    def stream_leaving(self, end: End, stream: str) -> None: ...

    def stream_held(self, end: End, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None: ...


class Mailbox:
    """
    A member of a hub, without a port. Subclasses may look into its tables, under its lock.

    Args:
        name: the member's.
        door: the way to the hub; may be replaced, see rejoin().
        capacity_of: how many messages a channel may hold.
        clock: the hub's.
        lock: held in every method; given, if the hub is in this process, the hub's.

    Attributes:
        dropped: group messages that found a box full.
        expired: messages that grew too old here.
    """

    def __init__(
        self,
        name: str,
        door: Door,
        *,
        capacity_of: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
        lock: "threading.RLock | None" = None,
    ) -> None:
        self.name = name
        self.door = door
        self._capacity_of = capacity_of
        self._clock = clock
        self._lock = lock or threading.RLock()
        self._boxes: dict[str, Box] = {}
        # group -> this process' channels in it, and the other way round.
        self._groups: dict[str, dict[str, None]] = {}
        self._memberships: dict[str, set[str]] = {}
        self._streams: dict[str, Stream] = {}
        self.dropped = 0
        self._dropped_told = 0
        self.expired = 0

    # Receiving.

    async def receive(self, channel: str) -> bytes:
        """
        The next message, waited for.

        Raises:
            LayerUnavailable: close() was called meanwhile.
            ValueError: the channel is another process's.
        """
        found = self.ask(channel)
        return found if isinstance(found, bytes) else await found

    def ask(self, channel: str, here: asyncio.AbstractEventLoop | None = None) -> bytes | Awaitable[bytes]:
        """
        receive(): the message where one is at hand; else what is to be awaited, at once.

        *here* is the running loop, from who knows it: before Python 3.12 asyncio makes a system call to tell.
        """
        # acquire() and release() for each message, and not `with`, which costs as much again.
        lock = self._lock
        lock.acquire()
        try:
            box = self._boxes.get(channel) or self._open_own(channel)
            # Asking for the next one says that the last one was dealt with.
            box.last = None
            if box.messages or not box.prefix:
                payload = self._next(box)
                if payload is not None:
                    return payload
            future: asyncio.Future[None] = asyncio.Future(loop=here or asyncio.get_running_loop())
            box.waiters.append(future)
            box.readers.add(future)
            if not box.prefix:
                self.door.want(self, channel, 1)
        finally:
            lock.release()
        return self._wait(box, future)

    async def _wait(self, box: Box, future: "asyncio.Future[None]") -> bytes:
        lock = self._lock
        while True:
            try:
                await future
            except BaseException:
                with lock:
                    self._stop_waiting(box, future)
                raise
            lock.acquire()
            try:
                box.readers.discard(future)
                payload = self._next(box)
                if payload is not None:
                    return payload
                # Somebody else took it, or it was too old. It is our turn still.
                future = asyncio.Future(loop=future.get_loop())
                box.waiters.appendleft(future)
                box.readers.add(future)
                if not box.prefix:
                    self.door.want(self, box.channel, 1)
            finally:
                lock.release()

    def _next(self, box: Box) -> bytes | None:
        messages = box.messages
        while messages:
            item = messages.popleft()
            payload, expires, counted, _ = item
            if counted:
                self.door.took(self, box.prefix, 1)
            if expires > self._clock():
                if box.stream:
                    box.last = item
                return payload
            self.expired += 1
        return None if box.prefix else self.door.take(box.channel)

    def _stop_waiting(self, box: Box, future: "asyncio.Future[None]") -> None:
        box.readers.discard(future)
        try:
            box.waiters.remove(future)
        except ValueError:
            # It had been woken: what it was woken for is somebody else's now.
            if box.messages:
                self._wake(box)
        if not box.prefix:
            if len(box.messages) > len(box.readers):
                self._put_back(box)
            else:
                self.door.unwant(self, box.channel, 1)

    def _put_back(self, box: Box) -> None:
        """Give the hub what nobody waits for here; the last first, so that the order stays."""
        while len(box.messages) > len(box.readers):
            payload, expires, _, _ = box.messages.pop()
            self.door.put_back(box.channel, payload, expires)

    def _wake(self, box: Box, here: asyncio.AbstractEventLoop | None = None) -> None:
        """Have one of those who wait look into the box; *here*: as of ask()."""
        waiters = box.waiters
        while waiters:
            future = waiters.popleft()
            if future.done():
                # Cancelled, and not yet run.
                continue
            loop = future.get_loop()
            if loop is (here or running_loop()):
                future.set_result(None)
                return
            try:
                loop.call_soon_threadsafe(_release, future)
            except RuntimeError:
                # That loop is closed: whoever waited in it never runs again.
                box.readers.discard(future)
                continue
            return

    # What the hub delivers: see End.

    def deliver(
        self,
        channel: str,
        payload: bytes,
        expires: float,
        counted: bool,
        here: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        with self._lock:
            box = self._boxes.get(channel) or self._open(channel)
            box.messages.append((payload, expires, counted, ""))
            if box.waiters:
                self._wake(box, here)
            if not counted and not box.prefix and len(box.messages) > len(box.readers):
                self._put_back(box)

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None:
        with self._lock:
            channels = self._groups.get(group, ())
            if len(channels) > 1 and type(payload) is bytes:
                payload = Broadcast(payload)
            item = (payload, expires, False, group)
            boxes, here = self._boxes, running_loop()
            for channel in channels:
                box = boxes.get(channel) or self._open(channel)
                messages, waiters = box.messages, box.waiters
                if len(messages) >= box.capacity and not self._drop_expired(box):
                    self.dropped += 1
                    continue
                messages.append(item)
                if waiters:
                    # As _wake() does, for whoever waits here: nearly always it is one, in this loop.
                    if (first := waiters[0]).get_loop() is here and not first.done():
                        del waiters[0]
                        first.set_result(None)
                    else:
                        self._wake(box)

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None:
        with self._lock:
            box = self._boxes.get(channel) or self._open(channel)
            box.messages.append((payload, expires, False, group))
            box.capacity += 1  # it takes no room from what comes now
            if box.waiters:
                self._wake(box)

    def group_added(self, group: str, channel: str) -> None:
        with self._lock:
            self._groups.setdefault(group, {})[channel] = None
            self._memberships.setdefault(channel, set()).add(group)

    def group_discarded(self, group: str, channel: str) -> None:
        with self._lock:
            self._remove(group, channel)

    def stream_diverted(self, stream: str) -> None:
        with self._lock:
            known = self._streams.get(stream)
            if known is None:
                return
            for channel in known.channels:
                for group in list(self._memberships.get(channel, ())):
                    self._remove(group, channel)
            known.diverted = True
            if known.ended:
                self._hand_over(stream, known)

    def flushed(self) -> None:
        with self._lock:
            for box in self._boxes.values():
                box.messages.clear()
                box.last = None
            self._groups.clear()
            self._memberships.clear()

    def deliver_post(self, sender: str, payload: bytes) -> None:
        """A mailbox has no port."""

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None:
        """A mailbox serves nothing."""

    def claimed(self, ref: int, by: str) -> None:
        """A mailbox offers nothing."""

    def member_gone(self, name: str) -> None:
        """Nothing here depends on other members."""

    # Groups and streams, from the layer's side.

    def owns(self, channel: str) -> bool:
        """Whether a channel is this process's own."""
        return owner_name(channel[: channel.find("!") + 1]) == self.name

    def label(self, channel: str, stream: str) -> str:
        """
        Note that *channel* is added to a group within a stream.

        Returns:
            The label to tell the hub: "" for channels of others, and for a stream that is being given away.
        """
        with self._lock:
            if not stream or not self.owns(channel):
                return ""
            known = self._streams.get(stream)
            if known is None:
                known = self._streams[stream] = Stream()
            if known.leaving:
                return ""
            known.channels[channel] = None
            box = self._boxes.get(channel) or self._open(channel)
            box.stream = stream
            return stream

    def discard(self, group: str, channel: str) -> None:
        """
        The application leaves a group; the hub is told by the layer.

        A stream that is being given away leaves no group by this: its next instance gets what comes until the
        hub diverts it.
        """
        with self._lock:
            box = self._boxes.get(channel)
            known = self._streams.get(box.stream) if box is not None else None
            if known is None or not known.leaving:
                self._remove(group, channel)

    def stream_leaving(self, stream: str) -> None:
        """See BaseChannelLayer."""
        with self._lock:
            known = self._streams.get(stream)
            if known is None:
                known = self._streams[stream] = Stream()
            if known.leaving:
                return
            known.leaving = True
            for channel in known.channels:
                box = self._boxes.get(channel) or self._open(channel)
                box.capacity = max(box.capacity, MAX_MESSAGES)
            if known.channels:
                self.door.stream_leaving(self, stream)
            else:
                known.diverted = True

    def stream_left(self, stream: str) -> None:
        """See BaseChannelLayer."""
        with self._lock:
            known = self._streams.get(stream)
            if known is not None:
                known.ended = True
                # Until the hub says that it diverts, messages arrive here that it does not keep.
                if known.diverted or not known.leaving:
                    self._hand_over(stream, known)

    def _hand_over(self, stream: str, known: Stream) -> None:
        del self._streams[stream]
        held: list[tuple[str, bytes, float]] = []
        # Two channels of the stream in one group have the same messages: one of them counts.
        teller: dict[str, str] = {}
        for channel in known.channels:
            box = self._boxes.get(channel) or self._open(channel)
            if known.leaving:
                items = list(box.messages) if box.last is None else [box.last, *box.messages]
                for payload, expires, _, group in items:
                    if group and teller.setdefault(group, channel) == channel:
                        held.append((group, payload, expires))
                box.messages = deque(item for item in box.messages if not item[3])
            box.stream, box.last = "", None
        if known.channels:
            self.door.stream_held(self, stream, held)

    # The whole.

    def wants(self) -> dict[str, int]:
        """How many receive()s wait for each shared channel."""
        with self._lock:
            counts = {
                box.channel: len(box.readers) - len(box.messages)
                for box in self._boxes.values()
                if not box.prefix
            }
        return {channel: count for channel, count in counts.items() if count > 0}

    def memberships(self) -> list[tuple[str, str, str]]:
        """(group, channel, label) of this process."""
        with self._lock:
            return [
                (group, channel, self._boxes[channel].stream if channel in self._boxes else "")
                for channel, groups in self._memberships.items()
                for group in groups
            ]

    def rejoin(self, door: Door) -> None:
        """Tell a hub that knows nothing of this process what is so."""
        with self._lock:
            self.door = door
            for channel, count in self.wants().items():
                door.want(self, channel, count)
            for group, channel, stream in self.memberships():
                door.group_add(self, group, channel, stream)
            for stream, known in list(self._streams.items()):
                if known.leaving and not known.diverted:
                    door.stream_leaving(self, stream)

    def expire(self) -> None:
        """Drop what is too old, and boxes that nothing happens in; tell of losses. About once a second."""
        with self._lock:
            if self.dropped != self._dropped_told:
                lost = self.dropped - self._dropped_told
                self._dropped_told = self.dropped
                log.warning("group messages lost", extra={"channel_full": lost})
            for channel, box in list(self._boxes.items()):
                if box.messages:
                    self._drop_expired(box)
                elif not box.readers and not box.stream:
                    del self._boxes[channel]

    def close(self) -> None:
        """Whoever waits in receive() gets LayerUnavailable; what is here is forgotten."""
        with self._lock:
            self.flushed()
            self._streams.clear()
            for box in list(self._boxes.values()):
                box.stream = ""
                while box.waiters:
                    future = box.waiters.popleft()
                    try:
                        future.get_loop().call_soon_threadsafe(_refuse, future)
                    except RuntimeError:
                        # That loop is closed.
                        box.readers.discard(future)

    def _open(self, channel: str) -> Box:
        box = self._boxes[channel] = Box(channel, self._capacity_of(channel))
        return box

    def _open_own(self, channel: str) -> Box:
        if "!" in channel and not self.owns(channel):
            raise ValueError(f"{channel!r} is a channel of another process")
        return self._open(channel)

    def _drop_expired(self, box: Box) -> bool:
        messages, now = box.messages, self._clock()
        before = len(messages)
        while messages and messages[0][1] <= now:
            if messages.popleft()[2]:
                self.door.took(self, box.prefix, 1)
        self.expired += before - len(messages)
        return len(messages) < before

    def _remove(self, group: str, channel: str) -> None:
        channels = self._groups.get(group)
        if channels is not None and channel in channels:
            del channels[channel]
            if not channels:
                del self._groups[group]
            groups = self._memberships[channel]
            groups.discard(group)
            if not groups:
                del self._memberships[channel]


def _release(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _refuse(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(LayerUnavailable("the layer was closed"))
