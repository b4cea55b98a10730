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


@pytest.mark.parametrize("value", [b"", b"5, 5", b"5,5", b"+5", b"-5", b"5 5", b"0x5", b"5.0", b"5_0", b"9" * 20])
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


KINDS = [
    (b"content-length", headers.CONTENT_LENGTH_FIELD),
    (b"Content-Length", headers.CONTENT_LENGTH_FIELD),
    (b"TRANSFER-ENCODING", headers.TRANSFER_ENCODING),
    (b"Connection", headers.CONNECTION),
    (b"date", headers.DATE),
    (b"Server", headers.SERVER),
    (b"x-server", headers.PLAIN),
    (b"content_length", headers.PLAIN),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_field_kind(name, kind):
    """The second time as the first: names are remembered."""
    assert headers.field_kind(name) == headers.field_kind(name) == kind


@pytest.mark.parametrize(
    "name", [b"", b"a b", b"a:", b"a\r\nb", b"a\n", b"a\0", b"\xe9", b" a", b"a ", "a", None, 1, bytearray(b"a"), [b"a"]]
)
def test_what_is_no_name_is_no_name_twice(name):
    """A refused name is not remembered as a good one."""
    for _ in range(2):
        with pytest.raises(InvalidMessage):
            headers.field_kind(name)


def test_made_up_names_do_not_fill_memory():
    """An application that makes names up is served, and each name is still judged."""
    before = len(headers._KNOWN_NAMES)
    for number in range(3 * headers._MAX_KNOWN_NAMES):
        assert headers.field_kind(b"x-made-up-%d" % number) == headers.PLAIN
    assert len(headers._KNOWN_NAMES) <= max(before, headers._MAX_KNOWN_NAMES)
    assert headers.field_kind(b"cOnTeNt-LeNgTh") == headers.CONTENT_LENGTH_FIELD
    with pytest.raises(InvalidMessage):
        headers.field_kind(b"x made up")


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\rb", b"a\nb", b"a\0b", b"\n", b"a\r", "a", None, 1])
def test_the_field_at_fault_is_named(value):
    with pytest.raises(InvalidMessage, match="x-bad"):
        headers.check_field_values([(b"x-good", b"1"), (b"x-bad", value), (b"x-after", b"2")])


@given(st.lists(st.tuples(st.binary(), st.binary().filter(lambda v: not set(v) & set(b"\r\n\0")))))
def test_other_values_pass(fields):
    """obs-text, tabs, anything else: the application's own business."""
    headers.check_field_values(fields)


@pytest.mark.parametrize("fields", [[(b"a",)], [(b"a", b"b", b"c")], [b"abc"], [5], [None]])
def test_what_is_no_pair_is_an_invalid_message(fields):
    """The docstring promises InvalidMessage; a ValueError out of it would be taken for a bug of the server."""
    with pytest.raises(InvalidMessage):
        headers.check_field_values(fields)
