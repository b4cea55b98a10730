"""
The contract with llhttp: it cuts, and it refuses what we leave to it.

Each refusal that nothing of ours would make stands here, so that a release of httptools or llhttp that turns
lenient fails this file, and not a site.
"""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RemoteProtocolError
from daphne_like.http.h1_tokenizer import FieldTokenizer


def cut_fields(section):
    return FieldTokenizer().cut(section)


TAKEN = [  # lines of a section -> fields
    (b"", []),
    (b"a: b\r\n", [(b"a", b"b")]),
    (b"A-B: C\r\n", [(b"a-b", b"C")]),  # names are case-insensitive: RFC 9110 §5.1
    (b"a:b\r\n", [(b"a", b"b")]),
    (b"a: \t b \t\r\n", [(b"a", b"b")]),  # OWS is no part of the value: RFC 9112 §5.1
    (b"a: b\t\r\nc: d\r\n", [(b"a", b"b"), (b"c", b"d")]),
    (b"a: b  c\td\r\n", [(b"a", b"b  c\td")]),
    (b"a:\r\n", [(b"a", b"")]),
    (b"a: \t \r\n", [(b"a", b"")]),
    (b"a: 1\r\nb: 2\r\na: 3\r\n", [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]),
    (b"a: \x80\xff\r\n", [(b"a", b"\x80\xff")]),  # obs-text: RFC 9110 §5.5
    (b"!#$%&'*+-.^_`|~0: x\r\n", [(b"!#$%&'*+-.^_`|~0", b"x")]),
    (b"a: b: c\r\n", [(b"a", b"b: c")]),
    (b"a: GET / HTTP/1.1\r\n", [(b"a", b"GET / HTTP/1.1")]),
    (
        b"connection: upgrade\r\nupgrade: websocket\r\nx: y\r\n",
        [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"x", b"y")],
    ),
    (b"transfer-encoding: chunked\r\n", [(b"transfer-encoding", b"chunked")]),
    (b"transfer-encoding: gzip, chunked\r\n", [(b"transfer-encoding", b"gzip, chunked")]),
    (b"transfer-encoding: chunked \t\r\n", [(b"transfer-encoding", b"chunked")]),
    (b"content-length: 5\r\n", [(b"content-length", b"5")]),
    (b"content-length: 5\t\r\n", [(b"content-length", b"5")]),
    (
        b"expect: 100-continue\r\nconnection: close\r\n",
        [(b"expect", b"100-continue"), (b"connection", b"close")],
    ),
]

REFUSED = [  # what, section without the last CRLF
    ("bare LF ends a line", b"a: b\nc: d\r\n"),  # RFC 9112 §2.2
    ("bare LF ends the section", b"a: b\r\nc: d\n"),
    ("bare CR in a value", b"a: b\rc\r\n"),
    ("two CR", b"a: b\r\r\n"),
    ("bare CR first", b"\ra: b\r\n"),
    ("NUL in a value", b"a: b\0\r\n"),  # RFC 9110 §5.5
    ("NUL in a name", b"a\0: b\r\n"),
    ("control in a value", b"a: \x01\r\n"),
    ("vertical tab", b"a: \x0b\r\n"),
    ("form feed", b"a: b\x0c\r\n"),
    ("unit separator", b"a: \x1f\r\n"),
    ("DEL", b"a: \x7f\r\n"),
    ("SP before the colon", b"a : b\r\n"),  # RFC 9112 §5.1
    ("HTAB before the colon", b"a\t: b\r\n"),
    ("SP before the first field", b" a: b\r\n"),  # RFC 9112 §2.2
    ("HTAB before the first field", b"\ta: b\r\n"),
    ("SP alone first", b" \r\n"),
    ("HTAB alone first", b"\t\r\n"),
    ("SP alone first, then a request", b" \r\nGET / HTTP/1.1\r\na: b\r\n"),
    ("HTAB alone first, then a request", b"\t\r\nGET / HTTP/1.1\r\na: b\r\n"),
    ("blanks alone first, then a request", b" \t\r\nGET / HTTP/1.1\r\na: b\r\n"),
    ("HTAB alone, then a request", b"a: b\r\n\t\r\nGET / HTTP/1.1\r\nc: d\r\n"),
    ("blanks alone, then a request", b"a: b\r\n\t \t\r\nGET / HTTP/1.1\r\nc: d\r\n"),
    ("HTAB alone behind a blank value", b"a:\t\r\n\t\r\nGET / HTTP/1.1\r\nc: d\r\n"),
    ("HTAB behind a name", b"a\t\r\n"),
    ("obs-fold with SP", b"a: b\r\n c\r\n"),  # RFC 9112 §5.2
    ("obs-fold with HTAB", b"a: b\r\n\tc\r\n"),
    ("obs-fold of an empty value", b"a:\r\n b\r\n"),
    ("no name", b": b\r\n"),
    ("no colon", b"a\r\n"),
    ("no token: bracket", b"a(b: c\r\n"),
    ("no token: quote", b'a"b: c\r\n'),
    ("no token: slash", b"a/b: c\r\n"),
    ("no token: not ASCII", b"\xe9: c\r\n"),
    ("a request line", b"GET / HTTP/1.1\r\n"),
    ("framing told twice", b"content-length: 1\r\ntransfer-encoding: chunked\r\n"),  # RFC 9112 §6.1
    ("two lengths", b"content-length: 1\r\ncontent-length: 1\r\n"),
]


