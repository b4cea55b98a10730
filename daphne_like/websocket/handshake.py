"""
The opening handshake of WebSocket, server side, without I/O.

`check()` judges the request as RFC 6455 §4.2.1 has it and keeps what the answer needs; the application then
accepts or denies in its own time; `Handshake.accept_headers()` gives the fields of the 101 (§4.2.2), with the
permessage-deflate parameters that `negotiate_deflate()` chose among the client's offers (RFC 7692 §5, §7.1).

What is refused, and how: any request that is not a handshake gets 400, a version other than 13 gets 426
with the version that we speak (§4.2.2, §4.4); `refusal_headers()` has the fields that these answers carry.
Two rules go beyond the RFC's letter. The key must be canonical base64, so that it is one way to write 16
bytes. A body is refused: no handshake has one, and bytes that one side takes for a body and the other for
frames are how connections are smuggled past a proxy.

Not judged here: Host, which every HTTP/1.1 request must have and `daphne_like.http` checks; Origin, which
is the application's business, because only it knows its sites; HTTP/1.0, where Upgrade does not exist ("a
server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request", RFC 9110 §7.8), so that
the caller asks `is_websocket_request()` for HTTP/1.1 only.

Grammar is read once, here. The codec behind this never sees the request head: two parsers that disagree
about one handshake were Daphne's CVE-2026-44546.

Sources: RFC 6455 §4.2, §9.1, §11.3; RFC 7692 §5, §7; RFC 9110 §5.6, §7.8.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.typing import Headers

VERSION = b"13"

# RFC 6455 §1.3: appended to the key, so that only a server that knows WebSocket can answer.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_WHOLE_TOKEN = re.compile(_TOKEN)
# 16 bytes are 21 characters of 6 bits and one that carries 2: its other 4 bits are zero. RFC 4648 §3.5
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_VERSION_NUMBER = re.compile(rb"0|[1-9][0-9]{0,2}")


def is_websocket_request(headers: Headers) -> bool:
    """Whether Upgrade names websocket, in whatever company and case. Names in lower case."""
    return any(name == b"upgrade" and b"websocket" in _tokens((value,)) for name, value in headers)


def check(method: bytes | str, http_version: str, headers: Headers) -> Handshake:
    """
    Judge a request for which `is_websocket_request()` holds.

    Args:
        http_version: as in ASGI: "1.1".
        headers: names in lower case.

    Raises:
        RemoteProtocolError: with status_hint 400 or 426; answer with `refusal_headers(status_hint)` among
            the fields, and close.

    Source: RFC 6455 §4.2.1.
    """
    if method not in (b"GET", "GET"):
        raise RemoteProtocolError("WebSocket handshake: the method is not GET")
    if http_version != "1.1":
        raise RemoteProtocolError("WebSocket handshake: not HTTP/1.1")
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _READ:
            fields.setdefault(name, []).append(value)

    if b"websocket" not in _tokens(fields.get(b"upgrade", ())):
        raise RemoteProtocolError("WebSocket handshake: Upgrade does not name websocket")
    if b"upgrade" not in _tokens(fields.get(b"connection", ())):
        raise RemoteProtocolError("WebSocket handshake: Connection does not name upgrade")
    if b"transfer-encoding" in fields or any(value != b"0" for value in fields.get(b"content-length", ())):
        raise RemoteProtocolError("WebSocket handshake: it has a body")

    version = _single(fields, b"sec-websocket-version")
    if version != VERSION:
        if _VERSION_NUMBER.fullmatch(version):
            raise RemoteProtocolError(
                f"WebSocket handshake: version {version.decode('ascii')}", status_hint=426
            )
        raise RemoteProtocolError("WebSocket handshake: malformed Sec-WebSocket-Version")
    key = _single(fields, b"sec-websocket-key")
    if not _KEY.fullmatch(key):
        raise RemoteProtocolError("WebSocket handshake: Sec-WebSocket-Key is not base64 of 16 bytes")

    return Handshake(
        key=key,
        subprotocols=_subprotocols(fields.get(b"sec-websocket-protocol", ())),
        offers=_offers(fields.get(b"sec-websocket-extensions", ())),
    )


_READ = frozenset(
    (
        b"connection",
        b"content-length",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    )
)


def refusal_headers(status: int) -> list[tuple[bytes, bytes]]:
    """
    Fields that an answer refusing a handshake must have; none for 400.

    Connection is the caller's: "upgrade" belongs in it beside "close" where this gives Upgrade.

    Source: RFC 6455 §4.4; RFC 9110 §7.8, §15.5.22.
    """
    if status == 426:
        return [(b"upgrade", b"websocket"), (b"sec-websocket-version", VERSION)]
    return []


@dataclass(frozen=True, slots=True)
class Offer:
    """
    One extension that the client offers.

    Attributes:
        name: as the client wrote it.
        parameters: (name, value) in order, repetitions included; None: without a value. Quotes are gone.
    """

    name: str
    parameters: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Handshake:
    """
    A handshake that is in order.

    Attributes:
        key: Sec-WebSocket-Key, as it came.
        subprotocols: in the client's order of preference, none twice.
        offers: extensions, in the client's order of preference.
    """

    key: bytes
    subprotocols: list[str]
    offers: list[Offer]

    def accept_headers(
        self,
        subprotocol: str | None = None,
        deflate: DeflateParameters | None = None,
        extra: Iterable[tuple[bytes, bytes]] = (),
    ) -> list[tuple[bytes, bytes]]:
        """
        All fields of the 101.

        Args:
            subprotocol: the application's choice.
            deflate: what `negotiate_deflate(self.offers)` gave; None: no compression.
            extra: the application's own fields. Names in lower case come out; any case may go in.

        Raises:
            InvalidMessage: a subprotocol that the client did not offer (it would have to fail the
                connection, RFC 6455 §4.1), or a field that is not the application's to send, or malformed.

        Source: RFC 6455 §4.2.2.
        """
        accept = base64.b64encode(hashlib.sha1(self.key + _GUID, usedforsecurity=False).digest())
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", accept),
        ]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise InvalidMessage(
                    f"websocket.accept: subprotocol {subprotocol!r} is not among those offered, "
                    f"{self.subprotocols!r}"
                )
            headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        if deflate is not None:
            headers.append((b"sec-websocket-extensions", deflate.header_value()))
        headers.extend(_application_field(field) for field in extra)
        return headers


# -- the application's fields --------------------------------------------------------------------------

# What a 101 says about the connection is said by the server; "subprotocol" has a key of its own in
# websocket.accept. A 101 has no body (RFC 9110 §8.6, RFC 9112 §6.1), so nothing may announce one.
_NOT_THE_APPLICATIONS = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_FIELD_VALUE = re.compile(rb"[\t -~\x80-\xff]*+")


def _application_field(field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    name, value = field
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise InvalidMessage(f"websocket.accept: header {name!r}: {value!r} is not bytes")
    lower = name.lower()
    if not _WHOLE_TOKEN.fullmatch(name):
        raise InvalidMessage(f"websocket.accept: header name {name!r}")
    if not _FIELD_VALUE.fullmatch(value):
        raise InvalidMessage(f"websocket.accept: header {name!r} has the value {value!r}")
    if lower in _NOT_THE_APPLICATIONS or lower.startswith(b"sec-websocket-"):
        raise InvalidMessage(f"websocket.accept: header {name!r} is the server's to send")
    return lower, value


# -- grammar of the request's fields -------------------------------------------------------------------


def _tokens(lines: Iterable[bytes]) -> set[bytes]:
    """The elements of a list, in lower case; that one is no token at all does not matter to who asks."""
    return {element.strip(b" \t").lower() for line in lines for element in line.split(b",")}


def _single(fields: dict[bytes, list[bytes]], name: bytes) -> bytes:
    values = fields.get(name, ())
    if len(values) != 1:
        how = "no" if not values else "more than one"
        raise RemoteProtocolError(f"WebSocket handshake: {how} {name.decode('ascii')}")
    return values[0].strip(b" \t")


def _subprotocols(lines: Sequence[bytes]) -> list[str]:
    # 1#token, "MUST all be unique strings", in one field or several. RFC 6455 §4.1, §11.3.4
    subprotocols: dict[str, None] = {}
    for line in lines:
        for element in line.split(b","):
            token = element.strip(b" \t")
            if not token:
                continue  # "A recipient MUST parse and ignore a reasonable number of empty list elements"
            if not _WHOLE_TOKEN.fullmatch(token):
                raise RemoteProtocolError("WebSocket handshake: a subprotocol is not a token")
            name = token.decode("ascii")
            if name in subprotocols:
                raise RemoteProtocolError("WebSocket handshake: a subprotocol is named twice")
            subprotocols[name] = None
    if lines and not subprotocols:
        raise RemoteProtocolError("WebSocket handshake: Sec-WebSocket-Protocol is empty")
    return list(subprotocols)


# extension-list  = 1#extension
# extension       = extension-token *( ";" extension-param )
# extension-param = token [ "=" (token | quoted-string) ]             RFC 6455 §9.1
#
# "When using the quoted-string syntax variant, the value after quoted-string unescaping MUST conform to the
# 'token' ABNF": so a quoted value is a token whose characters may have backslashes, and holds no comma.
_OWS = rb"[ \t]*+"
_QUOTED_TOKEN = rb'"(?:\\?[!#$%&\'*+.^_`|~0-9A-Za-z-])++"'
_PARAMETER = re.compile(
    _OWS + rb";" + _OWS + rb"(" + _TOKEN + rb")(?:" + _OWS + rb"=" + _OWS + rb"(" + _TOKEN + rb"|"
    + _QUOTED_TOKEN + rb"))?+"
)  # fmt: skip
_EXTENSION = re.compile(_OWS + rb"(" + _TOKEN + rb")")
_LIST_SEPARATOR = re.compile(_OWS + rb"(?:,|\Z)")


def _offers(lines: Sequence[bytes]) -> list[Offer]:
    offers = [offer for line in lines for offer in _offers_of(line)]
    if lines and not offers:
        raise RemoteProtocolError("WebSocket handshake: Sec-WebSocket-Extensions is empty")
    return offers


def _offers_of(line: bytes) -> Iterator[Offer]:
    at = 0
    while at < len(line):
        extension = _EXTENSION.match(line, at)
        parameters: list[tuple[str, str | None]] = []
        if extension is not None:
            at = extension.end()
            while parameter := _PARAMETER.match(line, at):
                at = parameter.end()
                name, value = parameter.groups()
                parameters.append((name.decode("ascii"), _unquoted(value)))
        separator = _LIST_SEPARATOR.match(line, at)
        if separator is None:
            raise RemoteProtocolError("WebSocket handshake: malformed Sec-WebSocket-Extensions")
        at = separator.end()
        if extension is not None:
            yield Offer(extension[1].decode("ascii"), tuple(parameters))


def _unquoted(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value.strip(b'"').replace(b"\\", b"").decode("ascii")


# -- permessage-deflate --------------------------------------------------------------------------------

# zlib's raw deflate has no window of 8 bits: deflateInit2 refuses it, and versions before 1.2.9 silently used
# 9. We therefore never promise 8 for what we send. Inflating is harmless: a larger window reads what a
# smaller one wrote, so a client may have its 8, and is read with 9.
MIN_WINDOW_BITS = 9
MAX_WINDOW_BITS = 15
_BITS = {str(bits): bits for bits in range(8, 16)}  # "a decimal integer value without leading zeroes"


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """
    What both sides agree on for permessage-deflate.

    Attributes:
        server_no_context_takeover: we begin each message with an empty window.
        client_no_context_takeover: the client does.
        server_max_window_bits: our window, 9 to 15.
        client_max_window_bits: the client's, 8 to 15. Inflate with `inflate_window_bits`.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = MAX_WINDOW_BITS
    client_max_window_bits: int = MAX_WINDOW_BITS

    @property
    def inflate_window_bits(self) -> int:
        """The window that reads what the client sends: 9 to 15."""
        return max(self.client_max_window_bits, MIN_WINDOW_BITS)

    def header_value(self) -> bytes:
        """
        Value of the response's Sec-WebSocket-Extensions.

        Our window is always named: the response must name it where the offer did, and may where it did not
        (§7.1.2.1). The client's must not be named unless it offered that (§7.1.2.2), and 15, which is what
        leaving it out means, says nothing.

        Source: RFC 7692 §7.1.
        """
        value = b"permessage-deflate"
        if self.server_no_context_takeover:
            value += b"; server_no_context_takeover"
        if self.client_no_context_takeover:
            value += b"; client_no_context_takeover"
        value += b"; server_max_window_bits=%d" % self.server_max_window_bits
        if self.client_max_window_bits != MAX_WINDOW_BITS:
            value += b"; client_max_window_bits=%d" % self.client_max_window_bits
        return value


