"""
A channel layer between any number of machines, over Redis.

    CHANNEL_LAYERS = {"default": {"BACKEND": "daphne_like.layers.redis.RedisChannelLayer",
                                  "CONFIG": {"hosts": ["redis://10.0.0.1:6379"]}}}

All of it lives in one event loop, its *home*, because a connection belongs to one. That is the loop in which
open() is called, else that of the first use if it is one that lasts; async_to_sync's do not, and then it is the
loop of a thread of its own. From its home the layer is used without a hop between threads; others reach it
through that loop. When the home ends, the next use makes another one, of the same name, with what had arrived.

After a fork the child is a process of its own: it begins with nothing and joins by itself.
"""

import asyncio
import sys
import threading
import uuid
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine, Iterable, Mapping
from threading import get_ident
from typing import Any, TypeVar

from daphne_like.errors import ConfigurationError

from ..base import BaseChannelLayer, ChannelFull, current_stream, stream_will
from ..codec import pack_message, unpack
from ..encryption import Encryption
from ..forks import forget_after_fork
from ..loop_thread import LoopThread, in_loop
from ..memory import new_name
from .door import RedisDoor, RedisMailbox
from .hosts import parse
from .keys import Keys
from .member import RedisMember
from .memberships import Memberships
from .port import RedisPort
from .statistics import read_statistics
from .topology import Topology, topology_of
from .wills import Wills

__all__ = ["RedisChannelLayer"]

_T = TypeVar("_T")