@pytest.mark.parametrize(("lines", "fields"), TAKEN)
def test_section_is_cut(lines, fields):
    assert cut_fields(lines + b"\r\n") == fields


@pytest.mark.parametrize(("what", "lines"), REFUSED, ids=[what for what, _ in REFUSED])
def test_llhttp_refuses(what, lines):
    with pytest.raises(RemoteProtocolError) as caught:
        cut_fields(lines + b"\r\n")
    assert caught.value.status_hint == 400
    assert caught.value.reason.startswith("malformed header section: ")


SECTIONS = [lines for lines, _ in TAKEN] + [lines for _, lines in REFUSED]
SECTIONS += [
    b"proxy-connection: close\r\n",
    b"connection: close\r\n",
    b"content-length: 1000\r\nhost: a\r\nhost: b\r\n",
    b"connection: upgrade\r\nupgrade: x\r\ncontent-length: 9\r\n",
    b"proxy-connection: upgrade\r\nupgrade: x\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
]


@pytest.mark.parametrize("lines", SECTIONS, ids=repr)
def test_a_section_leaves_nothing_to_the_next(lines):
    """
    A body announced, a close, an upgrade, an error: the next section is another connection's, and is read as
    if it were the first.
    """
    tokenizer = FieldTokenizer()
    for _ in range(3):
        with suppress(RemoteProtocolError):
            tokenizer.cut(lines + b"\r\n")
        assert tokenizer.cut(b"a: b\r\nc: d\r\n\r\n") == [(b"a", b"b"), (b"c", b"d")]


@pytest.mark.parametrize("octet", [*range(9), *range(11, 13), *range(14, 32), 127])
def test_no_control_in_a_value(octet):
    """field-value = *( VCHAR / obs-text / SP / HTAB ): RFC 9110 §5.5."""
    with pytest.raises(RemoteProtocolError):
        cut_fields(b"a: b%cc\r\n\r\n" % octet)


TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("octet", range(256))
def test_a_name_is_a_token(octet):
    """RFC 9110 §5.1, for each octet. A colon ends the name."""
    section = b"a%cb: c\r\n\r\n" % octet
    if octet in TCHAR:
        assert cut_fields(section) == [(b"a%cb" % octet.to_bytes(1, "big").lower(), b"c")]
    elif octet == ord(":"):
        assert cut_fields(section) == [(b"a", b"b: c")]
    else:
        with pytest.raises(RemoteProtocolError):
            cut_fields(section)


NAMES = st.text(TCHAR.decode(), min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=20).map(lambda v: bytes(o for o in v if o == 9 or 32 <= o < 127 or o > 127))
PLAIN = NAMES.filter(lambda name: name.lower() not in (b"content-length", b"transfer-encoding", b"upgrade"))


@given(st.lists(st.tuples(PLAIN, VALUES), max_size=30))
def test_fields_come_out_as_they_went_in(fields):
    """Every section that the grammar allows is cut, in order, without surrounding blanks."""
    section = b"".join(b"%b:%b\r\n" % field for field in fields) + b"\r\n"
    assert cut_fields(section) == [(name.lower(), value.strip(b" \t")) for name, value in fields]


SECTION_PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\t",
        b" ",
        b"\n",
        b"\r",
        b"GET / HTTP/1.1\r\n",
        b"a: b",
        b"c:",
        b"x",
        b":",
        b"Connection: upgrade\r\nUpgrade: y",
    ]
)


@given(st.lists(SECTION_PIECES, max_size=12).map(b"".join))
def test_a_line_is_a_field_or_the_section_is_refused(lines):
    """As many fields as lines: nothing ends a section before its end, nothing starts a second message."""
    section = lines.replace(b"\r\n\r\n", b"\r\n").strip(b"\r\n") + b"\r\n"
    if section == b"\r\n" or b"\r\n\r\n" in section:
        return
    try:
        fields = cut_fields(section + b"\r\n")
    except RemoteProtocolError:
        return
    assert len(fields) == section.count(b"\r\n")


@given(st.lists(st.sampled_from(SECTIONS) | st.lists(SECTION_PIECES, max_size=6).map(b"".join), max_size=5))
def test_any_sections_leave_nothing_to_the_next(sections):
    tokenizer = FieldTokenizer()
    for lines in sections:
        if b"\r\n\r\n" in b"\r\n" + lines:
            continue  # an empty line ends a section: nobody cuts behind it
        with suppress(RemoteProtocolError):
            tokenizer.cut(lines + b"\r\n")
    assert tokenizer.cut(b"a: b\r\n\r\n") == [(b"a", b"b")]


@given(st.binary(max_size=60))
def test_any_bytes_are_cut_or_refused(data):
    """No other exception, and nothing that could not be written again."""
    section = data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n"
    try:
        fields = cut_fields(section)
    except RemoteProtocolError:
        return
    for name, value in fields:
        assert set(name) <= set(TCHAR)
        assert not set(value) & set(b"\r\n\0")
