"""
Autobahn's frame engine, without its connection.

Autobahn's `WebSocketProtocol` reads the request, speaks HTTP, owns the transport, keeps timers and decodes
frames. We want the last of these: its state machine for frames, fragments and permessage-deflate, which passes
Autobahn's own testsuite. `FrameEngine` therefore begins in the OPEN state, stays there, and answers each of
the machine's questions with a note of what has happened; :mod:`daphne_like.websocket.codec` acts on the notes.

What of Autobahn this relies on, pinned by tests/websocket/test_engine.py: that `_dataReceived()` touches
nothing but the attributes set here; the callbacks `_onMessageBegin` to `_onMessageEnd`, `_onPing`, `_onPong`,
`onCloseFrame`; and that a violation ends in one of `_protocol_violation`, `_invalid_payload` and
`_max_message_size_exceeded`.
"""

import codecs
from types import SimpleNamespace
from typing import Any

from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol, WebSocketServerProtocol

from daphne_like.websocket.handshake import DeflateParameters

__all__ = ["FrameEngine", "make_deflate"]

# zlib's memory for a compressor is 2**(window bits + 2) + 2**(level + 9): with 12 bits and level 5, 32 KiB.
COMPRESSION_MEM_LEVEL = 5

# Fragments of a message that are kept apart: of one octet each they would cost fifty times their payload.
MAX_PIECES = 1024


def make_deflate(parameters: DeflateParameters) -> PerMessageDeflate:
    """Autobahn's compressor and decompressor for what was agreed on. Takes no memory before its first use."""
    return PerMessageDeflate(
        True,
        parameters.server_no_context_takeover,
        parameters.client_no_context_takeover,
        parameters.server_max_window_bits,
        parameters.inflate_window_bits,
        COMPRESSION_MEM_LEVEL,
    )


class _Utf8Validator:
    """
    Autobahn's validator by the interface, Python's decoder by the work.

    Both refuse at the first octet that cannot be right (Python's an encoded surrogate one octet later); on
    10 KiB of text Python's takes 0.5 us, Autobahn's compiled one 20.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, data: bytes) -> tuple[bool, bool, int, int]:
        """Return (valid so far, ends on a code point, and two positions that only Autobahn's texts name)."""
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            return False, False, 0, 0
        return True, self._decoder.getstate()[0] == b"", 0, 0


class _Silence:
    """Autobahn's logger: each debug() of its own costs microseconds, and we log on our side."""

    def debug(self, *_: Any, **__: Any) -> None:
        pass

    warn = info = error = debug


# Its annotations do not know that half of its attributes are None at times.
_Machine: Any = WebSocketServerProtocol


class FrameEngine(_Machine):  # type: ignore[misc]
    """
    Decodes frames from after the opening handshake on.

    Args:
        deflate: made by make_deflate(), or None.

    Attributes:
        notes: what has happened since they were last taken, in order: ``(kind, value)`` with kind "text",
            "bytes", "ping", "pong" and the payload, "close" and ``(code or None, reason)``, or "failure" and
            ``(close code to send, reason)``, after which nothing more may be fed.
    """

    log = _Silence()
    factory = SimpleNamespace(isServer=True)
    # One for all: Autobahn counts into it, nobody reads it.
    trafficStats = SimpleNamespace(
        incomingOctetsWireLevel=0,
        incomingOctetsWebSocketLevel=0,
        incomingOctetsAppLevel=0,
        incomingWebSocketFrames=0,
        incomingWebSocketMessages=0,
    )
    state = WebSocketProtocol.STATE_OPEN
    websocket_version = 13
    logOctets = logFrames = False
    trackedTimings = None
    requireMaskedClientFrames = True
    applyMask = True
    utf8validateIncoming = True
    failedByMe = False
    echoCloseCodeReason = True
    autoPingTimeoutCall = autoPingPending = None
    message_data: Any

    def __init__(self, max_frame_size: int, max_message_size: int, deflate: PerMessageDeflate | None) -> None:
        # Not super().__init__(): it makes futures of an event loop's kind, for events that we do not use.
        self.maxFramePayloadSize = max_frame_size
        self.maxMessagePayloadSize = max_message_size
        self._perMessageCompress = deflate
        self.data = b""
        self.inside_message = False
        self.current_frame = None
        self.utf8validator = _Utf8Validator()
        self.notes: list[tuple[str, Any]] = []

    def feed(self, data: bytes) -> list[tuple[str, Any]]:
        """Decode *data* and return the notes that it made."""
        self._dataReceived(data)
        notes = self.notes
        if notes:
            self.notes = []
        return notes

    # ---- called by Autobahn

    def _onMessageBegin(self, is_binary: bool) -> None:
        self.onMessageBegin(is_binary)

    def _onMessageFrameBegin(self, length: int) -> None:
        self.onMessageFrameBegin(length)

    def _onMessageFrameData(self, payload: bytes) -> None:
        self.onMessageFrameData(payload)

    def _onMessageFrameEnd(self) -> None:
        self.onMessageFrameEnd()

    def _onMessageFrame(self, payload: list[bytes]) -> None:
        self.onMessageFrame(payload)
        if not self.failedByMe and len(self.message_data) > MAX_PIECES:
            self.message_data = [b"".join(self.message_data)]

    def _onMessageEnd(self) -> None:
        if not self.failedByMe:
            payload = b"".join(self.message_data)
            self.notes.append(("bytes", payload) if self.message_is_binary else ("text", payload.decode()))
        self.message_data = None

    def _onPing(self, payload: bytes) -> None:
        self.notes.append(("ping", payload))

    def _onPong(self, payload: bytes) -> None:
        self.notes.append(("pong", payload))

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        super().onCloseFrame(code, reasonRaw)
        if not self.failedByMe:
            self.notes.append(("close", (self.remoteCloseCode, self.remoteCloseReason or "")))
        return True

    def sendCloseFrame(self, code: Any = None, reasonUtf8: Any = None, isReply: bool = False) -> None:
        pass  # the codec answers

    def dropConnection(self, abort: bool = False) -> None:
        pass  # whoever owns the socket does

    def _protocol_violation(self, reason: str) -> bool:
        return self._fail(1002, reason)

    def _invalid_payload(self, reason: str) -> bool:
        return self._fail(1007, reason)

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        self._fail(1009, reason)

    def _fail(self, code: int, reason: str) -> bool:
        if not self.failedByMe:
            self.failedByMe = True
            self.data = b""
            self.notes.append(("failure", (code, reason)))
        return True
