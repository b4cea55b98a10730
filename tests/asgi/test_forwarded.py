"""Who the client is behind proxies: never somebody that the client invented."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daphne_like.asgi import forwarded
from daphne_like.asgi.forwarded import Forwarded, TrustedPeers, apply, first_forwarding_header
from daphne_like.errors import ConfigurationError

PROXY = ("127.0.0.1", 41234)
# The proxy on this machine, and a farm of proxies before it.
FARM = TrustedPeers(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:ff::/48"])


def fields(**lines):
    """x_forwarded_for=b"..." or [b"...", b"..."] -> header list, one item per line."""
    return [
        (name.replace("_", "-").encode(), line)
        for name, value in lines.items()
        for line in (value if isinstance(value, list) else [value])
    ]


def told(trusted=FARM, peer=PROXY, **lines):
    return apply(fields(**lines), peer, trusted=trusted)


# -- trusted peers -----------------------------------------------------------------------------------------

TRUST = [  # named, host of the peer, trusted?
    (["127.0.0.1"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.2", False),
    (["127.0.0.1"], "::ffff:127.0.0.1", True),  # a dual-stack socket's name for it
    (["::ffff:127.0.0.1"], "127.0.0.1", True),
    (["::ffff:10.0.0.0/104"], "10.200.0.1", True),
    (["::ffff:10.0.0.0/104"], "11.0.0.1", False),
    (["::1"], "::1", True),
    (["::1"], "0:0:0:0:0:0:0:1", True),
    (["::1"], "127.0.0.1", False),
    (["10.0.0.0/8"], "10.255.255.255", True),
    (["10.0.0.0/8"], "11.0.0.0", False),
    (["2001:db8::/32"], "2001:db8:1::1", True),
    (["2001:db8::/32"], "10.0.0.1", False),
    (["fe80::/10"], "fe80::1%eth0", True),
    (["0.0.0.0/0"], "203.0.113.9", True),
    (["0.0.0.0/0"], "2001:db8::1", False),
    (["*"], "203.0.113.9", True),
    (["*"], "2001:db8::1", True),
    (["unix"], "127.0.0.1", False),
    (["127.0.0.1"], "localhost", False),  # names are never resolved
    ([], "127.0.0.1", False),
    ([" 127.0.0.1 ", ""], "127.0.0.1", True),
    ("127.0.0.1,::1", "::1", True),
]


@pytest.mark.parametrize(("named", "host", "expected"), TRUST)
def test_trusted_peers(named, host, expected):
    trusted = TrustedPeers(named)
    assert trusted.trusts((host, 1)) is expected
    assert trusted.trusts((host, 2)) is expected  # remembered


UNIX_TRUST = [  # named, unix=, trusted?
    (["127.0.0.1"], False, False),
    (["unix"], False, True),
    (["*"], False, True),
    (["127.0.0.1"], True, True),
    ([], True, True),
]


@pytest.mark.parametrize("peer", [None, ("", 0)])
@pytest.mark.parametrize(("named", "unix", "expected"), UNIX_TRUST)
def test_unix_peers_are_trusted_only_by_name_or_flag(named, unix, expected, peer):
    assert TrustedPeers(named, unix=unix).trusts(peer) is expected


@pytest.mark.parametrize("word", ["10.0.0.1/8", "nginx", "127.0.0.256", "UNIX", "10.0.0.0/33", "/var/run/x"])
def test_words_that_name_no_peer_are_refused(word):
    with pytest.raises(ConfigurationError, match="trusted peer"):
        TrustedPeers(["127.0.0.1", word])


def test_memory_of_verdicts_is_bounded():
    trusted = TrustedPeers(["10.0.0.0/8"])
    for number in range(2 * forwarded.MEMORY):
        trusted.trusts_address(f"192.0.{number >> 8}.{number & 255}")
    assert trusted._remembered.cache_info().currsize == forwarded.MEMORY


# -- X-Forwarded-For ---------------------------------------------------------------------------------------

X_FORWARDED_FOR = [  # lines, client
    # one hop
    ([b"192.0.2.1"], ("192.0.2.1", 0)),
    ([b"192.0.2.1:4711"], ("192.0.2.1", 4711)),  # Azure Application Gateway
    ([b"2001:db8::1"], ("2001:db8::1", 0)),
    ([b"[2001:db8::1]"], ("2001:db8::1", 0)),
    ([b"[2001:db8::1]:4711"], ("2001:db8::1", 4711)),
    ([b"2001:DB8:0:0:0:0:0:1"], ("2001:db8::1", 0)),
    ([b"::ffff:192.0.2.1"], ("192.0.2.1", 0)),
    ([b" \t192.0.2.1 "], ("192.0.2.1", 0)),
    # the rightmost untrusted address wins: what the client wrote stands left of it
    ([b"6.6.6.6, 192.0.2.1"], ("192.0.2.1", 0)),
    ([b"127.0.0.1, 192.0.2.1"], ("192.0.2.1", 0)),
    ([b"6.6.6.6", b"192.0.2.1"], ("192.0.2.1", 0)),
    ([b"6.6.6.6, 192.0.2.1, 10.0.0.7"], ("192.0.2.1", 0)),
    ([b"6.6.6.6,192.0.2.1", b"10.1.2.3,2001:db8:ff::1"], ("192.0.2.1", 0)),
    ([b"6.6.6.6, 192.0.2.1, ::ffff:10.0.0.7"], ("192.0.2.1", 0)),
    # all are trusted: the leftmost
    ([b"10.0.0.1, 10.0.0.2"], ("10.0.0.1", 0)),
    # never left of garbage, of the unknown, or of nothing
    ([b"6.6.6.6, garbage"], None),
    ([b"6.6.6.6, garbage, 10.0.0.7"], ("10.0.0.7", 0)),
    ([b"6.6.6.6, unknown, 10.0.0.7"], ("10.0.0.7", 0)),  # Squid: forwarded_for off
    ([b"6.6.6.6, , 10.0.0.7"], ("10.0.0.7", 0)),
    ([b"6.6.6.6", b"", b"10.0.0.7"], ("10.0.0.7", 0)),
    ([b"6.6.6.6,"], None),
    ([b"unknown"], None),
    ([b""], None),
    ([b"unix:"], None),  # NGINX's word for a peer on a Unix socket; those are not trusted here
    ([b"6.6.6.6, unix:, 10.0.0.7"], ("10.0.0.7", 0)),
    # no addresses
    ([b"192.0.2.256"], None),
    ([b"192.0.2"], None),
    ([b"192.0.2.01"], None),
    ([b"192.0.2.1:65536"], None),
    ([b"192.0.2.1:"], None),
    ([b"192.0.2.1:80:80"], None),
    ([b"2001:db8::1::2"], None),
    ([b"[192.0.2.1]"], None),
    ([b"[2001:db8::1"], None),
    ([b"fe80::1%eth0"], None),
    ([b"1"], None),
    ([b"example.com"], None),
    ([b'"192.0.2.1"'], None),
    ([b"192.0.2.1\x00"], None),
    ([b"192.0.2.1\n"], None),
    (["١٩٢.0.2.1".encode()], None),
    ([b"\xff\xfe"], None),
    ([b"1" * 60_000], None),
]


@pytest.mark.parametrize(("lines", "client"), X_FORWARDED_FOR)
def test_x_forwarded_for(lines, client):
    assert told(x_forwarded_for=lines) == (None if client is None else Forwarded(client=client))


def test_nobody_else_is_believed():
    """Daphne 4.2 takes --proxy-headers' fields and Daphne-Root-Path from any client."""
    lines = fields(x_forwarded_for=b"6.6.6.6", x_forwarded_proto=b"https", daphne_root_path=b"/x")
    assert apply(lines, ("203.0.113.9", 1), trusted=FARM) is None
    assert apply(lines, None, trusted=FARM) is None
    assert apply(lines, None, trusted=TrustedPeers([], unix=True)) == Forwarded(
        ("6.6.6.6", 0), "https", None, "/x"
    )


