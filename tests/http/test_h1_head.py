"""Every verdict on a request's head: what is read out of it, and what it is refused with."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RemoteProtocolError
from daphne_like.http import h1_head
from daphne_like.http.events import RequestReceived
from daphne_like.http.h1_head import split_request_line
from daphne_like.http.h1_tokenizer import FieldTokenizer
from tests.http.wire import limits


def judge_head(octets, under, tokenizer=None):
    line, _, octets_of_section = octets.partition(b"\r\n")
    request_line = split_request_line(line, under)
    section = h1_head.judge_section(octets_of_section, under, tokenizer or FieldTokenizer())
    event, content_length, keep_alive, expects_continue = h1_head.judge_head(request_line, section, under)
    return SimpleNamespace(
        event=event,
        content_length=content_length,
        keep_alive=keep_alive,
        expects_continue=expects_continue,
        trailers=section.trailers,
    )


class LenientTokenizer:
    """Cuts and lets everything pass: what llhttp would be at its worst."""

    def cut(self, section):
        pairs = (line.split(b":", 1) for line in section.split(b"\r\n") if line)
        return [(name.lower(), value.strip(b" \t")) for name, value in pairs]

    def renew(self):
        pass


def head(*lines, method="GET", target="/", version="1.1", host="a"):
    hosts = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([f"{method} {target} HTTP/{version}", *hosts, *lines, "", ""]).encode("latin-1")


def judged(*lines, **start):
    return judge_head(head(*lines, **start), limits())


def refusal(*lines, under=None, **start):
    with pytest.raises(RemoteProtocolError) as caught:
        judge_head(head(*lines, **start), under or limits())
    return caught.value.status_hint


def test_a_plain_request():
    assert judge_head(b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nX-Y: Z\r\n\r\n", limits()) == SimpleNamespace(
        event=RequestReceived(
            stream_id=0,  # the connection's to fill in
            method="GET",
            raw_path=b"/a%20b",
            query_string=b"c=d",
            headers=[(b"host", b"x"), (b"x-y", b"Z")],
            http_version="1.1",
            end_stream=True,
            upgrade=False,
        ),
        content_length=0,
        keep_alive=True,
        expects_continue=False,
        trailers=False,
    )


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "QUERY", "get", "X-Y", "x!"]


@pytest.mark.parametrize("method", METHODS)
def test_any_token_is_a_method(method):
    """Case kept: RFC 9110 §9.1. What an application does with it is its own business."""
    assert judged(method=method).event.method == method


VERSIONS = [("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.1"), ("1.9", "1.1")]


@pytest.mark.parametrize(("version", "read_as"), VERSIONS)
def test_higher_minor_versions_are_read_as_1_1(version, read_as):
    """RFC 9110 §2.5."""
    assert judged(version=version).event.http_version == read_as


REQUEST_LINES = [  # line, status
    (b"GET / HTTP/2.0", 505),
    (b"GET / HTTP/0.9", 505),
    (b"PRI * HTTP/2.0", 505),
    (b"GET /", 400),
    (b"GET  / HTTP/1.1", 400),
    (b"", 400),
    (b"\x16\x03\x01", 400),
    (b"GET /" + b"a" * 20 + b" HTTP/1.1", 414),
    (b"GET /" + b"a" * 20 + b" HTTP/2.0", 505),  # a version we do not speak: its limits are not ours
]


@pytest.mark.parametrize(("line", "status"), REQUEST_LINES)
def test_request_line_is_refused(line, status):
    with pytest.raises(RemoteProtocolError) as caught:
        split_request_line(line, limits(max_target_length=20))
    assert caught.value.status_hint == status


def test_target_up_to_the_limit():
    line = b"GET /" + b"a" * 19 + b" HTTP/1.1"
    assert split_request_line(line, limits(max_target_length=20)) == (b"GET", b"/" + b"a" * 19, "1.1")


BODIES = [  # lines -> content_length: 0 none, None chunked              RFC 9112 §6.3
    ([], 0),
    (["Content-Length: 0"], 0),
    (["Content-Length: 5"], 5),
    (["Content-Length: 005"], 5),
    (["Content-Length:5 \t"], 5),
    (["Transfer-Encoding: chunked"], None),
    (["Transfer-Encoding: CHUNKED"], None),
]


@pytest.mark.parametrize(("lines", "expected"), BODIES)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_framing_of_the_body(lines, expected, method):
    """Whatever the method: RFC 9110 §9.3.1 lets GET have content."""
    read = judged(*lines, method=method)
    assert (read.content_length, read.event.end_stream) == (expected, expected == 0)


REFUSED = [  # what, lines, start line, status
    ("no Host", [], {"host": None}, 400),  # RFC 9112 §3.2
    ("empty Host", [], {"host": ""}, 400),
    ("two Host", ["Host: a"], {}, 400),
    ("two Host on 1.0", ["Host: a"], {"version": "1.0"}, 400),
    ("bad Host", [], {"host": "a b"}, 400),
    ("bad Host on 1.0", [], {"host": "a/b", "version": "1.0"}, 400),
    ("list of hosts", [], {"host": "a,b"}, 400),
    ("CONNECT", [], {"method": "CONNECT", "target": "a:1"}, 501),
    ("relative target", [], {"target": "a"}, 400),
    ("asterisk with GET", [], {"target": "*"}, 400),
    ("fragment", [], {"target": "/#a"}, 400),
    ("userinfo", [], {"target": "http://u@a/"}, 400),
    ("length no number", ["Content-Length: x"], {}, 400),
    ("length empty", ["Content-Length:"], {}, 400),
    ("length signed", ["Content-Length: +5"], {}, 400),
    ("length negative", ["Content-Length: -5"], {}, 400),
    ("length a list", ["Content-Length: 5, 5"], {}, 400),
    ("length too many digits", ["Content-Length: " + "0" * 19 + "5"], {}, 400),
    ("length beyond 64 bits", ["Content-Length: 18446744073709551621"], {}, 400),
    ("lengths differ", ["Content-Length: 5", "Content-Length: 6"], {}, 400),
    ("lengths agree", ["Content-Length: 5", "Content-Length: 5"], {}, 400),
    ("both framings", ["Content-Length: 5", "Transfer-Encoding: chunked"], {}, 400),
    ("both framings, turned", ["Transfer-Encoding: chunked", "Content-Length: 5"], {}, 400),
    ("length 0 and chunked", ["Content-Length: 0", "Transfer-Encoding: chunked"], {}, 400),
    ("chunked on 1.0", ["Transfer-Encoding: chunked"], {"version": "1.0"}, 400),
    ("not chunked last", ["Transfer-Encoding: chunked, gzip"], {}, 400),
    ("not chunked at all", ["Transfer-Encoding: gzip"], {}, 400),
    ("identity", ["Transfer-Encoding: identity"], {}, 400),
    ("chunked, identity", ["Transfer-Encoding: chunked, identity"], {}, 400),
    ("chunked twice", ["Transfer-Encoding: chunked, chunked"], {}, 400),
    ("chunked in two fields", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], {}, 400),
    ("chunked, then gzip", ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"], {}, 400),
    ("empty coding", ["Transfer-Encoding:"], {}, 400),
    ("only a comma", ["Transfer-Encoding: ,"], {}, 400),
    ("xchunked", ["Transfer-Encoding: xchunked"], {}, 400),
    ("chunked with a parameter", ["Transfer-Encoding: chunked;q=1"], {}, 400),
    ("vertical tab before chunked", ["Transfer-Encoding: \x0bchunked"], {}, 400),
    ("quoted chunked", ['Transfer-Encoding: "chunked"'], {}, 400),
    ("gzip below chunked", ["Transfer-Encoding: gzip, chunked"], {}, 501),  # RFC 9112 §6.1
    ("obs-fold", ["X: a", " b"], {}, 400),
    ("SP before colon", ["X : a"], {}, 400),
    ("NUL", ["X: \0"], {}, 400),
    ("a tab for the end of the section", ["\t", "GET / HTTP/1.1"], {"host": None, "version": "1.0"}, 400),
]


@pytest.mark.parametrize(("what", "lines", "start", "status"), REFUSED, ids=[case[0] for case in REFUSED])
def test_head_is_refused(what, lines, start, status):
    assert refusal(*lines, **start) == status


CUTTING = ("obs-fold", "SP before colon", "NUL", "a tab for the end of the section")
FRAMING = [case for case in REFUSED if case[0] not in CUTTING]


@pytest.mark.parametrize(("what", "lines", "start", "status"), FRAMING, ids=[case[0] for case in FRAMING])
def test_framing_is_our_own_judgement(what, lines, start, status):
    """llhttp refuses some of these too, today. We must not need that."""
    with pytest.raises(RemoteProtocolError) as caught:
        judge_head(head(*lines, **start), limits(), LenientTokenizer())
    assert caught.value.status_hint == status


LEAVINGS = [  # heads after which llhttp would expect something: a body, a close, another protocol
    head("Content-Length: 1000"),
    head("Content-Length: 1000", "Host: b"),
    head("Content-Length: 00000000000000000005"),
    head("Content-Length: 1000", *["X: y"] * 20),
    head("Content-Length: 1000", host="a b"),
    head("Content-Length: 1000", target="*"),
    head("Content-Length: 1000", "Upgrade: x", "Connection: upgrade", host=None),
    head("Transfer-Encoding: chunked"),
    head("Transfer-Encoding: chunked", host=None),
    head("Transfer-Encoding: gzip, chunked"),
    head("Connection: close"),
    head("Connection: close", host=None),
    head("Proxy-Connection: close"),
    head("Proxy-Connection: upgrade", "Upgrade: x"),
    head("Connection: upgrade", "Upgrade: websocket"),
    head("Connection: upgrade", "Upgrade: websocket", "Host: b"),
    head("Upgrade: x", "Connection: ,"),
    head(version="1.0", method="CONNECT"),
    head("X: \0"),
    head("\t", "GET / HTTP/1.1", host=None),
    *(head(*lines, **start) for _, lines, start, _ in REFUSED),
]


@pytest.mark.parametrize("octets", LEAVINGS, ids=repr)
def test_a_head_leaves_nothing_to_the_next(octets):
    """One tokenizer serves many connections: no client may decide how the next one's fields are read."""
    tokenizer = FieldTokenizer()
    plain = head("X: y", "Content-Length: 3")
    expected = judge_head(plain, limits())
    for _ in range(3):
        with suppress(RemoteProtocolError):
            judge_head(octets, limits(), tokenizer)
        assert judge_head(plain, limits(), tokenizer) == expected


