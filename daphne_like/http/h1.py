"""
HTTP/1.x connections, without I/O.

Bytes go in through receive_data(), events come out of events_received(); the reverse for responses, whose
bytes are taken with data_to_send(). llhttp cuts header sections into fields (h1_tokenizer); what is acceptable
is decided in h1_head, how responses are framed in h1_response; here is what ties them together: one request
at a time.

What follows a request is kept as bytes, and read when the response has ended (RFC 9112 §9.3.2). The keeper of
the socket bounds it: see `held`. A body that the application left unread is read and dropped where little of
it is missing; otherwise the connection closes with the response (§9.3, §9.6).

Errors: receive_data(), receive_eof() and events_received() raise RemoteProtocolError; then refuse() words the
answer and nothing more is read. send_*() raise InvalidMessage for what an application must not send, before
anything of it is on its way.
"""

import re

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.chunked import ChunkedDecoder
from daphne_like.http.events import DataReceived, Event, RequestReceived, StreamReset
from daphne_like.http.h1_head import judge_head, split_request_line
from daphne_like.http.h1_response import ResponseWriter
from daphne_like.http.identity import Identity
from daphne_like.http.limits import Limits
from daphne_like.typing import Headers

__all__ = ["H1Connection"]

# A body that the application left unread is read on up to here, to keep the connection; beyond, the
# connection closes. Precedent: Go's net/http reads 256 KiB.
MAX_DISCARD = 64 * 1024

# "a server [...] SHOULD ignore at least one empty line (CRLF) received prior to the request-line"
# -- RFC 9112 §2.2. One for each side of an old client's stray CRLF after a body, no more.
MAX_LEADING_CRLF = 4

# Of a request line, what is not its target: any method in use, and the version.
MAX_LINE_REST = 64

# Where the reading stands. _HELD: the request is complete, what follows waits. _DISCARDING: its response is
# complete, the rest of its body is dropped. _TUNNEL: it has become something else.
_HEAD, _FIXED, _CHUNKED, _HELD, _DISCARDING, _TUNNEL, _CLOSED = range(7)