def test_everybody_trusted_means_the_leftmost():
    everybody = TrustedPeers(["*"])
    assert told(everybody, x_forwarded_for=b"192.0.2.1, 198.51.100.1").client == ("192.0.2.1", 0)
    assert told(everybody, x_forwarded_for=b"garbage, 198.51.100.1").client == ("198.51.100.1", 0)


def test_a_unix_hop_between_two_proxies_is_walked_through_when_trusted():
    """NGINX listening on a Unix socket has "unix:" as its $remote_addr."""
    trusted = TrustedPeers(["127.0.0.1", "unix"])
    assert told(trusted, x_forwarded_for=b"6.6.6.6, 192.0.2.1, unix:").client == ("192.0.2.1", 0)
    assert told(trusted, x_forwarded_for=b"unix:") is None


def test_the_walk_is_bounded():
    chain = b", ".join([b"192.0.2.1"] + [b"10.0.0.1"] * 10_000)
    assert told(x_forwarded_for=chain).client == ("10.0.0.1", 0)
    chain = b", ".join([b"192.0.2.1"] + [b"10.0.0.1"] * (forwarded.MAX_HOPS - 1))
    assert told(x_forwarded_for=chain).client == ("192.0.2.1", 0)


# -- X-Forwarded-Port, -Proto, -Host -------------------------------------------------------------------------

