"""The opening handshake: what RFC 6455 asks of a client, and what the answer says."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State
from websockets.uri import parse_uri

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.websocket.handshake import (
    Handshake,
    Offer,
    check,
    is_websocket_request,
    negotiate_deflate,
    refusal_headers,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
PLAIN = [
    (b"host", b"server.example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]


def request(*changes):
    """The plain handshake with fields replaced: (name, value, ...), as many lines as values."""
    headers = list(PLAIN)
    for name, *values in changes:
        headers = [field for field in headers if field[0] != name]
        headers += [(name, value) for value in values]
    return headers


def handshake(*changes):
    return check("GET", "1.1", request(*changes))


# -- the predicate -----------------------------------------------------------------------------------------

ASKS = [  # lines of Upgrade, is it a WebSocket?
    ([], False),
    ([b"websocket"], True),
    ([b"WebSocket"], True),
    ([b"h2c, websocket"], True),
    ([b"h2c", b"websocket"], True),
    ([b"\twebsocket ,"], True),
    ([b"h2c"], False),
    ([b"websocket/13"], False),
    ([b"websockets"], False),
    ([b""], False),
]


@pytest.mark.parametrize(("lines", "expected"), ASKS)
def test_which_requests_ask_for_a_websocket(lines, expected):
    assert is_websocket_request(request((b"upgrade", *lines))) is expected


# -- the request -------------------------------------------------------------------------------------------


def test_the_example_of_the_rfc():
    """RFC 6455 §1.2, §1.3, §4.2.2."""
    asked = handshake(
        (b"origin", b"http://example.com"),
        (b"sec-websocket-protocol", b"chat, superchat"),
    )
    assert asked == Handshake(key=KEY, subprotocols=["chat", "superchat"], offers=[])
    assert asked.accept_headers("chat") == [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"sec-websocket-protocol", b"chat"),
    ]


GOOD = [
    [],
    [(b"connection", b"keep-alive, Upgrade")],  # Firefox
    [(b"connection", b"keep-alive", b"UPGRADE")],
    [(b"upgrade", b"h2c, WebSocket")],
    [(b"content-length", b"0")],
    [(b"sec-websocket-version", b" 13 ")],
    [(b"origin", b"null")],  # the application's business
    [(b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")],
    [(b"sec-websocket-key", b"+/+/+/+/+/+/+/+/+/+/+w==")],
]


@pytest.mark.parametrize("changes", GOOD)
@pytest.mark.parametrize("method", [b"GET", "GET"])
def test_handshakes_in_order(method, changes):
    assert check(method, "1.1", request(*changes)).subprotocols == []


BAD = [  # what is changed, status                                                        RFC 6455 §4.2.1
    ([(b"upgrade",)], 400),
    ([(b"upgrade", b"h2c")], 400),
    ([(b"connection",)], 400),
    ([(b"connection", b"keep-alive")], 400),
    ([(b"connection", b"upgraded")], 400),
    ([(b"sec-websocket-key",)], 400),
    ([(b"sec-websocket-key", b"")], 400),
    ([(b"sec-websocket-key", KEY, KEY)], 400),  # "MUST NOT appear more than once" §11.3.1
    ([(b"sec-websocket-key", KEY[:-1])], 400),
    ([(b"sec-websocket-key", KEY + b"=")], 400),
    ([(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZR==")], 400),  # not canonical: bits behind the 16th byte
    ([(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25j")], 400),  # 15 bytes
    ([(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZWQ=")], 400),  # 17 bytes
    ([(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25-ZQ==")], 400),  # the other alphabet
    ([(b"sec-websocket-key", b"dGhlIHNhbXBs ZSBub25jZQ==")], 400),
    ([(b"sec-websocket-version",)], 400),
    ([(b"sec-websocket-version", b"")], 400),
    ([(b"sec-websocket-version", b"13", b"13")], 400),  # §11.3.5
    ([(b"sec-websocket-version", b"13, 8")], 400),
    ([(b"sec-websocket-version", b"013")], 400),
    ([(b"sec-websocket-version", b"13a")], 400),
    ([(b"sec-websocket-version", b"8")], 426),
    ([(b"sec-websocket-version", b"0")], 426),
    ([(b"sec-websocket-version", b"14")], 426),
    ([(b"sec-websocket-version", b"255")], 426),
    ([(b"content-length", b"5")], 400),
    ([(b"content-length", b"0", b"5")], 400),
    ([(b"transfer-encoding", b"chunked")], 400),
    ([(b"sec-websocket-protocol", b"")], 400),
    ([(b"sec-websocket-protocol", b" , ")], 400),
    ([(b"sec-websocket-protocol", b"chat room")], 400),
    ([(b"sec-websocket-protocol", b"chat;q=1")], 400),
    ([(b"sec-websocket-protocol", b'"chat"')], 400),
    ([(b"sec-websocket-protocol", b"ch\xe4t")], 400),
    ([(b"sec-websocket-protocol", b"chat, chat")], 400),  # "MUST all be unique strings" §4.1
    ([(b"sec-websocket-protocol", b"chat, superchat", b"chat")], 400),
    ([(b"sec-websocket-extensions", b"")], 400),
    ([(b"sec-websocket-extensions", b",")], 400),
    ([(b"sec-websocket-extensions", b"foo bar")], 400),
    ([(b"sec-websocket-extensions", b"foo;")], 400),
    ([(b"sec-websocket-extensions", b"; foo")], 400),
    ([(b"sec-websocket-extensions", b"foo; bar=")], 400),
    ([(b"sec-websocket-extensions", b"foo; =bar")], 400),
    ([(b"sec-websocket-extensions", b"foo=bar")], 400),
    ([(b"sec-websocket-extensions", b'foo; bar="baz')], 400),
    ([(b"sec-websocket-extensions", b'foo; bar="b z"')], 400),  # "MUST conform to the 'token' ABNF" §9.1
    ([(b"sec-websocket-extensions", b'foo; bar="b,z"')], 400),
    ([(b"sec-websocket-extensions", b'foo; bar=""')], 400),
    ([(b"sec-websocket-extensions", b'foo; bar="baz"x')], 400),
    ([(b"sec-websocket-extensions", b'"foo"')], 400),
    ([(b"sec-websocket-extensions", b"foo\x00")], 400),
]


@pytest.mark.parametrize(("changes", "status"), BAD)
def test_other_requests_are_refused(changes, status):
    with pytest.raises(RemoteProtocolError, match="WebSocket handshake") as refusal:
        handshake(*changes)
    assert refusal.value.status_hint == status


@pytest.mark.parametrize(
    ("method", "version"), [("POST", "1.1"), (b"HEAD", "1.1"), ("get", "1.1"), ("GET", "1.0"), ("GET", "2")]
)
def test_method_and_version_of_http(method, version):
    """ "The method of the request MUST be GET, and the HTTP version MUST be at least 1.1." (§4.1)"""
    with pytest.raises(RemoteProtocolError) as refusal:
        check(method, version, PLAIN)
    assert refusal.value.status_hint == 400


def test_another_version_is_answered_with_ours():
    """RFC 6455 §4.4; RFC 9110 §15.5.22: 426 has an Upgrade field."""
    assert refusal_headers(426) == [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
    assert refusal_headers(400) == []


SUBPROTOCOLS = [
    ([b"chat"], ["chat"]),
    ([b"b, a"], ["b", "a"]),
    ([b"a", b"b,c"], ["a", "b", "c"]),
    ([b"Chat, chat"], ["Chat", "chat"]),
    ([b" ,a,,b\t, "], ["a", "b"]),
    ([b"", b"a"], ["a"]),
    ([b"v1.json+gzip_!#$%&'*^`|~"], ["v1.json+gzip_!#$%&'*^`|~"]),
]


@pytest.mark.parametrize(("lines", "expected"), SUBPROTOCOLS)
def test_subprotocols_in_the_clients_order(lines, expected):
    assert handshake((b"sec-websocket-protocol", *lines)).subprotocols == expected


EXTENSIONS = [  # lines, offers                                                            RFC 6455 §9.1
    ([b"foo"], [Offer("foo")]),
    ([b"foo, bar; baz=2"], [Offer("foo"), Offer("bar", (("baz", "2"),))]),
    ([b"foo", b"bar; baz=2"], [Offer("foo"), Offer("bar", (("baz", "2"),))]),
    ([b"deflate-stream"], [Offer("deflate-stream")]),
    (
        [b'mux; max-channels="4"; flow-control'],
        [Offer("mux", (("max-channels", "4"), ("flow-control", None)))],
    ),
    ([b'private-extension; a="b\\c"'], [Offer("private-extension", (("a", "bc"),))]),
    ([b" foo ; a = b ;c,\tfoo "], [Offer("foo", (("a", "b"), ("c", None))), Offer("foo")]),
    ([b",foo,,bar,"], [Offer("foo"), Offer("bar")]),
    ([b"foo;a=1;a=2;a"], [Offer("foo", (("a", "1"), ("a", "2"), ("a", None)))]),
    (
        [b"permessage-deflate; client_max_window_bits"],  # Chrome; Firefox sends it bare
        [Offer("permessage-deflate", (("client_max_window_bits", None),))],
    ),
]


@pytest.mark.parametrize(("lines", "expected"), EXTENSIONS)
def test_extensions(lines, expected):
    assert handshake((b"sec-websocket-extensions", *lines)).offers == expected


@pytest.mark.parametrize(
    "line",
    [b"foo" + b" " * 60_000 + b"!", b"foo;" + b" " * 60_000, b'a;b="' + b"\\x" * 30_000, b";" * 60_000],
)
def test_malformed_extensions_cost_little(line):
    with pytest.raises(RemoteProtocolError):
        handshake((b"sec-websocket-extensions", line))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-key"]),
            st.binary(max_size=12) | st.text(' ,;="\\ab\t', max_size=16).map(str.encode),
        ),
        max_size=4,
    )
)
def test_any_request_is_taken_or_refused(fields):
    headers = PLAIN + [(name.encode(), value) for name, value in fields]
    try:
        asked = check("GET", "1.1", headers)
    except RemoteProtocolError:
        return
    assert asked.key == KEY
    assert len(set(asked.subprotocols)) == len(asked.subprotocols)


# -- the answer --------------------------------------------------------------------------------------------


def test_the_applications_fields_follow():
    extra = [(b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d"), (b"X-Tr", b"v\xff\t ")]
    assert handshake().accept_headers(None, None, extra)[3:] == [
        (b"set-cookie", b"a=b"),
        (b"set-cookie", b"c=d"),
        (b"x-tr", b"v\xff\t "),
    ]


FORBIDDEN = [
    (b"sec-websocket-accept", b"x"),
    (b"Sec-WebSocket-Protocol", b"chat"),  # ASGI: "subprotocol" is the way
    (b"sec-websocket-extensions", b"permessage-deflate"),
    (b"sec-websocket-version", b"13"),
    (b"Connection", b"close"),
    (b"upgrade", b"h2c"),
    (b"content-length", b"0"),
    (b"transfer-encoding", b"chunked"),
    (b"x-split", b"a\r\nset-cookie: b"),
    (b"x-split", b"a\nb"),
    (b"x-split", b"a\x00"),
    (b"x split", b"a"),
    (b"x:split", b"a"),
    (b"", b"a"),
    ("x-text", b"a"),
    (b"x-text", "a"),
]


@pytest.mark.parametrize("field", FORBIDDEN)
def test_fields_that_are_not_the_applications(field):
    with pytest.raises(InvalidMessage, match=r"websocket\.accept: header"):
        handshake().accept_headers(extra=[field])


@pytest.mark.parametrize("subprotocol", ["other", "CHAT", "", "chat, superchat", "chat\r\nx: y"])
def test_only_a_subprotocol_that_was_offered(subprotocol):
    """A client must fail the connection on any other (RFC 6455 §4.1), so the application is told."""
    with pytest.raises(InvalidMessage, match="subprotocol"):
        handshake((b"sec-websocket-protocol", b"chat, superchat")).accept_headers(subprotocol)
    with pytest.raises(InvalidMessage, match="subprotocol"):
        handshake().accept_headers("chat")


def test_what_was_negotiated_is_said():
    asked = handshake((b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"))
    headers = asked.accept_headers(deflate=negotiate_deflate(asked.offers))
    assert headers[-1] == (
        b"sec-websocket-extensions",
        b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    )


# -- permessage-deflate ------------------------------------------------------------------------------------

DEFLATE = [  # Sec-WebSocket-Extensions, our window, its answer; None: no compression        RFC 7692 §7.1
    (b"permessage-deflate", 12, b"server_max_window_bits=12"),
    (b"permessage-deflate", 15, b"server_max_window_bits=15"),
    (
        b"permessage-deflate; client_max_window_bits",
        12,
        b"server_max_window_bits=12; client_max_window_bits=12",
    ),
    (b"permessage-deflate; client_max_window_bits", 15, b"server_max_window_bits=15"),
    (
        b"permessage-deflate; client_max_window_bits=10",
        12,
        b"server_max_window_bits=12; client_max_window_bits=10",
    ),
    (
        b"permessage-deflate; client_max_window_bits=15",
        12,
        b"server_max_window_bits=12; client_max_window_bits=12",
    ),
    (
        b"permessage-deflate; client_max_window_bits=8",
        12,
        b"server_max_window_bits=12; client_max_window_bits=8",
    ),
    (b"permessage-deflate; server_max_window_bits=10", 12, b"server_max_window_bits=10"),
    (b'permessage-deflate; server_max_window_bits="10"', 12, b"server_max_window_bits=10"),
    (b"permessage-deflate; server_max_window_bits=15", 12, b"server_max_window_bits=12"),
    (b"permessage-deflate; server_max_window_bits=15", 15, b"server_max_window_bits=15"),
    (b"permessage-deflate; server_max_window_bits=9", 12, b"server_max_window_bits=9"),
    (
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        12,
        b"server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
    ),
    # the first that can be accepted   RFC 7692 §5.1, §7.1.3
    (
        b"permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=11",
        12,
        b"server_max_window_bits=11",
    ),
    (b"permessage-bzip2, permessage-deflate; foo, permessage-deflate", 12, b"server_max_window_bits=12"),
    (
        b"permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate",
        12,
        b"server_max_window_bits=10; client_max_window_bits=12",
    ),
    # zlib has no raw window of 8 bits: never promised
    (b"permessage-deflate; server_max_window_bits=8", 12, None),
    # invalid: declined
    (b"permessage-deflate; server_max_window_bits", 12, None),
    (b"permessage-deflate; server_max_window_bits=7", 12, None),
    (b"permessage-deflate; server_max_window_bits=16", 12, None),
    (b"permessage-deflate; server_max_window_bits=010", 12, None),
    (b"permessage-deflate; server_max_window_bits=+10", 12, None),
    (b"permessage-deflate; server_max_window_bits=1_0", 12, None),
    (b"permessage-deflate; client_max_window_bits=7", 12, None),
    (b"permessage-deflate; client_max_window_bits=16", 12, None),
    (b"permessage-deflate; client_max_window_bits=x", 12, None),
    (b"permessage-deflate; server_no_context_takeover=1", 12, None),
    (b"permessage-deflate; client_no_context_takeover=true", 12, None),
    (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", 12, None),
    (b"permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", 12, None),
    (b"permessage-deflate; unknown", 12, None),
    (b"x-webkit-deflate-frame", 12, None),
    (b"Permessage-Deflate", 12, None),
]


@pytest.mark.parametrize(("offered", "window_bits", "expected"), DEFLATE)
def test_negotiation(offered, window_bits, expected):
    accepted = negotiate_deflate(handshake((b"sec-websocket-extensions", offered)).offers, window_bits)
    assert (accepted and accepted.header_value()) == (expected and b"permessage-deflate; " + expected)


def test_no_offer_no_compression():
    assert negotiate_deflate(handshake().offers) is None


@pytest.mark.parametrize("window_bits", [8, 16, 0, -12])
def test_windows_that_zlib_does_not_have(window_bits):
    with pytest.raises(ValueError, match="window_bits"):
        negotiate_deflate([Offer("permessage-deflate")], window_bits)


def test_a_client_that_may_not_be_limited_is_inflated_with_the_full_window():
    """Without client_max_window_bits in the offer, the response must not have it (RFC 7692 §7.1.2.2)."""
    assert negotiate_deflate([Offer("permessage-deflate")], 9).inflate_window_bits == 15


WINDOWS = st.none() | st.integers(8, 15)


@given(WINDOWS, WINDOWS | st.just(0), st.integers(9, 15), st.binary(max_size=500))
def test_zlib_works_with_every_window_that_is_agreed_on(server_bits, client_bits, ours, piece):
    """client_bits 0: the parameter without a value."""
    parameters = []
    if server_bits is not None:
        parameters.append(("server_max_window_bits", str(server_bits)))
    if client_bits is not None:
        parameters.append(("client_max_window_bits", str(client_bits) if client_bits else None))
    agreed = negotiate_deflate([Offer("permessage-deflate", tuple(parameters))], ours)
    if server_bits == 8:
        assert agreed is None
        return
    assert agreed.server_max_window_bits == min(ours, server_bits or 15)
    message = piece * 200

    ours_out = zlib.compressobj(wbits=-agreed.server_max_window_bits)
    data = ours_out.compress(message) + ours_out.flush(zlib.Z_SYNC_FLUSH)
    assert zlib.decompressobj(-(server_bits or 15)).decompress(data) == message

    # A client with "8" compresses with 9 in truth (zlib before 1.2.9, and who imitates it).
    theirs = zlib.compressobj(wbits=-max(agreed.client_max_window_bits, 9))
    data = theirs.compress(message) + theirs.flush(zlib.Z_SYNC_FLUSH)
    assert zlib.decompressobj(-agreed.inflate_window_bits).decompress(data) == message


CLIENTS = [  # websockets' client: server_no_context_takeover, client_..., server_max_window_bits, client_...
    (False, False, None, None),
    (False, False, None, True),
    (True, True, 9, 9),
    (False, True, 15, 11),
    (True, False, 12, True),
]


@pytest.mark.parametrize("wanted", CLIENTS)
def test_another_implementations_client_agrees(wanted):
    """Its request is in order for us, our answer for it, and both hold the same parameters."""
    client = ClientProtocol(
        parse_uri("ws://example.com/"),
        extensions=[ClientPerMessageDeflateFactory(*wanted)],
        subprotocols=["superchat", "chat"],
    )
    sent = client.connect()
    asked = check(
        "GET", "1.1", [(name.lower().encode(), value.encode()) for name, value in sent.headers.raw_items()]
    )
    agreed = negotiate_deflate(asked.offers)
    client.send_request(sent)
    lines = [name + b": " + value for name, value in asked.accept_headers("chat", agreed)]
    client.receive_data(b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, b"", b""]))

    assert client.handshake_exc is None
    assert client.state is State.OPEN
    assert client.subprotocol == "chat"
    [codec] = client.extensions
    assert codec.remote_no_context_takeover is agreed.server_no_context_takeover
    assert codec.local_no_context_takeover is agreed.client_no_context_takeover
    assert codec.remote_max_window_bits == agreed.server_max_window_bits
    assert codec.local_max_window_bits == agreed.client_max_window_bits
