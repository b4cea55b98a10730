"""
The PROXY protocol, versions 1 and 2: whose connection it is, told before its first byte.

A proxy that does not understand HTTP (HAProxy in tcp mode, AWS's network load balancer, nginx's stream
module) puts one header in front of what it forwards. Version 1 is a line of text, version 2 a binary block:

    PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\\r\\n

    0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a | version, command | family, transport | length (2) | addresses | TLVs

Whether a header is there is never guessed: "the receiver MUST be configured to only receive the protocol
described in this specification and MUST not try to guess whether the protocol header is present or not".
Without one the connection is closed, and whoever can connect can claim any address: such a socket belongs
behind a firewall, or the connection's peer is checked first.

The parser takes bytes in any portions and says no at the first byte that no header could have there; how
the bytes are split makes no difference. What a header may leave open:

* LOCAL (version 2; the proxy's own health checks), UNKNOWN (version 1), and families or transports that are
  valid but not a TCP or Unix stream: the socket's own addresses stand. Their contents are skipped unread.
* Of the TLVs (type, length, value) after the addresses only PP2_TYPE_SSL is read, for its bit that says
  whether the client came over TLS. A checksum (PP2_TYPE_CRC32C) is not verified: TCP has one.

Source: "The PROXY protocol, Versions 1 & 2", W. Tarreau, HAProxy, 2020/03/05, §2.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

from daphne_like.errors import LocalProtocolError, RemoteProtocolError
from daphne_like.typing import Address, ServerAddress

# "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the line
# invalid." §2.1
MAX_V1_SIZE = 107
# 16 + length, of which the length may say 65535. Unix addresses take 216, the TLVs of HAProxy and of the
# clouds some hundred; the one large thing is a client certificate (HAProxy sends it when told to), 1 to 2
# KiB as DER. More than this is not a header worth holding for somebody who has not said anything yet.
MAX_V2_SIZE = 4096


@dataclass(frozen=True, slots=True)
class ProxyInfo:
    """
    What a header says.

    Attributes:
        source: the client: (IP address, port). None: it is on a Unix socket, or *keep* is true.
        destination: where the client connected to: (IP address, port), or (path, None) for a Unix socket;
            None only when *keep* is true.
        tls: whether the client came over TLS; None: the header does not say.
        keep: the header names nobody. The socket's own two addresses stand.
    """

    source: Address | None = None
    destination: ServerAddress | None = None
    tls: bool | None = None
    keep: bool = False


_KEEP = ProxyInfo(keep=True)


class ProxyHeaderParser:
    """One header at the start of one connection. Feed until it gives the result, then drop it."""

    def __init__(self) -> None:
        self._received = b""
        self._ended = False

    def feed(self, data: bytes) -> tuple[ProxyInfo, bytes] | None:
        """
        The next bytes from the socket.

        Returns:
            None while the header is incomplete; else what it says, and the bytes after it (perhaps none).

        Raises:
            RemoteProtocolError: this is no PROXY protocol. There is nobody to answer: close the connection.
            LocalProtocolError: fed again after a result or an error.
        """
        if self._ended:
            raise LocalProtocolError("PROXY header parser fed after its end")
        self._received += data
        try:
            result = _parse(self._received)
        except RemoteProtocolError:
            self._ended = True
            raise
        if result is not None:
            self._ended = True
            self._received = b""
        return result


def _parse(received: bytes) -> tuple[ProxyInfo, bytes] | None:
    # Both versions are told apart by their first byte; a mere prefix of either waits for more.
    if received.startswith(_V1_START[: len(received)]):
        return _parse_v1(received)
    if received.startswith(_V2_SIGNATURE[: len(received)]):
        return _parse_v2(received)
    raise RemoteProtocolError("no PROXY protocol header")


# -- version 1 -----------------------------------------------------------------------------------------

_V1_START = b"PROXY "

_V1_PROTOCOLS = (b"TCP4 ", b"TCP6 ", b"UNKNOWN")
# What may stand behind "TCP4 " and "TCP6 ", as far as it has come.
_V1_FIELDS_SO_FAR = re.compile(rb"[0-9A-Fa-f:. ]*+(?:\r\n?)?")
# "Heading zeroes are not permitted in front of numbers in order to avoid any possible confusion with octal
# numbers."
_V1_FIELDS = re.compile(rb"([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")


def _parse_v1(received: bytes) -> tuple[ProxyInfo, bytes] | None:
    end = received.find(b"\r\n", 0, MAX_V1_SIZE) + 2
    complete = end >= 2
    text = received[len(_V1_START) : end if complete else None]
    protocol = next((each for each in _V1_PROTOCOLS if text.startswith(each[: len(text)])), None)
    if protocol is None:
        raise RemoteProtocolError("PROXY header: neither TCP4, TCP6 nor UNKNOWN")
    if protocol == b"UNKNOWN":
        # "the receiver must ignore anything presented before the CRLF is found"; but it is a field of its
        # own.
        if text[7:8] != b" " and not b"UNKNOWN\r\n".startswith(text):
            raise RemoteProtocolError("PROXY header: neither TCP4, TCP6 nor UNKNOWN")
    elif not _V1_FIELDS_SO_FAR.fullmatch(text, min(len(protocol), len(text))):
        raise RemoteProtocolError("PROXY header: neither an address nor a port")
    if not complete:
        if len(received) >= MAX_V1_SIZE:
            raise RemoteProtocolError(f"PROXY header: no end of line in {MAX_V1_SIZE} bytes")
        return None
    rest = received[end:]
    if protocol == b"UNKNOWN":
        return _KEEP, rest
    fields = _V1_FIELDS.fullmatch(text, len(protocol))
    if fields is None:
        raise RemoteProtocolError("PROXY header: not two addresses and two ports")
    family = ipaddress.IPv4Address if protocol == b"TCP4 " else ipaddress.IPv6Address
    source = _v1_address(fields[1], family), _v1_port(fields[3])
    destination = _v1_address(fields[2], family), _v1_port(fields[4])
    return ProxyInfo(source, destination), rest


def _v1_address(text: bytes, family: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> str:
    try:
        return _canonical(family(text.decode("ascii")))
    except ValueError:
        raise RemoteProtocolError("PROXY header: not an address of its family") from None


def _v1_port(text: bytes) -> int:
    port = int(text)
    if port > 65535:
        raise RemoteProtocolError("PROXY header: port above 65535")
    return port


# -- version 2 -----------------------------------------------------------------------------------------

_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16

_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper four bits
_TCP4, _TCP6, _UNIX_STREAM = 0x11, 0x21, 0x31
# "Only the UNSPEC protocol byte (\x00) is mandatory to implement on the receiver. A receiver is not
# required to implement other ones, provided that it automatically falls back to the UNSPEC mode for the
# valid combinations above that it does not support." §2.2. Families 0 to 3 and transports 0 to 2 are valid,
# "other values [...] must be rejected as invalid by receivers".
_V2_VALID = frozenset(family << 4 | transport for family in range(4) for transport in range(3))
_V2_ADDRESSES_SIZE = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}

_PP2_TYPE_SSL = 0x20
_PP2_CLIENT_SSL = 0x01


def _parse_v2(received: bytes) -> tuple[ProxyInfo, bytes] | None:
    # Each byte is judged as soon as it is there, so that no split makes a difference.
    if len(received) <= 12:
        return None
    command = received[12]
    if command not in (_LOCAL, _PROXY):
        raise RemoteProtocolError(f"PROXY header: version and command {command:#04x}")
    if len(received) <= 13:
        return None
    family = received[13] if command == _PROXY else 0  # LOCAL: "including the family which is ignored"
    if family not in _V2_VALID:
        raise RemoteProtocolError(f"PROXY header: family and transport {family:#04x}")
    if len(received) < _V2_FIXED:
        return None
    size = _V2_FIXED + int.from_bytes(received[14:16], "big")
    if size > MAX_V2_SIZE:
        raise RemoteProtocolError(f"PROXY header: {size} bytes, more than {MAX_V2_SIZE}")
    addresses_end = _V2_FIXED + _V2_ADDRESSES_SIZE.get(family, 0)
    if size < addresses_end:
        raise RemoteProtocolError("PROXY header: too short for its addresses")
    if len(received) < size:
        return None
    header, rest = received[:size], received[size:]
    if family not in _V2_ADDRESSES_SIZE:
        return _KEEP, rest
    source, destination = _v2_addresses(family, header[_V2_FIXED:addresses_end])
    return ProxyInfo(source, destination, _client_tls(header[addresses_end:])), rest


def _v2_addresses(family: int, block: bytes) -> tuple[Address | None, ServerAddress]:
    if family == _UNIX_STREAM:
        # Clients on Unix sockets have no name that would mean anything here; ASGI's "client" is None for
        # them.
        return None, (_unix_path(block[108:]), None)
    if family == _TCP4:
        source, destination, source_port, destination_port = struct.unpack("!4s4sHH", block)
        return (
            (str(ipaddress.IPv4Address(source)), source_port),
            (str(ipaddress.IPv4Address(destination)), destination_port),
        )
    source, destination, source_port, destination_port = struct.unpack("!16s16sHH", block)
    return (
        (_canonical(ipaddress.IPv6Address(source)), source_port),
        (_canonical(ipaddress.IPv6Address(destination)), destination_port),
    )


def _unix_path(field: bytes) -> str:
    # sun_path: ended by NUL, or full; Linux's abstract names begin with one and are written with "@", as ss
    # does.
    if field[:1] == b"\0" and field[1:2] != b"\0":
        field = b"@" + field[1:]
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _client_tls(tlvs: bytes) -> bool | None:
    tls: bool | None = None
    at = 0
    while at < len(tlvs):
        value_at = at + 3
        if value_at > len(tlvs):
            raise RemoteProtocolError("PROXY header: TLV cut off")
        end = value_at + int.from_bytes(tlvs[at + 1 : value_at], "big")
        if end > len(tlvs):
            raise RemoteProtocolError("PROXY header: TLV longer than the header")
        if tlvs[at] == _PP2_TYPE_SSL:
            if end - value_at < 5:  # struct pp2_tlv_ssl: client (1), verify (4), then TLVs of its own
                raise RemoteProtocolError("PROXY header: PP2_TYPE_SSL cut off")
            tls = bool(tlvs[value_at] & _PP2_CLIENT_SSL)
        at = end
    return tls


def _canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """::ffff:192.0.2.1 is the machine 192.0.2.1, whichever way it came."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