PORT = [  # X-Forwarded-For, X-Forwarded-Port, client                     daphne/tests/test_utils.py
    (b"192.0.2.1", b"1234", ("192.0.2.1", 1234)),
    (b"192.0.2.1", b" 1234 ", ("192.0.2.1", 1234)),
    (b"192.0.2.1", b"", ("192.0.2.1", 0)),
    (b"192.0.2.1", b"foo", ("192.0.2.1", 0)),
    (b"192.0.2.1", b"-1", ("192.0.2.1", 0)),
    (b"192.0.2.1", b"65536", ("192.0.2.1", 0)),
    (b"192.0.2.1:80", b"1234", ("192.0.2.1", 80)),
    (b"6.6.6.6, 192.0.2.1", b"6, 1234", ("192.0.2.1", 1234)),
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", b"6, 1234, 5", ("192.0.2.1", 1234)),
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", b"1234", ("192.0.2.1", 1234)),
    (b"garbage", b"1234", None),
]


@pytest.mark.parametrize(("addresses", "port", "client"), PORT)
def test_x_forwarded_port_is_the_clients(addresses, port, client):
    result = told(x_forwarded_for=addresses, x_forwarded_port=port)
    assert result == (None if client is None else Forwarded(client=client))


def test_x_forwarded_port_alone_says_nothing():
    """Daphne: "only [...] if we also parsed the X-Forwarded-For header to avoid inconsistent results"."""
    assert told(x_forwarded_port=b"1234") is None


def test_other_header_names():
    """--proxy-headers-host and --proxy-headers-port."""
    lines = fields(
        x_real_ip=b"192.0.2.1", x_real_port=b"99", x_forwarded_for=b"6.6.6.6", forwarded=b"for=6.6.6.6"
    )
    names = {"host_header": b"X-Real-IP", "port_header": b"X-Real-Port"}
    assert apply(lines, PROXY, trusted=FARM, **names) == Forwarded(client=("192.0.2.1", 99))
    names["port_header"] = None
    assert apply(lines, PROXY, trusted=FARM, **names) == Forwarded(client=("192.0.2.1", 0))
    # The proxy that should have written X-Real-IP did not: nothing else stands in for it.
    assert apply(lines[2:], PROXY, trusted=FARM, **names) is None