def test_host_of_the_target_replaces_the_field():
    """RFC 9112 §3.2.2: the Host field is ignored; the application must not see it."""
    read = judged("X: y", target="http://b:8/c", host="a")
    assert read.event.headers == [(b"host", b"b:8"), (b"x", b"y")]
    assert read.event.raw_path == b"/c"


def test_host_of_the_target_where_no_field_is():
    assert judged(target="http://b/", host=None, version="1.0").event.headers == [(b"host", b"b")]


def test_host_that_agrees_stays_in_its_place():
    request = b"GET http://a/ HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n"
    assert judge_head(request, limits()).event.headers == [(b"x", b"y"), (b"host", b"a")]


def test_http_1_0_needs_no_host():
    assert judged(host=None, version="1.0").event.headers == []


def test_fields_with_underscores_do_not_reach_the_application():
    """Nor do they frame anything: Content_Length is not Content-Length."""
    read = judged("Content_Length: 5", "Transfer_Encoding: chunked", "X: y")
    assert (read.content_length, read.event.headers) == (0, [(b"host", b"a"), (b"x", b"y")])


LIVES = [  # version, lines of Connection -> keep alive                  RFC 9112 §9.3
    ("1.1", [], True),
    ("1.1", ["keep-alive"], True),
    ("1.1", ["close"], False),
    ("1.1", ["Close"], False),
    ("1.1", ["keep-alive, close"], False),
    ("1.1", ["keep-alive", "close"], False),
    ("1.1", ["upgrade , CLOSE"], False),
    ("1.1", ["closed"], True),
    ("1.1", [""], True),
    ("1.0", [], False),
    ("1.0", ["keep-alive"], True),
    ("1.0", ["Keep-Alive"], True),
    ("1.0", ["close"], False),
    ("1.0", ["keep-alive, close"], False),
    ("1.0", ["x"], False),
]


