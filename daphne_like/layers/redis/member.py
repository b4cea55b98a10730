"""
A process' part in the layer, in one event loop: its engine, its inbox, its lease.

What others have for this process comes through its inbox in one order and goes to the mailbox. The inbox is read
from the first time that there can be anything for it; who only sends needs no more than a connection. Each
second the lease is renewed, and what is due.

When a node of the engine has been away, all that it should know of this process is said again before anything
else: entries in groups, marks that have not come back, counts.

A member ends with its event loop, and another one takes over mailbox, door and memberships: it goes by the same
name. If the loop ends by cancelling its tasks, as asyncio.run() does, what was read on the way still comes in.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from threading import get_ident

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from ..encryption import Encryption
from ..groups import owner_name
from .counts import Counts
from .door import RedisDoor, RedisMailbox, Told, expiry_of
from .engine import Engine
from .grouping import Grouping
from .handoff import Handoffs
from .keys import STAMP, Keys
from .memberships import JOIN, LEAVE, Memberships
from .outbox import Outbox, Terms
from .reader import Reader
from .rereading import Rereading
from .scanning import delete_everything
from .scripts import ALL
from .shared import SharedChannels
from .topology import Topology

__all__ = ["RedisMember"]

log = logging.getLogger(logs.LAYERS)

# Seconds between renewals of the lease, and for how long it is.
TICK = 1.0
LEASE = 15.0

# Elements that are read of the inbox at a time: few enough that sender, engine and reader work at the same time,
# and do not wait for one another's last.
INBOX_COUNT = 32

# Seconds after which a mark that has not come back is said again.
MARK_AGE = 3.0

# Groups whose entries are renewed in one second, if it is not time for more.
MIN_RENEWALS = 200

# Why a message to a group may not get to a member of it.
GROUP_LOSSES = {"inbox_full", "channel_full", "gap_full", "gap_expired", "gap_unavailable"}

# Channels whose ways are remembered.
MAX_WAYS = 20_000

_MESSAGE, _GROUP, _FLUSHED, _DIVERTED = b"MGFD"


class _Way:
    """Where messages for a channel go: into a process' inbox, or *part* of a shared channel."""

    __slots__ = ("head", "member", "part", "terms")

    def __init__(self, member: str, part: str, head: bytes, terms: Terms) -> None:
        self.member = member
        self.part = part
        self.head = head
        self.terms = terms