PROTO = [  # X-Forwarded-For, lines of X-Forwarded-Proto, scheme
    (b"192.0.2.1", [b"https"], "https"),
    (b"192.0.2.1", [b"http"], "http"),
    (b"192.0.2.1", [b"HTTPS"], "https"),
    (b"192.0.2.1", [b"ws"], "http"),
    (b"192.0.2.1", [b"wss"], "https"),
    (b"192.0.2.1", [b"ftp"], None),
    (b"192.0.2.1", [b"https;"], None),
    (b"192.0.2.1", [b""], None),
    # one value: the nearest proxy overwrote what was there
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", [b"http"], "http"),
    # as many as addresses: every hop appended, the client's hop counts
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", [b"http, https, http"], "https"),
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", [b"http", b"https", b"http"], "https"),
    (b"6.6.6.6, 192.0.2.1", [b"http, https"], "https"),
    (b"6.6.6.6, 192.0.2.1", [b"https, http"], "http"),
    (b"10.0.0.2, 10.0.0.1", [b"https, http"], "https"),
    # any other number: the last
    (b"192.0.2.1", [b"https, http"], "http"),
    (b"6.6.6.6, 192.0.2.1, 10.0.0.1", [b"https, http"], "http"),
    # what the client wrote stands left of garbage
    (b"6.6.6.6, garbage, 10.0.0.1", [b"https, https, http"], "http"),
]


@pytest.mark.parametrize(("addresses", "lines", "scheme"), PROTO)
def test_x_forwarded_proto(addresses, lines, scheme):
    result = told(x_forwarded_for=addresses, x_forwarded_proto=lines)
    assert result is not None
    assert result.scheme == scheme


def test_x_forwarded_proto_needs_no_address():
    assert told(x_forwarded_proto=b"https") == Forwarded(scheme="https")
    assert told(x_forwarded_proto=b"http, https") == Forwarded(scheme="https")


HOST = [  # X-Forwarded-Host, host
    (b"example.com", b"example.com"),
    (b"example.com:8080", b"example.com:8080"),
    (b"[2001:db8::1]:8080", b"[2001:db8::1]:8080"),
    (b"192.0.2.1", b"192.0.2.1"),
    (b"evil.example, example.com", b"example.com"),
    (b"", None),
    (b"exa mple.com", None),
    (b"example.com/path", None),
    (b"user@example.com", None),
    (b"http://example.com", None),
    (b"example.com:port", None),
    (b"example.com\x00", None),
    (b"ex\xe4mple.com", None),
]


@pytest.mark.parametrize(("value", "host"), HOST)
def test_x_forwarded_host(value, host):
    result = told(x_forwarded_for=b"192.0.2.1", x_forwarded_host=value)
    assert result == Forwarded(client=("192.0.2.1", 0), host=host)


def test_x_forwarded_host_of_the_outermost_trusted_proxy():
    result = told(
        x_forwarded_for=b"6.6.6.6, 192.0.2.1, 10.0.0.1", x_forwarded_host=b"evil.example, example.com, inner"
    )
    assert result.host == b"example.com"


# -- Daphne-Root-Path ----------------------------------------------------------------------------------------

ROOT_PATH = [  # value, root_path
    (b"/app", "/app"),
    (b"/app/", "/app"),
    (b"/app/v%202", "/app/v 2"),
    (b"/caf%C3%A9", "/café"),
    (b"/", ""),
    (b"", ""),
    (b"app", None),
    (b"//evil.example", None),
    (b"/%2fevil.example", None),
    (b"/\\evil.example", None),
    (b"/a%0d%0ab", None),
    (b"https://evil.example", None),
    (b"/caf\xe9", None),
]


@pytest.mark.parametrize(("value", "root_path"), ROOT_PATH)
def test_root_path(value, root_path):
    assert told(daphne_root_path=value) == (None if root_path is None else Forwarded(root_path=root_path))


def test_root_path_goes_with_either_family():
    assert told(daphne_root_path=b"/app", x_forwarded_proto=b"https") == Forwarded(
        scheme="https", root_path="/app"
    )
    assert told(daphne_root_path=b"/app", forwarded=b"proto=https") == Forwarded(
        scheme="https", root_path="/app"
    )


