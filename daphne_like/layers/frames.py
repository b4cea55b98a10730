"""
The frames that members and the broker of an `ipc` layer exchange over their Unix socket. No I/O.

    frame = u32 length of the rest | u8 what it is | numbers | names | payload            all big endian
    name  = u8 length | ASCII                  a channel, a group, a member, a label of a stream
    payload = the rest of the frame: opaque here, packed and unpacked by the members

LAYOUTS says which numbers and how many names each has. The first frame of a member is HELLO, the broker's is
WELCOME or REFUSED; those three never change, so that members of two releases can tell each other why not.
Nothing is numbered: what wants an answer (*) is answered in order, many with one ACK.

A frame that is not whole stays with the FrameReader until the rest has come. One that is longer than MAX_FRAME,
of a kind unknown, or whose names do not fit into it: who sent it is not one of us, and its connection ends.

Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import functools
from collections.abc import Iterable
from struct import Struct, error
from typing import Any

__all__ = [
    "MAGIC",
    "MAX_FRAME",
    "MAX_PAYLOAD",
    "VERSION",
    "FrameReader",
    "Op",
    "decode_counts",
    "decode_pieces",
    "decode_positions",
    "encode",
    "encode_counts",
    "encode_deliver",
    "encode_name",
    "encode_pieces",
    "encode_positions",
    "encode_send",
]

# Goes up whenever a member of one release could misunderstand one of another.
VERSION = 1
# What a HELLO begins with: whatever else connected by mistake is told apart from a member of another release.
MAGIC = b"dlipc"

MAX_FRAME = 8 * 1024 * 1024
# What any frame has room for beside its numbers and names.
MAX_PAYLOAD = MAX_FRAME - 1024


class Op:
    """What a frame is. Plain integers: an enum's members cost a look-up each, some four times a message."""

    # Member to broker. (*) is answered by an ACK.
    HELLO = 1  # MAGIC, version, pid | name of the member
    SEND = 2  # expires | channel | payload                                     (*)
    WANT = 3  # how many more receive() wait, negative: fewer | channel
    PUT_BACK = 4  # expires | channel | payload
    TAKEN = 5  # payload: counts by prefix
    GROUP_ADD = 6  # group, channel, label of the stream or ""                  (*)
    GROUP_DISCARD = 7  # group, channel                                         (*)
    GROUP_SEND = 8  # expires | group | payload                                 (*)
    FLUSH = 9  # (*)
    STATISTICS = 10  # answered by an ANSWER
    POST = 11  # member | payload
    OFFER = 12  # ref, limit | channel | payload
    WITHDRAW = 13  # ref | channel
    SERVE = 14  # places, negative: fewer | channel
    STREAM_LEAVING = 15  # label
    STREAM_HELD = 16  # whether this is all | label | payload: pieces
    # Broker to member.
    WELCOME = 64  # MAGIC, version, pid of the broker
    REFUSED = 65  # MAGIC, version, pid of the broker | payload: why, UTF-8
    ACK = 66  # how many | payload: positions, from 0, of those that found their channel full
    DELIVER = 67  # expires, counted | channel | payload
    DELIVER_GROUP = 68  # expires | group | payload
    DELIVER_KEPT = 69  # expires | channel, group | payload
    GROUP_ADDED = 70  # group, channel
    GROUP_DISCARDED = 71  # group, channel
    STREAM_DIVERTED = 72  # label
    FLUSHED = 73
    DELIVER_POST = 74  # sender | payload
    DELIVER_OFFER = 75  # ref | channel, sender | payload
    CLAIMED = 76  # ref | member
    OFFER_REFUSED = 77  # ref
    MEMBER_GONE = 78  # member
    ANSWER = 79  # payload


# What a frame is -> struct format of its numbers, how many names.
LAYOUTS = {
    Op.HELLO: ("5sHI", 1),
    Op.SEND: ("d", 1),
    Op.WANT: ("i", 1),
    Op.PUT_BACK: ("d", 1),
    Op.TAKEN: ("", 0),
    Op.GROUP_ADD: ("", 3),
    Op.GROUP_DISCARD: ("", 2),
    Op.GROUP_SEND: ("d", 1),
    Op.FLUSH: ("", 0),
    Op.STATISTICS: ("", 0),
    Op.POST: ("", 1),
    Op.OFFER: ("QI", 1),
    Op.WITHDRAW: ("Q", 1),
    Op.SERVE: ("i", 1),
    Op.STREAM_LEAVING: ("", 1),
    Op.STREAM_HELD: ("?", 1),
    Op.WELCOME: ("5sHI", 0),
    Op.REFUSED: ("5sHI", 0),
    Op.ACK: ("I", 0),
    Op.DELIVER: ("d?", 1),
    Op.DELIVER_GROUP: ("d", 1),
    Op.DELIVER_KEPT: ("d", 2),
    Op.GROUP_ADDED: ("", 2),
    Op.GROUP_DISCARDED: ("", 2),
    Op.STREAM_DIVERTED: ("", 1),
    Op.FLUSHED: ("", 0),
    Op.DELIVER_POST: ("", 1),
    Op.DELIVER_OFFER: ("Q", 2),
    Op.CLAIMED: ("Q", 1),
    Op.OFFER_REFUSED: ("Q", 0),
    Op.MEMBER_GONE: ("", 1),
    Op.ANSWER: ("", 0),
}

_HEAD = Struct(">IB")
_HEADS = {op: Struct(">IB" + numbers) for op, (numbers, _) in LAYOUTS.items()}
_PACK_SEND = _HEADS[Op.SEND].pack
_PACK_DELIVER = _HEADS[Op.DELIVER].pack
_NUMBERS = {op: (Struct(">" + numbers), names) for op, (numbers, names) in LAYOUTS.items()}
_U32 = Struct(">I")
_PIECE = Struct(">Id")