def negotiate_deflate(offers: Iterable[Offer], window_bits: int = 12) -> DeflateParameters | None:
    """
    Parameters for the first offer of permessage-deflate that can be accepted; None: there is none.

    An offer with an unknown parameter, an invalid value or one parameter twice is declined, and the next one
    looked at (RFC 7692 §7.1: "A server MUST decline an extension negotiation offer [...] if"). Declining is
    no error: the connection goes on uncompressed.

    Args:
        window_bits: the largest window for either direction, 9 to 15. Ours is always held to it. The client's
            can be only when it offered client_max_window_bits; else it may use 15, and so must the inflater.
    """
    if not MIN_WINDOW_BITS <= window_bits <= MAX_WINDOW_BITS:
        raise ValueError(f"window_bits {window_bits} is not in {MIN_WINDOW_BITS}..{MAX_WINDOW_BITS}")
    for offer in offers:
        if offer.name == "permessage-deflate":
            accepted = _accept(offer, window_bits)
            if accepted is not None:
                return accepted
    return None


def _accept(offer: Offer, window_bits: int) -> DeflateParameters | None:
    asked = dict(offer.parameters)
    if len(asked) != len(offer.parameters):
        return None
    server_bits, client_bits = window_bits, MAX_WINDOW_BITS
    for name, value in asked.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value not in _BITS or _BITS[value] < MIN_WINDOW_BITS:
                return None
            server_bits = min(window_bits, _BITS[value])
        elif name == "client_max_window_bits":
            # Without a value it says only that the client can obey; with one, that its window is no larger.
            if value is not None and value not in _BITS:
                return None
            client_bits = min(window_bits, MAX_WINDOW_BITS if value is None else _BITS[value])
        else:
            return None
    return DeflateParameters(
        server_no_context_takeover="server_no_context_takeover" in asked,
        # A hint that the client does so anyway; said back, it lets us drop the inflater between messages.
        client_no_context_takeover="client_no_context_takeover" in asked,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