# -- Forwarded -----------------------------------------------------------------------------------------------

V6 = "2001:db8:cafe::17"
FORWARDED = [  # lines, what is told
    # RFC 7239 §4
    ([b'for="_gazonk"'], None),
    ([b'For="[2001:db8:cafe::17]:4711"'], Forwarded((V6, 4711))),
    ([b"for=192.0.2.60;proto=http;by=203.0.113.43"], Forwarded(("192.0.2.60", 0), "http")),
    ([b"for=192.0.2.43, for=198.51.100.17"], Forwarded(("198.51.100.17", 0))),
    # RFC 7239 §6
    ([b'for="192.0.2.43:47011"'], Forwarded(("192.0.2.43", 47011))),
    ([b'for="[2001:db8:cafe::17]:47011"'], Forwarded((V6, 47011))),
    ([b'for="192.0.2.43:_port"'], Forwarded(("192.0.2.43", 0))),
    # RFC 7239 §7.1: three ways to write one list
    ([b'for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown'], None),
    ([b'for=192.0.2.43, for="[2001:db8:cafe::17]", for=unknown'], None),
    ([b"for=192.0.2.43", b'for="[2001:db8:cafe::17]", for=unknown'], None),
    ([b'for=192.0.2.43, for="[2001:db8:cafe::17]"'], Forwarded((V6, 0))),
    # RFC 7239 §7.4
    ([b"for=_hidden, for=_SEVKISEK"], None),
    # the walk
    ([b"for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.1"], Forwarded(("192.0.2.1", 0), "https")),
    ([b"for=6.6.6.6", b"for=192.0.2.1;proto=https", b"for=10.0.0.1"], Forwarded(("192.0.2.1", 0), "https")),
    ([b"for=6.6.6.6, for=unknown;proto=https, for=10.0.0.1"], Forwarded(("10.0.0.1", 0), "https")),
    ([b"for=6.6.6.6, proto=https, for=10.0.0.1"], Forwarded(("10.0.0.1", 0), "https")),
    ([b"for=10.0.0.2, for=10.0.0.1"], Forwarded(("10.0.0.2", 0))),
    # an inner hop's scheme and host serve where the outer one named none, and nothing else does
    (
        [b"proto=https;for=6.6.6.6, for=192.0.2.1, for=10.0.0.1;proto=http;host=h"],
        Forwarded(("192.0.2.1", 0), "http", b"h"),
    ),
    (
        [b"for=192.0.2.1;proto=https;host=outer, for=10.0.0.1;proto=http;host=inner"],
        Forwarded(("192.0.2.1", 0), "https", b"outer"),
    ),
    # values
    ([b'for=192.0.2.1;host="example.com:8080"'], Forwarded(("192.0.2.1", 0), None, b"example.com:8080")),
    ([b'for=192.0.2.1;host="bad host"'], Forwarded(("192.0.2.1", 0))),
    ([b'for=192.0.2.1;proto="ht\\tps"'], Forwarded(("192.0.2.1", 0), "https")),
    ([b"for=192.0.2.1;proto=gopher"], Forwarded(("192.0.2.1", 0))),
    ([b"FOR=192.0.2.1;PROTO=HTTPS"], Forwarded(("192.0.2.1", 0), "https")),
    ([b'for=192.0.2.1;secret="a, b;c=\\"d\\"";proto=https'], Forwarded(("192.0.2.1", 0), "https")),
    ([b"for=192.0.2.1 ; proto=https"], Forwarded(("192.0.2.1", 0), "https")),
    ([b";for=192.0.2.1;;proto=https;"], Forwarded(("192.0.2.1", 0), "https")),
    ([b"proto=https"], Forwarded(scheme="https")),
    # quoted strings that pretend to hold elements
    ([b'for=192.0.2.1;secret="x, for=6.6.6.6"'], Forwarded(("192.0.2.1", 0))),
    ([b'for=192.0.2.1;secret="x, for=\\"6.6.6.6\\""'], Forwarded(("192.0.2.1", 0))),
    ([b'for=192.0.2.1;a="x, for=6.6.6.6;b=";c=";d"'], Forwarded(("192.0.2.1", 0))),
    # a client's garbage cannot hide what the proxy appended
    ([b'for="6.6.6.6, for=192.0.2.1;host="example.com"'], Forwarded(("192.0.2.1", 0), None, b"example.com")),
    ([b'x="\\, for="[2001:db8:cafe::17]"'], Forwarded((V6, 0))),
    ([b"&&&, for=192.0.2.1"], Forwarded(("192.0.2.1", 0))),
    # never left of garbage
    ([b"for=6.6.6.6, garbage, for=10.0.0.1"], Forwarded(("10.0.0.1", 0))),
    ([b'for=6.6.6.6, for="x, for=10.0.0.1'], Forwarded(("10.0.0.1", 0))),
    ([b"for=6.6.6.6, , for=10.0.0.1"], Forwarded(("10.0.0.1", 0))),
    ([b"for=6.6.6.6", b"", b"for=10.0.0.1"], Forwarded(("10.0.0.1", 0))),
    ([b"for=6.6.6.6, for=garbage;proto=https, for=10.0.0.1"], Forwarded(("10.0.0.1", 0))),
    # "as ":" and "[]" are not valid characters in "token", IPv6 addresses are written as "quoted-string"" §4
    ([b"for=[2001:db8::1]"], None),
    ([b"for=192.0.2.1:80"], None),
    ([b'for="2001:db8::1"'], None),
    ([b'for="192.0.2.1:65536"'], None),
    ([b"for=192.0.2.1;for=192.0.2.1"], None),  # "MUST NOT occur more than once"
    ([b"for = 192.0.2.1"], None),
    ([b"for=192.0.2.1 proto=https"], None),
    ([b'for="192.0.2.1'], None),
    ([b"for="], None),
    ([b""], None),
    ([b"for=192.0.2.1\x00"], None),
    ([b"for=_" + b"x" * 60_000], None),
]


