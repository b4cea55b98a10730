"""The PROXY protocol: every header of the specification read, everything else refused at its first byte."""

import contextlib
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import LocalProtocolError, RemoteProtocolError
from daphne_like.net.proxy_protocol import MAX_V1_SIZE, MAX_V2_SIZE, ProxyHeaderParser, ProxyInfo

REQUEST = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
KEEP = ProxyInfo(keep=True)


def v2(command, family, block=b"", *, length=None):
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def ssl(client, *sub_tlvs):
    return tlv(0x20, struct.pack("!BL", client, 0) + b"".join(sub_tlvs))


TCP4 = ipaddress.ip_address("192.0.2.1").packed + ipaddress.ip_address("198.51.100.1").packed
TCP4 += struct.pack("!HH", 56324, 443)
TCP6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed
TCP6 += struct.pack("!HH", 56324, 443)
MAPPED = ipaddress.ip_address("::ffff:192.0.2.1").packed + ipaddress.ip_address("::ffff:198.51.100.1").packed
MAPPED += struct.pack("!HH", 1, 2)
UNIX = b"\0" * 108 + b"/run/site.sock".ljust(108, b"\0")

OVER_TCP4 = ProxyInfo(("192.0.2.1", 56324), ("198.51.100.1", 443))
OVER_TCP4_PLAIN = ProxyInfo(("192.0.2.1", 56324), ("198.51.100.1", 443), tls=False)
OVER_TCP4_TLS = ProxyInfo(("192.0.2.1", 56324), ("198.51.100.1", 443), tls=True)
OVER_TCP6 = ProxyInfo(("2001:db8::1", 56324), ("2001:db8::2", 443))