@pytest.mark.parametrize(("version", "values", "expected"), LIVES)
def test_keep_alive(version, values, expected):
    assert judged(*(f"Connection: {value}" for value in values), version=version).keep_alive is expected


EXPECTS = [  # version, lines -> expects 100                             RFC 9110 §10.1.1
    ("1.1", ["Expect: 100-continue", "Content-Length: 1"], True),
    ("1.1", ["Expect: 100-Continue", "Transfer-Encoding: chunked"], True),
    ("1.1", ["Expect: 100-continue"], False),  # no content: nothing to continue with
    ("1.1", ["Expect: 100-continue", "Content-Length: 0"], False),
    ("1.0", ["Expect: 100-continue", "Content-Length: 1"], False),  # "MUST ignore"
    ("1.1", ["Expect: x", "Content-Length: 1"], False),
    ("1.1", ["Content-Length: 1"], False),
]


@pytest.mark.parametrize(("version", "lines", "expected"), EXPECTS)
def test_expectation(version, lines, expected):
    assert judged(*lines, version=version).expects_continue is expected


UPGRADES = [  # version, lines -> WebSocket asked for                    RFC 9110 §7.8, RFC 6455 §4.1
    ("1.1", ["Connection: Upgrade", "Upgrade: websocket"], True),
    ("1.1", ["Connection: keep-alive, upgrade", "Upgrade: WebSocket"], True),
    ("1.1", ["Connection: upgrade", "Upgrade: h2c, websocket"], True),
    ("1.1", ["Connection: upgrade", "Upgrade: h2c", "Upgrade: websocket"], True),
    ("1.1", ["Upgrade: websocket"], False),  # not named by Connection
    ("1.1", ["Connection: upgrade"], False),
    ("1.1", ["Connection: upgrade", "Upgrade: h2c"], False),
    ("1.1", ["Connection: upgrade", "Upgrade: websocket/13"], False),
    ("1.0", ["Connection: upgrade", "Upgrade: websocket"], False),  # "MUST ignore"
]