@pytest.mark.parametrize(("lines", "expected"), FORWARDED)
def test_forwarded(lines, expected):
    assert told(forwarded=lines) == expected


@pytest.mark.parametrize(
    "garbage", [b";" * 60_000, b" ;" * 30_000, b'"' * 60_000, b"," * 60_000, b"a=b;" * 15_000]
)
def test_garbage_behind_a_trusted_hop_costs_little(garbage):
    """The patterns never backtrack: were this not so, the test would run for minutes."""
    result = told(forwarded=[b"for=192.0.2.1;" + garbage + b"!, " + garbage, b"for=10.0.0.1"])
    assert result == Forwarded(("10.0.0.1", 0))


BOTH = [  # fields, client
    ({"forwarded": b"for=6.6.6.6", "x_forwarded_for": b"192.0.2.1"}, ("192.0.2.1", 0)),
    ({"forwarded": b"for=6.6.6.6", "x_forwarded_for": b"garbage"}, None),
    ({"forwarded": b"for=6.6.6.6", "x_forwarded_proto": b"https"}, None),
    ({"forwarded": b"for=6.6.6.6", "x_forwarded_host": b"example.com"}, None),
    ({"forwarded": b"for=192.0.2.1"}, ("192.0.2.1", 0)),
]


@pytest.mark.parametrize(("lines", "client"), BOTH)
def test_forwarded_is_read_only_when_the_proxy_wrote_no_x_forwarded(lines, client):
    """A proxy hands on the family that it does not know as the client sent it; few know Forwarded."""
    result = told(**lines)
    assert (result and result.client) == client


