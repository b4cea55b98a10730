"""
The hub's groups: who is in which, and what becomes of memberships when a stream is handed over.

A membership belongs to the member whose name is in the channel's; such a member gets a group's message once and
gives it to all of its channels that are in the group. Channels that are shared, or of a member that is not
here, are in a group by themselves.

A membership that was added while a relayed stream's application ran carries the stream's *label*. When the
stream's worker gives it away, or is gone, a gap opens for what is labelled: see `daphne_like.layers.gap`.
"""

from collections.abc import Callable, Sequence

from .gap import Gaps
from .member import End

__all__ = ["Groups", "owner_name"]


class _Group:
    """Who is in a group. `channels` is in the order of expiry."""

    __slots__ = ("channels", "ends", "loose")

    def __init__(self) -> None:
        # channel -> (its member if that is here, when it expires, label of its stream)
        self.channels: dict[str, tuple[End | None, float, str]] = {}
        # member -> how many of the channels are its own
        self.ends: dict[End, int] = {}
        # the others
        self.loose: dict[str, None] = {}


class Groups:
    """
    Args:
        find_owner: the member of a name, if it is here.
        put: sends to a channel that is in a group by itself; False if it is full.
        clock: seconds.
        group_expiry: seconds.

    Attributes:
        gaps: with their own counts.
        dropped: messages for channels in a group by themselves that were full.
    """

    def __init__(
        self,
        find_owner: Callable[[str], End | None],
        put: Callable[[str, bytes, float], bool],
        clock: Callable[[], float],
        group_expiry: float,
    ) -> None:
        self._find_owner = find_owner
        self._put = put
        self._clock = clock
        self._group_expiry = group_expiry
        self._groups: dict[str, _Group] = {}
        # label -> its memberships
        self._labelled: dict[str, set[tuple[str, str]]] = {}
        # member -> its memberships
        self._memberships: dict[End, set[tuple[str, str]]] = {}
        self.gaps: Gaps[End] = Gaps(self._enter, self._give_kept)
        self.dropped = 0

    def leave(self, end: End) -> None:
        """A member is gone, and its memberships with it; gaps open for those with a label."""
        self.gaps.leave(end)
        lost: dict[str, list[str]] = {}
        for group, channel in list(self._memberships.get(end, ())):
            stream = self._remove(group, channel)
            if stream:
                lost.setdefault(stream, []).append(group)
        now = self._clock()
        for stream, groups in lost.items():
            self.gaps.open(stream, groups, None, now)
        self._memberships.pop(end, None)

    def add(self, end: End | None, group: str, channel: str, stream: str) -> None:
        """
        Args:
            end: who asks. The label counts only for its own channels.
        """
        cut = channel.find("!")
        owner = None if cut < 0 else self._find_owner(owner_name(channel[: cut + 1]))
        if owner is None:
            self._enter_loose(group, channel)
        elif not (stream and owner is end and self.gaps.claim(stream, group, owner, channel)):
            self._enter(owner, group, channel, stream if owner is end else "")

    def discard(self, group: str, channel: str) -> None:
        """End a membership, whoever asks."""
        if group in self.gaps.groups:
            self.gaps.unclaim(group, channel)
        record = self._groups.get(group)
        if record is not None and channel in record.channels:
            self._end_membership(group, channel)

    def send(self, group: str, payload: bytes, expires: float, now: float) -> None:
        """Once to each member that has channels in it, to the other channels one by one, and into gaps."""
        record = self._groups.get(group)
        if record is not None:
            if next(iter(record.channels.values()))[1] <= now:
                self._expire_group(group, record, now)
            for end in record.ends:
                end.deliver_group(group, payload, expires)
            for channel in record.loose:
                if not self._put(channel, payload, expires):
                    self.dropped += 1
        if group in self.gaps.groups:
            self.gaps.collect(group, payload, expires)

    def stream_leaving(self, end: End, stream: str) -> None:
        """*end* gives a stream away: its memberships end here and now, and a gap opens for them."""
        groups = []
        for group, channel in list(self._labelled.get(stream, ())):
            if self._groups[group].channels[channel][0] is end:
                self._remove(group, channel)
                groups.append(group)
        if groups:
            self.gaps.open(stream, groups, end, self._clock())
        end.stream_diverted(stream)

    def stream_held(self, end: End, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None:
        """The session that *end* had of a stream is over; *held*: what its channels held if it was leaving."""
        if not self.gaps.held(stream, end, held):
            self.gaps.expired += len(held)
        for group, channel in list(self._labelled.get(stream, ())):
            owner, expires, _ = self._groups[group].channels[channel]
            if owner is end:
                self._groups[group].channels[channel] = (owner, expires, "")
                self._unlabel(stream, group, channel)

    def expire(self, now: float) -> None:
        """Memberships and gaps that are too old."""
        for group, record in list(self._groups.items()):
            self._expire_group(group, record, now)
        self.gaps.expire(now)

    def clear(self) -> None:
        """Forget memberships and gaps."""
        self._groups.clear()
        self._labelled.clear()
        self._memberships.clear()
        self.gaps.clear()

    def _enter(self, owner: End, group: str, channel: str, stream: str) -> None:
        """Make a membership of a member's own channel live."""
        record = self._groups.get(group)
        if record is not None and channel in record.channels:
            stream = self._remove(group, channel) or stream
        record = self._groups.get(group)
        if record is None:
            record = self._groups[group] = _Group()
        record.channels[channel] = (owner, self._clock() + self._group_expiry, stream)
        record.ends[owner] = record.ends.get(owner, 0) + 1
        self._memberships.setdefault(owner, set()).add((group, channel))
        if stream:
            self._labelled.setdefault(stream, set()).add((group, channel))
        owner.group_added(group, channel)

    def _enter_loose(self, group: str, channel: str) -> None:
        record = self._groups.get(group)
        if record is None:
            record = self._groups[group] = _Group()
        record.channels.pop(channel, None)
        record.channels[channel] = (None, self._clock() + self._group_expiry, "")
        record.loose[channel] = None

    def _give_kept(self, owner: End, channel: str, group: str, payload: bytes, expires: float) -> None:
        owner.deliver_kept(channel, group, payload, expires)

    def _end_membership(self, group: str, channel: str) -> None:
        owner = self._groups[group].channels[channel][0]
        self._remove(group, channel)
        if owner is not None:
            owner.group_discarded(group, channel)

    def _remove(self, group: str, channel: str) -> str:
        """Take a membership out of all tables; gives its label."""
        record = self._groups[group]
        owner, _, stream = record.channels.pop(channel)
        if owner is None:
            del record.loose[channel]
        else:
            left = record.ends[owner] - 1
            if left:
                record.ends[owner] = left
            else:
                del record.ends[owner]
            self._memberships[owner].discard((group, channel))
        if stream:
            self._unlabel(stream, group, channel)
        if not record.channels:
            del self._groups[group]
        return stream

    def _unlabel(self, stream: str, group: str, channel: str) -> None:
        memberships = self._labelled[stream]
        memberships.discard((group, channel))
        if not memberships:
            del self._labelled[stream]

    def _expire_group(self, group: str, record: _Group, now: float) -> None:
        while record.channels:
            channel = next(iter(record.channels))
            if record.channels[channel][1] > now:
                break
            self._end_membership(group, channel)


def owner_name(prefix: str) -> str:
    """The member in "specific.<name>!"."""
    return prefix[:-1].rpartition(".")[2]
