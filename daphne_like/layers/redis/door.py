"""
Between a process' mailbox and its member, which lives in an event loop and may be exchanged for another.

The mailbox calls in any thread, under its lock. What it says of messages taken, and what it gives back of shared
channels, is kept here until a member has said it to the engine, so that nothing is lost where there is none.
"""

import asyncio
import contextlib
import struct
import threading
import time
from asyncio import _get_running_loop as running_loop
from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import Any, Protocol

from ..codec import Broadcast
from ..encryption import Encryption
from ..mailbox import Mailbox
from ..member import End
from .keys import STAMP

__all__ = ["DoorUser", "Fetched", "RedisDoor", "RedisMailbox", "Told", "expiry_of", "read_told"]

_stamp = struct.Struct(">d")


class Fetched(bytes):
    """
    The payload of a message of a shared channel.

    Attributes:
        part: the tag of the list where it was.
        element: what it was there.
        place: in the order in which messages were fetched.
    """

    part: str
    element: bytes
    place: int


class Told(Broadcast):
    """
    The payload of a group's message.

    Attributes:
        number: its id.
    """

    number: bytes


class DoorUser(Protocol):
    """A member. All but `loop` and `thread` is called in its event loop."""

    loop: asyncio.AbstractEventLoop
    thread: int

    def want(self, channel: str, count: int) -> None:
        """So many more receive()s wait for a shared channel; fewer where negative."""

    def look(self) -> None:
        """There is something in the door's `taken` or `returned`."""

    def stream_leaving(self, stream: str) -> None: ...

    def stream_held(self, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None: ...


class RedisDoor:
    """
    Door of a mailbox.

    Attributes:
        user: the member, if there is one.
        taken: prefix -> messages that were taken, to be said. Under the mailbox' lock, as all of this.
        returned: of shared channels, to be put back.
        listened: a member has read the process' inbox: the next one does, too.
    """

    def __init__(self) -> None:
        self.user: DoorUser | None = None
        self.taken: dict[str, int] = {}
        self.returned: list[Fetched] = []
        self.listened = False

    def take(self, channel: str) -> bytes | None:
        """Nothing is at hand: want() brings it."""
        return None

    def want(self, end: End, channel: str, count: int) -> None:
        user = self.user
        if user is not None:
            if get_ident() == user.thread and user.loop.is_running():
                user.want(channel, count)
            else:
                # A loop that is closed: its member is no more, and the next one asks the mailbox.
                with contextlib.suppress(RuntimeError):
                    user.loop.call_soon_threadsafe(user.want, channel, count)

    def unwant(self, end: End, channel: str, count: int) -> None:
        self.want(end, channel, -count)

    def put_back(self, channel: str, payload: bytes, expires: float) -> None:
        if isinstance(payload, Fetched) and expires > time.monotonic():
            self.returned.append(payload)
            self._poke()

    def took(self, end: End, prefix: str, count: int) -> None:
        taken = self.taken
        if prefix in taken:
            taken[prefix] += count
        else:
            taken[prefix] = count
            self._poke()

    def took_elements(self, end: End, elements: list[bytes]) -> None:
        """Elements of the inbox that nobody is to get: those that were counted count no more."""
        for element in elements:
            if element[STAMP : STAMP + 1] == b"M":
                self.took(end, element[STAMP + 1 : element.find(b"!", STAMP) + 1].decode(), 1)

    def group_add(self, end: End, group: str, channel: str, stream: str = "") -> None:
        """Memberships are registered by their own module."""

    def stream_leaving(self, end: End, stream: str) -> None:
        user = self.user
        if user is not None:
            if running_loop() is user.loop:
                user.stream_leaving(stream)
            else:
                with contextlib.suppress(RuntimeError):
                    user.loop.call_soon_threadsafe(user.stream_leaving, stream)

    def stream_held(self, end: End, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None:
        user = self.user
        if user is not None:
            if running_loop() is user.loop:
                user.stream_held(stream, held)
            else:
                with contextlib.suppress(RuntimeError):
                    user.loop.call_soon_threadsafe(user.stream_held, stream, held)

    def _poke(self) -> None:
        user = self.user
        if user is not None:
            if running_loop() is user.loop:
                user.look()
            else:
                with contextlib.suppress(RuntimeError):
                    user.loop.call_soon_threadsafe(user.look)


class RedisMailbox(Mailbox):
    """
    A mailbox whose hub is an engine: what it holds can be asked for.

    Attributes:
        inherited: label -> will, of streams that came here because their process had died.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.inherited: dict[str, Mapping[str, str]] = {}

    def held(self) -> dict[str, int]:
        """prefix -> counted messages that are here."""
        counts: dict[str, int] = {}
        with self._lock:
            for box in self._boxes.values():
                if box.prefix:
                    count = sum(1 for item in box.messages if item[2])
                    if count:
                        counts[box.prefix] = counts.get(box.prefix, 0) + count
        return counts

    def give_back(self) -> None:
        """Put back whatever is here of shared channels, as if nobody waited."""
        with self._lock:
            for box in self._boxes.values():
                while not box.prefix and box.messages:
                    payload, expires, _, _ = box.messages.pop()
                    self.door.put_back(box.channel, payload, expires)

    def waits_beyond(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a receive() waits in another event loop."""
        with self._lock:
            return any(
                future.get_loop() is not loop and not future.get_loop().is_closed()
                for box in self._boxes.values()
                for future in box.readers
            )

    def memberships_of(self, stream: str) -> list[tuple[str, str]]:
        """(group, channel) that were added within a stream."""
        with self._lock:
            known = self._streams.get(stream)
            channels = known.channels if known is not None else ()
            return [(group, channel) for channel in channels for group in self._memberships.get(channel, ())]

    def is_being_given_away(self, stream: str) -> bool:
        """Whether a stream's session has ended here, and what it held is not handed over yet."""
        known = self._streams.get(stream)
        return known is not None and known.leaving and known.ended

    @property
    def has_streams(self) -> bool:
        """Whether channels of a relayed stream are in groups."""
        return bool(self._streams)

    def deliver_group_without(self, group: str, payload: bytes, expires: float, without: set[str]) -> None:
        """A message to a group, for all of its channels but some."""
        with self._lock:
            if not without:
                self.deliver_group(group, payload, expires)
                return
            channels = self._groups.get(group, {})
            self._groups[group] = {channel: None for channel in channels if channel not in without}
            self.deliver_group(group, payload, expires)
            self._groups[group] = channels
            if not channels:
                del self._groups[group]

    @property
    def lock(self) -> "threading.RLock":
        return self._lock


def expiry_of(element: bytes) -> float:
    """When an element expires: seconds of the engine's clock."""
    expires: float = _stamp.unpack_from(element)[0]
    return expires


def read_told(element: bytes, encryption: Encryption | None) -> tuple[str, Told | None]:
    """
    What an element of a group's message says: the group, and the payload; None where that cannot be deciphered.

    Raises:
        ValueError: it is malformed.
    """
    cut = element.index(0, STAMP + 9)
    payload: bytes | None = element[cut + 1 :]
    if encryption is not None:
        payload = encryption.open(element[cut + 1 :])
    told = None if payload is None else Told(payload)
    if told is not None:
        told.number = element[STAMP + 1 : STAMP + 9]
    return element[STAMP + 9 : cut].decode(), told