def test_forwarded_alone_when_named():
    """--proxy-headers-host Forwarded: now it is X-Forwarded-* that comes from the client."""
    lines = fields(
        forwarded=b"for=192.0.2.1",
        x_forwarded_for=b"6.6.6.6",
        x_forwarded_proto=b"https",
        x_forwarded_port=b"1",
    )
    assert apply(lines, PROXY, trusted=FARM, host_header=b"forwarded") == Forwarded(client=("192.0.2.1", 0))
    assert apply(lines[1:], PROXY, trusted=FARM, host_header=b"forwarded") is None


def test_ignored_fields_are_named_for_the_warning():
    assert first_forwarding_header(fields(host=b"x", accept=b"*/*")) is None
    assert first_forwarding_header(fields(host=b"x", x_forwarded_proto=b"https")) == b"x-forwarded-proto"
    assert first_forwarding_header(fields(daphne_root_path=b"/x")) == b"daphne-root-path"
    assert first_forwarding_header(fields(x_real_ip=b"1.2.3.4"), host_header=b"x-real-ip") == b"x-real-ip"


def test_a_request_without_such_fields():
    assert told(host=b"example.com", accept=b"*/*") is None


# -- properties ----------------------------------------------------------------------------------------------

NAMES = [
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"daphne-root-path",
]
PIECES = [
    b"for=", b"proto=", b"host=", b"192.0.2.1", b"10.0.0.1", b"[2001:db8::1]", b":80", b"unknown", b"_x",
    b"https", b'"', b"\\", b",", b";", b" ", b"unix:", b"/",
]  # fmt: skip
VALUES = st.binary(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6), st.sampled_from([["127.0.0.1"], ["*"]])
)
def test_nothing_a_client_writes_raises(headers, named):
    result = apply(headers, PROXY, trusted=TrustedPeers(named))
    if result is not None and result.client is not None:
        assert TrustedPeers([result.client[0]]).trusts(result.client)  # an address in any case
        assert 0 <= result.client[1] <= 65535


@given(st.lists(VALUES, max_size=4))
@example([b'for="'])
@example([b'for="x\\'])
@example([b"for=192.0.2.1;"])
def test_what_the_proxy_appended_wins_over_whatever_the_client_sent(lines):
    appended = b'for="[2001:db8::7]:4711";host="shop.example";proto=http'
    expected = Forwarded(("2001:db8::7", 4711), "http", b"shop.example")
    assert told(forwarded=[*lines, appended]) == expected
    if lines:
        assert told(forwarded=[*lines[:-1], lines[-1] + b", " + appended]) == expected

    expected = Forwarded(("192.0.2.1", 0))
    assert told(x_forwarded_for=[*lines, b"192.0.2.1"]) == expected
    if lines:
        assert told(x_forwarded_for=[*lines[:-1], lines[-1] + b", 192.0.2.1"]) == expected


TOKENS = st.text("abcxyz019.-_", min_size=1, max_size=8).map(str.encode)
QUOTABLE = st.text(', ;="\\for6.ab\t', max_size=12).map(str.encode)


@st.composite
def elements(draw):
    """(an element of Forwarded that names an address, as bytes; that address)"""
    address = draw(st.ip_addresses(v=4)).compressed.encode()
    pairs = {b"for": address}
    for name in draw(st.lists(TOKENS.filter(lambda name: name != b"for"), max_size=3, unique=True)):
        text = draw(QUOTABLE)
        pairs[name] = b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    order = draw(st.permutations(list(pairs.items())))
    return b";".join(name + b"=" + value for name, value in order), address.decode()


@given(st.lists(elements(), min_size=1, max_size=4), st.sampled_from([b",", b", ", b" ,\t"]))
def test_a_well_formed_list_read_from_the_right_gives_its_elements(expected, comma):
    """The argument in the module's docstring, tried: commas, quotes and whole elements in quoted strings."""
    line = comma.join(text for text, _ in expected)
    found = [element[b"for"].decode() for element in forwarded._elements_from_the_right([line])]
    assert found == [address for _, address in reversed(expected)]
