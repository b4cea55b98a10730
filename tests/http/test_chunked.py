"""The chunked coding: content and rest of any split, and each way in which a body can be refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.chunked import MAX_CHUNK_LINE, MAX_OVERHEAD, MAX_TRAILERS, ChunkedDecoder
from tests.http.wire import cuts_of, one_by_one, split


def decode(*pieces):
    """``(content, rest)``, or the status of the refusal; rest None: the body has not ended."""
    decoder = ChunkedDecoder()
    content = b""
    for index, piece in enumerate(pieces):
        try:
            more, rest = decoder.feed(piece)
        except RemoteProtocolError as error:
            return error.status_hint
        content += more
        if rest is not None:
            return content, rest + b"".join(pieces[index + 1 :])
    return content, None


BODIES = [  # octets -> content, rest                                    RFC 9112 §7.1
    (b"0\r\n\r\n", (b"", b"")),
    (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", b"")),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", (b"hello world", b"")),
    (b"A\r\n0123456789\r\n0\r\n\r\n", (b"0123456789", b"")),
    (b"a\r\n0123456789\r\n0\r\n\r\n", (b"0123456789", b"")),
    (b"005\r\nhello\r\n000\r\n\r\n", (b"hello", b"")),
    (b"2\r\n\r\n\r\n0\r\n\r\n", (b"\r\n", b"")),  # CRLF is content where the size says so
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", (b"0\r\n\r\n", b"")),
    (b"0\r\n\r\nGET / HTTP/1.1\r\n", (b"", b"GET / HTTP/1.1\r\n")),
    (b"0\r\n\r\n\r\n", (b"", b"\r\n")),
    # extensions are read and dropped
    (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", (b"hello", b"")),
    (b'5 ; a = "b;\\"c" ; d\r\nhello\r\n0\r\n\r\n', (b"hello", b"")),
    # trailers are judged and dropped
    (b"0\r\na: b\r\n\r\n", (b"", b"")),
    (b"1\r\nx\r\n0\r\na: b\r\nc: d\r\n\r\nrest", (b"x", b"rest")),
    (b"0\r\nhost: other\r\ncontent-length: 5\r\n\r\nrest", (b"", b"rest")),  # "MUST NOT merge": §7.1.2
    # not yet
    (b"", (b"", None)),
    (b"5", (b"", None)),
    (b"5\r", (b"", None)),
    (b"5\r\nhel", (b"hel", None)),
    (b"5\r\nhello", (b"hello", None)),
    (b"5\r\nhello\r", (b"hello", None)),
    (b"5\r\nhello\r\n", (b"hello", None)),
    (b"5\r\nhello\r\n0\r\n", (b"hello", None)),
    (b"5\r\nhello\r\n0\r\n\r", (b"hello", None)),
    (b"0\r\na: b\r\n", (b"", None)),
    (b"0\r\na: b\r\n\r", (b"", None)),
]

BROKEN = [  # what, octets. All 400.
    ("no size", b"\r\n"),
    ("bare LF after the size", b"5\nhello\r\n0\r\n\r\n"),
    ("bare CR after the size", b"5\rhello\r\n0\r\n\r\n"),
    ("two CR after the size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ("no hexadecimal digit", b"g\r\nhello\r\n"),
    ("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("negative", b"-1\r\n"),
    ("underscore", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    ("SP before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("SP behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("16 digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("size beyond 63 bits", b"ffffffffffffffff\r\n"),
    ("size of 2**64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("data longer", b"5\r\nhello!\r\n0\r\n\r\n"),
    ("data shorter", b"5\r\nhell\r\n0\r\n\r\n"),
    ("bare LF behind data", b"5\r\nhello\n0\r\n\r\n"),
    ("bare CR behind data", b"5\r\nhello\r0\r\n\r\n"),
    ("no CRLF behind data", b"5\r\nhello0\r\n\r\n"),
    ("bare LF in an extension", b"5;a\nhello\r\n0\r\n\r\n"),
    ("bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("bare LF in a quoted extension", b'5;a="\n"\r\nhello\r\n0\r\n\r\n'),
    ("NUL in an extension", b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("no name in an extension", b"5;\r\nhello\r\n0\r\n\r\n"),
    ("words behind the size", b"5 hello\r\nhello\r\n0\r\n\r\n"),
    ("bare LF behind the last chunk", b"0\n\r\n"),
    ("bare LF ends the body", b"0\r\n\n\r\n\r\n"),
    ("bare LF in trailers", b"0\r\na: b\nc: d\r\n\r\n"),
    ("bare CR in trailers", b"0\r\na: b\rc: d\r\n\r\n"),
    ("obs-fold in trailers", b"0\r\na: b\r\n c\r\n\r\n"),
    ("a trailer that is no field", b"0\r\nGET / HTTP/1.1\r\n\r\n"),
    ("SP before a trailer's colon", b"0\r\na : b\r\n\r\n"),
    ("NUL in trailers", b"0\r\na: \0\r\n\r\n"),
]


@pytest.mark.parametrize(("octets", "expected"), BODIES)
def test_body_is_decoded(octets, expected):
    assert decode(octets) == expected
    assert decode(*one_by_one(octets)) == expected


@pytest.mark.parametrize(("what", "octets"), BROKEN, ids=[what for what, _ in BROKEN])
def test_broken_framing_is_refused(what, octets):
    """RFC 9112 §2.2, §7.1. Funky Chunks (2025), and the advisories that came of it, for the line ends."""
    assert decode(octets) == 400
    assert decode(*one_by_one(octets)) == 400


REFUSED_EARLY = [  # the last octet of each decides
    b"g",
    b"5\n",
    b"5\rh",
    b"5;a\n",
    b"-",
    b" ",
    b"\n",
    b"0\r\n\n",
    b"5\r\nhello!",
    b"5\r\nhello\rx",
]


@pytest.mark.parametrize("octets", REFUSED_EARLY)
def test_what_cannot_become_right_is_refused_at_once(octets):
    """Nobody waits for the rest of a line that is wrong already."""
    assert decode(octets[:-1])[1] is None
    assert decode(octets) == 400


def extension(size):
    return b"5;" + b"a" * (size - 4) + b"\r\n"


def test_chunk_line_up_to_the_limit():
    body = extension(MAX_CHUNK_LINE) + b"hello\r\n0\r\n\r\n"
    assert decode(body) == decode(*one_by_one(body)) == (b"hello", b"")


def test_chunk_line_beyond_the_limit():
    body = extension(MAX_CHUNK_LINE + 1) + b"hello\r\n0\r\n\r\n"
    assert decode(body) == decode(*one_by_one(body)) == 400


def test_an_endless_chunk_line_is_not_kept():
    """CVE-2023-39326, CVE-2024-27316: what nobody reads must not fill memory."""
    assert decode(b"5;" + b"a" * MAX_CHUNK_LINE) == 400


def test_extensions_are_bounded_over_the_whole_body():
    """CVE-2023-39326: 1 octet of content and 4 KiB of extension, again and again."""
    chunk = extension(4000).replace(b"5;", b"1;") + b"x\r\n"
    decoder = ChunkedDecoder()
    allowed = MAX_OVERHEAD // (len(chunk) - 5)
    for _ in range(allowed):
        assert decoder.feed(chunk) == (b"x", None)
    with pytest.raises(RemoteProtocolError, match="extensions"):
        decoder.feed(chunk)


def test_plain_chunks_are_no_overhead():
    """A body of many small chunks is nothing unusual."""
    decoder = ChunkedDecoder()
    for _ in range(10):
        content, rest = decoder.feed(b"1\r\nx\r\n" * 50_000)
        assert (len(content), rest) == (50_000, None)
    assert decoder.feed(b"0\r\n\r\n") == (b"", b"")


def trailers(size):
    """A trailer section of *size* octets with its empty line."""
    return b"a: " + b"b" * (size - 7) + b"\r\n\r\n"


def test_trailers_up_to_the_limit():
    body = b"0\r\n" + trailers(MAX_TRAILERS) + b"rest"
    assert decode(body) == (b"", b"rest")
    assert decode(body[:-5], body[-5:]) == (b"", b"rest")


@pytest.mark.parametrize("size", [MAX_TRAILERS + 1, 3 * MAX_TRAILERS])
def test_trailers_beyond_the_limit(size):
    """431, whole or in pieces."""
    body = b"0\r\n" + trailers(size)
    assert decode(body) == 431
    assert decode(body[:100], body[100:]) == 431


@pytest.mark.parametrize("octets", [b"a\nb: ", b"\n", b"a: b\r\nc\n"])
def test_bare_lf_in_unfinished_trailers_is_refused(octets):
    assert decode(b"0\r\n" + octets) == 400


# ---- any split

EXTENSIONS = st.sampled_from([b"", b"", b";a", b';a="b;\\"\r"'.replace(b"\r", b"c"), b" ;a=b\t;c"])
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=30), EXTENSIONS), max_size=5)
TRAILERS = st.sampled_from([b"", b"a: b\r\n", b"a: b\r\nc:\r\n"])


@given(CHUNKS, TRAILERS, st.binary(max_size=10), st.data())
def test_any_split_gives_the_same_content_and_rest(chunks, trailer, rest, data):
    """What went in comes out, however the octets arrive."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(content), more, content) for content, more in chunks)
    body += b"0\r\n" + trailer + b"\r\n" + rest
    pieces = split(body, data.draw(cuts_of(len(body))))
    assert decode(*pieces) == (b"".join(content for content, _ in chunks), rest)


PIECES_OF_CHUNKED = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b"0",
        b"5",
        b"a",
        b"hello",
        b";",
        b"=",
        b'"',
        b" ",
        b"\0",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
    ]
)


@given(st.lists(PIECES_OF_CHUNKED, max_size=14).map(b"".join) | st.binary(max_size=30), st.data())
def test_any_split_gives_the_same_verdict(octets, data):
    """Also of octets that are no body at all: refused in one way of cutting, refused in all."""
    pieces = split(octets, data.draw(cuts_of(len(octets))))
    assert decode(*pieces) == decode(octets)
