"""
Pure functions over header fields: what requests may carry, what responses may carry.

No state, no I/O. Requests are judged by what RFC 9112 says MUST be refused; responses, which come from
applications, by what would break the message or let an application's own input break it.
"""

from typing import Any

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.http.grammar import ABSOLUTE_FORM, CONTENT_LENGTH, FIELD_NAME, HOST, ORIGIN_FORM
from daphne_like.typing import Headers

__all__ = [
    "CONNECTION",
    "CONTENT_LENGTH_FIELD",
    "DATE",
    "HAS_DATE",
    "HAS_SERVER",
    "PLAIN",
    "SERVER",
    "TRANSFER_ENCODING",
    "content_length",
    "drop_underscores",
    "list_members",
    "request_target",
    "response_field",
    "response_section",
]

# ---- requests


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list of tokens, in lower case (RFC 9110 §5.6.1)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]


def content_length(value: bytes) -> int:
    """
    Return the length that one Content-Length field announces.

    Raises:
        RemoteProtocolError: 400 for anything but digits, a list of equal numbers included: RFC 9112 §6.3
            allows to repair that, and repair is where two readers part.
    """
    if CONTENT_LENGTH.fullmatch(value) is None:
        raise RemoteProtocolError("malformed Content-Length")
    return int(value)


def request_target(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes, bytes | None]:
    """
    Judge a request-target with its Host field.

    Args:
        host: the field's value, None where HTTP/1.0 sent none.

    Returns:
        ``(raw path, query string, host)``; an absolute-form target's authority replaces *host*, which
        RFC 9112 §3.2.2 demands: "the server MUST ignore the received Host header field".

    Raises:
        RemoteProtocolError: 400; 501 for CONNECT, which only proxies can answer.
    """
    if method == b"CONNECT":
        raise RemoteProtocolError("CONNECT is for proxies", status_hint=501)
    if host is not None and host not in _KNOWN_HOSTS:
        if HOST.fullmatch(host) is None:
            raise RemoteProtocolError("invalid Host")
        if len(_KNOWN_HOSTS) < _MAX_KNOWN_HOSTS and len(host) <= _MAX_KNOWN_HOST:
            _KNOWN_HOSTS.add(host)
    match = ORIGIN_FORM.fullmatch(target)
    if match is not None:
        path, query = match.groups()
        return path, query or b"", host
    if target == b"*" and method == b"OPTIONS":
        return target, b"", host
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RemoteProtocolError("malformed request-target")
    return match[2] or b"/", match[3] or b"", match[1]


# Hosts that were found valid: a site has a few, and each request names one of them. Whoever makes names up gains
# nothing by filling this.
_KNOWN_HOSTS: set[bytes] = set()
_MAX_KNOWN_HOSTS = 256
_MAX_KNOWN_HOST = 64


def drop_underscores(fields: Headers) -> Headers:
    """
    Leave out fields with ``_`` in their names.

    CGI-like environments map ``X-A`` and ``X_A`` to one name, so that a client could set a field that a proxy
    sets or strips (CVE-2015-0219). NGINX drops them by default, Daphne always.
    """
    return [field for field in fields if b"_" not in field[0]]


# ---- responses

PLAIN, CONTENT_LENGTH_FIELD, TRANSFER_ENCODING, CONNECTION, DATE, SERVER = range(6)

_SPECIAL = {
    b"content-length": CONTENT_LENGTH_FIELD,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"date": DATE,
    b"server": SERVER,
}

# Fields of a response that the server adds where an application has not: see Identity.
HAS_SERVER, HAS_DATE = 1, 2

# Fields that were found valid -> (kind, line, length). Nearly all of an application's fields say the same in
# each response; judging and rendering them again is most of what a head costs. What is new in each response
# (dates, tags) must not fill memory, and what is somebody's own (cookies) is not kept at all.
_KNOWN_FIELDS: dict[tuple[bytes, bytes], tuple[int, bytes, int]] = {}
_MAX_KNOWN_FIELDS = 1024
_MAX_KNOWN_LINE = 256