class RedisMember:
    """
    Args:
        topology: for this member's engine.
        capacity_of: how many messages a channel may hold.
        expiry: seconds that messages live.
        orphaned: called when the event loop ends without leave().

    Attributes:
        loop: where it lives.
        thread: the loop's. Whoever is in it while the loop runs, is in the loop; see Mailbox.ask() for why
            asyncio is not asked.
        group_messages: that have come in.
        listening: the inbox is read.
        engine: for whoever needs more of it.
        groups: what there is to do with them.
    """

    def __init__(
        self,
        mailbox: RedisMailbox,
        door: RedisDoor,
        memberships: Memberships,
        topology: Topology,
        *,
        keys: Keys,
        capacity_of: Callable[[str], int],
        expiry: float,
        encryption: Encryption | None,
        send_timeout: float,
        orphaned: Callable[["RedisMember"], None],
    ) -> None:
        self.name = mailbox.name
        self.group_messages = 0
        self.listening = False
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.keys = keys
        self.engine = Engine(topology, user=self, scripts=ALL, send_timeout=send_timeout)
        self._mailbox = mailbox
        self._door = door
        self._memberships = memberships
        self._capacity_of = capacity_of
        self._lifetime = max(1, int(expiry * 1000))
        self._encryption = encryption
        self._send_timeout = send_timeout
        self._orphaned = orphaned
        self._outbox = Outbox(self.engine, keys, lost=lambda count: self.lose("unanswered", count))
        self.handoffs = Handoffs(
            self.name,
            self.engine,
            keys,
            self._outbox,
            mailbox,
            encryption=encryption,
            forget=memberships.forget,
            lose=self.lose,
        )
        memberships.enter = self.handoffs.enter
        self.groups = Grouping(
            self.name,
            self.engine,
            keys,
            self._outbox,
            memberships,
            self.handoffs,
            capacity_of=capacity_of,
            lifetime=self._lifetime,
            encryption=encryption,
            listen=self.listen,
            is_listening=lambda: self.listening,
            lose=self.lose,
        )
        self._counts = Counts(self.name, self.engine, keys, mailbox, door)
        self._shared = SharedChannels(self.engine, keys, mailbox, door, encryption, self.lose, expiry)
        self._ways: dict[str, _Way] = {}
        self._inbox: Reader | None = None
        self._leased = False
        self._flushes: list[asyncio.Future[None]] = []
        self._losses: dict[str, int] = {}
        self._leaving = False
        self._keeper: asyncio.Task[None] | None = None

    # -- beginning and end -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, in the running event loop."""
        self.engine.begin()
        self._keeper = self.loop.create_task(self._keep(), name="daphne_like redis member")
        with self._mailbox.lock:
            self._door.user = self
            for channel, count in self._mailbox.wants().items():
                self._shared.want(channel, count)
        if self._door.listened:
            self.listen()
        self.look()

    def listen(self) -> None:
        """Read the inbox, from now on."""
        if self._inbox is None and not self._leaving:
            self._door.listened = self.listening = True
            drop = lambda again: self._door.took_elements(self._mailbox, again)  # noqa: E731
            read = Rereading(self.name, self._lifetime / 1000, self._deliver, drop)
            self._inbox = read.reader = self.engine.reader(
                self.name, [self.keys.inbox(self.name)], lambda: INBOX_COUNT, read.deliver, self._read_again
            )
            self._renew_lease()

    async def leave(self, *, for_good: bool) -> None:
        """
        Disconnect. What was read comes in, what was asked is done if that takes no time.

        Args:
            for_good: nobody of this name comes back: what the engine keeps for it is removed, and messages of
                shared channels that nobody has taken go back.
        """
        if self._leaving:
            return
        self._leaving = True
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        try:
            await self._shared.stop()
            if for_good:
                self._mailbox.give_back()
            if self.engine.connected:
                async with asyncio.timeout(1.0):
                    await self._shared.given_back()
                    await self.handoffs.finish()
                    if for_good:
                        await self._take_leave()
        except TimeoutError:
            # It does not answer, and will forget us by itself.
            self.lose("put_back", len(self._door.returned) if for_good else 0)
        finally:
            self.handoffs.stop()
            await self.engine.close()
            with self._mailbox.lock:
                if self._door.user is self:
                    self._door.user = None
            self._tell_losses()

    async def _take_leave(self) -> None:
        keys = self.keys
        name = self.name
        farewell = [
            self.engine.command(group, "ZREM", keys.group(group), f"={name}")
            for group in self._memberships.entries()
        ]
        farewell += [
            self.engine.command(name, "UNLINK", key)
            for key in (keys.inbox(name), keys.counts(name), keys.lease(name))
        ]
        await asyncio.gather(*farewell, return_exceptions=True)

    def abandon(self) -> None:
        """Of another process or of a loop that is no more: let go of the connections, without a word."""
        self._leaving = True
        self.engine.abandon()

    async def _keep(self) -> None:
        try:
            while True:
                await asyncio.sleep(TICK)
                self._tick()
        except asyncio.CancelledError:
            if not self._leaving:
                # The loop is about to end.
                await self.leave(for_good=False)
                self._orphaned(self)
            raise

    def _tick(self) -> None:
        # A loop may be run on in another thread.
        self.thread = get_ident()
        self._mailbox.expire()
        self._memberships.expire_all()
        self._shared.tick()
        self.handoffs.tick()
        self._tell_losses()
        if self._inbox is not None:
            self._renew_lease()
            if self.engine.reaches(self.name):
                self._say_marks(MARK_AGE)
            groups = self._memberships.to_register()
            for group in groups[: max(MIN_RENEWALS, len(groups) // 4)]:
                self.groups.register(group)
        self.look()

    def _renew_lease(self) -> None:
        lease = self.keys.lease(self.name)
        answer = self.engine.command(self.name, "SET", lease, "1", "PX", int(LEASE * 1000), "GET")
        answer.add_done_callback(self._lease_renewed)
        self._counts.keep()

    def _lease_renewed(self, answer: "asyncio.Future[bytes | None]") -> None:
        if not answer.cancelled() and answer.exception() is None:
            if answer.result() is None and self._leased and not self._leaving:
                # It was flushed, or another one has taken its place.
                self.groups.engine_back()
                self._say_all()
            self._leased = True

    # -- EngineUser --------------------------------------------------------------------------------

    def engine_back(self) -> None:
        self.groups.engine_back()
        if self._inbox is not None and not self._leaving:
            self._renew_lease()
            self._say_all()

    def _say_all(self) -> None:
        """The engine may have forgotten what it knew of us."""
        self._counts.recount()
        self._memberships.forget_registrations()
        for group in self._memberships.to_register():
            self.groups.register(group)
        self._say_marks(0)

    def engine_lost(self, reason: str) -> None:
        """What has arrived is good; calls wait by themselves."""

    def _read_again(self) -> None:
        """What the inbox' reader had with it when it lost its connection may be lost."""
        self._counts.recount()
        self._say_marks(0)

    def _say_marks(self, age: float) -> None:
        for _, element in self._memberships.overdue(age):
            self._outbox.tell_member(self.name, element)

    # -- DoorUser ----------------------------------------------------------------------------------

    def want(self, channel: str, count: int) -> None:
        self._shared.want(channel, count)

    def look(self) -> None:
        if self._door.taken:
            self._counts.look()
        if self._door.returned:
            self.loop.call_soon(self._shared.give_back)

    def stream_leaving(self, stream: str) -> None:
        self.handoffs.leave(stream)

    def stream_held(self, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None:
        self.handoffs.hand_over(stream, held)
        self.handoffs.ended(stream)

    # -- channels ----------------------------------------------------------------------------------

    def send(self, channel: str, payload: bytes) -> "asyncio.Future[bool]":
        """
        Returns:
            a future: False where the channel is full; LayerUnavailable where it did not get there.
        """
        way = self._ways.get(channel) or self._find_way(channel)
        if self._encryption is not None:
            payload = self._encryption.seal(payload)
        if way.member:
            if self._door.taken and way.member == self.name:
                self._counts.say_now()
            return self._outbox.to_member(way.member, way.head + payload, way.terms)
        return self._outbox.to_channel(way.part, way.head + payload, way.terms)

    async def ask_send(self, channel: str, payload: bytes) -> bool:
        """The same."""
        return await self.send(channel, payload)

    def _find_way(self, channel: str) -> _Way:
        if len(self._ways) >= MAX_WAYS:
            self._ways.clear()
        head = b"M%s\0" % channel.encode()
        limit = self._capacity_of(channel)
        cut = channel.find("!") + 1
        if cut:
            prefix = channel[:cut]
            way = _Way(owner_name(prefix), "", head, (prefix.encode(), limit, self._lifetime))
        else:
            way = _Way("", self.keys.part_for(channel, self.name), head, (b"", limit, self._lifetime))
        self._ways[channel] = way
        return way

    # -- the inbox ---------------------------------------------------------------------------------

    def _deliver(self, key: bytes, elements: list[bytes]) -> None:
        ahead = self.engine.time(self.name) - time.monotonic()
        mailbox = self._mailbox
        deliver = mailbox.deliver
        encryption = self._encryption
        with mailbox.lock:
            for element in elements:
                try:
                    kind = element[STAMP]
                    if kind == _MESSAGE:
                        cut = element.index(0, STAMP)
                        channel = element[STAMP + 1 : cut].decode()
                        payload = element[cut + 1 :]
                        if encryption is not None:
                            opened = encryption.open(payload)
                            if opened is None:
                                self.lose("undecipherable", 1)
                                self._door.took(mailbox, channel[: channel.find("!") + 1], 1)
                                continue
                            payload = opened
                        deliver(channel, payload, expiry_of(element) - ahead, True, self.loop)
                    elif kind == _GROUP:
                        self._deliver_group(element, ahead)
                    elif kind in (JOIN, LEAVE):
                        cut = element.index(0, STAMP + 9)
                        group, channel = element[STAMP + 9 : cut].decode(), element[cut + 1 :].decode()
                        number = element[STAMP + 1 : STAMP + 9]
                        if self._memberships.marked(kind, number, group, channel):
                            self.groups.register(group)
                    elif kind == _DIVERTED:
                        self.handoffs.diverted(element[STAMP + 1 :].decode())
                    elif kind == _FLUSHED:
                        self.forget()
                    else:
                        self.lose("malformed", 1)
                except (ValueError, IndexError):
                    self.lose("malformed", 1)

    def _deliver_group(self, element: bytes, ahead: float) -> None:
        cut = element.index(0, STAMP + 9)
        group = element[STAMP + 9 : cut].decode()
        payload = element[cut + 1 :]
        if self._encryption is not None:
            opened = self._encryption.open(payload)
            if opened is None:
                self.lose("undecipherable", 1)
                return
            payload = opened
        self.group_messages += 1
        self._memberships.expire(group)
        expires = expiry_of(element) - ahead
        if not self._mailbox.has_streams and not self.handoffs.busy:
            self._mailbox.deliver_group(group, payload, expires)
            return
        told = Told(payload)
        told.number = element[STAMP + 1 : STAMP + 9]
        self.handoffs.forward(group, element)
        self.handoffs.deliver(group, told, expires)

    def forget(self) -> None:
        """Everything was flushed."""
        self._mailbox.flushed()
        self._memberships.flushed()
        self.handoffs.clear()
        self._door.taken.clear()
        self._door.returned.clear()
        flushes, self._flushes = self._flushes, []
        for waiter in flushes:
            if not waiter.done():
                waiter.set_result(None)

    # -- the whole ---------------------------------------------------------------------------------

    async def flush(self) -> None:
        """
        Delete all that is of the layer, but not what is of ports, and have all processes forget.

        Raises:
            LayerUnavailable: not all could be reached.
        """
        members = await delete_everything(self.engine, self.keys)
        told = []
        arrived: asyncio.Future[None] = self.loop.create_future()
        if self._inbox is None:
            self.forget()
            arrived.set_result(None)
        else:
            self._flushes.append(arrived)
            members.add(self.name)
        for name in members:
            told.append(self._outbox.to_member(name, b"F"))
        for answer in told:
            await answer
        try:
            async with asyncio.timeout(self._send_timeout):
                await arrived
        except TimeoutError:
            raise LayerUnavailable("what was flushed is not known to have arrived") from None

    def lose(self, reason: str, count: int) -> None:
        """Count what was lost; it is logged once a second."""
        if count:
            self._losses[reason] = self._losses.get(reason, 0) + count

    def _tell_losses(self) -> None:
        if self._losses:
            losses, self._losses = self._losses, {}
            of_groups = {reason: count for reason, count in losses.items() if reason in GROUP_LOSSES}
            others = {reason: count for reason, count in losses.items() if reason not in GROUP_LOSSES}
            if of_groups:
                log.warning("group messages lost", extra=of_groups)
            if others:
                log.warning("messages lost", extra={"layer": self.engine.topology.name, **others})
