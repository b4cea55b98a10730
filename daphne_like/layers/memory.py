"""
A channel layer within one process: a hub, a mailbox, and one lock around both.

Messages are packed and unpacked as if they travelled, so that nothing works here that fails between processes,
and nobody's message is another's object. What is too old is looked for in passing, once a second; there is no
task and no thread.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from .base import BaseChannelLayer, ChannelFull, current_stream
from .codec import pack_message, unpack
from .hub import Hub
from .mailbox import Mailbox
from .member_port import MemberPort
from .port import PortUser

__all__ = ["MemoryChannelLayer"]

# Seconds between looking for what is too old.
TICK = 1.0


class MemoryChannelLayer(BaseChannelLayer):
    """
    See BaseChannelLayer for what it promises.

    Args:
        clock: seconds; tests bring their own.
        hub, lock, mailbox: of a member that goes on as this layer; together or none of them. The mailbox's
            capacities and the hub's settings are theirs.
    """

    def __init__(
        self,
        *,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        hub: Hub | None = None,
        lock: "threading.RLock | None" = None,
        mailbox: Mailbox | None = None,
    ) -> None:
        super().__init__(
            expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity
        )
        self._clock = clock
        self._lock = lock or threading.RLock()
        self.hub = hub or Hub(
            clock=clock,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
        )
        if mailbox is None:
            mailbox = Mailbox(
                new_name(), self.hub, capacity_of=self._capacities.of, clock=clock, lock=self._lock
            )
        self._mailbox = mailbox
        self._next_tick = clock() + TICK
        with self._lock:
            self.hub.join(mailbox)
            mailbox.rejoin(self.hub)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        payload = pack_message(message)
        now = self._clock()
        if now >= self._next_tick:
            self.tick()
        with self._lock:
            sent = self.hub.put(channel, payload, now + self.expiry)
        if not sent:
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        found = self._mailbox.ask(channel)
        message: dict[str, Any] = unpack(found if isinstance(found, bytes) else await found)
        return message

    async def new_channel(self, prefix: str = "specific") -> str:
        channel = f"{prefix}.{self._mailbox.name}!{uuid.uuid4().hex}"
        self.require_valid_channel_name(channel)
        return channel

    async def group_add(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        with self._lock:
            label = self._mailbox.label(channel, current_stream.get())
            self.hub.group_add(self._mailbox, group, channel, label)

    async def group_discard(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        with self._lock:
            self.hub.group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        payload = pack_message(message)
        now = self._clock()
        if now >= self._next_tick:
            self.tick()
        with self._lock:
            self.hub.put_group(group, payload, now + self.expiry)

    async def flush(self) -> None:
        with self._lock:
            self.hub.flush()

    async def close(self) -> None:
        """Leave the layer. It may be used again afterwards, and is empty then."""
        with self._lock:
            self.hub.flush()
            self._mailbox.close()

    def tick(self) -> None:
        """Drop what is too old. Done in passing while the layer is used; otherwise for a timer to call."""
        with self._lock:
            self._next_tick = self._clock() + TICK
            self.hub.expire()
            self._mailbox.expire()

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per channel, see Hub.statistics()."""
        with self._lock:
            return self.hub.statistics()

    def port(self) -> "MemoryPort":
        """Each port is a member of its own, so that a server and its workers can share the layer."""
        return MemoryPort(self.hub, self._lock)

    def stream_leaving(self, stream: str) -> None:
        self._mailbox.stream_leaving(stream)

    def stream_left(self, stream: str) -> None:
        self._mailbox.stream_left(stream)

    def _check_membership(self, group: str, channel: str) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)


class MemoryPort(MemberPort):
    """A member of the hub that has a port and no channels."""

    def __init__(self, hub: Hub, lock: "threading.RLock") -> None:
        self.name = new_name()
        self._hub = hub
        super().__init__(self, hub, lock)

    async def open(self, user: PortUser) -> None:
        await super().open(user)
        with self._lock:
            self._hub.join(self)

    async def close(self) -> None:
        await super().close()
        with self._lock:
            self._hub.leave(self)

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None:
        """It has no channels; neither has it groups."""

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None: ...

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None: ...

    def group_added(self, group: str, channel: str) -> None: ...

    def group_discarded(self, group: str, channel: str) -> None: ...

    def stream_diverted(self, stream: str) -> None: ...

    def flushed(self) -> None: ...


def new_name() -> str:
    """A name for a member that no other has: letters and digits."""
    return uuid.uuid4().hex[:16]
