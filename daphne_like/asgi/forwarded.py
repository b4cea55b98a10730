"""
Who the client is, when a proxy stands in front: X-Forwarded-* and Forwarded.

The socket's peer is then the proxy, and the client is what the proxy wrote into the request. Anybody can
write such fields, so the question is never what they say but who wrote it:

* The peer of the socket is believed only when it is a `TrustedPeers` member. Everything below is about
  requests of such a peer; `apply()` gives None for all others.
* Each proxy *appends* the address of its own peer. The rightmost element is the trusted peer's own word.
  When the address in it is itself a trusted proxy, then the element to its left is that proxy's word, and
  so on: the walk goes from right to left through trusted hops, and **the rightmost untrusted address is the
  client**. What stands left of it was written by the client, whatever it claims. Are all of them trusted,
  the leftmost is the client.
* An element that names no address ends the walk: "unknown" and obfuscated nodes (RFC 7239 §6.2, §6.3), an
  empty element, or garbage. The client is then the last address that was believed, and with none the
  socket's own peer. RFC 9110 §5.6.1.2 would have a recipient skip empty list elements; but a hop that wrote
  nothing is a hop whose word is missing, and to its left stands an unknown author. Nothing in a request
  makes this module raise.
* Several lines of one field are one list, in their order (RFC 9110 §5.3).
* The outermost trusted proxy's scheme and host count. In Forwarded they stand in the element itself; an
  inner hop's value serves where the outer one named none. X-Forwarded-Proto and -Host are lists of their
  own: as long as the list of addresses, the value at the client's position counts (every hop appended),
  otherwise the last (the nearest proxy overwrote it, as nearly all do).

Both families in one request: **X-Forwarded-* wins, and Forwarded is read only when no field of that family
is there.** A proxy overwrites or extends the fields it is set up for, and hands on the others as the client
sent them. Nearly every proxy writes X-Forwarded-For, few write Forwarded, so a request with both is most
likely one whose Forwarded came from the client. An operator whose proxy does write Forwarded says so with
the header's name (`--proxy-headers-host Forwarded`): then X-Forwarded-* is not read at all. For the same
reason any other name (X-Real-IP) switches Forwarded off: when the proxy failed to write that field, nothing
else may stand in for it.

X-Forwarded-Port is the *client's* port, as in Daphne, and counts only beside an address; where the element
has a port of its own ("192.0.2.1:4711", Azure's gateway) that one is nearer to the truth. Daphne-Root-Path
is the path that the proxy mounts the application under, percent-encoded.

A right-to-left walk needs a right-to-left reader of Forwarded, whose quoted strings may hold commas. It
takes the shortest piece after a comma that is a whole element. In a well-formed list that finds the true
elements: a piece that began inside a quoted string would hold an odd number of unescaped quotes, and no
element does. And in a list that a client began with garbage (an opened quote, say) it finds what the proxy
appended, where a reader from the left would lose it, and with it the client's address.

Sources: RFC 7239; RFC 9110 §5.3, §5.6, §7.2; Daphne's daphne.utils.parse_x_forwarded_for (which takes the
leftmost address of anybody).
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import unquote

from daphne_like.errors import ConfigurationError
from daphne_like.http.grammar import HOST
from daphne_like.typing import Address, Headers

# Longest chain of proxies that is walked. Real ones have two or three; the bound keeps a client that invents
# thousands of trusted-looking hops from buying more than a few microseconds of work.
MAX_HOPS = 32
# Longest element of Forwarded that is looked at. The four registered parameters need some 400 bytes at most.
MAX_ELEMENT_SIZE = 2048
# Longest node that is looked at: an address with its port needs 53 bytes, the rest is for obfuscated names.
# It also bounds what the memory below can hold.
MAX_NODE_SIZE = 256
# Peers and forwarded addresses whose verdict is remembered: a proxy's clients come back.
MEMORY = 1024


@dataclass(frozen=True, slots=True)
class Forwarded:
    """
    What trusted proxies say of a request. None: they say nothing (believable), keep what the socket says.

    Attributes:
        client: (IP address in canonical text, port; 0 when unknown). IPv4-mapped IPv6 is given as IPv4.
        scheme: "http" or "https", as between client and outermost proxy. A WebSocket's is "ws" or "wss" then.
        host: a value that Host may have, as the client sent it to the outermost proxy.
        root_path: decoded, "" or beginning with a slash and not ending with one.
    """

    client: Address | None = None
    scheme: str | None = None
    host: bytes | None = None
    root_path: str | None = None


class TrustedPeers:
    """
    The peers, and the hops before them, whose forwarding fields are believed.

    Args:
        named: IP addresses, networks ("10.0.0.0/8"), "unix" for the peers of Unix sockets, "*" for
            everybody. With "*" every hop is trusted too, so that the leftmost address wins, which is
            whatever the client wrote unless the proxy in front removed it.
        unix: trust the peers of Unix sockets, without naming them.

    Raises:
        ConfigurationError: a word that is none of these, or a network with bits set behind its prefix.
    """

    def __init__(self, named: Iterable[str], *, unix: bool = False) -> None:
        if isinstance(named, str):
            named = named.split(",")
        self.everybody = False
        self.unix = unix
        self._networks: list[IPv4Network | IPv6Network] = []
        for word in named:
            if word.strip():  # a trailing comma names nobody
                self._name(word.strip())
        # Addresses are a bounded alphabet, but a large one: hence a bounded memory.
        self._remembered: Callable[[str], bool] = functools.lru_cache(maxsize=MEMORY)(self._decide)

    def _name(self, word: str) -> None:
        if word == "*":
            self.everybody = self.unix = True
        elif word == "unix":
            self.unix = True
        else:
            try:
                network = ipaddress.ip_network(word)
            except ValueError as error:
                raise ConfigurationError(
                    f"trusted peer {word!r}: neither an IP address, a network, 'unix' nor '*' ({error})"
                ) from None
            self._networks.append(_unmapped_network(network))

    def trusts(self, peer: Address | None) -> bool:
        """
        Whether the fields of a request from *peer* are believed.

        Args:
            peer: (host, port) of the socket's other end; None, or an empty host, is the peer of a Unix
                socket. Never give None for a TCP socket whose peer is unknown because it is gone already.
        """
        if peer is None or not peer[0]:
            return self.unix
        return self.trusts_address(peer[0])

    def trusts_address(self, host: str) -> bool:
        """The same for a hop further out, by its IP address alone."""
        return self.everybody or self._remembered(host)

    def _decide(self, host: str) -> bool:
        # The zone of a link-local peer ("fe80::1%eth0") is this machine's name for a link, not part of the
        # address.
        address = _parse_address(host.partition("%")[0])
        return address is not None and any(address in network for network in self._networks)


def first_forwarding_header(
    scope_headers: Headers,
    *,
    host_header: bytes = b"x-forwarded-for",
    port_header: bytes | None = b"x-forwarded-port",
) -> bytes | None:
    """Name of the first field that `apply()` would read: for a warning about an untrusted peer."""
    roles = _roles(host_header, port_header)
    return next((name for name, _ in scope_headers if name in roles), None)


def apply(
    scope_headers: Headers,
    peer: Address | None,
    *,
    trusted: TrustedPeers,
    host_header: bytes = b"x-forwarded-for",
    port_header: bytes | None = b"x-forwarded-port",
) -> Forwarded | None:
    """
    What the trusted proxies in front say of a request.

    Args:
        scope_headers: names in lower case. They are not changed: Daphne-Root-Path is the caller's to remove.
        peer: the socket's other end, as in `TrustedPeers.trusts()`.
        host_header: the field with the client's address, lower case: elements as in X-Forwarded-For, or
            b"forwarded" for RFC 7239 alone.
        port_header: the field with the client's port, lower case; None: there is none.

    Returns:
        None when no such field is there, none can be believed, or the peer is not trusted.
    """
    roles = _roles(host_header, port_header)
    fields = [field for field in scope_headers if field[0] in roles]
    if not fields or not trusted.trusts(peer):
        return None
    lines: dict[_Role, list[bytes]] = {}
    for name, value in fields:
        lines.setdefault(roles[name], []).append(value)

    root_path = _root_path(lines.pop(_Role.ROOT_PATH, ()))
    rfc_7239 = lines.pop(_Role.FORWARDED, ())
    if lines:
        told = _from_x_forwarded(lines, trusted, root_path)
    elif rfc_7239:
        told = _from_forwarded(rfc_7239, trusted, root_path)
    else:
        told = Forwarded(root_path=root_path)
    return None if told == _NOTHING else told


_NOTHING: Final = Forwarded()


class _Role(Enum):
    FOR = auto()
    PORT = auto()
    PROTO = auto()
    HOST = auto()
    FORWARDED = auto()
    ROOT_PATH = auto()


@functools.lru_cache(maxsize=16)
def _roles(host_header: bytes, port_header: bytes | None) -> dict[bytes, _Role]:
    host_header = host_header.lower()
    roles = {b"daphne-root-path": _Role.ROOT_PATH}
    if host_header in (b"forwarded", b"x-forwarded-for"):
        roles[b"forwarded"] = _Role.FORWARDED
    if host_header != b"forwarded":
        roles[b"x-forwarded-proto"] = _Role.PROTO
        roles[b"x-forwarded-host"] = _Role.HOST
        if port_header:
            roles[port_header.lower()] = _Role.PORT
        roles[host_header] = _Role.FOR
    return roles


# -- X-Forwarded-* -------------------------------------------------------------------------------------


def _from_x_forwarded(
    lines: dict[_Role, list[bytes]], trusted: TrustedPeers, root_path: str | None
) -> Forwarded:
    addresses = b",".join(lines.get(_Role.FOR, ()))
    client, position = _walk_x_forwarded_for(addresses, trusted)
    length = addresses.count(b",") + 1

    def told(role: _Role) -> bytes:
        """The word of the hop that named the client; of the nearest one where the lists do not match."""
        values = b",".join(lines.get(role, ()))
        same_hop = position if values.count(b",") + 1 == length else 0
        return values.rsplit(b",", MAX_HOPS)[-1 - same_hop].strip(b" \t")

    if client is not None and client[1] == 0:
        client = (client[0], _port(told(_Role.PORT)) or 0)
    return Forwarded(client, _scheme(told(_Role.PROTO)), _host(told(_Role.HOST)), root_path)


def _walk_x_forwarded_for(addresses: bytes, trusted: TrustedPeers) -> tuple[Address | None, int]:
    """The client, and how many elements from the right end (0: the last) the word that named it stands."""
    client: Address | None = None
    position = 0
    elements = addresses.rsplit(b",", MAX_HOPS)[-MAX_HOPS:]
    for offset, element in enumerate(reversed(elements)):
        text = element.strip(b" \t")
        node = _x_forwarded_node(text) if len(text) <= MAX_NODE_SIZE else None
        if node is None:
            break
        position = offset
        if node is _Nameless.UNIX_SOCKET:
            if not trusted.unix:
                break
        elif node is _Nameless.HIDDEN:
            break
        else:
            client = node
            if not trusted.trusts_address(node[0]):
                break
    return client, position


class _Nameless(Enum):
    """Nodes that are well-formed, and no address."""

    HIDDEN = auto()  # "unknown", "_gazonk"
    UNIX_SOCKET = auto()  # NGINX's $remote_addr of a peer on a Unix socket: "unix:"


_Node = Address | _Nameless

# "1.2.3.4", "1.2.3.4:80", "[::1]", "[::1]:80", "::1". What the characters mean is left to ipaddress.
_X_FORWARDED_NODE = re.compile(
    rb"(?: ([0-9]{1,3}(?:\.[0-9]{1,3}){3}) | \[([0-9A-Fa-f:.]{2,45})\] ) (?: :([0-9]{1,5}) )?"
    rb"| ([0-9A-Fa-f:.]{2,45})",
    re.VERBOSE,
)


@functools.lru_cache(maxsize=MEMORY)
def _x_forwarded_node(element: bytes) -> _Node | None:
    """None: garbage."""
    match = _X_FORWARDED_NODE.fullmatch(element)
    if match is None:
        if element == b"unix:":
            return _Nameless.UNIX_SOCKET
        return _Nameless.HIDDEN if element.lower() == b"unknown" else None
    v4, v6, port, bare_v6 = match.groups()
    return _address_node(v4 or v6 or bare_v6, port, version=4 if v4 else 6)


def _address_node(text: bytes, port: bytes | None, *, version: int) -> Address | None:
    address = _parse_address(text.decode("ascii"), version)
    number = 0 if port is None else _port(port)
    if address is None or number is None:
        return None
    return str(address), number


def _port(text: bytes) -> int | None:
    if not re.fullmatch(rb"[0-9]{1,5}", text):
        return None
    number = int(text)
    return number if number <= 65535 else None


# -- Forwarded, RFC 7239 -------------------------------------------------------------------------------

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_PAIR = rb"(?:(" + _TOKEN + rb")=(" + _TOKEN + rb"|" + _QUOTED + rb"))"
# forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )   RFC 7239 §4
# Space around ";" is not in the grammar, but people write it, and it can mean nothing else.
# Possessive throughout: a client writes what is matched here, so there must be nothing to backtrack into.
_ELEMENT = re.compile(rb"[ \t]*+" + _PAIR + rb"?+(?:[ \t]*+;[ \t]*+" + _PAIR + rb"?+)*+[ \t]*+")
_EACH_PAIR = re.compile(_PAIR)

# node = nodename [ ":" node-port ]   RFC 7239 §6
_NODE = re.compile(
    rb"(?: ([0-9]{1,3}(?:\.[0-9]{1,3}){3}) | \[([0-9A-Fa-f:.]{2,45})\] | (?i:unknown) | _[0-9A-Za-z._-]+ )"
    rb"(?: : (?: ([0-9]{1,5}) | _[0-9A-Za-z._-]+ ) )?",
    re.VERBOSE,
)


def _from_forwarded(lines: Sequence[bytes], trusted: TrustedPeers, root_path: str | None) -> Forwarded:
    client: Address | None = None
    scheme: str | None = None
    host: bytes | None = None
    for _, element in zip(range(MAX_HOPS), _elements_from_the_right(lines), strict=False):
        text = element.get(b"for", b"unknown")
        node = _forwarded_node(text) if len(text) <= MAX_NODE_SIZE else None
        if node is None:
            break
        scheme = _scheme(element.get(b"proto", b"")) or scheme
        host = _host(element.get(b"host", b"")) or host
        if isinstance(node, _Nameless):
            break
        client = node
        if not trusted.trusts_address(node[0]):
            break
    return Forwarded(client, scheme, host, root_path)


def _elements_from_the_right(lines: Sequence[bytes]) -> Iterator[dict[bytes, bytes]]:
    """Elements as {parameter in lower case: value without quotes}, the last one first, up to any garbage."""
    for line in reversed(lines):
        end = comma = len(line)
        pieces = 0
        while comma >= 0:
            comma = line.rfind(b",", 0, comma)
            pieces += 1
            if end - comma > MAX_ELEMENT_SIZE or pieces > MAX_HOPS:
                return
            if not _ELEMENT.fullmatch(line, comma + 1, end):
                continue  # the comma may stand in a quoted string: try the one before
            pairs = _EACH_PAIR.findall(line, comma + 1, end)
            element = {name.lower(): _unquoted(value) for name, value in pairs}
            # "Each parameter MUST NOT occur more than once per forwarded-element." -- RFC 7239 §4
            if len(element) != len(pairs):
                return
            yield element
            end = comma
            pieces = 0
        if pieces:
            return


def _unquoted(value: bytes) -> bytes:
    if value[:1] != b'"':
        return value
    return re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL)


@functools.lru_cache(maxsize=MEMORY)
def _forwarded_node(text: bytes) -> _Node | None:
    """None: garbage."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    v4, v6, port = match.groups()
    if v4 is None and v6 is None:
        return _Nameless.HIDDEN
    return _address_node(v4 or v6, port, version=4 if v4 else 6)


# -- values --------------------------------------------------------------------------------------------

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}

# What comes of it ends in URLs that the application builds: "//evil.example" there would be another site,
# and a client may get this field through a proxy that was never told to remove it.
_ROOT_PATH = re.compile(r"(?:/[^/\\\x00-\x1f\x7f]+)*")


def _scheme(value: bytes) -> str | None:
    return _SCHEMES.get(value.lower())


def _host(value: bytes) -> bytes | None:
    return value if HOST.fullmatch(value) else None


def _root_path(lines: Sequence[bytes]) -> str | None:
    if not lines or not lines[-1].isascii():
        return None
    path = unquote(lines[-1].decode("ascii")).removesuffix("/")
    return path if _ROOT_PATH.fullmatch(path) else None


# -- addresses -----------------------------------------------------------------------------------------


def _parse_address(text: str, version: int | None = None) -> IPv4Address | IPv6Address | None:
    """
    None: not an IP address, or not one of *version*.

    A dual-stack socket names IPv4 peers as ::ffff:192.0.2.1; they are the same machines, so IPv4 it is.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if version is not None and address.version != version:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network
