"""
A member of an own layer, as the hub reaches it.

A member is a process that has joined; in memory it is a part of the same process, over ipc a connection of the
broker. What the hub tells one member it tells in order, also where a socket lies between. Callbacks that look
superfluous in one process (group_added, stream_diverted) mark the point in that order at which a thing is so.
"""

from typing import Protocol

__all__ = ["End"]


class End(Protocol):
    """
    A member, as the hub reaches it. Plain calls that never raise and never call the hub back.

    Attributes:
        name: of letters and digits, unique. Its channels are "prefix.<name>!<id>".
    """

    name: str

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None:
        """
        A message for a channel of the member's own, or for one that it wants.

        Args:
            counted: it counts against the capacity of the channel's prefix until it is in `taken`.
        """

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None:
        """A message to a group, once per member: it goes to all of its channels that are in the group."""

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None:
        """A group's message that was kept in a gap, for the one channel that has taken the gap's place."""

    def group_added(self, group: str, channel: str) -> None:
        """*channel*, the member's own, is in *group* from now on: deliver_group() is meant for it too."""

    def group_discarded(self, group: str, channel: str) -> None:
        """It is not in the group any more: discarded by whomever, or too old."""

    def stream_diverted(self, stream: str) -> None:
        """The memberships of this stream are gone: what was sent to them from now on is kept by the hub."""

    def flushed(self) -> None:
        """Forget all messages and memberships."""

    def deliver_post(self, sender: str, payload: bytes) -> None:
        """Relay envelopes."""

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None:
        """A stream that this member has got."""

    def claimed(self, ref: int, by: str) -> None:
        """The stream that this member offered as *ref*, and that waited, is with *by*."""

    def member_gone(self, name: str) -> None:
        """Another member has left."""