class RedisChannelLayer(BaseChannelLayer):
    """
    See BaseChannelLayer for what it promises. Making one connects nowhere.

    Args:
        hosts: which engines, see `daphne_like.layers.redis.hosts`; redis://localhost:6379 unless told.
        prefix: of all keys.
        symmetric_encryption_keys: of what is written to the engine; the first seals, all open.
        send_timeout: seconds to wait for the engine, or for its answer, before LayerUnavailable.

    Raises:
        ConfigurationError: hosts, prefix or keys that cannot be right.
    """

    def __init__(
        self,
        hosts: Any = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        *,
        send_timeout: float = 10.0,
    ) -> None:
        super().__init__(
            expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity
        )
        if not isinstance(prefix, str) or not prefix.isprintable() or not prefix or set(prefix) & set("{}"):
            raise ConfigurationError(f"prefix {prefix!r} should be text without braces")
        self.hosts = parse(hosts)
        self.prefix = prefix
        self.send_timeout = send_timeout
        self.encryption = Encryption(symmetric_encryption_keys) if symmetric_encryption_keys else None
        self._begin()
        forget_after_fork(self)

    def _begin(self) -> None:
        """As a process that has nothing to do with the layer yet."""
        # Of the mailbox, and all that it is in one step with; of who is the member, and made before it.
        self._lock = threading.RLock()
        self._home_lock = threading.RLock()
        self._door = RedisDoor()
        self._mailbox = RedisMailbox(new_name(), self._door, capacity_of=self._capacities.of, lock=self._lock)
        self._memberships = Memberships(self._mailbox, self._lock, self.group_expiry)
        self._wills = Wills()
        self._member: RedisMember | None = None
        self._thread: LoopThread | None = None

    def _make_topology(self) -> Topology:
        return topology_of(self.hosts)

    @property
    def client_prefix(self) -> str:
        """What channels of this process have before their "!", by the name that channels_redis gives it."""
        return self._mailbox.name

    # -- the home ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """
        Make the running event loop the home, and connect. Does nothing if that is so already.

        Raises:
            LayerUnavailable: no engine in `send_timeout` seconds. It is looked for on, until close().
        """
        loop = asyncio.get_running_loop()
        member = self._living_member()
        if member is not None and member.loop is not loop and self._thread is not None:
            # Used before it was opened: it moves over to here.
            await self._leave(for_good=False)
        member = self._find_member()
        await in_loop(member.engine.ready, member.loop)

    async def close(self) -> None:
        """Leave the layer. Who uses it afterwards joins anew, with nothing."""
        await self._leave(for_good=True)
        self._door.listened = False
        self._memberships.clear()
        self._mailbox.close()

    async def close_pools(self) -> None:
        """Disconnect; the next use goes on with what has arrived. channels_redis has it so."""
        await self._leave(for_good=False)

    async def _leave(self, *, for_good: bool) -> None:
        with self._home_lock:
            member, self._member = self._member, None
            thread, self._thread = self._thread, None
        try:
            if member is not None:
                if _is_alive(member.loop):
                    await in_loop(lambda: member.leave(for_good=for_good), member.loop)
                else:
                    member.abandon()
        finally:
            if thread is not None:
                thread.stop()

    def _living_member(self) -> RedisMember | None:
        member = self._member
        return member if member is not None and _is_alive(member.loop) else None

    def _find_member(self) -> RedisMember:
        """This process' member; made where there is none, in the running loop or in a thread's."""
        with self._home_lock:
            member = self._living_member()
            if member is not None:
                return member
            if self._member is not None:
                # Its loop was closed, or stopped, without a word. What reads there would go on eating.
                self._member.abandon()
                self._member = None
            loop = running_loop()
            if loop is not None and _lasts(loop):
                return self._make_member()
            self._thread = LoopThread("daphne_like redis member")
            made: list[RedisMember] = []
            self._thread.call(lambda: made.append(self._make_member()))
            return made[0]

    def _make_member(self) -> RedisMember:
        topology = self._make_topology()
        member = RedisMember(
            self._mailbox,
            self._door,
            self._memberships,
            topology,
            keys=Keys(self.prefix, topology.parts),
            capacity_of=self._capacities.of,
            expiry=self.expiry,
            encryption=self.encryption,
            send_timeout=self.send_timeout,
            orphaned=self._orphaned,
        )
        self._member = member
        member.start()
        return member

    def _orphaned(self, member: RedisMember) -> None:
        """Its loop has ended."""
        with self._home_lock:
            if self._member is member:
                self._member = None
                if self._mailbox.waits_beyond(member.loop):
                    self._thread = LoopThread("daphne_like redis member")
                    self._thread.call(self._make_member)

    # -- the public API ----------------------------------------------------------------------------

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        payload = pack_message(message)
        member = self._member
        if member is not None and get_ident() == member.thread and member.loop.is_running():
            sent = await member.send(channel, payload)
        else:
            sent = await self._ask(lambda member: member.ask_send(channel, payload))
        if not sent:
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)
        member = self._member
        here = None
        if member is None or not member.listening or not member.loop.is_running():
            self._listen()
        elif get_ident() == member.thread:
            here = member.loop
        found = self._mailbox.ask(channel, here)
        message: dict[str, Any] = unpack(found if isinstance(found, bytes) else await found)
        return message

    async def new_channel(self, prefix: str = "specific") -> str:
        channel = f"{prefix}.{self._mailbox.name}!{uuid.uuid4().hex}"
        self.require_valid_channel_name(channel)
        return channel

    async def group_add(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        stream = current_stream.get()
        if stream and self._mailbox.is_being_given_away(stream):
            await self._ask(lambda member: member.handoffs.settle(stream))
        label = self._mailbox.label(channel, stream)
        tell = stream_will.get() if label else None
        if tell is not None:
            self._wills.added(label, group, channel, tell)
        await self._ask(lambda member: member.groups.add(group, channel, label))

    async def group_discard(self, group: str, channel: str) -> None:
        self._check_membership(group, channel)
        self._wills.discarded(group, channel)
        await self._ask(lambda member: member.groups.discard(group, channel))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        payload = pack_message(message)
        await self._ask(lambda member: member.groups.send(group, payload))

    async def flush(self) -> None:
        await self._ask(lambda member: member.flush())

    async def statistics(self) -> dict[str, dict[str, float]]:
        """Per channel, as Hub.statistics() has it, of all processes."""
        return await self._ask(lambda member: read_statistics(member.engine, member.keys, self.expiry))

    def port(self) -> RedisPort:
        """Each port is a member of its own."""
        return RedisPort(
            self._make_topology,
            prefix=self.prefix,
            send_timeout=self.send_timeout,
            encryption=self.encryption,
        )

    def stream_leaving(self, stream: str) -> None:
        self._mailbox.stream_leaving(stream)

    def stream_left(self, stream: str) -> None:
        self._wills.over(stream)
        self._mailbox.inherited.pop(stream, None)
        self._mailbox.stream_left(stream)

    def stream_inherited(self, stream: str, will: Mapping[str, str]) -> None:
        self._mailbox.inherited[stream] = will

    # -- for code without an event loop ------------------------------------------------------------

    def send_sync(self, channel: str, message: dict[str, Any]) -> None:
        self._do_sync(lambda: self.send(channel, message))

    def group_send_sync(self, group: str, message: dict[str, Any]) -> None:
        self._do_sync(lambda: self.group_send(group, message))

    def _do_sync(self, function: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        if running_loop() is not None:
            raise RuntimeError("an event loop runs in this thread: await the layer's send() or group_send()")
        return asyncio.run_coroutine_threadsafe(function(), self._find_member().loop).result()

    # -- private -----------------------------------------------------------------------------------

    def _check_membership(self, group: str, channel: str) -> None:
        if group not in self._good_groups:
            self.require_valid_group_name(group)
        if channel not in self._good_channels:
            self.require_valid_channel_name(channel)

    async def _ask(self, function: Callable[[RedisMember], Coroutine[Any, Any, _T]]) -> _T:
        """Have the member do something, from whichever loop."""
        member = self._find_member()
        return await in_loop(lambda: function(member), member.loop)

    def _listen(self) -> None:
        """Have this process' inbox read."""
        member = self._find_member()
        if not member.listening:
            if running_loop() is member.loop:
                member.listen()
            else:
                member.loop.call_soon_threadsafe(member.listen)

    def forked(self) -> None:
        if self._member is not None:
            self._member.abandon()
        self._begin()


def _is_alive(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether anything happens in it: in one that is not running just now, nothing does."""
    return loop.is_running()


def _lasts(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether it is more than one call of async_to_sync(), which runs each in a loop of its own."""
    asgiref = sys.modules.get("asgiref.sync")
    of_calls = getattr(getattr(asgiref, "AsyncToSync", None), "loop_thread_executors", {})
    return loop not in of_calls