def response_field(field: Any) -> tuple[int, bytes, int]:
    """
    Judge and render a field of a response.

    Returns:
        ``(kind, line, length)``: how the connection treats it, the line with its CRLF, and what a
        Content-Length says (0 for any other).

    Raises:
        InvalidMessage: no pair of bytes, a name that is no token, CR, LF or NUL in the value, a
            Content-Length that is no number.
    """
    try:
        return _KNOWN_FIELDS[field if type(field) is tuple else tuple(field)]
    except (KeyError, TypeError):
        pass
    try:
        name, value = field
    except (TypeError, ValueError):
        raise InvalidMessage(f"headers are pairs of bytes, not {field!r}") from None
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        wrong = value if isinstance(name, bytes) else name
        raise InvalidMessage(f"headers are pairs of bytes, not {type(wrong).__name__}: {name!r}: {value!r}")
    if FIELD_NAME.fullmatch(name) is None:
        raise InvalidMessage(f"not a header name: {name!r}")
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise InvalidMessage(f"CR, LF or NUL in the value of header {name!r}: {value!r}")
    kind = _SPECIAL.get(name.lower(), PLAIN)
    length = 0
    if kind == CONTENT_LENGTH_FIELD:
        if CONTENT_LENGTH.fullmatch(value) is None:
            raise InvalidMessage(f"not a Content-Length: {value!r}")
        length = int(value)
        value = b"%d" % length
    rendered = (kind, b"%b: %b\r\n" % (name, value), length)
    if len(rendered[1]) <= _MAX_KNOWN_LINE and name.lower() != b"set-cookie":
        if len(_KNOWN_FIELDS) >= _MAX_KNOWN_FIELDS:
            _KNOWN_FIELDS.clear()
        _KNOWN_FIELDS[tuple(field)] = rendered
    return rendered


# Whole sections of such fields -> what response_section() says of them.
_KNOWN_SECTIONS: dict[tuple[Any, ...], tuple[bytes, int | None, bytes, bool, int]] = {}
_MAX_KNOWN_SECTIONS = 256
_MAX_KNOWN_SECTION = 512


def response_section(headers: Headers) -> tuple[bytes, int | None, bytes, bool, int]:
    """
    Judge and render all fields of a response.

    Returns:
        ``(lines, length, length_line, close, present)``: the fields that are sent as they are; what
        Content-Length says, None without one, and its line; whether Connection says close; which of our own are
        among the lines (HAS_DATE, HAS_SERVER, the sum of both).

    Raises:
        InvalidMessage: as response_field(); or two Content-Lengths that differ.
    """
    key = tuple(headers)
    try:
        return _KNOWN_SECTIONS[key]
    except (KeyError, TypeError):
        pass
    lines = []
    length: int | None = None
    length_line = b""
    close = False
    present = 0
    for field in key:
        kind, line, announced = response_field(field)
        if kind:
            if kind == CONTENT_LENGTH_FIELD:
                if length is None:
                    length = announced
                    length_line = line
                elif length != announced:
                    raise InvalidMessage(f"two Content-Length fields: {length} and {announced}")
                continue
            if kind == TRANSFER_ENCODING:
                continue
            if kind == CONNECTION:
                close = close or b"close" in list_members(field[1])
                continue
            present |= HAS_DATE if kind == DATE else HAS_SERVER
        lines.append(line)
    section = (b"".join(lines), length, length_line, close, present)
    if len(section[0]) <= _MAX_KNOWN_SECTION and all(
        type(field) is tuple and field in _KNOWN_FIELDS for field in key
    ):
        if len(_KNOWN_SECTIONS) >= _MAX_KNOWN_SECTIONS:
            _KNOWN_SECTIONS.clear()
        _KNOWN_SECTIONS[key] = section
    return section
