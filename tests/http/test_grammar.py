"""The grammar: what each pattern takes and what it does not, beside the rule of the RFC."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.http import grammar

TOKENS = [  # RFC 9110 §5.6.2
    (b"x", True),
    (b"!#$%&'*+-.^_`|~09azAZ", True),
    (b"", False),
    (b"a b", False),
    (b"a\t", False),
    (b"a:", False),
    (b'a"', False),
    (b"a/b", False),
    (b"a(", False),
    (b"a\x7f", False),
    (b"a\x80", False),
    (b"a\n", False),
]

REQUEST_LINES = [  # RFC 9112 §3, §2.3
    (b"GET / HTTP/1.1", (b"GET", b"/", b"1", b"1")),
    (b"get * HTTP/1.0", (b"get", b"*", b"1", b"0")),
    (b"M-SEARCH x HTTP/9.9", (b"M-SEARCH", b"x", b"9", b"9")),
    (b"GET  / HTTP/1.1", None),  # exactly one SP
    (b"GET /  HTTP/1.1", None),
    (b"GET\t/ HTTP/1.1", None),
    (b"GET /\tHTTP/1.1", None),
    (b" GET / HTTP/1.1", None),
    (b"GET / HTTP/1.1 ", None),
    (b"GET / HTTP/1.1\n", None),
    (b"GET / HTTP/1.1\r", None),
    (b"GET / HTTP/1.", None),
    (b"GET / HTTP/1.10", None),
    (b"GET / HTTP/11", None),
    (b"GET / http/1.1", None),
    (b"GET / HTTPS/1.1", None),
    (b"GET / HTTP/1,1", None),
    (b"GET / HTTP/1.\xb9", None),
    (b"GET /", None),  # HTTP/0.9
    (b"GET HTTP/1.1", None),
    (b"GET /a b HTTP/1.1", None),
    (b"GET /\xc3\xa9 HTTP/1.1", None),
    (b"GET /\0 HTTP/1.1", None),
    (b"GET /\x7f HTTP/1.1", None),
    (b"G(T / HTTP/1.1", None),
    (b"", None),
]

ORIGIN_FORMS = [  # RFC 9112 §3.2.1
    (b"/", (b"/", None)),
    (b"/a/b", (b"/a/b", None)),
    (b"/a?", (b"/a", b"")),
    (b"/a?b=c&d", (b"/a", b"b=c&d")),
    (b"/?a?b", (b"/", b"a?b")),
    (b"//a", (b"//a", None)),
    (b"/%00%2f%zz", (b"/%00%2f%zz", None)),  # not decoded here, so not judged
    (b'/|^[]{}"<>\\`', (b'/|^[]{}"<>\\`', None)),  # browsers send these raw
    (b'/?|^[]{}"', (b"/", b'|^[]{}"')),
    (b"/a#b", None),
    (b"/a?b#c", None),
    (b"a", None),
    (b"?a", None),
    (b"*", None),
    (b"", None),
    (b"/ ", None),
    (b"/\x7f", None),
    (b"/\xe9", None),
    (b"/\n", None),
]

HOSTS = [  # RFC 9110 §7.2, RFC 3986 §3.2.2
    (b"a", True),
    (b"a.example:8000", True),
    (b"a.example:", True),
    (b"a_b.example", True),
    (b"127.0.0.1:80", True),
    (b"[::1]", True),
    (b"[::1]:8000", True),
    (b"[::ffff:192.0.2.1]", True),
    (b"[1:2:3:4:5:6:7:8]", True),
    (b"[1:2:3:4:5:6:192.0.2.255]", True),
    (b"[::]", True),
    (b"[1::8]", True),
    (b"[1:2:3:4:5:6:7::]", True),
    (b"[1::3:4:5:6:7:8]", True),
    (b"[ABCD:ef01::]", True),
    (b"[v1.fe80::a+en1]", True),
    (b"caf%C3%A9", True),
    (b"a!$&'()*+;=b", True),
    (b"", False),
    (b":80", False),
    (b"a:b", False),
    (b"a:123456", False),
    (b"a,b", False),
    (b"a b", False),
    (b"a/b", False),
    (b"a?b", False),
    (b"a#b", False),
    (b"u@a", False),
    (b"a\\b", False),
    (b"%zz", False),
    (b"[::1", False),
    (b"::1", False),
    (b"[g::1]", False),
    (b"[:]", False),
    (b"[:::]", False),
    (b"[1::2::3]", False),
    (b"[1:2:3:4:5:6:7]", False),
    (b"[1:2:3:4:5:6:7:8:9]", False),
    (b"[1:2:3:4:5:6:7:8::]", False),
    (b"[12345::]", False),
    (b"[::256.0.2.1]", False),
    (b"[::01.0.2.1]", False),
    (b"[::1.2.3]", False),
    (b"[192.0.2.1]", False),
    (b"[::1%25eth0]", False),  # zones are for one machine's own use: RFC 6874 is not for the wire
    (b"[]", False),
    (b"caf\xc3\xa9", False),
    (b"a\n", False),
    (b"a:80\n", False),
]

ABSOLUTE_FORMS = [  # RFC 9112 §3.2.2
    (b"http://a", (b"a", None, None)),
    (b"HTTPS://A:8/b?c", (b"A:8", b"/b", b"c")),
    (b"http://[::1]:1/", (b"[::1]:1", b"/", None)),
    (b"http://a?b", (b"a", None, b"b")),
    (b"http://u@a/", None),
    (b"http://u:p@a/", None),
    (b"http:///b", None),
    (b"http://", None),
    (b"http:/a", None),
    (b"ftp://a/", None),
    (b"http://a/#f", None),
    (b"http://a b/", None),
    (b"http://a\\b/", None),
]

LENGTHS = [  # RFC 9110 §8.6
    (b"0", True),
    (b"007", True),
    (b"9" * 19, True),
    (b"9" * 20, False),
    (b"", False),
    (b"+1", False),
    (b"-1", False),
    (b"1 ", False),
    (b"1,1", False),
    (b"0x1", False),
    (b"1_0", False),
    (b"1.0", False),
    (b"\xd9\xa1", False),  # ARABIC-INDIC DIGIT ONE
    (b"1\n", False),
]

CHUNK_LINES = [  # RFC 9112 §7.1, §7.1.1
    (b"0", b"0"),
    (b"fF", b"fF"),
    (b"f" * 15, b"f" * 15),
    (b"f" * 16, None),
    (b"5;a", b"5"),
    (b"5;a=b", b"5"),
    (b"5;a=b;c", b"5"),
    (b"5 ; a = b", b"5"),
    (b"5\t;a", b"5"),
    (b'5;a="b;c"', b"5"),
    (b'5;a="\\""', b"5"),
    (b'5;a=""', b"5"),
    (b'5;a="\xff"', b"5"),
    (b"", None),
    (b"5 ", None),
    (b" 5", None),
    (b"5;", None),
    (b"5;;a", None),
    (b"5;a=", None),
    (b"5;=b", None),
    (b'5;a="b', None),
    (b'5;a="\\"', None),
    (b'5;a="b"c', None),
    (b'5;a="\n"', None),
    (b"5;a\n", None),
    (b"5;a\r", None),
    (b"5;a\0", None),
    (b"5 a", None),
    (b"0x5", None),
    (b"+5", None),
    (b"-5", None),
    (b"5_0", None),
    (b"g", None),
]


@pytest.mark.parametrize(("text", "valid"), TOKENS)
def test_token(text, valid):
    assert (grammar.TOKEN.fullmatch(text) is not None) is valid
    assert (grammar.FIELD_NAME.fullmatch(text) is not None) is valid


@pytest.mark.parametrize(("line", "expected"), REQUEST_LINES)
def test_request_line(line, expected):
    match = grammar.REQUEST_LINE.fullmatch(line)
    assert (match and match.groups()) == expected


@pytest.mark.parametrize(("target", "expected"), ORIGIN_FORMS)
def test_origin_form(target, expected):
    match = grammar.ORIGIN_FORM.fullmatch(target)
    assert (match and match.groups()) == expected


@pytest.mark.parametrize(("host", "valid"), HOSTS)
def test_host(host, valid):
    assert (grammar.HOST.fullmatch(host) is not None) is valid


@pytest.mark.parametrize(("target", "expected"), ABSOLUTE_FORMS)
def test_absolute_form(target, expected):
    match = grammar.ABSOLUTE_FORM.fullmatch(target)
    assert (match and match.groups()) == expected


@pytest.mark.parametrize(("text", "valid"), LENGTHS)
def test_content_length(text, valid):
    assert (grammar.CONTENT_LENGTH.fullmatch(text) is not None) is valid


@pytest.mark.parametrize(("line", "size"), CHUNK_LINES)
def test_chunk_line(line, size):
    match = grammar.CHUNK_LINE.fullmatch(line)
    assert (match and match[1]) == size


PATTERNS = [
    grammar.TOKEN,
    grammar.REQUEST_LINE,
    grammar.ORIGIN_FORM,
    grammar.HOST,
    grammar.ABSOLUTE_FORM,
    grammar.CONTENT_LENGTH,
    grammar.CHUNK_LINE,
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(
    before=st.binary(max_size=8), control=st.sampled_from([b"\r", b"\n", b"\0"]), after=st.binary(max_size=8)
)
def test_nothing_takes_cr_lf_or_nul(pattern, before, control, after):
    """What ends a line, or a string in other languages, is inside of nothing."""
    assert pattern.fullmatch(before + control + after) is None


HARD = [  # long inputs that almost match
    (grammar.CHUNK_LINE, b"5" + b";a=b" * 1000 + b"\x01"),
    (grammar.CHUNK_LINE, b"5" + b" \t" * 2000 + b"\x01"),
    (grammar.CHUNK_LINE, b'5;a="' + b"\\a" * 2000),
    (grammar.CHUNK_LINE, b"5;" + b"a" * 4000 + b"=\x01"),
    (grammar.HOST, b"a" * 20000 + b"\x01"),
    (grammar.HOST, b"%41" * 7000 + b"%"),
    (grammar.HOST, b"[" + b":" * 20000),
    (grammar.ABSOLUTE_FORM, b"http://" + b"a" * 20000 + b"\x01"),
    (grammar.ORIGIN_FORM, b"/" + b"?" * 20000 + b"\x01"),
    (grammar.REQUEST_LINE, b"G" * 20000),
]


@pytest.mark.parametrize(("pattern", "text"), HARD)
def test_patterns_do_not_backtrack_without_end(pattern, text):
    """
    Every pattern gives up on a long near miss at once (CWE-1333): exponential ones would not end before the
    test run's own limit.
    """
    assert pattern.fullmatch(text) is None
