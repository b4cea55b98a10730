"""
The head of an HTTP/1.x request, judged when it is whole.

One place decides about the request line, the framing of the body, Host, and what the connection does
afterwards. Nothing is repaired: a message that two recipients could read differently is refused (RFC 9112
§11.2), whatever they would make of it.
"""

from dataclasses import dataclass

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.grammar import REQUEST_LINE
from daphne_like.http.h1_tokenizer import cut_fields
from daphne_like.http.headers import content_length, drop_underscores, list_members, request_target
from daphne_like.http.limits import Limits
from daphne_like.typing import Headers

__all__ = ["RequestHead", "judge_head", "split_request_line"]


@dataclass(slots=True)
class RequestHead:
    """
    Attributes:
        content_length: of the body; 0 when there is none, None when it is chunked.
        keep_alive: the client would send another request on this connection (RFC 9112 §9.3).
        expects_continue: it waits for 100 before it sends the body (RFC 9110 §10.1.1).
        upgrade: it wants the connection to become a WebSocket (RFC 6455 §4.1).
        trailers: it said ``TE: trailers``.
    """

    method: str
    raw_path: bytes
    query_string: bytes
    headers: Headers
    http_version: str
    content_length: int | None
    keep_alive: bool
    expects_continue: bool
    upgrade: bool
    trailers: bool


_METHODS = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}
_JUDGED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"te")
)


def split_request_line(line: bytes, limits: Limits) -> tuple[bytes, bytes, str]:
    """
    Cut a request line, its CRLF taken off, into method, target and version ("1.0" or "1.1").

    Raises:
        RemoteProtocolError: 400, 414 or 505.
    """
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


def judge_head(head: bytes, limits: Limits) -> RequestHead:
    """
    Read a whole head, the empty line that ends it included.

    Raises:
        RemoteProtocolError: 400, 413, 414, 431, 501 or 505.
    """
    line_end = head.index(b"\r\n")
    method, target, version = split_request_line(head[:line_end], limits)
    fields = cut_fields(head[line_end + 2 :])
    if len(fields) > limits.max_header_count:
        raise RemoteProtocolError("too many header fields", status_hint=431)

    host: bytes | None = None
    length: int | None = None
    codings: list[bytes] = []
    connection: list[bytes] = []
    upgrade = expect = trailers = underscore = False
    for name, value in fields:
        if name in _JUDGED:
            if name == b"host":
                if host is not None:
                    raise RemoteProtocolError("two Host fields")
                host = value
            elif name == b"content-length":
                if length is not None:
                    raise RemoteProtocolError("two Content-Length fields")
                length = content_length(value)
            elif name == b"transfer-encoding":
                codings += list_members(value) or [b""]
            elif name == b"connection":
                connection += list_members(value)
            elif name == b"upgrade":
                upgrade = upgrade or b"websocket" in list_members(value)
            elif name == b"expect":
                expect = value.lower() == b"100-continue"
            else:
                trailers = trailers or b"trailers" in list_members(value)
        elif b"_" in name:
            underscore = True

    modern = version == "1.1"
    if host is None and modern:
        raise RemoteProtocolError("no Host field")
    raw_path, query_string, authority = request_target(method, target, host)
    if authority != host:
        fields = [(b"host", authority or b""), *(field for field in fields if field[0] != b"host")]
    if underscore:
        fields = drop_underscores(fields)
    if codings:
        _judge_codings(codings, length, modern)
    elif length and limits.max_body_size and length > limits.max_body_size:
        raise RemoteProtocolError("request body too large", status_hint=413)

    keep_alive = modern
    if connection:
        keep_alive = b"close" not in connection and (modern or b"keep-alive" in connection)
    return RequestHead(
        _METHODS.get(method) or method.decode("ascii"),
        raw_path,
        query_string,
        fields,
        version,
        None if codings else length or 0,
        keep_alive,
        expect and modern and bool(codings or length),
        # "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request", and one that
        # Connection does not name -- RFC 9110 §7.8
        upgrade and modern and b"upgrade" in connection,
        trailers,
    )


def _judge_codings(codings: list[bytes], length: int | None, modern: bool) -> None:
    """RFC 9112 §6.1 and §6.3; where they leave a server the choice to go on, we do not."""
    if length is not None:
        raise RemoteProtocolError("Content-Length with Transfer-Encoding")
    if not modern:
        raise RemoteProtocolError("Transfer-Encoding on HTTP/1.0")
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise RemoteProtocolError("Transfer-Encoding does not end in one chunked")
    if len(codings) > 1:
        raise RemoteProtocolError("transfer coding not implemented", status_hint=501)
