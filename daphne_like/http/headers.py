"""
Pure functions over header fields: what requests may carry, what responses may carry.

No state, no I/O. Requests are judged by what RFC 9112 says MUST be refused; responses, which come from
applications, by what would break the message or let an application's own input break it.
"""

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.http.grammar import ABSOLUTE_FORM, CONTENT_LENGTH, FIELD_NAME, HOST, ORIGIN_FORM
from daphne_like.typing import Headers

__all__ = [
    "CONNECTION",
    "CONTENT_LENGTH_FIELD",
    "DATE",
    "PLAIN",
    "SERVER",
    "TRANSFER_ENCODING",
    "check_field_values",
    "content_length",
    "drop_underscores",
    "field_kind",
    "list_members",
    "request_target",
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
    if host is not None and HOST.fullmatch(host) is None:
        raise RemoteProtocolError("invalid Host")
    match = ORIGIN_FORM.fullmatch(target)
    if match is not None:
        return match[1], match[2] or b"", host
    if target == b"*" and method == b"OPTIONS":
        return target, b"", host
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RemoteProtocolError("malformed request-target")
    return match[2] or b"/", match[3] or b"", match[1]


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

# Names as applications spell them -> kind. An application uses a few dozen; one that makes names up must not
# be able to fill memory with them.
_KNOWN_NAMES: dict[bytes, int] = dict(_SPECIAL)
_MAX_KNOWN_NAMES = 1024


def field_kind(name: bytes) -> int:
    """
    Return how the connection treats a response field of that name.

    Raises:
        InvalidMessage: the name is not bytes, or no token.
    """
    try:
        return _KNOWN_NAMES[name]
    except (KeyError, TypeError):
        pass
    if not isinstance(name, bytes):
        raise InvalidMessage(f"header names are bytes, not {type(name).__name__}: {name!r}")
    if FIELD_NAME.fullmatch(name) is None:
        raise InvalidMessage(f"not a header name: {name!r}")
    kind = _SPECIAL.get(name.lower(), PLAIN)
    if len(_KNOWN_NAMES) < _MAX_KNOWN_NAMES:
        _KNOWN_NAMES[name] = kind
    return kind


def check_field_values(headers: Headers) -> None:
    """
    Find the field that breaks a header section.

    Raises:
        InvalidMessage: names it.
    """
    for name, value in headers:
        if not isinstance(value, bytes):
            raise InvalidMessage(f"header values are bytes, not {type(value).__name__}: {name!r}: {value!r}")
        if b"\r" in value or b"\n" in value or b"\0" in value:
            raise InvalidMessage(f"CR, LF or NUL in the value of header {name!r}: {value!r}")
