"""
WebSocket frames and messages (RFC 6455 §5 to §7, RFC 7692), without I/O.

Bytes go in through receive_data(), messages come out of next_message() one at a time, so that an application
that is slow to take them leaves the rest as bytes. What must be sent meanwhile (pongs, the answer to a close,
the close frame after a violation) waits in data_to_send().

Two readers share the work. Whole, final, masked, uncompressed frames are decoded here; everything else goes to
Autobahn's state machine, a frame at a time: fragments, compressed messages, closes, whatever is malformed. It
is made when first needed, since most connections never need it. Both hold the same limits.

A long frame that has come in part waits here until it is whole, bounded by the frame limit; a short one of
text goes to the state machine at once, which refuses UTF-8 at its first wrong octet.
"""

import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from daphne_like.websocket.engine import FrameEngine, make_deflate
from daphne_like.websocket.handshake import DeflateParameters
from daphne_like.websocket.masking import AS_INTEGER, unmask, unmask_in_place

__all__ = ["ABNORMAL_CLOSURE", "UNFINISHED", "Closed", "Codec", "Unfinished"]

NO_STATUS_RECEIVED: Final = 1005  # "MUST NOT be set as a status code in a Close" -- RFC 6455 §7.4.1
ABNORMAL_CLOSURE: Final = 1006
_NOT_ON_THE_WIRE = frozenset((1004, NO_STATUS_RECEIVED, ABNORMAL_CLOSURE, 1015))

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
_COMPRESSED = 0x40

# Deflate makes smaller messages larger.
_MIN_COMPRESSED = 64
# Incomplete text frames up to this length are validated as they come.
_SHORT_TEXT = 16 * 1024


# Frames that make no message (fragments, pings) which are read in one go: about a millisecond's work.
FRAMES_AT_A_TIME = 256


class Unfinished(Enum):
    """The type of UNFINISHED, which next_message() returns instead of going on."""

    UNFINISHED = 0


UNFINISHED: Final = Unfinished.UNFINISHED


@dataclass(slots=True)
class Closed:
    """
    The peer will send no more messages.

    Attributes:
        code: the peer's close code, 1005 if it sent none; ours after a violation.
        reason: the peer's words, or what it did wrong.
        violation: the peer broke the protocol, and our close frame is in data_to_send().
    """

    code: int
    reason: str
    violation: bool = False


