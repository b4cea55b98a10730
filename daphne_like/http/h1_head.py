"""
The head of an HTTP/1.x request, judged when it is whole.

One place decides about the request line, the framing of the body, Host, and what the connection does
afterwards. Nothing is repaired: a message that two recipients could read differently is refused (RFC 9112
§11.2), whatever they would make of it.

A head has two parts, judged apart: the header section by itself, which a client tends to repeat from request
to request on a connection, so that its judgement can be kept; then the request line together with it.
"""

from dataclasses import dataclass

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.events import RequestReceived
from daphne_like.http.grammar import REQUEST_LINE
from daphne_like.http.h1_tokenizer import FieldTokenizer
from daphne_like.http.headers import content_length, drop_underscores, list_members, request_target
from daphne_like.http.limits import Limits
from daphne_like.typing import Headers

__all__ = [
    "MAX_LINE_REST",
    "HeaderSection",
    "Verdict",
    "judge_head",
    "judge_section",
    "split_request_line",
]


@dataclass(slots=True)
class HeaderSection:
    """
    What a header section says, whatever the request line.

    Attributes:
        fields: for the application.
        host: None where there is no Host.
        content_length: None where there is no such field.
        codings: transfer codings, in order.
        connection: connection options.
        upgrade: it asks for a WebSocket (RFC 6455 §4.1), and Connection says so too.
        expects_continue: ``Expect: 100-continue`` (RFC 9110 §10.1.1).
        trailers: ``TE: trailers``.
    """

    fields: Headers
    host: bytes | None
    content_length: int | None
    codings: list[bytes]
    connection: list[bytes]
    upgrade: bool
    expects_continue: bool
    trailers: bool


# Of a request line, what is not its target: any method in use, and the version.
MAX_LINE_REST = 64

_METHODS = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}
_JUDGED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"te")
)


def split_request_line(line: bytes, limits: Limits) -> tuple[bytes, bytes, str]:
    """
    Cut a request line, its CRLF taken off, into method, target and version ("1.0" or "1.1").

    The target's octets are not judged yet.

    Raises:
        RemoteProtocolError: 400, 414 or 505.
    """
    if len(line) > limits.max_target_length + MAX_LINE_REST:
        raise RemoteProtocolError("request line too long", status_hint=414)
    parts = line.split(b" ")
    if len(parts) == 3 and parts[2] == b"HTTP/1.1" and parts[0] in _METHODS:
        method, target, _ = parts  # nearly every line
        minor = b"1"
    else:
        match = REQUEST_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed request line")
        method, target, major, minor = match.groups()
        if major != b"1":
            raise RemoteProtocolError("HTTP version not supported", status_hint=505)
    if len(target) > limits.max_target_length:
        raise RemoteProtocolError("request target too long", status_hint=414)
    # A higher minor version is read as the highest that we know (RFC 9110 §2.5).
    return method, target, "1.0" if minor == b"0" else "1.1"


def judge_section(section: bytes, limits: Limits, tokenizer: FieldTokenizer) -> HeaderSection:
    """
    Read a whole header section, the empty line that ends it included.

    Raises:
        RemoteProtocolError: 400 or 431.
    """
    fields = tokenizer.cut(section)
    if len(fields) > limits.max_header_count:
        raise RemoteProtocolError("too many header fields", status_hint=431)
    judged = HeaderSection(fields, None, None, [], [], False, False, False)
    underscore = False
    for name, value in fields:
        if name in _JUDGED:
            if name == b"host":
                if judged.host is not None:
                    raise RemoteProtocolError("two Host fields")
                judged.host = value
            elif name == b"content-length":
                if judged.content_length is not None:
                    raise RemoteProtocolError("two Content-Length fields")
                judged.content_length = content_length(value)
            elif name == b"transfer-encoding":
                judged.codings += list_members(value) or [b""]
            elif name == b"connection":
                judged.connection += list_members(value)
            elif name == b"upgrade":
                judged.upgrade = judged.upgrade or b"websocket" in list_members(value)
            elif name == b"expect":
                judged.expects_continue = value.lower() == b"100-continue"
            else:
                judged.trailers = judged.trailers or b"trailers" in list_members(value)
        elif b"_" in name:
            underscore = True
    if underscore:
        judged.fields = drop_underscores(fields)
    judged.upgrade = judged.upgrade and b"upgrade" in judged.connection
    if judged.codings:
        _judge_codings(judged.codings, judged.content_length)
    return judged


def _judge_codings(codings: list[bytes], length: int | None) -> None:
    """RFC 9112 §6.1 and §6.3; where they leave a server the choice to go on, we do not."""
    if length is not None:
        raise RemoteProtocolError("Content-Length with Transfer-Encoding")
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise RemoteProtocolError("Transfer-Encoding does not end in one chunked")
    if len(codings) > 1:
        raise RemoteProtocolError("transfer coding not implemented", status_hint=501)


Verdict = tuple[RequestReceived, int | None, bool, bool]


def judge_head(line: tuple[bytes, bytes, str], section: HeaderSection, limits: Limits) -> Verdict:
    """
    Judge a request line together with its header section.

    Args:
        line: from split_request_line().

    Returns:
        ``(event, length, keep_alive, expects_continue)``: what the stream is told, its stream_id the
        connection's to fill in; the body's length, 0 when there is none, None when it is chunked; whether
        the client would send another request on this connection (RFC 9112 §9.3); whether it waits for 100
        before it sends the body (RFC 9110 §10.1.1).

    Raises:
        RemoteProtocolError: 400, 413 or 501.
    """
    method, target, version = line
    host = section.host
    old = version == "1.0"
    if host is None and not old:
        raise RemoteProtocolError("no Host field")
    raw_path, query_string, authority = request_target(method, target, host)
    fields = section.fields
    if authority != host:
        fields = [(b"host", authority or b""), *(field for field in fields if field[0] != b"host")]
    length: int | None = section.content_length or 0
    if section.codings:
        if old:
            raise RemoteProtocolError("Transfer-Encoding on HTTP/1.0")
        length = None
    elif length and limits.max_body_size and length > limits.max_body_size:
        raise RemoteProtocolError("request body too large", status_hint=413)
    connection = section.connection
    keep_alive = not old
    if connection:
        keep_alive = b"close" not in connection and (keep_alive or b"keep-alive" in connection)
    event = RequestReceived(
        0,
        _METHODS.get(method) or method.decode("ascii"),
        raw_path,
        query_string,
        fields,
        version,
        length == 0,
        # "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"
        # -- RFC 9110 §7.8
        section.upgrade and not old,
    )
    return event, length, keep_alive, section.expects_continue and length != 0 and not old
