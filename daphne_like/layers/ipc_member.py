"""
A process of an `ipc` layer whose hub is elsewhere: its mailbox on this side of a link.

What the broker says goes to the mailbox as if the hub were here; what is asked of the hub becomes frames. None
of that waits: what is said while there is no broker is not said, and when one is there again it is told what
counts, out of the mailbox.
"""

from collections.abc import Awaitable, Callable, Sequence

from .base import MessageTooLarge
from .frames import MAX_PAYLOAD, Op, encode, encode_name, encode_pieces
from .link import Link
from .mailbox import Mailbox
from .member import End

__all__ = ["LinkDoor", "LinkedMailbox", "TakeOver", "encode_group_add"]

TakeOver = Callable[[], Awaitable[bool]]


class LinkDoor:
    """
    The hub at the other end of a link, with its own methods: Door of a mailbox, PortDoor of a port.

    Attributes:
        link: to be set by whoever makes it.
    """

    link: Link

    def take(self, channel: str) -> bytes | None:
        """Nothing is at hand: want() brings it."""
        return None

    def want(self, end: End, channel: str, count: int) -> None:
        self.link.tell(encode(Op.WANT, (count,), encode_name(channel), 0))

    def unwant(self, end: End, channel: str, count: int) -> None:
        self.link.tell(encode(Op.WANT, (-count,), encode_name(channel), 0))

    def put_back(self, channel: str, payload: bytes, expires: float) -> None:
        self.link.tell(encode(Op.PUT_BACK, (expires,), encode_name(channel), len(payload)), payload)

    def took(self, end: End, prefix: str, count: int) -> None:
        self.link.took(prefix, count)

    def group_add(self, end: End, group: str, channel: str, stream: str = "") -> None:
        self.link.register(encode_group_add(group, channel, stream))

    def stream_leaving(self, end: End, stream: str) -> None:
        self.link.tell(encode(Op.STREAM_LEAVING, (), encode_name(stream), 0))

    def stream_held(self, end: End, stream: str, held: Sequence[tuple[str, bytes, float]]) -> None:
        name = encode_name(stream)
        piece: list[tuple[str, bytes, float]] = []
        size = 0
        for each in held:
            # 267: the rest of a piece, at most.
            if size + len(each[1]) + 267 > MAX_PAYLOAD:
                part = encode_pieces(piece)
                self.link.tell(encode(Op.STREAM_HELD, (False,), name, len(part)), part)
                piece, size = [], 0
            piece.append(each)
            size += len(each[1]) + 267
        part = encode_pieces(piece)
        self.link.tell(encode(Op.STREAM_HELD, (True,), name, len(part)), part)

    def post(self, sender: str, to: str, payload: bytes) -> bool:
        self.link.tell(encode(Op.POST, (), encode_name(to), len(payload)), payload)
        return True

    def offer(self, end: End, channel: str, ref: int, payload: bytes, limit: int) -> str:
        """See Port: claimed() or refused() come later."""
        if len(payload) > MAX_PAYLOAD:
            raise MessageTooLarge(f"an opening of {len(payload)} octets packed")
        self.link.tell(encode(Op.OFFER, (ref, limit), encode_name(channel), len(payload)), payload)
        return ""

    def withdraw(self, end: End, channel: str, ref: int) -> None:
        self.link.tell(encode(Op.WITHDRAW, (ref,), encode_name(channel), 0))

    def serve(self, end: End, channel: str, places: int) -> None:
        self.link.tell(encode(Op.SERVE, (places,), encode_name(channel), 0))


class LinkedMailbox:
    """
    The member that a process' channels and groups belong to.

    Args:
        door: of the mailbox.
        take_over: see LinkUser.
    """

    def __init__(
        self, path: str, mailbox: Mailbox, door: LinkDoor, send_timeout: float, take_over: TakeOver
    ) -> None:
        self.name = mailbox.name
        self.link = door.link = Link(path, self, send_timeout=send_timeout)
        self._door = door
        self._mailbox = mailbox
        self.take_over = take_over
        self.deliver_group = mailbox.deliver_group
        self.deliver_kept = mailbox.deliver_kept
        self.group_added = mailbox.group_added
        self.group_discarded = mailbox.group_discarded
        self.stream_diverted = mailbox.stream_diverted
        self.flushed = mailbox.flushed
        self.tick = mailbox.expire

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None:
        self._mailbox.deliver(channel, payload, expires, counted)

    def joined(self) -> None:
        self._mailbox.rejoin(self._door)

    def lost(self) -> None:
        """What has arrived is still good."""

    # A mailbox has no port.

    def deliver_post(self, sender: str, payload: bytes) -> None: ...

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None: ...

    def claimed(self, ref: int, by: str) -> None: ...

    def refused(self, ref: int) -> None: ...

    def all_told(self) -> None: ...

    def member_gone(self, name: str) -> None: ...


def encode_group_add(group: str, channel: str, stream: str) -> bytes:
    """A GROUP_ADD frame."""
    return encode(Op.GROUP_ADD, (), encode_name(group) + encode_name(channel) + encode_name(stream), 0)
