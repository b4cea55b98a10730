"""
The relay's door to an `ipc` layer, wherever the hub is.

A port is a member of its own: with a connection of its own while the hub is elsewhere, so that closing it is
what others see as member_gone(); at the hub itself once this process hosts it. An IPCPort is the one that its
user keeps meanwhile. Between two hubs, or while there is none, its user is told port_lost() and port_regained().

What is posted to one address within a turn leaves in batches of up to MAX_BATCH octets.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .codec import join
from .frames import MAX_PAYLOAD
from .hub import Hub
from .ipc_member import LinkDoor, TakeOver
from .link import Link
from .member_port import MemberPort
from .memory import MemoryPort, new_name
from .port import Envelope, PortUser

__all__ = ["IPCPort"]

log = logging.getLogger(logs.LAYERS)

# Far below what a frame carries: an envelope alone may be about 300 KiB.
MAX_BATCH = 1024 * 1024


class _BatchingPort(MemberPort):
    """A port that never posts more at once than a frame carries."""

    def flush(self) -> None:
        self._flush_scheduled = False
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, {}
            with self._lock:
                for to, packed in outgoing.items():
                    for batch in _batches(packed):
                        self._door.post(self._end.name, to, join(batch))


def _batches(packed: list[bytes]) -> Iterator[list[bytes]]:
    if sum(map(len, packed)) <= MAX_BATCH:
        yield packed
        return
    batch: list[bytes] = []
    size = 0
    for each in packed:
        if size + len(each) > MAX_BATCH and batch:
            yield batch
            batch, size = [], 0
        if len(each) > MAX_PAYLOAD:
            # Its stream ends by the gap. Nothing that keeps to the relay's credit is that large.
            log.error("relay envelope larger than a frame", extra={"octets": len(each)})
            continue
        batch.append(each)
        size += len(each)
    yield batch


class _HubPort(_BatchingPort, MemoryPort):
    """A port at a hub in this process."""


class _LinkedPort(_BatchingPort):
    """
    A port at the near end of a link, a LinkUser.

    What has come with one read is handed in when that is over, in the same turn: none of ours is in a call then.
    """

    def __init__(self, path: str, lock: "threading.RLock", send_timeout: float, take_over: TakeOver) -> None:
        self.name = new_name()
        self.link = Link(path, self, send_timeout=send_timeout)
        self.take_over = take_over
        self._joined_before = False
        door = LinkDoor()
        door.link = self.link
        super().__init__(self, door, lock)

    def flush(self) -> None:
        super().flush()
        self.link.flush()

    def joined(self) -> None:
        if self._joined_before:
            self._arrive(lambda user: user.port_regained())
        self._joined_before = True

    def lost(self) -> None:
        # Of no read, so that nothing follows.
        super()._arrive(lambda user: user.port_lost())

    def _arrive(self, call: Callable[[PortUser], None]) -> None:
        self._arrived.append(call)

    def all_told(self) -> None:
        if self._arrived:
            self._hand_in()

    def moved(self) -> None:
        """What it was is going on elsewhere: its user hears nothing more from it."""
        self._user = None

    # It has no channels and no groups.

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None: ...

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None: ...

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None: ...

    def group_added(self, group: str, channel: str) -> None: ...

    def group_discarded(self, group: str, channel: str) -> None: ...

    def stream_diverted(self, stream: str) -> None: ...

    def flushed(self) -> None: ...

    def tick(self) -> None: ...


class IPCPort:
    """
    See Port.

    Args:
        find_hub: the hub, once this process hosts it.
        path, lock, send_timeout: the layer's.
        take_over: of the layer; called where the port finds no broker.
    """

    knows_claims = True

    def __init__(
        self,
        find_hub: Callable[[], Hub | None],
        path: str,
        lock: "threading.RLock",
        send_timeout: float,
        take_over: TakeOver,
    ) -> None:
        self._find_hub = find_hub
        self._path = path
        self._lock = lock
        self._send_timeout = send_timeout
        self._layer_takes_over = take_over
        self.address = ""
        self._user: PortUser | None = None
        self._port: _HubPort | _LinkedPort | None = None

    async def open(self, user: PortUser) -> None:
        """See Port."""
        if self._port is not None:
            raise LayerUnavailable("the port is open already")
        self._user = user
        hub = self._find_hub()
        if hub is not None:
            await self._open_at(hub, user)
            return
        linked = self._port = _LinkedPort(self._path, self._lock, self._send_timeout, self._take_over)
        # Before the link, which may bring something at once.
        await linked.open(user)
        linked.link.start()
        try:
            await linked.link.ready()
        except BaseException:
            await self.close()
            raise
        if self._port is linked:
            self.address = linked.address

    async def close(self) -> None:
        """See Port."""
        port, self._port = self._port, None
        self._user = None
        self.address = ""
        if port is not None:
            await port.close()
            if isinstance(port, _LinkedPort):
                await port.link.stop()

    def post(self, to: str, envelope: Envelope) -> None:
        """See Port."""
        if self._port is not None:
            self._port.post(to, envelope)

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """See Port."""
        return self._port.offer(channel, ref, opening, limit) if self._port is not None else ""

    def withdraw(self, channel: str, ref: int) -> None:
        """See Port."""
        if self._port is not None:
            self._port.withdraw(channel, ref)

    def serve(self, channel: str, places: int) -> None:
        """See Port."""
        if self._port is not None:
            self._port.serve(channel, places)

    def flush(self) -> None:
        """See Port."""
        if self._port is not None:
            self._port.flush()

    def member_ended(self, address: str) -> None:
        """Its connection has told the hub."""

    def member_suspended(self, address: str, suspended: bool) -> None:
        """The hub's host has told it."""

    async def _open_at(self, hub: Hub, user: PortUser) -> None:
        port = _HubPort(hub, self._lock)
        await port.open(user)
        self._port = port
        self.address = port.address

    async def _take_over(self) -> bool:
        """There is no broker where the link looks for one: this process may have become it, or do so now."""
        hub = self._find_hub()
        if hub is None and await self._layer_takes_over():
            hub = self._find_hub()
        linked, user = self._port, self._user
        if hub is None or not isinstance(linked, _LinkedPort) or user is None:
            return False
        linked.moved()
        await self._open_at(hub, user)
        user.port_regained()
        return True
