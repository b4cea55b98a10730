"""Pure judgements over fields: lists, lengths, targets, and what an application may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.http import headers

LISTS = [  # RFC 9110 §5.6.1: empty elements are ignored
    (b"", []),
    (b",", []),
    (b" , ,\t", []),
    (b"close", [b"close"]),
    (b"Close", [b"close"]),
    (b"a,b", [b"a", b"b"]),
    (b" a ,\tb,,c ", [b"a", b"b", b"c"]),
    (b"a b", [b"a b"]),  # one member, which is no token: not ours to guess
    (b"\x0bclose", [b"\x0bclose"]),  # only SP and HTAB are blanks
]


@pytest.mark.parametrize(("value", "members"), LISTS)
def test_list_members(value, members):
    assert headers.list_members(value) == members


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"5", 5), (b"0010", 10), (b"9" * 19, 10**19 - 1)])
def test_content_length(value, length):
    assert headers.content_length(value) == length


@pytest.mark.parametrize(
    "value", [b"", b"5, 5", b"5,5", b"+5", b"-5", b"5 5", b"0x5", b"5.0", b"5_0", b"9" * 20]
)
def test_content_length_is_digits_or_refused(value):
    """Equal numbers in a list could be mended (RFC 9112 §6.3); mending is where two readers part."""
    with pytest.raises(RemoteProtocolError) as caught:
        headers.content_length(value)
    assert caught.value.status_hint == 400


TARGETS = [  # method, target, Host -> path, query, host                 RFC 9112 §3.2
    (b"GET", b"/", b"a", (b"/", b"", b"a")),
    (b"GET", b"/a?b", b"a", (b"/a", b"b", b"a")),
    (b"GET", b"/a?", b"a", (b"/a", b"", b"a")),
    (b"GET", b"/", None, (b"/", b"", None)),
    (b"OPTIONS", b"*", b"a", (b"*", b"", b"a")),
    (b"OPTIONS", b"/", b"a", (b"/", b"", b"a")),
    (b"GET", b"http://b/c?d", b"a", (b"/c", b"d", b"b")),  # the target's authority wins: §3.2.2
    (b"GET", b"http://b", b"a", (b"/", b"", b"b")),
    (b"GET", b"http://b?c", b"b", (b"/", b"c", b"b")),
    (b"GET", b"https://b:8/", None, (b"/", b"", b"b:8")),
    (b"OPTIONS", b"http://b", b"a", (b"/", b"", b"b")),
]


@pytest.mark.parametrize(("method", "target", "host", "expected"), TARGETS)
def test_request_target(method, target, host, expected):
    assert headers.request_target(method, target, host) == expected


BAD_TARGETS = [
    (b"GET", b"*", b"a", 400),
    (b"options", b"*", b"a", 400),  # methods are case-sensitive
    (b"GET", b"a", b"a", 400),
    (b"GET", b"a:80", b"a", 400),
    (b"GET", b"/#a", b"a", 400),
    (b"GET", b"ftp://a/", b"a", 400),
    (b"GET", b"http://u@a/", b"a", 400),
    (b"GET", b"http:///", b"a", 400),
    (b"GET", b"/", b"", 400),  # an empty Host names no site
    (b"GET", b"/", b"a b", 400),
    (b"GET", b"/", b"a,b", 400),
    (b"GET", b"/", b"a/b", 400),
    (b"GET", b"/", b"u@a", 400),
    (b"GET", b"http://a/", b"a b", 400),  # also where the target overrides it
    (b"CONNECT", b"a:80", b"a:80", 501),
    (b"CONNECT", b"/", b"a", 501),
]


@pytest.mark.parametrize(("method", "target", "host", "status"), BAD_TARGETS)
def test_request_target_is_refused(method, target, host, status):
    with pytest.raises(RemoteProtocolError) as caught:
        headers.request_target(method, target, host)
    assert caught.value.status_hint == status


def test_fields_with_underscores_are_dropped():
    """CVE-2015-0219: X-A and X_A are one name to CGI-like environments."""
    fields = [(b"x-a", b"1"), (b"x_a", b"2"), (b"_", b"3"), (b"b", b"c_d")]
    assert headers.drop_underscores(fields) == [(b"x-a", b"1"), (b"b", b"c_d")]


FIELDS = [  # name, value -> kind, line
    (b"content-length", b"5", headers.CONTENT_LENGTH_FIELD),
    (b"Content-Length", b"5", headers.CONTENT_LENGTH_FIELD),
    (b"TRANSFER-ENCODING", b"chunked", headers.TRANSFER_ENCODING),
    (b"Connection", b"close", headers.CONNECTION),
    (b"date", b"x", headers.DATE),
    (b"Server", b"x", headers.SERVER),
    (b"x-server", b"x", headers.PLAIN),
    (b"content_length", b"5", headers.PLAIN),
    (b"x", b"", headers.PLAIN),
    (b"x", b" \xff\t", headers.PLAIN),
    (b"x", b"y" * 5000, headers.PLAIN),
]


@pytest.mark.parametrize(("name", "value", "kind"), FIELDS)
def test_a_response_field_is_judged_and_rendered(name, value, kind):
    """The second time as the first: fields are remembered."""
    for _ in range(2):
        assert headers.response_field((name, value))[:2] == (kind, name + b": " + value + b"\r\n")
        assert headers.response_field([name, value])[:2] == (kind, name + b": " + value + b"\r\n")


BAD_NAMES = [
    b"",
    b"a b",
    b"a:",
    b"a\r\nb",
    b"a\n",
    b"a\0",
    b"\xe9",
    b" a",
    b"a ",
    "a",
    None,
    1,
    bytearray(b"a"),
    [b"a"],
]
BAD_VALUES = [b"a\r\nb: c", b"a\rb", b"a\nb", b"a\0b", b"\n", b"a\r", "a", None, 1, bytearray(b"a"), [b"a"]]
NO_PAIRS = [(b"a",), (b"a", b"b", b"c"), b"abc", "ab", 5, None, ()]


@pytest.mark.parametrize(
    "field",
    [*((name, b"x") for name in BAD_NAMES), *((b"x", value) for value in BAD_VALUES), *NO_PAIRS],
    ids=repr,
)
def test_a_bad_response_field_is_bad_twice(field):
    """What was refused once is not remembered as good."""
    for _ in range(2):
        with pytest.raises(InvalidMessage):
            headers.response_field(field)


@pytest.mark.parametrize("value", BAD_VALUES)
def test_the_field_at_fault_is_named(value):
    with pytest.raises(InvalidMessage, match="x-bad"):
        headers.response_field((b"x-bad", value))


def test_made_up_fields_do_not_fill_memory(monkeypatch):
    """An application that makes fields up is served, and each field is still judged."""
    monkeypatch.setattr(headers, "_KNOWN_FIELDS", {})
    for number in range(3 * headers._MAX_KNOWN_FIELDS):
        assert headers.response_field((b"x-made-up-%d" % number, b"x" * (number % 512)))[0] == headers.PLAIN
    assert len(headers._KNOWN_FIELDS) <= headers._MAX_KNOWN_FIELDS
    assert max(len(line) for _, line, _ in headers._KNOWN_FIELDS.values()) <= headers._MAX_KNOWN_LINE
    assert headers.response_field((b"cOnTeNt-LeNgTh", b"5"))[0] == headers.CONTENT_LENGTH_FIELD
    with pytest.raises(InvalidMessage):
        headers.response_field((b"x made up", b"x"))


def test_made_up_hosts_do_not_fill_memory(monkeypatch):
    """Nor do clients that name a host after the other."""
    monkeypatch.setattr(headers, "_KNOWN_HOSTS", set())
    for number in range(3 * headers._MAX_KNOWN_HOSTS):
        host = b"h%d." % number + b"x" * (number % 128)
        assert headers.request_target(b"GET", b"/", host) == (b"/", b"", host)
    assert len(headers._KNOWN_HOSTS) <= headers._MAX_KNOWN_HOSTS
    assert max(map(len, headers._KNOWN_HOSTS)) <= headers._MAX_KNOWN_HOST
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            headers.request_target(b"GET", b"/", b"made up")


@given(st.binary(max_size=40))
def test_a_rendered_field_is_one_line(value):
    """obs-text, tabs, anything else is the application's own business; a line end is not."""
    try:
        _, line, _ = headers.response_field((b"x", value))
    except InvalidMessage:
        assert set(value) & set(b"\r\n\0")
    else:
        assert line == b"x: " + value + b"\r\n"
        assert line.count(b"\r") == line.count(b"\n") == 1


def test_known_sections_are_few_short_and_without_cookies(monkeypatch):
    monkeypatch.setattr(headers, "_KNOWN_SECTIONS", {})
    for number in range(3 * headers._MAX_KNOWN_SECTIONS):
        headers.response_section([(b"etag", b'"%d"' % number), (b"x", b"y" * number)])
    headers.response_section([(b"set-cookie", b"a=b")])

    assert 0 < len(headers._KNOWN_SECTIONS) <= headers._MAX_KNOWN_SECTIONS
    assert max(len(lines) for lines, *_ in headers._KNOWN_SECTIONS.values()) <= headers._MAX_KNOWN_SECTION
    assert not any(b"cookie" in lines for lines, *_ in headers._KNOWN_SECTIONS.values())


def test_a_known_section_says_the_same_again():
    fields = [(b"content-length", b"5"), (b"connection", b"close"), (b"date", b"now"), (b"a", b"b")]

    first = headers.response_section(fields)

    assert first == (b"date: now\r\na: b\r\n", 5, b"content-length: 5\r\n", True, headers.HAS_DATE)
    assert headers.response_section(list(fields)) == first
    assert headers.response_section([list(field) for field in fields]) == first