@pytest.mark.parametrize(("version", "lines", "expected"), UPGRADES)
def test_upgrade(version, lines, expected):
    assert judged(*lines, version=version).event.upgrade is expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        (["TE: trailers"], True),
        (["TE: gzip, Trailers"], True),
        (["TE: gzip", "TE: trailers"], True),
        (["TE: gzip"], False),
    ],
)
def test_trailers_wanted(lines, expected):
    """RFC 9110 §10.1.4."""
    assert judged(*lines).trailers is expected


LIMITS = [  # limits, lines up to it, lines beyond it, status
    ({"max_header_count": 3}, ["A: 1", "B: 2"], ["A: 1", "B: 2", "C: 3"], 431),
    ({"max_body_size": 5}, ["Content-Length: 5"], ["Content-Length: 6"], 413),
]


@pytest.mark.parametrize(("changes", "lines", "too_much", "status"), LIMITS)
def test_limits(changes, lines, too_much, status):
    judge_head(head(*lines), limits(**changes))
    assert refusal(*too_much, under=limits(**changes)) == status


def test_no_limit_of_the_body():
    """0 means none."""
    assert judged("Content-Length: 9999999999999").content_length == 9999999999999


def test_target_beyond_its_limit():
    assert refusal(target="/" + "a" * 1024) == 414


OCTETS = st.one_of(
    st.sampled_from(
        [b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"Host: a", b"Content-Length: 5"]
    ),
    st.sampled_from([b"Transfer-Encoding: chunked", b"Connection: close", b"_: 1", b"Upgrade: websocket"]),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b":", b"x", b"\xff"]),
)


@given(st.lists(OCTETS, max_size=20).map(b"".join) | st.binary(max_size=60))
def test_any_octets_are_judged(octets):
    """A head or a refusal with a status, never another exception."""
    try:
        read = judge_head(octets.replace(b"\r\n\r\n", b"\r\n") + b"\r\n\r\n", limits())
    except RemoteProtocolError as refused:
        status = refused.status_hint
    else:
        status = None
        assert read.event.raw_path[:1] in (b"/", b"*")
        assert [name for name, _ in read.event.headers].count(b"host") <= 1
        assert not any(b"_" in name for name, _ in read.event.headers)
    assert status in (None, 400, 413, 414, 431, 501, 505)
