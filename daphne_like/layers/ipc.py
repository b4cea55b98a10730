"""
A channel layer between the processes of one machine, over a Unix socket.

One process hosts the hub in its memory: serve() is what a server does. All others join it: open() where an
event loop runs that is to carry the connection, as a worker's, or nothing at all: the first use joins then, on
the loop of a thread of its own, which is what `manage.py shell`, Celery and a cron job do. Either way the layer
can be used from any event loop and thread; from the connection's own loop there is no hop between threads.

The truth about a process' channels, its receive()s and its memberships is in its own mailbox. So when the host
goes away, everybody else waits, rejoins and tells the next host; what was being sent raises LayerUnavailable,
since nobody knows whether it arrived; what is sent meanwhile waits for `send_timeout`. A process that serves,
but found a host already, takes its place when that is gone.

The host's expiry of memberships and its capacities of channels count; the expiry of messages is their
sender's, the capacity for group messages that of the process which receives them. What shared channels hold,
and their memberships, is the host's memory, and gone with it.

After a fork the child is a process of its own: it begins with nothing and joins by itself.
"""

import asyncio
import logging
import threading
import time
import uuid
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .base import BaseChannelLayer, ChannelFull, current_stream
from .broker import Broker
from .codec import pack_message, unpack
from .forks import forget_after_fork
from .frames import Op, encode, encode_name, encode_send
from .hub import Hub
from .ipc_member import LinkDoor, LinkedMailbox, encode_group_add
from .ipc_port import IPCPort
from .link import Link
from .loop_thread import LoopThread, in_loop
from .mailbox import Mailbox
from .memory import new_name

__all__ = ["IPCChannelLayer"]

log = logging.getLogger(logs.LAYERS)

_T = TypeVar("_T")

# Seconds between looking for what is too old.
TICK = 1.0


