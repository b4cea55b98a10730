"""
HTTP/1.x connections, without I/O.

Bytes go in through receive_data(), which returns events; events_received() returns those that had to wait. The
reverse for responses, whose bytes are taken with data_to_send(). llhttp cuts header sections into fields
(h1_tokenizer); what is acceptable is decided in h1_head, how responses are framed in h1_response; here is what
ties them together: one request at a time.

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
from daphne_like.http.events import DataReceived, Event, StreamReset
from daphne_like.http.h1_head import (
    MAX_LINE_REST,
    HeaderSection,
    Verdict,
    judge_head,
    judge_section,
    split_request_line,
)
from daphne_like.http.h1_response import NO_REQUEST, ResponseWriter
from daphne_like.http.h1_tokenizer import FieldTokenizer
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

# A client repeats its header section from request to request, and often the request line, too: up to this size,
# what they say is kept.
MAX_KEPT_SECTION = 1024

# Where the reading stands. _HELD: the request is complete, what follows waits. _DISCARDING: its response is
# complete, the rest of its body is dropped. _TUNNEL: it has become something else.
_HEAD, _FIXED, _CHUNKED, _HELD, _DISCARDING, _TUNNEL, _CLOSED = range(7)

_NEVER_IN_HEAD = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_CR = ord("\r")
_TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


_NO_SECTION = HeaderSection([], None, None, [], [], False, False, False)
_NO_VERDICT: Verdict = (NO_REQUEST, 0, False, False)


class H1Connection(ResponseWriter):
    """
    One connection that speaks HTTP/1.0 or HTTP/1.1.

    Args:
        limits: what a request may be at most.
        identity: the fields that every response carries.
        tokenizer: of the event loop.

    Attributes:
        stream_id: of the current request; 0 before the first.
        client_ended: receive_eof() was called; requests that came before it may still wait.
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
        "_head_bytes",
        "_leading",
        "_limits",
        "_reading",
        "_remaining",
        "_section",
        "_section_bytes",
        "_start",
        "_tokenizer",
        "_verdict",
        "client_ended",
        "expects_continue",
        "lingers",
        "should_close",
        "stream_id",
    )

    def __init__(self, limits: Limits, identity: Identity, tokenizer: FieldTokenizer) -> None:
        super().__init__(identity)
        self._limits = limits
        self._tokenizer = tokenizer
        self._events: list[Event] = []
        self._reading = _HEAD
        self._buffer = b""  # what has not been read of what came
        self._start = 0  # where in the buffer that begins
        self._checked = 0  # up to where the buffer was searched for the end of a head
        self._leading = 0
        self._section: HeaderSection = _NO_SECTION  # the last one, and what it was read from
        self._section_bytes = b""
        self._verdict: Verdict = _NO_VERDICT  # on the last head, and what it was
        self._head_bytes: bytes | None = None
        self._remaining = 0  # of a fixed body; counts up for a chunked one
        self._decoder: ChunkedDecoder | None = None
        self.client_ended = False
        self.expects_continue = False
        self.lingers = False
        self.should_close = False
        self.stream_id = 0

    # ---- receiving

    # Methods where they are asked for each request: before Python 3.12 a property costs four times as much.

    def is_idle(self) -> bool:
        """Between requests, with nothing of the next one received."""
        return self._reading == _HEAD and not self._buffer

    @property
    def reads_head(self) -> bool:
        """Waiting for a request, or for the rest of its head."""
        return self._reading == _HEAD

    @property
    def reads_body(self) -> bool:
        """More of the current request's body is to come, and the client is free to send it."""
        return self._reading in _IN_BODY and not self.expects_continue

    def has_more_to_read(self) -> bool:
        """Bytes wait here, or more of the current request's body is to come."""
        return self._reading in _IN_BODY or bool(self._buffer)

    @property
    def held(self) -> int:
        """Bytes received that wait for the response in course to end."""
        return len(self._buffer) - self._start if self._reading == _HELD else 0

    def receive_data(self, data: bytes) -> list[Event]:
        """
        Take bytes from the socket, and what has come with them, as events_received() does.

        Raises:
            RemoteProtocolError: call refuse() with it, if the response has not started.
        """
        if self._buffer:
            data = self._buffer[self._start :] + data
            self._checked -= self._start
            self._start = 0
        if data == self._head_bytes and self._reading == _HEAD:
            # The last head again, and nothing else: polls, probes, a proxy's favourites.
            self._buffer = b""
            self._begin_request()
        else:
            self._buffer = data
            self._read()
            if self._buffer:
                return self.events_received()
        events = self._events
        self._events = []
        return events

    def _read(self) -> None:
        """Read the buffer as far as the state allows."""
        reading = self._reading
        if reading == _HEAD and self._buffer:
            self._read_head()
            reading = self._reading
        if self._buffer:
            if reading == _FIXED or reading == _DISCARDING:
                self._read_fixed()
            elif reading == _CHUNKED:
                self._read_chunked()
            elif reading == _TUNNEL:
                self._events.append(DataReceived(self.stream_id, self._take_buffer(), False))
            elif reading == _CLOSED:
                self._buffer = b""

    def _take_buffer(self) -> bytes:
        data = self._buffer
        if self._start:
            data = data[self._start :]
            self._start = 0
        self._buffer = b""
        return data

    def receive_eof(self) -> None:
        """
        The client will send nothing more. Call events_received() afterwards.

        Call it again for each request that had waited, when that has begun: its body may have been cut, too.

        Raises:
            RemoteProtocolError: it did so within a head; within a body, StreamReset says so instead.
        """
        self.client_ended = True
        reading = self._reading
        if reading in _IN_BODY:
            self._events.append(StreamReset(self.stream_id, "connection closed within a request body"))
        elif reading == _HEAD and self._buffer:
            raise RemoteProtocolError("connection closed within a request head")
        if reading != _HELD:  # what came before it is still answered
            self._keep_alive = False
            self._reading = _CLOSED
            self.should_close = True

    def events_received(self) -> list[Event]:
        """
        Take the events that have come; for when a stream has ended (pipelining), and after receive_eof().

        Raises:
            RemoteProtocolError: from a request that had waited.
        """
        if self._buffer and self._reading == _HEAD and self._checked <= self._start:
            self._read()
        events = self._events
        self._events = []
        return events

    def _read_head(self) -> None:
        data = self._buffer
        start = self._start
        if data[start] == _CR:
            start = self._skip_empty_lines()
        # The end may have begun in what was searched before.
        end = data.find(b"\r\n\r\n", max(start, self._checked - 3), start + self._limits.max_head_size)
        if end < 0:
            partial = self._take_buffer()
            if partial:
                self._check_partial_head(partial)
            self._checked = len(partial)
            self._buffer = partial
            return
        end += 4
        if end == len(data):
            self._buffer = b""
            self._start = 0
        else:
            self._start = end
        head = data[start:end]
        if head != self._head_bytes:
            self._verdict = self._judge(head)
        self._begin_request()

    def _begin_request(self) -> None:
        """A head has been read: the verdict says of what."""
        self._checked = self._leading = 0
        event, length, keep_alive, expects_continue = self._verdict
        self.stream_id = event.stream_id = self.stream_id + 1
        if length == 0:
            self._reading = _HELD
        elif length is None:
            self._reading = _CHUNKED
            self._decoder = ChunkedDecoder()
            self._remaining = 0
        else:
            self._reading = _FIXED
            self._remaining = length
        self.expects_continue = expects_continue
        if not keep_alive:
            self._keep_alive = False
        self._expect_response_to(event, self._section.trailers)
        self._events.append(event)

    def _judge(self, head: bytes) -> Verdict:
        line_end = head.index(b"\r\n")
        line = split_request_line(head[:line_end], self._limits)
        section = head[line_end + 2 :]
        if section != self._section_bytes:
            self._head_bytes = None
            self._section = judge_section(section, self._limits, self._tokenizer)
            self._section_bytes = section if len(section) <= MAX_KEPT_SECTION else b""
        verdict = judge_head(line, self._section, self._limits)
        # In absolute form, the target's authority has taken the place of a field.
        self._head_bytes = head if len(head) <= MAX_KEPT_SECTION and line[1].startswith(b"/") else None
        return verdict

    def _skip_empty_lines(self) -> int:
        while self._buffer.startswith(b"\r\n", self._start):
            self._leading += 2
            if self._leading > MAX_LEADING_CRLF:
                raise RemoteProtocolError("empty lines before the request line")
            self._start += 2
        return self._start

    def _check_partial_head(self, data: bytes) -> None:
        """Refuse what no continuation can make acceptable, so that its sender need not be waited for."""
        size = len(data)
        if data[0] not in _TCHAR and data != b"\r":
            # What a browser says first to https://.
            raise RemoteProtocolError("TLS, not HTTP" if data.startswith(b"\x16\x03") else "not HTTP")
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

    def _read_fixed(self) -> None:
        data = self._take_buffer()
        remaining = self._remaining
        size = len(data)
        self.expects_continue = False
        if size > remaining:
            self._buffer = data
            self._start = remaining
            data = data[:remaining]
            size = remaining
        self._remaining = remaining - size
        whole = size == remaining
        if self._reading == _FIXED:
            self._events.append(DataReceived(self.stream_id, data, whole))
            if whole:
                self._reading = _HELD
        elif whole:
            self._reading = _HEAD

    def _read_chunked(self) -> None:
        assert self._decoder is not None
        self.expects_continue = False
        content, rest = self._decoder.feed(self._take_buffer())
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

    # ---- sending, beside what ResponseWriter does

    def _must_close(self) -> bool:
        """Also when more of the request is to come than is worth reading on for."""
        reading = self._reading
        if reading == _HELD:
            return not self._keep_alive or (self.client_ended and not self._has_whole_head())
        if reading == _FIXED:
            return not self._keep_alive or self._remaining > MAX_DISCARD or self.expects_continue
        return True

    def _has_whole_head(self) -> bool:
        return self._buffer.find(b"\r\n\r\n", self._start) >= 0

    def _response_complete(self) -> None:
        self.expects_continue = False
        if not self._keep_alive:
            self.should_close = True
            self.lingers = self._reading in _IN_BODY or bool(self._buffer)
            self._reading = _CLOSED
        elif self._reading == _HELD:
            self._reading = _HEAD
            if self.client_ended and not self._has_whole_head():
                self.should_close = True
                self._reading = _CLOSED
        else:
            self._reading = _DISCARDING

    def send_informational(self, stream_id: int, status: int, headers: Headers) -> None:
        """As ResponseWriter's; 100 ends the client's wait."""
        super().send_informational(stream_id, status, headers)
        if status == 100:
            self.expects_continue = False

    def switch_protocols(self, stream_id: int, headers: Headers) -> None:
        """Answer 101; from now on bytes go through in both directions (RFC 9110 §7.8)."""
        self._send_switching_protocols(headers)
        self._reading = _TUNNEL
        if self._buffer:
            self._read()

    def refuse(self, error: RemoteProtocolError) -> None:
        """Answer a request that cannot be read, and read nothing more. Not once a response has started."""
        self._events = []
        self._buffer = b""
        self._start = 0
        self._reading = _CLOSED
        self._keep_alive = False
        self.withdraw_headers(self.stream_id)
        self._expect_response_to(NO_REQUEST, False)
        body = error.reason.encode("ascii", "replace") + b"\n"
        self.send_headers(
            self.stream_id, error.status_hint, [(b"content-type", b"text/plain; charset=utf-8")]
        )
        self.send_data(self.stream_id, body, True)
        self.lingers = True

    def stop_keeping_alive(self) -> None:
        """The response in course, or the next one, is the last. An idle connection is over at once."""
        self._keep_alive = False
        if self.is_idle() or self._reading == _DISCARDING:
            self.should_close = True
            self.lingers = self._reading == _DISCARDING
            self._reading = _CLOSED


_IN_BODY = frozenset((_FIXED, _CHUNKED))
