"""
The chunked transfer coding, read strictly (RFC 9112 §7.1).

Chunk extensions and trailers are read and dropped. Both are bounded, because neither reaches anyone who could
object: an endless extension or trailer section is refused, not skipped.

Every line ends with CRLF here. RFC 9112 §2.2 allows a bare LF in the *start-line and fields* only, and readers
that allow it in chunk lines have been led to see two messages where others saw one.
"""

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.grammar import CHUNK_LINE
from daphne_like.http.h1_tokenizer import FieldTokenizer

__all__ = ["ChunkedDecoder"]

MAX_CHUNK_LINE = 4096  # chunk-size and extensions: nobody is known to send more than a signature in them
MAX_OVERHEAD = 256 * 1024  # lines beyond the size digits, a whole body: more extension than this is an attack
MAX_TRAILERS = 8192

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedDecoder:
    """Octets of one chunked body in, its content out."""

    __slots__ = ("_overhead", "_pending", "_remaining", "_state")

    def __init__(self) -> None:
        self._state = _SIZE
        self._pending = b""
        self._remaining = 0
        self._overhead = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """
        Decode *data*.

        Returns:
            ``(content, rest)``: *rest* is None until the body has ended, then the octets that follow it.

        Raises:
            RemoteProtocolError: 400 for broken framing, 431 for too large a trailer section.
        """
        if self._pending:
            data = self._pending + data
            self._pending = b""
        position = 0
        content: list[bytes] = []
        state = self._state
        while True:
            if state == _DATA:
                remaining = self._remaining
                piece = data[position : position + remaining]
                if piece:
                    content.append(piece)
                    position += len(piece)
                    remaining -= len(piece)
                if remaining:
                    self._remaining = remaining
                    break
                state = _DATA_END
            elif state == _SIZE:
                end = data.find(b"\r\n", position, position + MAX_CHUNK_LINE)
                if end < 0:
                    self._check_partial_line(data, position)
                    self._pending = data[position:]
                    break
                size = self._chunk_size(data[position:end])
                position = end + 2
                if size:
                    self._remaining = size
                    state = _DATA
                else:
                    state = _TRAILERS
            elif state == _DATA_END:
                if data[position : position + 2] != b"\r\n":
                    if data[position:] in (b"", b"\r"):
                        self._pending = data[position:]
                        break
                    raise RemoteProtocolError("chunk data longer than its size")
                position += 2
                state = _SIZE
            else:  # _TRAILERS
                rest = self._read_trailers(data, position)
                self._state = state
                return b"".join(content), rest
        self._state = state
        return b"".join(content), None

    def _chunk_size(self, line: bytes) -> int:
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed chunk size or extension")
        digits = match[1]
        if len(line) != len(digits):
            self._overhead += len(line)
            if self._overhead > MAX_OVERHEAD:
                raise RemoteProtocolError("too many chunk extensions")
        return int(digits, 16)

    def _check_partial_line(self, data: bytes, position: int) -> None:
        """Refuse a chunk line that cannot become one, before its end has come."""
        waiting = data[position : position + MAX_CHUNK_LINE]
        if len(waiting) == MAX_CHUNK_LINE:
            raise RemoteProtocolError("chunk line too long")
        if b"\n" in waiting or b"\r" in waiting[:-1]:
            raise RemoteProtocolError("bare CR or LF in a chunk line")
        if waiting and waiting[:1] not in _HEX:
            raise RemoteProtocolError("malformed chunk size")

    def _read_trailers(self, data: bytes, position: int) -> bytes | None:
        if data.startswith(b"\r\n", position):
            return data[position + 2 :]
        end = data.find(b"\r\n\r\n", position, position + MAX_TRAILERS)
        if end < 0:
            waiting = data[position:]
            if len(waiting) >= MAX_TRAILERS:
                raise RemoteProtocolError("trailer section too large", status_hint=431)
            if waiting.count(b"\n") != waiting.count(b"\r\n"):
                raise RemoteProtocolError("bare LF in a trailer section")
            self._pending = waiting
            return None
        # "MUST NOT merge": judged, then dropped -- RFC 9110 §6.5.1
        FieldTokenizer().cut(data[position : end + 4])
        return data[end + 4 :]


_HEX = frozenset(b"%c" % digit for digit in b"0123456789abcdefABCDEF")