GOOD = [  # header, what it says                            "The PROXY protocol, Versions 1 & 2" §2.1, §2.2
    # the specification's own example
    (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        ProxyInfo(("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ),
    # the longest of each kind
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ProxyInfo(("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    ),
    (
        b"PROXY TCP6 " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"FFFF"] * 8) + b" 65535 65535\r\n",
        ProxyInfo((":".join(["ffff"] * 8), 65535), (":".join(["ffff"] * 8), 65535)),
    ),
    (b"PROXY TCP6 2001:db8::1 2001:DB8::2 56324 443\r\n", OVER_TCP6),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 0\r\n", ProxyInfo(("192.0.2.1", 0), ("::1", 0))),
    (b"PROXY UNKNOWN\r\n", KEEP),
    (
        b"PROXY UNKNOWN " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"ffff"] * 8) + b" 65535 65535\r\n",
        KEEP,
    ),
    (b"PROXY UNKNOWN any\rthing \xff\x00\n\r\n", KEEP),
    (b"PROXY UNKNOWN".ljust(MAX_V1_SIZE - 2) + b"\r\n", KEEP),
    (v2(0x21, 0x11, TCP4), OVER_TCP4),
    (v2(0x21, 0x21, TCP6), OVER_TCP6),
    (v2(0x21, 0x21, MAPPED), ProxyInfo(("192.0.2.1", 1), ("198.51.100.1", 2))),
    (v2(0x21, 0x31, UNIX), ProxyInfo(None, ("/run/site.sock", None))),
    (v2(0x21, 0x31, b"\0" * 109 + b"name".ljust(107, b"\0")), ProxyInfo(None, ("@name", None))),
    (v2(0x21, 0x31, b"\0" * 216), ProxyInfo(None, ("", None))),
    (v2(0x21, 0x31, b"\0" * 108 + b"/" * 108), ProxyInfo(None, ("/" * 108, None))),
    # LOCAL: health checks; whatever follows is skipped, "including the family which is ignored"
    (v2(0x20, 0x00), KEEP),
    (v2(0x20, 0x11, TCP4), KEEP),
    (v2(0x20, 0x11, b"?"), KEEP),
    (v2(0x20, 0xFF, b"???"), KEEP),
    # valid combinations that are no stream of ours fall back to UNSPEC
    (v2(0x21, 0x00), KEEP),
    (v2(0x21, 0x00, b"anything"), KEEP),
    *((v2(0x21, family, TCP4), KEEP) for family in (0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32)),
    # TLVs
    (v2(0x21, 0x11, TCP4 + tlv(0x01, b"h2") + tlv(0x02, b"example.com") + tlv(0x04, b"")), OVER_TCP4),
    (v2(0x21, 0x11, TCP4 + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")), OVER_TCP4),  # AWS PrivateLink
    (v2(0x21, 0x11, TCP4 + tlv(0x01, b"h2") + ssl(0x01, tlv(0x21, b"TLSv1.3"))), OVER_TCP4_TLS),
    (v2(0x21, 0x11, TCP4 + ssl(0x07) + tlv(0x04, b"pad")), OVER_TCP4_TLS),
    (v2(0x21, 0x11, TCP4 + ssl(0x00)), OVER_TCP4_PLAIN),
    (v2(0x21, 0x11, TCP4 + tlv(0x04, b"x" * (MAX_V2_SIZE - 16 - 12 - 3))), OVER_TCP4),
]


@pytest.mark.parametrize("after", [b"", b"\x16", REQUEST])
@pytest.mark.parametrize(("header", "info"), GOOD)
def test_header(header, info, after):
    assert ProxyHeaderParser().feed(header + after) == (info, after)


@pytest.mark.parametrize(("header", "info"), GOOD)
def test_header_by_the_byte(header, info):
    """No result before the last byte, whose packet may hold what follows."""
    parser = ProxyHeaderParser()
    for at in range(len(header) - 1):
        assert parser.feed(header[at : at + 1]) is None
    assert parser.feed(header[-1:] + REQUEST) == (info, REQUEST)


BAD = [  # bytes, how many of them are needed to know
    (REQUEST, 1),
    (b"\x16\x03\x01\x02\x00\x01", 1),  # TLS ClientHello
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
    (b"PUT / HTTP/1.1\r\n", 2),
    (b" PROXY TCP4", 1),
    (b"proxy TCP4", 1),
    (b"PROXY\tTCP4", 6),
    (b"PROXY  TCP4", 7),
    (b"PROXY TCP5 ", 10),
    (b"PROXY UDP4 ", 8),
    (b"PROXY TCP4\r\n", 11),
    (b"PROXY UNKNOWNX", 14),
    (b"PROXY UNKNOWN\r\r", 15),
    (b"PROXY UNKNOWN\n", 14),
    (b"PROXY UNKNOWN " + b"x" * 200, MAX_V1_SIZE),
    (b"PROXY UNKNOWN".ljust(MAX_V1_SIZE - 1) + b"\r\n", MAX_V1_SIZE),
    (b"PROXY TCP4 localhost", 12),
    (b"PROXY TCP4 1.2.3.4\n", 19),
    (b"PROXY TCP4 1.2.3.4\rx", 20),
    (b"PROXY TCP4 1.2.3.4\t", 19),
    (b"PROXY TCP6 fe80::1%", 19),
    (b"PROXY TCP4 " + b"1" * 200, MAX_V1_SIZE),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", None),
    (b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n", None),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 a b\r\n", None),
    (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", None),
    (b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", None),
    (b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", None),
    (b"PROXY TCP4 ::1 ::2 1 2\r\n", None),
    (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", None),
    (b"PROXY TCP6 1::2::3 ::2 1 2\r\n", None),
    (b"PROXY TCP6 12345::1 ::2 1 2\r\n", None),
    (SIGNATURE[:-1] + b"\r", 12),
    (b"\r\n\r\n\r\n", 5),
    (v2(0x11, 0x11, TCP4), 13),  # version 1 in the binary format
    (v2(0x31, 0x11, TCP4), 13),
    (v2(0x22, 0x11, TCP4), 13),  # "other values are unassigned [...] Receivers must drop"
    (v2(0x2F, 0x11, TCP4), 13),
    (v2(0x21, 0x41, TCP4), 14),
    (v2(0x21, 0x13, TCP4), 14),
    (v2(0x21, 0xFF, TCP4), 14),
    (v2(0x21, 0x11, b"", length=11), 16),
    (v2(0x21, 0x21, b"", length=35), 16),
    (v2(0x21, 0x31, b"", length=215), 16),
    (v2(0x21, 0x11, b"", length=MAX_V2_SIZE - 15), 16),
    (v2(0x20, 0x00, b"", length=65535), 16),
    (v2(0x21, 0x11, TCP4 + b"\x04"), None),
    (v2(0x21, 0x11, TCP4 + b"\x04\x00\x01"), None),
    (v2(0x21, 0x11, TCP4 + tlv(0x04, b"") + b"\x20\xff\xff\x01\0\0\0\0"), None),
    (v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01\0\0\0")), None),
    (v2(0x21, 0x11, TCP4 + tlv(0x20, b"")), None),
]


@pytest.mark.parametrize(("data", "needed"), BAD)
def test_anything_else_is_refused_at_its_first_wrong_byte(data, needed):
    needed = needed or len(data)
    parser = ProxyHeaderParser()
    for at in range(needed - 1):
        assert parser.feed(data[at : at + 1]) is None
    with pytest.raises(RemoteProtocolError, match="PROXY"):
        parser.feed(data[needed - 1 : needed])
    with pytest.raises(RemoteProtocolError, match="PROXY"):
        ProxyHeaderParser().feed(data + REQUEST)


def test_an_empty_read_decides_nothing():
    parser = ProxyHeaderParser()
    assert parser.feed(b"") is None
    assert parser.feed(GOOD[0][0]) == (GOOD[0][1], b"")


@pytest.mark.parametrize("first", [GOOD[0][0], REQUEST])
def test_a_parser_serves_one_header(first):
    parser = ProxyHeaderParser()
    with contextlib.suppress(RemoteProtocolError):
        parser.feed(first)
    with pytest.raises(LocalProtocolError):
        parser.feed(b"x")


def outcome(portions):
    """(what the header says, the bytes behind it), or "refused", or "more"."""
    parser = ProxyHeaderParser()
    for at, portion in enumerate(portions):
        try:
            result = parser.feed(portion)
        except RemoteProtocolError:
            return "refused"
        if result is not None:
            return result[0], result[1] + b"".join(portions[at + 1 :])
    return "more"


EXAMPLES = [header for header, _ in GOOD if len(header) < 300] + [data for data, _ in BAD]


@st.composite
def streams(draw):
    """A header, right or wrong, perhaps with some bytes changed, cut off or followed by others."""
    data = bytearray(draw(st.sampled_from(EXAMPLES)))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[at] = byte
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))]) + draw(st.binary(max_size=20))


@given(streams(), st.data())
def test_any_split_gives_the_same_result(stream, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    portions = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = outcome([stream])
    assert outcome(portions) == whole
    assert outcome([stream[at : at + 1] for at in range(len(stream))]) == whole


PAIRS = st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(st.ip_addresses(v=v), st.ip_addresses(v=v)))
PORTS = st.integers(0, 65535)


@given(PAIRS, PORTS, PORTS)
def test_both_versions_say_the_same(addresses, source_port, destination_port):
    source, destination = addresses
    line = f"PROXY TCP{source.version} {source} {destination} {source_port} {destination_port}\r\n"
    block = source.packed + destination.packed + struct.pack("!HH", source_port, destination_port)
    binary = v2(0x21, 0x11 if source.version == 4 else 0x21, block)
    assert ProxyHeaderParser().feed(line.encode()) == ProxyHeaderParser().feed(binary)
