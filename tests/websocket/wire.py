"""
A client's side of WebSocket, written from RFC 6455 §5 and RFC 7692 §7 alone, for tests.

Nothing of it uses what it tests: frames are put together and taken apart here, masks included.
"""

import zlib
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 §5.7


def masked(payload, mask=MASK):
    return bytes(octet ^ mask[index % 4] for index, octet in enumerate(payload))


def length_field(size, width=None):
    """The length in its shortest form, or in *width* octets behind the first."""
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    if not width:
        return bytes((0x80 | size,))
    return bytes((0x80 | (126 if width == 2 else 127),)) + size.to_bytes(width, "big")


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=MASK, width=None, size=None):
    """A client's frame. *size*: what the length says, where that is a lie."""
    first = bytes((fin << 7 | rsv << 4 | opcode,))
    field = length_field(len(payload) if size is None else size, width)
    if mask is None:
        return first + bytes((field[0] & 0x7F,)) + field[1:] + payload
    return first + field + mask + masked(payload, mask)


def text(words, **options):
    return frame(TEXT, words.encode(), **options)


def close(code=None, reason=b"", **options):
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason, **options)


class Deflater:
    """The sending side of permessage-deflate."""

    def __init__(self, bits=15, takeover=True):
        self.bits, self.takeover = bits, takeover
        self.compressor = None

    def __call__(self, payload):
        if self.compressor is None or not self.takeover:
            self.compressor = zlib.compressobj(wbits=-self.bits)
        data = self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(b"\x00\x00\xff\xff")
        return data[:-4]


class Inflater:
    """The receiving side of permessage-deflate."""

    def __init__(self, bits=15, takeover=True):
        self.bits, self.takeover = bits, takeover
        self.decompressor = None

    def __call__(self, payload):
        if self.decompressor is None or not self.takeover:
            self.decompressor = zlib.decompressobj(wbits=-self.bits)
        return self.decompressor.decompress(payload + b"\x00\x00\xff\xff")


@dataclass
class Frame:
    """A server's frame as it was on the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def read_frames(data):
    """All of *data* as a server's frames: unmasked, lengths in their shortest form, nothing left over."""
    frames = []
    while data:
        first, size = data[0], data[1]
        assert not size & 0x80, "a server's frame is not masked"
        data = data[2:]
        if size > 125:
            width = 2 if size == 126 else 8
            size, shortest = int.from_bytes(data[:width], "big"), 126 if width == 2 else 65536
            assert size >= shortest
            data = data[width:]
        assert len(data) >= size
        frames.append(Frame(first & 0xF, data[:size], bool(first & 0x80), first >> 4 & 7))
        data = data[size:]
    return frames


def close_payload(payload):
    """``(code or None, reason)`` of a close frame's payload."""
    return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (None, "")
