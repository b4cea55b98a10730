"""
Group messages while a relayed stream changes its process: nothing is lost, nothing comes twice.

The same as `layers.gap` does in a hub, with a list in the engine for each handoff, found by the stream's label:

    leaving process                          engine                      next process
      stream_leaving()
        its name, and groups -----------------> gaps
        "~gap" into each group                   <- senders put G there too, from now on
        D into its own inbox
      D comes: memberships end here
      stream_left(): H ... H E ---------------> gap
                                                gaps ----------------------> group_add(): finds it
                                                 gap ----------------------> takes what is there
                                                                             "=name" into the group, J
                                                                             "~gap" out of the group
                                                                             J comes: collects what is live
                                                                             E has come: H, G, live; once each

H is what the leaving channels still held, in order. A sender that looked the group up before "~gap" was in it
may reach the leaving process after its D: such messages are forwarded to the gap for a while. What is in the gap
and comes live as well is told apart by its id.

Who waits for E longer than PATIENCE goes on without, and gives what comes late when it comes. What nobody claims
in MAX_AGE is dropped and counted. A gap holds MAX_MESSAGES; beyond that senders drop and count.

A process that dies has told the stream's server of its memberships (wills.py), and the next one is told of them:
then the gap is the inbox of the dead (estates.py), nothing is held, and "=name" stays in the group.

Lives in the member's event loop, and is called under the mailbox' lock or not.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from daphne_like.errors import LayerError

from ..encryption import Encryption
from ..gap import MAX_AGE, MAX_MESSAGES, PATIENCE
from .adoption import Adoption, Kept
from .door import RedisMailbox, Told, expiry_of, read_told
from .engine import Engine
from .estates import Estates, Legacy
from .keys import NO_ID, STAMP, Keys
from .outbox import Outbox
from .scripts import GROUP_JOIN
from .wills import read_will

__all__ = ["Handoffs"]

# Seconds: for a mark to come back through our own inbox; for which late messages are forwarded.
DIVERT_TIMEOUT = 2.0
FORWARD = 1.0

# Seconds between looks into a gap whose end has not come, and after it has.
LOOK_AGAIN = 0.02
LOOK_LATER = (0.25, 0.75, 1.0)

_HELD, _ENDED = b"HE"


class Handoffs:
    """
    Args:
        name: the member's.
        forget: ends a membership in the tables of what the application wants.
        lose: see RedisMember.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        keys: Keys,
        outbox: Outbox,
        mailbox: RedisMailbox,
        *,
        encryption: Encryption | None,
        forget: Callable[[str, str], None],
        lose: Callable[[str, int], None],
    ) -> None:
        self._name = name
        self._engine = engine
        self._keys = keys
        self._outbox = outbox
        self._mailbox = mailbox
        self._encryption = encryption
        self._forget = forget
        self._lose = lose
        self._loop = asyncio.get_running_loop()
        # Being given away: label -> its gap, and (group, channel); until its end is said.
        self._leaving: dict[str, tuple[str, list[tuple[str, str]]]] = {}
        # Not diverted yet: label -> told when it is.
        self._diverting: dict[str, asyncio.Future[None]] = {}
        # group -> gap -> until when what comes is forwarded.
        self._forwarding: dict[str, dict[str, float]] = {}
        self._adopted: dict[str, Adoption] = {}
        # Those of which there was a gap, the oldest first, also when their streams are over.
        self._recent: list[Adoption] = []
        # group -> the adoptions that have channels in it.
        self._watched: dict[str, list[Adoption]] = {}
        # (group, channel) -> label, from group_add() until its mark comes.
        self._expected: dict[tuple[str, str], str] = {}
        self._estates = Estates(engine, keys, encryption, lose)
        self._tasks: set[asyncio.Task[None]] = set()

    # -- giving away -------------------------------------------------------------------------------

    def leave(self, label: str) -> None:
        """A stream of ours is being given away."""
        adoption = self._abandon(label)
        memberships = self._mailbox.memberships_of(label)
        if not memberships:
            self._mailbox.stream_diverted(label)
            return
        gap = f"{label}/{uuid.uuid4().hex[:16]}"
        self._leaving[label] = gap, memberships
        self._diverting[label] = self._loop.create_future()
        groups = sorted({group for group, _ in memberships})
        lifetime = int(MAX_AGE * 1000)
        self._engine.command(
            label, "SET", self._keys.gap_of(label), "\0".join((gap, *groups)), "PX", lifetime
        )
        joined = [
            self._engine.run(GROUP_JOIN, group, [self._keys.group(group)], [lifetime, f"~{gap}"])
            for group in groups
        ]
        self._start(self._divert(label, joined, adoption))

    async def _divert(
        self, label: str, joined: Sequence["asyncio.Future[object]"], adoption: Adoption | None
    ) -> None:
        await asyncio.gather(*joined, return_exceptions=True)
        waiter = self._diverting[label]
        try:
            if adoption is not None and adoption.groups:
                # It came a moment ago, and what it was to get is the next one's.
                await self._look(adoption)
                self._finish(adoption)
            self._outbox.tell_member(self._name, b"D" + label.encode())
            async with asyncio.timeout(DIVERT_TIMEOUT):
                await asyncio.shield(waiter)
        except (TimeoutError, LayerError):
            # The inbox is out of reach: then what has come is what there is.
            self.diverted(label)

    def diverted(self, label: str) -> None:
        """Whatever comes for the groups of this stream is in the gap as well."""
        waiter = self._diverting.pop(label, None)
        if waiter is None:
            return
        now = time.monotonic()
        gap, memberships = self._leaving[label]
        for group, channel in memberships:
            self._forwarding.setdefault(group, {})[gap] = now + FORWARD
            self._forget(group, channel)
        self._mailbox.stream_diverted(label)
        waiter.set_result(None)

    async def settle(self, label: str) -> None:
        """Wait until a stream that ended here, and that the same process gets again, is given away."""
        waiter = self._diverting.get(label)
        if waiter is not None:
            await asyncio.shield(waiter)

    def hand_over(self, label: str, held: Iterable[tuple[str, bytes, float]]) -> None:
        """The session is over; what its channels still held. Nothing happens if it was not leaving."""
        gap, _ = self._leaving.pop(label, ("", []))
        if not gap:
            return
        now = time.monotonic()
        for group, payload, expires in held:
            if expires > now:
                number = payload.number if isinstance(payload, Told) else NO_ID
                data = self._encryption.seal(payload) if self._encryption is not None else bytes(payload)
                self._tell_gap(gap, b"".join((b"H", number, group.encode(), b"\0", data)), expires - now)
        self._tell_gap(gap, b"E", MAX_AGE)

    def forward(self, group: str, element: bytes) -> None:
        """A group's message that has come in: maybe its sender did not know of the gap."""
        gaps = self._forwarding.get(group)
        if gaps:
            now = time.monotonic()
            lifetime = expiry_of(element) - self._engine.time(self._name)
            for gap, until in list(gaps.items()):
                if until <= now:
                    del gaps[gap]
                elif lifetime > 0:
                    self._tell_gap(gap, element[STAMP:], lifetime)
            if not gaps:
                del self._forwarding[group]

    def _tell_gap(self, gap: str, element: bytes, lifetime: float) -> None:
        try:
            self._outbox.tell_gap(gap, element, max(1, int(lifetime * 1000)))
        except LayerError:
            self._lose("gap_unavailable", 1)

    async def finish(self) -> None:
        """Wait until all that is being given away is said."""
        while self._diverting:
            await asyncio.wait(list(self._diverting.values()))

    # -- taking over -------------------------------------------------------------------------------

    async def adopt(self, label: str, group: str, channel: str) -> bool:
        """
        An own channel is about to be added to a group within a stream.

        Returns:
            whether a gap is open for it: then its mark makes it a claim.

        Raises:
            LayerUnavailable: the engine is out of reach.
        """
        adoption = self._adopted.get(label)
        if adoption is None:
            adoption = self._adopted[label] = Adoption(self._loop, time.monotonic())
            try:
                await self._find(label, adoption)
            except BaseException as error:
                del self._adopted[label]
                if isinstance(error, LayerError):
                    adoption.known.set_exception(error)
                    # Somebody else may wait for it, or nobody.
                    adoption.known.exception()
                else:
                    adoption.known.cancel()
                raise
            adoption.known.set_result(None)
            if adoption.groups:
                self._recent.append(adoption)
                adoption.task = self._start(self._look_after(adoption))
        elif not adoption.known.done():
            await asyncio.shield(adoption.known)
        if group not in adoption.groups:
            return False
        self._expected[group, channel] = label
        return True

    def not_added(self, group: str, channel: str) -> None:
        """The adding has failed, or is taken back."""
        self._expected.pop((group, channel), None)
        for adoption in self._watched.get(group, ()):
            adoption.channels[group].pop(channel, None)

    def added(self, label: str, group: str) -> None:
        """The group has our entry, and our mark is said: the gap is closed to senders."""
        adoption = self._adopted.get(label)
        if adoption is not None and group not in adoption.closed:
            self._start(self._close(adoption, group))

    async def _close(self, adoption: Adoption, group: str) -> None:
        try:
            if adoption.gap:
                await self._engine.command(group, "ZREM", self._keys.group(group), f"~{adoption.gap}")
            # For senders that have just looked.
            await asyncio.sleep(LOOK_AGAIN)
            await self._look(adoption)
        except LayerError:
            self._lose("gap_unavailable", 1)
        with self._mailbox.lock:
            adoption.closed.add(group)
            self._go_live(adoption, group)

    def enter(self, group: str, channel: str) -> None:
        """The mark of a group_add() has come."""
        label = self._expected.pop((group, channel), None)
        adoption = self._adopted.get(label) if label is not None else None
        if adoption is None:
            self._mailbox.group_added(group, channel)
            return
        live = group in adoption.channels and group not in adoption.waiting
        adoption.channels.setdefault(group, {})[channel] = None
        watched = self._watched.setdefault(group, [])
        if adoption not in watched:
            watched.append(adoption)
        if live:
            self._mailbox.group_added(group, channel)
        else:
            adoption.waiting.setdefault(group, [])
            self._go_live(adoption, group)

    def deliver(self, group: str, payload: Told, expires: float) -> None:
        """A group's message that has come in, for all channels that have not got it out of a gap."""
        without: set[str] = set()
        for adoption in self._watched.get(group, ()):
            channels = adoption.channels[group]
            if group in adoption.waiting:
                adoption.waiting[group].append((group, payload, expires))
            elif payload.number in adoption.given:
                without.update(channels)
            else:
                adoption.given.add(payload.number)
        self._mailbox.deliver_group_without(group, payload, expires, without)

    @property
    def busy(self) -> bool:
        """Whether forward() and deliver() are needed."""
        return bool(self._forwarding or self._watched)

    def tick(self) -> None:
        """About once a second."""
        self._estates.tick()
        too_old = time.monotonic() - MAX_AGE
        for label, adoption in list(self._adopted.items()):
            if adoption.begun_at < too_old:
                del self._adopted[label]
        while self._recent and self._recent[0].begun_at < too_old:
            adoption = self._recent.pop(0)
            self._lose("gap_expired", len(adoption.held) + len(adoption.sent))
            for group in adoption.channels:
                self._watched[group].remove(adoption)
                if not self._watched[group]:
                    del self._watched[group]

    def ended(self, label: str) -> None:
        """The stream's session is over here."""
        adoption = self._abandon(label)
        if adoption is not None:
            self._finish(adoption)

    def _abandon(self, label: str) -> Adoption | None:
        """Nothing more is looked for in its gap."""
        adoption = self._adopted.pop(label, None)
        if adoption is not None and adoption.task is not None:
            adoption.task.cancel()
        return adoption

    def _finish(self, adoption: Adoption) -> None:
        """Give what is there, as nothing else is waited for."""
        with self._mailbox.lock:
            adoption.ended = True
            adoption.closed.update(adoption.waiting)
            for group in list(adoption.waiting):
                self._go_live(adoption, group)

    def clear(self) -> None:
        """Everything was flushed."""
        self._estates.clear()
        for adoption in self._recent:
            adoption.clear()

    async def _find(self, label: str, adoption: Adoption) -> None:
        """Whether there is a gap; the first look into it."""
        found = await self._engine.command(label, "GETDEL", self._keys.gap_of(label))
        if found:
            adoption.gap, *groups = found.decode().split("\0")
            adoption.groups.update(groups)
        else:
            for owner, group, channels in read_will(self._mailbox.inherited.get(label, {})):
                if owner != self._name:
                    adoption.groups.add(group)
                    adoption.legacies[group] = Legacy(self._estates.of(owner), group, channels)
            # Nobody hands anything over.
            adoption.ended = True
        if adoption.groups:
            await self._look(adoption)
        self._mailbox.inherited.pop(label, None)

    async def _look_after(self, adoption: Adoption) -> None:
        patient_until = self._loop.time() + PATIENCE
        try:
            while not adoption.ended and self._loop.time() < patient_until:
                await asyncio.sleep(LOOK_AGAIN)
                await self._look(adoption)
            if not adoption.ended:
                with self._mailbox.lock:
                    self._end(adoption)
            for pause in LOOK_LATER:
                await asyncio.sleep(pause)
                await self._look(adoption)
        except LayerError:
            self._finish(adoption)

    async def _look(self, adoption: Adoption) -> None:
        """Take what is in the gap."""
        if adoption.legacies:
            await self._look_at_estates(adoption)
            return
        gap = adoption.gap
        if not gap:
            return
        elements = await self._engine.command(gap, "LPOP", self._keys.gap(gap), 2 * MAX_MESSAGES)
        if not elements:
            return
        ahead = self._engine.time(gap) - time.monotonic()
        ended = False
        with self._mailbox.lock:
            for element in elements:
                kind = element[STAMP]
                if kind == _ENDED:
                    ended = True
                else:
                    group, payload = read_told(element, self._encryption)
                    if payload is None:
                        self._lose("undecipherable", 1)
                        continue
                    kept = adoption.held if kind == _HELD else adoption.sent
                    kept.append((group, payload, expiry_of(element) - ahead))
            if ended:
                self._end(adoption)
            self._give_late(adoption)

    async def _look_at_estates(self, adoption: Adoption) -> None:
        for estate in {legacy.estate for legacy in adoption.legacies.values()}:
            await estate.look()
        with self._mailbox.lock:
            self._lose("gap_full", adoption.inherit(time.monotonic()))
            self._give_late(adoption)

    def _give_late(self, adoption: Adoption) -> None:
        for group in list(adoption.channels):
            if group not in adoption.waiting:
                self._give(adoption, group, adoption.take(group))

    def _end(self, adoption: Adoption) -> None:
        adoption.ended = True
        for group in list(adoption.waiting):
            self._go_live(adoption, group)

    def _go_live(self, adoption: Adoption, group: str) -> None:
        """Once nothing more is waited for, what was kept is given, and its channels are in the group."""
        if adoption.ended and group in adoption.closed and group in adoption.waiting:
            for channel in adoption.channels[group]:
                self._mailbox.group_added(group, channel)
            kept = adoption.take(group) + adoption.waiting.pop(group)
            self._give(adoption, group, kept)

    def _give(self, adoption: Adoption, group: str, kept: list[Kept]) -> None:
        for _, payload, expires in kept:
            if payload.number != NO_ID:
                if payload.number in adoption.given:
                    continue
                adoption.given.add(payload.number)
            for channel in adoption.channels[group]:
                self._mailbox.deliver_kept(channel, group, payload, expires)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self) -> None:
        """The member ends."""
        for task in self._tasks:
            task.cancel()
