"""
A raw WebSocket client: frames by hand, so that wrong ones can be sent, and no reading that was not asked for.

RFC 6455 for frames and the handshake, RFC 7692 for permessage-deflate. Frames are masked with a real key,
as a server must unmask them; floods build their frame once and send the same octets again.
"""

from __future__ import annotations

import socket
import struct
import zlib
from dataclasses import dataclass

from .client import Reader, Response, request_head

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_MASK = b"\x37\xfa\x21\x3d"
_TAIL = b"\x00\x00\xff\xff"  # what RFC 7692 section 7.2.1 removes from the end of a compressed message


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    compressed: bool = False,
    announced: int | None = None,
) -> bytes:
    """
    A masked frame.

    Args:
        compressed: RSV1, the mark of permessage-deflate on a message's first frame.
        announced: the length that the header claims, in the 64-bit form, where it is not the payload's.
    """
    first = (0x80 if fin else 0) | (0x40 if compressed else 0) | opcode
    size = len(payload)
    if announced is not None:
        head = struct.pack("!BBQ", first, 0x80 | 127, announced)
    elif size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + _MASK + masked(payload)


def masked(payload: bytes) -> bytes:
    """*payload* under the client's key."""
    key = int.from_bytes((_MASK * (len(payload) // 4 + 1))[: len(payload)], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(len(payload), "little")


@dataclass(frozen=True, slots=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool
    compressed: bool

    @property
    def close_code(self) -> int:
        """Of a close frame; 1005 when it carries none (RFC 6455 section 7.1.5)."""
        return int.from_bytes(self.payload[:2], "big") if len(self.payload) >= 2 else 1005


class FrameParser:
    """Server frames from any split of their octets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (parsed := self._next()) is not None:
            frames.append(parsed)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < 2 + width:
                return None
            size, start = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
        if len(buffer) < start + size:
            return None
        parsed = Frame(
            buffer[0] & 0x0F,
            bytes(buffer[start : start + size]),
            bool(buffer[0] & 0x80),
            bool(buffer[0] & 0x40),
        )
        del buffer[: start + size]
        return parsed

    def close_code_in(self, data: bytes) -> int | None:
        """The code of the first close frame that *data* completes."""
        return next((parsed.close_code for parsed in self.feed(data) if parsed.opcode == CLOSE), None)


class HandshakeRefused(Exception):
    """The server answered the handshake with something other than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class WebSocket:
    """
    One WebSocket over a connected blocking socket.

    The handshake is in two steps, so that many can be under way at once: the constructor sends the request,
    complete() reads the answer. Reading answers pings; nothing else is done unasked.
    """

    def __init__(self, client: socket.socket, target: str, *, deflate: bool = False) -> None:
        self.client = client
        self.parser = FrameParser()
        self.extensions = ""
        fields = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        if deflate:  # what browsers offer
            fields.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        self._frames: list[Frame] = []
        client.sendall(request_head("GET", target, *fields))

    def complete(self) -> WebSocket:
        """Raises HandshakeRefused, or ConnectionError when there is no answer."""
        reader = Reader(self.client)
        response = reader.head()
        if response.status != 101:
            if size := int(response.headers.get("content-length", "0")):
                response.body = reader.exactly(size)
            raise HandshakeRefused(response)
        self.extensions = response.headers.get("sec-websocket-extensions", "")
        self._frames = self.parser.feed(reader.unread())
        return self

    @property
    def deflates(self) -> bool:
        return "permessage-deflate" in self.extensions

    def compressed(self, payload: bytes) -> bytes:
        """
        *payload* as the first compressed message of this connection, with the window that the server allows.
        """
        bits = 15
        for parameter in self.extensions.replace(" ", "").split(";"):
            if parameter.startswith("client_max_window_bits="):
                bits = int(parameter.partition("=")[2])
        compressor = zlib.compressobj(wbits=-max(9, bits))
        data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(_TAIL)] if data.endswith(_TAIL) else data

    def send(self, opcode: int, payload: bytes = b"") -> None:
        self.client.sendall(frame(opcode, payload))

    def read_frame(self) -> Frame | None:
        """
        The next frame, pings answered and passed over; None once the server has closed. Raises TimeoutError.
        """
        while True:
            while self._frames:
                parsed = self._frames.pop(0)
                if parsed.opcode != PING:
                    return parsed
                self.send(PONG, parsed.payload)
            try:
                data = self.client.recv(1 << 18)
            except ConnectionError:
                return None
            if not data:
                return None
            self._frames = self.parser.feed(data)

    def read_message(self) -> bytes | None:
        """
        The payload of the next uncompressed data message, its fragments joined; None once the server has
        closed.
        """
        parts = []
        while (parsed := self.read_frame()) is not None:
            if parsed.opcode == CLOSE:
                return None
            if parsed.opcode in (CONTINUATION, TEXT, BINARY):
                parts.append(parsed.payload)
                if parsed.fin:
                    return b"".join(parts)
        return None
