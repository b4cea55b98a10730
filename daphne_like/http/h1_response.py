"""
The sending half of an HTTP/1.x connection: which head, how the body is framed, which bytes.

A head is held back until the first of its body shows, or until somebody wants the bytes: a response that is
complete in one piece then gets a Content-Length that the application did not have to compute, any other is
chunked, or ends with the connection where the client speaks HTTP/1.0 (RFC 9112 §6.3).

Whatever an application must not send raises InvalidMessage before any byte of it is in the buffer.
"""

from http import HTTPStatus

from daphne_like.errors import InvalidMessage
from daphne_like.http.events import RequestReceived
from daphne_like.http.headers import (
    response_field,
    response_section,
)
from daphne_like.http.identity import Identity
from daphne_like.typing import Headers

__all__ = ["NO_REQUEST", "ResponseWriter"]

# How a response is framed. _NONE: none has begun. _UNDECIDED: its head is held, without a length in it.
# _TUNNEL: what follows is another protocol's.
_NONE, _UNDECIDED, _LENGTH, _CHUNKS, _UNTIL_CLOSE, _NO_BODY, _TUNNEL = range(7)

# A head and what follows it leave as one piece up to here; beyond, copying costs more than a second piece.
MAX_JOINED = 64 * 1024


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""  # "reason-phrase" is optional, the SP before it is not -- RFC 9112 §4
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status.value: _status_line(status.value) for status in HTTPStatus}


# What a response answers when no request could be read.
NO_REQUEST = RequestReceived(0, "GET", b"/", b"", [], "1.1", True, False)