_NEVER_IN_HEAD = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class H1Connection:
    """
    One connection that speaks HTTP/1.0 or HTTP/1.1.

    Args:
        limits: what a request may be at most.
        identity: the fields that every response carries.

    Attributes:
        stream_id: of the current request; 0 before the first.
        should_close: nothing more will be read or answered after what data_to_send() still holds.
        lingers: the client may still be sending when that happens: the close must wait until it has read
            the answer, or a reset could destroy it (RFC 9112 §9.6).
        expects_continue: the client waits for 100 before it sends the body (RFC 9110 §10.1.1).
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_decoder",
        "_events",
        "_keep_alive",
        "_leading",
        "_limits",
        "_reading",
        "_remaining",
        "_response",
        "expects_continue",
        "lingers",
        "should_close",
        "stream_id",
    )

    def __init__(self, limits: Limits, identity: Identity) -> None:
        self._limits = limits
        self._response = ResponseWriter(identity)
        self._events: list[Event] = []
        self._reading = _HEAD
        self._buffer = b""
        self._checked = 0  # of the buffer, while it is a partial head
        self._leading = 0
        self._remaining = 0  # of a fixed body; counts up for a chunked one
        self._decoder: ChunkedDecoder | None = None
        self._keep_alive = True
        self.expects_continue = False
        self.lingers = False
        self.should_close = False
        self.stream_id = 0

    # ---- receiving

    @property
    def is_idle(self) -> bool:
        """Between requests, with nothing of the next one received."""
        return self._reading == _HEAD and not self._buffer

    @property
    def reads_head(self) -> bool:
        """Waiting for a request, or for the rest of its head."""
        return self._reading == _HEAD

    @property
    def reads_body(self) -> bool:
        """More of the current request's body is to come."""
        return self._reading in _IN_BODY

    @property
    def held(self) -> int:
        """Bytes received that wait for the response in course to end."""
        return len(self._buffer) if self._reading == _HELD else 0

    def receive_data(self, data: bytes) -> None:
        """
        Take bytes from the socket. Call events_received() afterwards.

        Raises:
            RemoteProtocolError: call refuse() with it, if the response has not started.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        reading = self._reading
        if reading == _HEAD:
            self._read_head(data)
        elif reading == _FIXED or reading == _DISCARDING:
            self._read_fixed(data)
        elif reading == _CHUNKED:
            self._read_chunked(data)
        elif reading == _HELD:
            self._buffer = data
        elif reading == _TUNNEL:
            self._events.append(DataReceived(self.stream_id, data, False))

    def receive_eof(self) -> None:
        """
        The client will send nothing more. Call events_received() afterwards.

        Raises:
            RemoteProtocolError: it did so within a head; within a body, StreamReset says so instead.
        """
        reading = self._reading
        self._keep_alive = False
        if reading in _IN_BODY:
            self._events.append(StreamReset(self.stream_id, "connection closed within a request body"))
        elif reading == _HEAD and self._buffer:
            raise RemoteProtocolError("connection closed within a request head")
        if reading != _HELD:
            self._reading = _CLOSED
            self.should_close = True

    def events_received(self) -> list[Event]:
        """
        Take the events that have come; call again when a stream has ended (pipelining).

        Raises:
            RemoteProtocolError: from a request that had waited.
        """
        if self._reading == _HEAD and self._buffer and not self._checked:
            data, self._buffer = self._buffer, b""
            self._read_head(data)
        events = self._events
        if events:
            self._events = []
        return events

    def _read_head(self, data: bytes) -> None:
        if data[:1] == b"\r":
            data = self._skip_empty_lines(data)
        end = data.find(b"\r\n\r\n", max(0, self._checked - 3), self._limits.max_head_size)
        if end < 0:
            if data:
                self._check_partial_head(data)
            self._checked = len(data)
            self._buffer = data
            return
        self._checked = self._leading = 0
        self._announce(data[: end + 4])
        rest = data[end + 4 :]
        if self._reading == _HELD:
            self._buffer = rest
        elif rest:
            if self._reading == _FIXED:
                self._read_fixed(rest)
            else:
                self._read_chunked(rest)

    def _skip_empty_lines(self, data: bytes) -> bytes:
        while data.startswith(b"\r\n"):
            self._leading += 2
            self._checked = 0
            if self._leading > MAX_LEADING_CRLF:
                raise RemoteProtocolError("empty lines before the request line")
            data = data[2:]
        return data

    def _check_partial_head(self, data: bytes) -> None:
        """Refuse what no continuation can make acceptable, so that its sender need not be waited for."""
        size = len(data)
        if data[0] not in _TCHAR and data != b"\r":
            raise RemoteProtocolError("not HTTP")
        line_end = data.find(b"\r\n")
        if line_end < 0:
            if size > self._limits.max_target_length + MAX_LINE_REST:
                raise RemoteProtocolError("request line too long", status_hint=414)
        elif line_end + 2 > self._checked:
            split_request_line(data[:line_end], self._limits)
        if size >= self._limits.max_head_size:
            raise RemoteProtocolError("request head too large", status_hint=431)
        if _NEVER_IN_HEAD.search(data, max(0, self._checked - 1)):
            raise RemoteProtocolError("bare CR, bare LF or NUL in a request head")

    def _announce(self, data: bytes) -> None:
        head = judge_head(data, self._limits)
        self.stream_id += 1
        length = head.content_length
        if length is None:
            self._reading = _CHUNKED
            self._decoder = ChunkedDecoder()
            self._remaining = 0
        elif length:
            self._reading = _FIXED
            self._remaining = length
        else:
            self._reading = _HELD
        self.expects_continue = head.expects_continue
        if not head.keep_alive:
            self._keep_alive = False
        self._response.expect(head.method, head.http_version, head.trailers)
        self._events.append(
            RequestReceived(
                self.stream_id,
                head.method,
                head.raw_path,
                head.query_string,
                head.headers,
                head.http_version,
                length == 0,
                head.upgrade,
            )
        )

    def _read_fixed(self, data: bytes) -> None:
        remaining = self._remaining
        size = len(data)
        self.expects_continue = False
        if size < remaining:
            self._remaining = remaining - size
            if self._reading == _FIXED:
                self._events.append(DataReceived(self.stream_id, data, False))
            return
        if size > remaining:
            self._buffer = data[remaining:]
            data = data[:remaining]
        self._remaining = 0
        if self._reading == _FIXED:
            self._reading = _HELD
            self._events.append(DataReceived(self.stream_id, data, True))
        else:
            self._reading = _HEAD

    def _read_chunked(self, data: bytes) -> None:
        assert self._decoder is not None
        self.expects_continue = False
        content, rest = self._decoder.feed(data)
        limit = self._limits.max_body_size
        if limit:
            self._remaining += len(content)
            if self._remaining > limit:
                raise RemoteProtocolError("request body too large", status_hint=413)
        if rest is not None:
            self._decoder = None
            self._reading = _HELD
            self._buffer = rest
            self._events.append(DataReceived(self.stream_id, content, True))
        elif content:
            self._events.append(DataReceived(self.stream_id, content, False))

    # ---- sending

    @property
    def buffered(self) -> int:
        """Bytes that data_to_send() would give now, a held head not counted."""
        return self._response.buffered

    @property
    def body_sent(self) -> int:
        """Octets of the current response's body written so far, without framing."""
        return self._response.body_sent

    @property
    def response_started(self) -> bool:
        """A final response to the current request is in the outbound buffer, or beyond."""
        return self._response.started

    def send_informational(self, stream_id: int, status: int, headers: Headers) -> None:
        """Send a 1xx response, which leaves the final one to come. Raises InvalidMessage."""
        self._response.informational(status, headers)
        if status == 100:
            self.expects_continue = False

    def send_headers(self, stream_id: int, status: int, headers: Headers) -> None:
        """
        Begin the final response. Its head is held until its body or data_to_send() calls for it.

        Raises:
            InvalidMessage: nothing has been sent, and another head may be tried.
        """
        self._response.begin(status, headers, close=not self._keep_alive or self._stops_here())

    def _stops_here(self) -> bool:
        """More of the request is to come than is worth reading on for."""
        if self._reading == _FIXED:
            return self._remaining > MAX_DISCARD or self.expects_continue
        return self._reading == _CHUNKED

    def withdraw_headers(self, stream_id: int) -> bool:
        """Take back a head that is still held. Returns whether another response can be sent."""
        return self._response.withdraw()

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """
        Append to the response's body. Where a response has none (HEAD, 204), *data* is dropped.

        Raises:
            InvalidMessage: more or less than Content-Length announced. Nothing of *data* is sent.
        """
        self._response.body(data, end_stream)
        if end_stream:
            self._response_complete()

    def send_trailers(self, stream_id: int, headers: Headers) -> None:
        """End the response with trailer fields, where the client takes them. Raises InvalidMessage."""
        self._response.trailers(headers)
        self._response_complete()

    def _response_complete(self) -> None:
        if not self._response.keep_alive or not self._keep_alive:
            self.should_close = True
            self.lingers = self._reading in _IN_BODY or bool(self._buffer)
            self._reading = _CLOSED
        elif self._reading == _HELD:
            self._reading = _HEAD
        else:
            self._reading = _DISCARDING

    def switch_protocols(self, stream_id: int, headers: Headers) -> None:
        """Answer 101; from now on bytes go through in both directions (RFC 9110 §7.8)."""
        self._response.switch_protocols(headers)
        self._reading = _TUNNEL
        if self._buffer:
            self._events.append(DataReceived(stream_id, self._buffer, False))
            self._buffer = b""

    def refuse(self, error: RemoteProtocolError) -> None:
        """Answer a request that cannot be read, and read nothing more. Not once a response has started."""
        self._events = []
        self._buffer = b""
        self._reading = _CLOSED
        self._keep_alive = False
        response = self._response
        response.withdraw()
        response.expect("GET", "1.1", False)
        body = error.reason.encode("ascii", "replace") + b"\n"
        response.begin(error.status_hint, [(b"content-type", b"text/plain; charset=utf-8")], close=True)
        response.body(body, True)
        self.should_close = self.lingers = True

    def stop_keeping_alive(self) -> None:
        """The response in course, or the next one, is the last. An idle connection is over at once."""
        self._keep_alive = False
        if self.is_idle:
            self.should_close = True
            self._reading = _CLOSED

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written, in pieces as they came. A head that is held goes with it."""
        return self._response.take()


_IN_BODY = frozenset((_FIXED, _CHUNKED))