class IPCChannelLayer(BaseChannelLayer):
    """
    See BaseChannelLayer for what it promises.

    Args:
        path: of the Unix socket.
        mode: its file mode, where this process hosts the hub.
        send_timeout: seconds to wait for a host, or for its answer, before LayerUnavailable.
        clock: seconds, the same in all processes of the layer; tests bring their own.
    """

    def __init__(
        self,
        path: str,
        *,
        mode: int = 0o600,
        send_timeout: float = 10.0,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity
        )
        self._clock = clock
        self.path = path
        self.mode = mode
        self.send_timeout = send_timeout
        self._begin()
        forget_after_fork(self)

    def _begin(self) -> None:
        """As a process that has nothing to do with any hub yet."""
        self._lock = threading.RLock()
        self._serving = False
        self._hub: Hub | None = None
        self._broker: Broker | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._losses: dict[str, int] = {}
        self._thread: LoopThread | None = None
        self._door = LinkDoor()
        self._mailbox = Mailbox(
            new_name(), self._door, capacity_of=self._capacities.of, clock=self._clock, lock=self._lock
        )
        self._make_link()

    def _make_link(self) -> None:
        member = LinkedMailbox(self.path, self._mailbox, self._door, self.send_timeout, self._take_over)
        self._link: Link = member.link

    # -- joining and serving -----------------------------------------------------------------------

    @property
    def hub(self) -> Hub | None:
        """The hub, while this process hosts it. Use it under `lock`."""
        return self._hub

    @property
    def lock(self) -> "threading.RLock":
        return self._lock

    async def serve(self) -> bool:
        """
        Host the hub, on the running event loop; where another process does, join it and be its successor.

        Returns:
            whether this process hosts it now.

        Raises:
            LayerUnavailable: neither can be.
        """
        self._serving = True
        if self._hub is None:
            if not await self._host():
                await self.open()
            elif self._link.loop is not None:
                # Used before: who waits for a host has it now.
                await self._stop_link(found=True)
        return self._hub is not None

    async def open(self) -> None:
        """
        Join, with the connection on the running event loop. Does nothing if that is so already.

        Raises:
            LayerUnavailable: no host in `send_timeout` seconds. It is looked for on, until close().
        """
        if self._hub is not None:
            return
        loop = asyncio.get_running_loop()
        if self._thread is not None:
            # Used before it was opened: it moves over to here.
            await self._stop_link(found=False)
        if self._link.loop is None or self._link.loop.is_closed():
            self._renew_link()
            self._link.start()
        await in_loop(self._link.ready, self._link.loop or loop)

    async def close(self) -> None:
        """Leave the layer. Who uses it afterwards joins anew, with nothing."""
        self._serving = False
        broker = self._broker
        if broker is not None:
            await in_loop(self._stop_hosting, broker.loop)
        if self._link.loop is not None:
            await self._stop_link(found=False)
        self._mailbox.close()

    async def _stop_link(self, *, found: bool) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        link = self._link
        try:
            await in_loop(lambda: link.stop(found=found), link.loop)
        finally:
            if thread is not None:
                thread.stop()

    async def _host(self) -> bool:
        hub = Hub(
            clock=self._clock,
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            capacity=self.capacity,
            channel_capacity=self.channel_capacity,
        )
        broker = Broker(hub, self._lock, path=self.path, mode=self.mode)
        if not await broker.start():
            return False
        with self._lock:
            self._broker, self._hub = broker, hub
            self._losses = hub.group_losses()
            hub.join(self._mailbox)
            self._mailbox.rejoin(hub)
        self._tick()
        log.info("hosting layer", extra={"layer": f"ipc:{self.path}"})
        return True

    async def _take_over(self) -> bool:
        """The link has found no broker."""
        if self._hub is None and self._serving:
            try:
                await self._host()
            except LayerUnavailable as error:
                log.warning("cannot host layer", extra={"layer": f"ipc:{self.path}", "reason": str(error)})
        return self._hub is not None

    async def _stop_hosting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._broker is not None:
            await self._broker.close()
        with self._lock:
            if self._hub is not None:
                self._hub.leave(self._mailbox)
            self._broker = self._hub = None
            self._mailbox.door = self._door

    def _tick(self) -> None:
        if self._broker is not None and self._hub is not None:
            self._timer = self._broker.loop.call_later(TICK, self._tick)
            self._broker.tick()
            with self._lock:
                self._hub.expire()
                self._mailbox.expire()
                losses = self._hub.group_losses()
            if losses != self._losses:
                log.warning(
                    "group messages lost",
                    extra={reason: count - self._losses.get(reason, 0) for reason, count in losses.items()},
                )
                self._losses = losses

    def _renew_link(self) -> None:
        """Its event loop was closed without it: the broker drops the old connection when the new one comes."""
        if self._link.loop is not None:
            self._make_link()

    def _start(self) -> None:
        """Join, if nobody has begun to: on a thread of our own."""
        with self._lock:
            loop = self._link.loop
            if self._hub is None and (loop is None or loop.is_closed()):
                self._renew_link()
                self._thread = LoopThread("daphne_like ipc member")
                self._thread.call(self._link.start)

    # -- the public API ----------------------------------------------------------------------------

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        payload = pack_message(message)
        expires = self._clock() + self.expiry
        hub = self._hub
        if hub is not None:
            with self._lock:
                sent = hub.put(channel, payload, expires)
        else:
            head = encode_send(expires, channel, len(payload))
            link = self._link
            if link.connected and running_loop() is link.loop:
                sent = await link.request(head, payload)
            else:
                answer = await self._ask(head, payload)
                if answer is None:
                    return await self.send(channel, message)
                sent = answer
        if not sent:
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        if self._hub is None and not self._link.connected:
            self._start()
        found = self._mailbox.ask(channel)
        message: dict[str, Any] = unpack(found if isinstance(found, bytes) else await found)
        return message

    async def new_channel(self, prefix: str = "specific") -> str:
        channel = f"{prefix}.{self._mailbox.name}!{uuid.uuid4().hex}"
        self.require_valid_channel_name(channel)
        return channel

    async def group_add(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        label = self._mailbox.label(channel, current_stream.get())
        while self._hub is None:
            if await self._ask(encode_group_add(group, channel, label)) is not None:
                return
        with self._lock:
            self._hub.group_add(self._mailbox, group, channel, label)

    async def group_discard(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        own = self._mailbox.owns(channel)
        if own:
            # From here on it is so. A broker that comes later is never told of it.
            self._mailbox.discard(group, channel)
        head = encode(Op.GROUP_DISCARD, (), encode_name(group) + encode_name(channel), 0)
        while self._hub is None:
            if own:
                return self._link.register(head)
            if await self._ask(head) is not None:
                return None
        with self._lock:
            self._hub.group_discard(group, channel)
        return None

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        payload = pack_message(message)
        expires = self._clock() + self.expiry
        head = encode(Op.GROUP_SEND, (expires,), encode_name(group), len(payload))
        while self._hub is None:
            if await self._ask(head, payload) is not None:
                return
        with self._lock:
            self._hub.put_group(group, payload, expires)

    async def flush(self) -> None:
        while self._hub is None:
            if await self._ask(encode(Op.FLUSH, (), b"", 0)) is not None:
                return
        with self._lock:
            self._hub.flush()

    async def statistics(self) -> dict[str, dict[str, float]]:
        """Per channel, see Hub.statistics()."""
        while self._hub is None:
            self._start()
            found = await in_loop(self._ask_statistics, self._link.loop)
            if found is not None:
                return found
        with self._lock:
            return self._hub.statistics()

    def port(self) -> IPCPort:
        """Each port is a member of its own."""
        return IPCPort(lambda: self._hub, self.path, self._lock, self.send_timeout, self._take_over)

    def stream_leaving(self, stream: str) -> None:
        self._mailbox.stream_leaving(stream)

    def stream_left(self, stream: str) -> None:
        self._mailbox.stream_left(stream)

    def _check_membership(self, group: str, channel: str) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)

    # -- asking a broker ---------------------------------------------------------------------------

    async def _ask(self, head: bytes, payload: bytes = b"") -> bool | None:
        """
        Say what is acknowledged, from whichever loop.

        Returns:
            None if this process hosts the hub meanwhile: nothing was said.
        """
        self._start()
        link = self._link
        return await in_loop(lambda: self._ask_link(link, head, payload), link.loop)

    async def _ask_link(self, link: Link, head: bytes, payload: bytes) -> bool | None:
        while not link.connected:
            if self._hub is not None:
                return None
            await link.ready()
        return await link.request(head, payload)

    async def _ask_statistics(self) -> dict[str, dict[str, float]] | None:
        link = self._link
        while not link.connected:
            if self._hub is not None:
                return None
            await link.ready()
        found: dict[str, dict[str, float]] = unpack(await link.statistics())
        return found

    def forked(self) -> None:
        self._link.abandon()
        if self._broker is not None:
            self._broker.abandon()
        self._begin()
