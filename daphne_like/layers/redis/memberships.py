"""
Which of a process' channels are in which groups: here is the truth of it, and the engine is told.

In the engine a group has one entry for the process, however many of its channels are in it: "=<name>". It is a
lease of ENTRY_LIFETIME seconds that the process renews while it has channels in the group, and registers again
whenever the engine has been away. It is never taken back but by a process that leaves: another one may just be
adding a channel of ours.

A *mark* in the process' own inbox says from which message on a channel is in a group, or is not: what was sent
before a group_discard() still arrives, and what was sent before a group_add() does not. A mark that does not
come back, since the engine has lost the inbox, is said again.

No event loop in here; called under the mailbox' lock, or in the member's loop, where it says so.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..mailbox import Mailbox
from .keys import NO_ID

__all__ = ["ENTRY_LIFETIME", "JOIN", "LEAVE", "RENEW_BEFORE", "Mark", "Memberships"]

# Seconds.
ENTRY_LIFETIME = 30.0
# Renewed when it has less than this.
RENEW_BEFORE = 20.0

JOIN = ord("J")
LEAVE = ord("L")


class Mark(NamedTuple):
    kind: int
    group: str
    channel: str
    said_at: float

    def element(self, number: bytes) -> bytes:
        return b"".join((bytes((self.kind,)), number, self.group.encode(), b"\0", self.channel.encode()))


class Memberships:
    """
    Args:
        mailbox: its own tables say who gets what arrives now.
        lock: the mailbox'.
        expiry: seconds after which a membership ends that is not renewed.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        lock: "threading.RLock",
        expiry: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mailbox = mailbox
        self._lock = lock
        self.expiry = expiry
        self._clock = clock
        # group -> channel -> when it ends; in that order.
        self._groups: dict[str, dict[str, float]] = {}
        # Has a channel take part in a group from now on; the member's handoffs see to that.
        self.enter: Callable[[str, str], None] = mailbox.group_added
        # Said, and not back yet; in the order in which they were said.
        self._marks: dict[bytes, Mark] = {}
        self._base = os.urandom(4)
        self._count = 0
        # group -> until when the engine has our entry, at least; the oldest first. In the member's loop.
        self._registered: dict[str, float] = {}

    # What the application wants.

    def add(self, group: str, channel: str) -> bytes | None:
        """
        An own channel is added, or renewed.

        Returns:
            the number of the mark that has to be said; None if it is a member already.
        """
        with self._lock:
            channels = self._groups.setdefault(group, {})
            known = channels.pop(channel, None) is not None
            channels[channel] = self._clock() + self.expiry
            return None if known else self._open_mark(JOIN, group, channel)

    def give_up(self, number: bytes) -> None:
        """The mark of an add() could not be said: it was not added."""
        with self._lock:
            mark = self._marks.pop(number, None)
            if mark is not None:
                self._forget(mark.group, mark.channel)

    def discard(self, group: str, channel: str) -> bytes:
        """An own channel leaves. Gives the number of the mark that has to be said."""
        with self._lock:
            self._forget(group, channel)
            return self._open_mark(LEAVE, group, channel)

    def discard_at_once(self, number: bytes) -> None:
        """The mark of a discard() cannot be said now."""
        with self._lock:
            mark = self._marks.pop(number, None)
            if mark is not None:
                for other, (_, group, channel, _) in list(self._marks.items()):
                    if (group, channel) == (mark.group, mark.channel):
                        del self._marks[other]
                self._mailbox.discard(mark.group, mark.channel)

    def forget(self, group: str, channel: str) -> None:
        """A membership has ended otherwise."""
        with self._lock:
            self._forget(group, channel)

    def mark(self, number: bytes) -> bytes:
        """The element of a mark."""
        return self._marks[number].element(number)

    # What arrives.

    def marked(self, kind: int, number: bytes, group: str, channel: str) -> bool:
        """
        A mark has come out of the inbox.

        Returns:
            whether the group has to be registered.
        """
        with self._lock:
            own = number != NO_ID
            if own and self._marks.pop(number, None) is None:
                # Given up, or said twice.
                return False
            if kind == JOIN:
                if not any(mark[1:3] == (group, channel) for mark in self._marks.values()):
                    # Unless it has left again meanwhile. It may be unknown: another process has added it, or all
                    # was flushed.
                    self._groups.setdefault(group, {}).setdefault(channel, self._clock() + self.expiry)
                self.enter(group, channel)
                return True
            if own:
                # Added again meanwhile: its next mark is behind this one.
                self._mailbox.discard(group, channel)
            else:
                self._forget(group, channel)
                self._mailbox.group_discarded(group, channel)
            return False

    def expire(self, group: str) -> None:
        """End what is too old in a group that a message has come for."""
        channels = self._groups.get(group)
        if channels and next(iter(channels.values())) <= self._clock():
            with self._lock:
                now = self._clock()
                for channel, until in list(channels.items()):
                    if until > now:
                        break
                    self._forget(group, channel)
                    self._mailbox.group_discarded(group, channel)

    def flushed(self) -> None:
        with self._lock:
            self._groups.clear()
            self._registered.clear()

    def clear(self) -> None:
        with self._lock:
            self.flushed()
            self._marks.clear()

    # What the engine is told.

    def overdue(self, age: float) -> Iterator[tuple[bytes, bytes]]:
        """(number, element) of the marks that were said so long ago: to be said again, in order."""
        with self._lock:
            now = self._clock()
            late = [number for number, mark in self._marks.items() if mark.said_at + age <= now]
            for number in late:
                self._marks[number] = self._marks[number]._replace(said_at=now)
            return iter([(number, self._marks[number].element(number)) for number in late])

    def is_registered(self, group: str) -> bool:
        """Whether the engine has our entry for a while."""
        return self._registered.get(group, 0.0) > self._clock() + ENTRY_LIFETIME / 2

    def registered(self, group: str, asked_at: float) -> None:
        """The engine has it since *asked_at*, or later."""
        self._registered.pop(group, None)
        self._registered[group] = asked_at + ENTRY_LIFETIME

    def forget_registrations(self) -> None:
        """The engine may be empty."""
        self._registered.clear()

    def to_register(self) -> list[str]:
        """All groups that have channels of ours and no entry, or one that ends soon."""
        with self._lock:
            self._registered = {
                group: until for group, until in self._registered.items() if group in self._groups
            }
            soon = self._clock() + RENEW_BEFORE
            return [group for group in self._groups if self._registered.get(group, 0.0) < soon]

    def entries(self) -> list[str]:
        """The groups that may have our entry."""
        return list(self._registered)

    def expire_all(self) -> None:
        """About once a second."""
        for group in list(self._groups):
            self.expire(group)

    def _open_mark(self, kind: int, group: str, channel: str) -> bytes:
        self._count += 1
        number = self._base + self._count.to_bytes(4, "big")
        self._marks[number] = Mark(kind, group, channel, self._clock())
        return number

    def _forget(self, group: str, channel: str) -> None:
        channels = self._groups.get(group)
        if channels is not None:
            channels.pop(channel, None)
            if not channels:
                del self._groups[group]