class ResponseWriter:
    """
    Writes one response after the other; H1Connection adds the requests.

    Args:
        identity: the fields that every response carries.

    Attributes:
        buffered: bytes that data_to_send() would give now, a held head not counted.
        body_sent: octets of the current response's body written so far, without framing.
    """

    __slots__ = (
        "_close_after",
        "_end_of_head",
        "_framing",
        "_head",
        "_identity",
        "_keep_alive",
        "_out",
        "_request",
        "_to_send",
        "_trailers",
        "body_sent",
        "buffered",
    )

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._request = NO_REQUEST
        self._trailers = False
        self._out: list[bytes] = []
        self._head: list[bytes] = []
        self._end_of_head = b""
        self._framing = _NONE
        self._close_after = False
        self._keep_alive = True
        self._to_send = 0
        self.body_sent = 0
        self.buffered = 0

    @property
    def response_started(self) -> bool:
        """A final response to the current request is in the outbound buffer, or beyond."""
        return self._framing != _NONE and not self._head

    def _expect_response_to(self, request: RequestReceived, trailers: bool) -> None:
        self._request = request
        self._trailers = trailers
        self._framing = _NONE
        self.body_sent = 0

    def _must_close(self) -> bool:
        """Whether the connection ends with the response that begins now."""
        return not self._keep_alive

    def _response_complete(self) -> None:
        """The response's last octet is in the buffer."""

    def send_informational(self, stream_id: int, status: int, headers: Headers) -> None:
        """
        Send a 1xx response, which leaves the final one to come. HTTP/1.0 clients are spared it (§15.2).

        Raises:
            InvalidMessage: a header field that cannot be sent.
        """
        if self._request.http_version != "1.0":
            self._append(b"".join((_STATUS_LINES[status], *_field_lines(headers), b"\r\n")))

    def _send_switching_protocols(self, headers: Headers) -> None:
        end = self._identity.ends_of_head[0]
        self._append(b"".join((_STATUS_LINES[101], *_field_lines(headers), end)))
        self._framing = _TUNNEL

    def send_headers(self, stream_id: int, status: int, headers: Headers) -> None:
        """
        Begin the final response. Its head is held until its body or data_to_send() calls for it.

        Args:
            status: 200 to 999.
            headers: Transfer-Encoding is left out (it is ours to choose), Connection is read for ``close``,
                Date and Server replace our own.

        Raises:
            InvalidMessage: nothing is held, and another head may be tried.
        """
        fields, length, length_line, close, present = response_section(headers)
        line = _STATUS_LINES.get(status) or _status_line(status)
        if status == 204:
            framing = _NO_BODY
            length = None  # "MUST NOT" -- RFC 9110 §8.6
        elif status == 205:
            framing = _NO_BODY  # "MUST NOT generate content" -- RFC 9110 §15.3.6
            length = 0
            length_line = b"content-length: 0\r\n"
        elif status == 304 or self._request.method == "HEAD":
            framing = _NO_BODY
        elif length is not None:
            framing = _LENGTH
        else:
            framing = _UNDECIDED
        if length is not None:
            self._head = [line, fields, length_line]
            self._to_send = length
        else:
            self._head = [line, fields]
            self._to_send = 0
        self._end_of_head = self._identity.ends_of_head[present]
        self._close_after = close or self._must_close()
        self._framing = framing

    def withdraw_headers(self, stream_id: int) -> bool:
        """Take back a head that is still held. Returns whether another response can be sent."""
        if self._head:
            self._head = []
            self._framing = _NONE
        return self._framing == _NONE

    def _commit(self, data: bytes = b"", whole: bool = False) -> None:
        """Put the held head into the buffer, and *data* behind it; *whole*: that is all of the body."""
        lines = self._head
        self._head = []
        if self._framing == _UNDECIDED:
            if whole:
                self._framing = _LENGTH
                lines.append(b"content-length: %d\r\n" % len(data))
            elif self._request.http_version == "1.0":
                self._framing = _UNTIL_CLOSE
                self._close_after = True
            else:
                self._framing = _CHUNKS
                lines.append(b"transfer-encoding: chunked\r\n")
        if self._close_after or not self._keep_alive:
            lines.append(b"connection: close\r\n")
            self._keep_alive = False
        elif self._request.http_version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(self._end_of_head)
        if len(data) > MAX_JOINED:
            self._append(b"".join(lines))
        else:
            lines.append(data)
            data = b"".join(lines)
        self._out.append(data)
        self.buffered += len(data)

    def _append(self, data: bytes) -> None:
        self._out.append(data)
        self.buffered += len(data)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """
        Append to the response's body. Where a response has none (HEAD, 204), *data* is dropped.

        Raises:
            InvalidMessage: more or less than Content-Length announced. Nothing of *data* is sent.
        """
        size = len(data)
        framing = self._framing
        if framing == _LENGTH:
            if size != self._to_send and (end_stream or size > self._to_send):
                raise self._wrong_length("longer" if size > self._to_send else "shorter")
            self._to_send -= size
            if self._head:
                self._commit(data)
            elif size:
                self._append(data)
            self.body_sent += size
            if end_stream:
                self._response_complete()
            return
        if framing == _TUNNEL:
            self._append(data)
            return
        if framing == _UNDECIDED:
            if end_stream:
                self._commit(data, True)
                self.body_sent = size
                self._response_complete()
                return
            self._commit()
            framing = self._framing
        if framing == _NO_BODY:
            if self._head:
                self._commit()
        elif framing == _CHUNKS:
            if size:
                line = b"%x\r\n" % size
                self._out += (line, data, b"\r\n")
                self.buffered += size + len(line) + 2
                self.body_sent += size
            if end_stream:
                self._append(b"0\r\n\r\n")
        elif size:
            self._append(data)
            self.body_sent += size
        if end_stream:
            self._response_complete()

    def send_trailers(self, stream_id: int, headers: Headers) -> None:
        """
        End the response with trailer fields. They are left out where the client does not take them.

        Raises:
            InvalidMessage: a field that cannot be sent, or that trailers must not carry (RFC 9110 §6.5.1),
                or a body shorter than its Content-Length.
        """
        lines = []
        for field in headers:
            kind, line, _ = response_field(field)
            if kind:
                raise InvalidMessage(f"{field[0]!r} cannot be a trailer field")
            lines.append(line)
        if self._head:
            self._commit()
        if self._framing == _CHUNKS:
            self._append(b"".join((b"0\r\n", *(lines if self._trailers else ()), b"\r\n")))
        elif self._framing == _LENGTH and self._to_send:
            raise self._wrong_length("shorter")
        self._response_complete()

    def _wrong_length(self, how: str) -> InvalidMessage:
        announced = self.body_sent + self._to_send
        return InvalidMessage(f"the body is {how} than its Content-Length of {announced}")

    @property
    def has_data_to_send(self) -> bool:
        """data_to_send() would give something."""
        return bool(self._out or self._head)

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written, in pieces as they came. A head that is held goes with it."""
        if self._head:
            self._commit()
        out = self._out
        self._out = []
        self.buffered = 0
        return out


def _field_lines(headers: Headers) -> list[bytes]:
    return [response_field(field)[1] for field in headers]
