"""
One HTTP/1.x response after the other: which head, how its body is framed, which bytes.

A head is held back until the first of its body shows, or until somebody wants the bytes: a response that is
complete in one piece then gets a Content-Length that the application did not have to compute, any other is
chunked, or ends with the connection where the client speaks HTTP/1.0 (RFC 9112 §6.3).

Whatever an application must not send raises InvalidMessage before any byte of it is in the buffer.
"""

from http import HTTPStatus

from daphne_like.errors import InvalidMessage
from daphne_like.http import headers as fields_of
from daphne_like.http.identity import Identity
from daphne_like.typing import Headers

__all__ = ["ResponseWriter"]

# How a response is framed. _NONE: none has begun. _UNDECIDED: its head is held, without a length in it.
_NONE, _UNDECIDED, _LENGTH, _CHUNKS, _UNTIL_CLOSE, _NO_BODY = range(6)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""  # "reason-phrase" is optional, the SP before it is not -- RFC 9112 §4
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status.value: _status_line(status.value) for status in HTTPStatus}


class ResponseWriter:
    """
    Args:
        identity: the fields that every response carries.

    Attributes:
        buffered: bytes that take() would give now, a held head not counted.
        body_sent: octets of the current response's body written so far, without framing.
        keep_alive: as the head says that has been written last; before the first one, True.
    """

    __slots__ = (
        "_close_after",
        "_end_of_head",
        "_framing",
        "_head",
        "_identity",
        "_is_head",
        "_old",
        "_out",
        "_to_send",
        "_trailers",
        "body_sent",
        "buffered",
        "keep_alive",
    )

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._out: list[bytes] = []
        self._head: list[bytes] = []
        self._end_of_head = b""
        self._framing = _NONE
        self._close_after = False
        self._to_send = 0
        self._is_head = False
        self._old = False
        self._trailers = False
        self.body_sent = 0
        self.buffered = 0
        self.keep_alive = True

    @property
    def started(self) -> bool:
        """A final response is in the buffer, or beyond."""
        return self._framing != _NONE and not self._head

    def expect(self, method: str, http_version: str, trailers: bool) -> None:
        """The next response answers a request of this kind."""
        self._framing = _NONE
        self._is_head = method == "HEAD"
        self._old = http_version == "1.0"
        self._trailers = trailers
        self.body_sent = 0

    def informational(self, status: int, headers: Headers) -> None:
        """
        Write a 1xx response, which leaves the final one to come. HTTP/1.0 clients are spared it (§15.2).

        Raises:
            InvalidMessage: a header field that cannot be sent.
        """
        if not self._old:
            self._append(b"".join((_STATUS_LINES[status], *_field_lines(headers), b"\r\n")))

    def switch_protocols(self, headers: Headers) -> None:
        """Write 101."""
        end = self._identity.end_of_head(False, False)
        self._append(b"".join((_STATUS_LINES[101], *_field_lines(headers), end)))
        self._framing = _UNTIL_CLOSE  # what follows is the other protocol's
        self.keep_alive = False

    def begin(self, status: int, headers: Headers, *, close: bool) -> None:
        """
        Hold a final response's head.

        Args:
            status: 200 to 999.
            headers: Transfer-Encoding is left out (it is ours to choose), Connection is read for ``close``,
                Date and Server replace our own.
            close: the connection ends with this response.

        Raises:
            InvalidMessage: nothing is held, and another head may be tried.
        """
        lines: list[bytes] = [_STATUS_LINES.get(status) or _status_line(status)]
        length: int | None = None
        has_date = has_server = False
        try:
            for name, value in headers:
                kind = fields_of.field_kind(name)
                if kind:
                    if kind == fields_of.CONTENT_LENGTH_FIELD:
                        announced = _announced_length(value)
                        if length is not None and length != announced:
                            raise InvalidMessage(f"two Content-Length fields: {length} and {announced}")
                        length = announced
                        continue
                    if kind == fields_of.TRANSFER_ENCODING:
                        continue
                    if kind == fields_of.CONNECTION:
                        close = close or b"close" in fields_of.list_members(value)
                        continue
                    if kind == fields_of.DATE:
                        has_date = True
                    else:
                        has_server = True
                lines.append(b"%b: %b\r\n" % (name, value))
        except (TypeError, ValueError, AttributeError) as error:
            fields_of.check_field_values(headers)
            raise InvalidMessage(f"headers are pairs of bytes: {error}") from None
        _check_lines(lines, headers)

        if self._is_head or status == 304:
            framing = _NO_BODY
        elif status == 204:
            framing = _NO_BODY
            length = None  # "MUST NOT" -- RFC 9110 §8.6
        elif status == 205:
            framing = _NO_BODY  # "MUST NOT generate content" -- RFC 9110 §15.3.6
            length = 0
        elif length is not None:
            framing = _LENGTH
        else:
            framing = _UNDECIDED
        if length is not None:
            lines.append(b"content-length: %d\r\n" % length)
        self._head = lines
        self._end_of_head = self._identity.end_of_head(has_date, has_server)
        self._close_after = close
        self._framing = framing
        self._to_send = length or 0

    def withdraw(self) -> bool:
        """Take back a head that is still held. Returns whether another response can be begun."""
        if self._head:
            self._head = []
            self._framing = _NONE
        return self._framing == _NONE

    def _commit(self, body_size: int | None = None) -> None:
        """Put the held head into the buffer; *body_size* is given where the whole body is known."""
        lines = self._head
        self._head = []
        if self._framing == _UNDECIDED:
            if body_size is not None:
                self._framing = _LENGTH
                self._to_send = body_size
                lines.append(b"content-length: %d\r\n" % body_size)
            elif self._old:
                self._framing = _UNTIL_CLOSE
                self._close_after = True
            else:
                self._framing = _CHUNKS
                lines.append(b"transfer-encoding: chunked\r\n")
        if self._close_after:
            lines.append(b"connection: close\r\n")
        elif self._old:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(self._end_of_head)
        self.keep_alive = not self._close_after
        self._append(b"".join(lines))

    def _append(self, data: bytes) -> None:
        self._out.append(data)
        self.buffered += len(data)

    def body(self, data: bytes, end: bool) -> None:
        """
        Write some of the body; where a response has none (HEAD, 204), *data* is dropped.

        Raises:
            InvalidMessage: more or less than Content-Length announced. Nothing of *data* is written.
        """
        size = len(data)
        if self._framing == _UNDECIDED:
            self._commit(size if end else None)
        if self._framing == _LENGTH:
            if size > self._to_send or (end and size < self._to_send):
                raise self._wrong_length("longer" if size > self._to_send else "shorter")
            self._to_send -= size
        if self._head:
            self._commit()
        framing = self._framing
        if size and framing != _NO_BODY:
            self.body_sent += size
            if framing == _CHUNKS:
                line = b"%x\r\n" % size
                self._out += (line, data, b"\r\n")
                self.buffered += size + len(line) + 2
            else:
                self._out.append(data)
                self.buffered += size
        if end and framing == _CHUNKS:
            self._append(b"0\r\n\r\n")

    def trailers(self, headers: Headers) -> None:
        """
        End a response that announced trailers. They are left out where the client does not take them.

        Raises:
            InvalidMessage: a field that cannot be sent, or that trailers must not carry (RFC 9110 §6.5.1),
                or a body shorter than its Content-Length.
        """
        if self._framing == _CHUNKS:
            for name, _ in headers:
                if fields_of.field_kind(name):
                    raise InvalidMessage(f"{name!r} cannot be a trailer field")
            lines = _field_lines(headers)
            self._append(b"".join((b"0\r\n", *(lines if self._trailers else ()), b"\r\n")))
        elif self._framing == _LENGTH and self._to_send:
            raise self._wrong_length("shorter")

    def _wrong_length(self, how: str) -> InvalidMessage:
        announced = self.body_sent + self._to_send
        return InvalidMessage(f"the body is {how} than its Content-Length of {announced}")

    def take(self) -> list[bytes]:
        """Take what is to be written, in pieces as they came. A head that is held goes with it."""
        if self._head:
            self._commit()
        out = self._out
        self._out = []
        self.buffered = 0
        return out


def _field_lines(headers: Headers) -> list[bytes]:
    """Render fields; raises InvalidMessage for what cannot be one."""
    try:
        for name, _ in headers:
            fields_of.field_kind(name)
        lines = [b"%b: %b\r\n" % (name, value) for name, value in headers]
    except (TypeError, ValueError) as error:
        fields_of.check_field_values(headers)
        raise InvalidMessage(f"headers are pairs of bytes: {error}") from None
    _check_lines(lines, headers)
    return lines


def _check_lines(lines: list[bytes], headers: Headers) -> None:
    """Look for CR, LF and NUL in all values at once: each line has one CR and one LF of its own."""
    block = b"".join(lines)
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        fields_of.check_field_values(headers)


def _announced_length(value: bytes) -> int:
    if not isinstance(value, bytes) or not value.isdigit():
        raise InvalidMessage(f"not a Content-Length: {value!r}")
    return int(value)