@functools.lru_cache(maxsize=4096)
def encode_name(name: str) -> bytes:
    """Raises ValueError: longer than 255 or not ASCII. What layers check as a name always fits."""
    raw = name.encode("ascii")
    return bytes((len(raw),)) + raw


@functools.lru_cache(maxsize=4096)
def _decode_name(raw: bytes) -> str:
    return raw.decode("ascii")


def encode(op: int, numbers: tuple[Any, ...], names: bytes, payload_size: int) -> bytes:
    """
    All of a frame before its payload, which is written right after it.

    Args:
        numbers: as LAYOUTS has them for *op*.
        names: of encode_name(), joined.
    """
    head = _HEADS[op]
    return head.pack(head.size - 4 + len(names) + payload_size, op, *numbers) + names


def encode_send(expires: float, channel: str, payload_size: int) -> bytes:
    """encode() for a SEND, of which there are most."""
    name = encode_name(channel)
    return _PACK_SEND(9 + len(name) + payload_size, Op.SEND, expires) + name


def encode_deliver(expires: float, counted: bool, channel: str, payload_size: int) -> bytes:
    """encode() for a DELIVER."""
    name = encode_name(channel)
    return _PACK_DELIVER(10 + len(name) + payload_size, Op.DELIVER, expires, counted) + name


class FrameReader:
    """
    Bytes in, frames out, in whatever pieces the bytes come.

    Attributes:
        error: why what came after the last frame is no frame; "" while all is well. Nothing is read any more
            once it is set.
    """

    def __init__(self) -> None:
        self.error = ""
        self._waiting: list[bytes] = []
        self._missing = 0  # octets that the frame begun in _waiting lacks at least

    def receive_data(self, data: bytes) -> list[tuple[Any, ...]]:
        """
        The frames that are whole now, each a flat tuple: what it is, numbers, names, payload.

        Every frame has a payload item, b"" where its kind has none.
        """
        if self._waiting:
            self._waiting.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._waiting)
            self._waiting.clear()
        frames: list[tuple[Any, ...]] = []
        if self.error:
            return frames
        start, available = 0, len(data)
        try:
            while available - start >= 5:
                length, op = _HEAD.unpack_from(data, start)
                if length > MAX_FRAME:
                    self.error = "longer than a frame can be"
                    return frames
                end = start + 4 + length
                if end > available:
                    break
                numbers, names = _NUMBERS[op]
                fields = numbers.unpack_from(data, start + 5)
                position = start + 5 + numbers.size
                if names == 1:  # most
                    name_end = position + 1 + data[position]
                    name = _decode_name(data[position + 1 : name_end])
                    frames.append((op, *fields, name, data[name_end:end]))
                    position = name_end
                else:
                    texts = []
                    for _ in range(names):
                        name_end = position + 1 + data[position]
                        texts.append(_decode_name(data[position + 1 : name_end]))
                        position = name_end
                    frames.append((op, *fields, *texts, data[position:end]))
                if position > end:
                    frames.pop()
                    self.error = "its names are longer than itself"
                    return frames
                start = end
        except KeyError:
            self.error = "of an unknown kind"
        except (error, IndexError):
            self.error = "shorter than its kind is"
        except UnicodeDecodeError:
            self.error = "with a name that is not ASCII"
        else:
            if start < available:
                rest = data[start:] if start else data
                self._waiting.append(rest)
                wanted = 4 + _U32.unpack_from(rest)[0] if len(rest) >= 4 else 5
                self._missing = max(wanted - len(rest), 1)
        return frames


# -- what payloads of our own hold -----------------------------------------------------------------
# Their decoders raise ValueError for what no encoder here has made.


def encode_positions(positions: Iterable[int]) -> bytes:
    return b"".join(map(_U32.pack, positions))


def decode_positions(payload: bytes) -> list[int]:
    if len(payload) % 4:
        raise ValueError("positions that end within one")
    return [position for (position,) in _U32.iter_unpack(payload)]


def encode_counts(counts: dict[str, int]) -> bytes:
    return b"".join(_U32.pack(count) + encode_name(name) for name, count in counts.items())


def decode_counts(payload: bytes) -> dict[str, int]:
    counts = {}
    position = 0
    while position < len(payload):
        if position + 4 > len(payload):
            raise ValueError("a count that ends early")
        (count,) = _U32.unpack_from(payload, position)
        name, position = _read_name(payload, position + 4)
        counts[name] = count
    return counts


def encode_pieces(pieces: Iterable[tuple[str, bytes, float]]) -> bytes:
    """(group, payload, expires), as stream_held() has them."""
    return b"".join(
        part
        for group, piece, expires in pieces
        for part in (_PIECE.pack(len(piece), expires), encode_name(group), piece)
    )


def decode_pieces(payload: bytes) -> list[tuple[str, bytes, float]]:
    pieces = []
    position = 0
    while position < len(payload):
        if position + _PIECE.size > len(payload):
            raise ValueError("a piece that ends early")
        size, expires = _PIECE.unpack_from(payload, position)
        group, position = _read_name(payload, position + _PIECE.size)
        if position + size > len(payload):
            raise ValueError("a piece that ends early")
        pieces.append((group, payload[position : position + size], expires))
        position += size
    return pieces


def _read_name(payload: bytes, position: int) -> tuple[str, int]:
    if position >= len(payload) or position + 1 + payload[position] > len(payload):
        raise ValueError("a name that ends early")
    end = position + 1 + payload[position]
    return _decode_name(payload[position + 1 : end]), end