class Codec:
    """
    One open WebSocket, server side.

    Args:
        max_frame_size, max_message_size: bytes, 0 for no limit. A message's counts after decompression.
        deflate: what the handshake agreed on, None for no compression.

    Attributes:
        pongs: pong frames received.
        close_sent: a close frame is in data_to_send() or beyond; nothing may follow it.
    """

    __slots__ = (
        "_awaited",
        "_buffer",
        "_closed",
        "_compress",
        "_deflate",
        "_engine",
        "_max_frame",
        "_max_message",
        "_notes",
        "_out",
        "_owed",
        "_pieces",
        "_position",
        "close_sent",
        "pongs",
    )

    def __init__(
        self, max_frame_size: int, max_message_size: int, deflate: DeflateParameters | None = None
    ) -> None:
        no_limit = sys.maxsize  # of what zlib can be told
        self._max_frame = max_frame_size or no_limit
        self._max_message = max_message_size or no_limit
        self._deflate = None if deflate is None else make_deflate(deflate)
        self._engine: FrameEngine | None = None
        self._notes: list[tuple[str, Any]] = []
        self._buffer = b""
        self._position = 0  # of the first octet in the buffer that has not been read
        self._awaited = 0  # octets to come of the long frame at the buffer's end
        self._pieces = bytearray()  # of it, behind the buffer
        self._owed = 0  # octets to come of the frame that the state machine has begun
        self._out: list[bytes] = []
        self._closed = False
        self.close_sent = False
        self.pongs = 0

    # ---- receiving

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the connection; call next_message() until it has no more."""
        if self._closed:
            return
        if self._awaited:
            # A long frame is coming in small pieces: join them once, when it is whole.
            self._pieces += data
            self._awaited -= len(data)
            if self._awaited > 0:
                return
            data = bytes(self._pieces)
            self._pieces = bytearray()
            self._awaited = 0
        position = self._position
        if position < len(self._buffer):
            data = self._buffer[position:] + data
        self._buffer = data
        self._position = 0

    def single_message(self, data: bytes) -> str | bytes | None:
        """
        Return the message when *data* is one whole plain frame and nothing waits before it.

        That is what nearly every read of a WebSocket is. None: it is not, and nothing has been taken; give
        the octets to receive_data().
        """
        if self._engine is not None or self._position < len(self._buffer) or self._awaited or self._closed:
            return None
        size = len(data)
        first = data[0]
        if size < 6 or (first != _TEXT and first != _BINARY):
            return None
        length = data[1] - 0x80
        if length < 126:
            begin = 6
        elif length == 126 and size > 133:
            length = data[2] << 8 | data[3]
            begin = 8
        else:
            return None
        if size != begin + length or length > self._max_frame or length > self._max_message:
            return None
        payload: bytes | bytearray
        if length <= AS_INTEGER:
            payload = unmask(data[begin - 4 : begin], data[begin:])
            if first == _BINARY:
                return payload
        else:
            payload = bytearray(data)
            del payload[:begin]
            unmask_in_place(data[begin - 4 : begin], payload)
            if first == _BINARY:
                return bytes(payload)
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return None

    @property
    def held(self) -> int:
        """Octets received that next_message() has not read yet."""
        return len(self._buffer) - self._position + len(self._pieces)

    def next_message(self) -> str | bytes | Closed | Unfinished | None:
        """
        Return the next message, or None where more data is needed. Nothing follows a Closed.

        UNFINISHED comes after FRAMES_AT_A_TIME frames that made no message: the caller should let others have
        their turn before it calls again.
        """
        if self._awaited:
            return None
        frames = 0
        while not self._closed:
            frames += 1
            if frames > FRAMES_AT_A_TIME:
                return UNFINISHED
            if self._notes:
                message = self._act_on_note()
                if message is not None:
                    return message
                continue
            buffer = self._buffer
            position = self._position
            available = len(buffer) - position
            if self._owed:
                if not available:
                    return None
                self._feed_engine(min(self._owed, available))
                continue
            if available < 2:
                return None
            first = buffer[position]
            length = buffer[position + 1]
            if length < 0x80:  # no mask: the state machine knows what to say
                self._feed_engine(available)
                continue
            length &= 0x7F
            payload = position + 6
            if length > 125:
                size = 2 if length == 126 else 8
                payload += size
                length = int.from_bytes(buffer[position + 2 : position + 2 + size], "big")
                if available < 6 + size:
                    return None
            elif available < 6:
                return None
            end = payload + length
            if self._is_plain(first, length, payload - position):
                if end <= len(buffer):
                    self._position = end
                    message = self._plain_frame(first, buffer[payload - 4 : payload], buffer[payload:end])
                    if message is not None:
                        return message
                    continue
                if first != _TEXT or length > _SHORT_TEXT:
                    self._awaited = end - len(buffer)
                    return None
            elif (
                first == 0
                and length == 0
                and payload == position + 6
                and self._engine is not None
                and self._engine.inside_message
            ):
                self._position = end  # an empty fragment in the middle adds nothing, and costs nothing so
                continue
            self._owed = end - position
            self._feed_engine(min(self._owed, available))
        return None

    def _is_plain(self, first: int, length: int, header: int) -> bool:
        """Whether a frame needs no state machine: see the module's theory."""
        if first == _TEXT or first == _BINARY:
            if length > self._max_frame or length > self._max_message:
                return False
            if header > 6 and length < (126 if header == 8 else 65536):  # "minimal number of bytes" §5.2
                return False
            return self._engine is None or not self._engine.inside_message
        return (first == _PING or first == _PONG) and header == 6 and length <= 125

    def _plain_frame(self, first: int, mask: bytes, data: bytes) -> str | bytes | Closed | None:
        data = unmask(mask, data)
        if first == _TEXT:
            try:
                return data.decode()
            except UnicodeDecodeError:
                return self._fail(1007, "text message is not UTF-8")
        if first == _BINARY:
            return data
        if first == _PING:
            self._answer_ping(data)
        else:
            self.pongs += 1
        return None

    def _feed_engine(self, size: int) -> None:
        if self._engine is None:
            self._engine = FrameEngine(self._max_frame, self._max_message, self._deflate)
        position = self._position
        self._position = position + size
        self._owed = max(0, self._owed - size)
        self._notes = self._engine.feed(self._buffer[position : position + size])

    def _act_on_note(self) -> str | bytes | Closed | None:
        kind, value = self._notes.pop(0)
        if kind in ("text", "bytes"):
            message: str | bytes = value
            return message
        if kind == "failure":
            return self._fail(*value)
        if kind == "close":
            code, reason = value
            if not self.close_sent:  # "typically echos the status code it received" -- §5.5.1
                self._write_close(code, b"")
            self._end()
            return Closed(NO_STATUS_RECEIVED if code is None else code, reason)
        if kind == "ping":
            self._answer_ping(value)
        else:
            self.pongs += 1
        return None

    def _answer_ping(self, payload: bytes) -> None:
        if not self.close_sent:
            self._out.append(bytes((_PONG, len(payload))) + payload)

    def _fail(self, code: int, reason: str) -> Closed:
        if not self.close_sent:
            self._write_close(code, reason.encode()[:123])
        self._end()
        return Closed(code, reason, violation=True)

    def _end(self) -> None:
        self._closed = True
        self._buffer = b""
        self._position = self._awaited = 0
        self._pieces = bytearray()
        self._engine = None

    # ---- sending

    def encode(self, message: str | bytes) -> bytes:
        """Return the frame of a whole message, compressed where that was agreed on and is worth it."""
        if isinstance(message, str):
            payload = message.encode()
            first = _TEXT
        else:
            payload = message
            first = _BINARY
        size = len(payload)
        if self._deflate is not None and size >= _MIN_COMPRESSED:
            deflate = self._deflate
            deflate.start_compress_message()
            payload = deflate.compress_message_data(payload) + deflate.end_compress_message()
            size = len(payload)
            first |= _COMPRESSED
        if size < 126:
            return bytes((first, size)) + payload
        if size < 65536:
            return bytes((first, 126, size >> 8, size & 0xFF)) + payload
        return bytes((first, 127)) + size.to_bytes(8, "big") + payload

    def ping(self, payload: bytes = b"") -> None:
        """Put a ping of at most 125 octets into data_to_send(); none after a close frame."""
        if not self.close_sent:
            self._out.append(bytes((_PING, len(payload))) + payload)

    def close(self, code: int, reason: str = "") -> None:
        """
        Put a close frame into data_to_send(), unless one was there before.

        Args:
            code: what the wire does not carry (1005, 1006) goes out as a close without a code.
            reason: cut at 123 octets, never within a character.
        """
        if self.close_sent:
            return
        if code in _NOT_ON_THE_WIRE:
            self._write_close(None, b"")
        else:
            self._write_close(code, reason.encode()[:123].decode("utf-8", "ignore").encode())

    def _write_close(self, code: int | None, reason: bytes) -> None:
        payload = b"" if code is None else code.to_bytes(2, "big") + reason
        self._out.append(bytes((_CLOSE, len(payload))) + payload)
        self.close_sent = True

    def data_to_send(self) -> bytes:
        """Take control frames that wait to be sent."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out = []
        return data
