"""
The corpus judges servers; this judges the corpus: its data, its reader of responses, its verdicts.

A judge that cannot condemn is worth nothing, so what is shown most is that wrong conduct is complained of.
"""

import json
from collections.abc import Sequence

import pytest

from tests.corpus import Case, CorpusError, EndOfInput, Expect, Send, Sleep, Step, load, wire
from tests.corpus.application import Seen
from tests.corpus.judge import Observation, judge
from tests.corpus.responses import read_responses

CASES = load()

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SECOND = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"path": "/second"}'


# ---- data

WIRE = [
    ("GET / HTTP/1.1\nHost: h\n\n", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    (r"a\n\r\t\\\x00\xff", b"a\n\r\t\\\x00\xff"),
    ("{{a * 3}}\n{{X-#: v\\r\\n * 2}}", b"aaa\r\nX-0: v\r\nX-1: v\r\n"),
    ("{h}{{a", b"{h}{{a"),
]


@pytest.mark.parametrize(("text", "octets"), WIRE)
def test_wire_text(text: str, octets: bytes) -> None:
    assert wire(text) == octets


@pytest.mark.parametrize("text", ["\\q", "\\x1", "caf\u00e9", "\0"])
def test_what_is_no_wire_text_is_refused(text: str) -> None:
    """A typing error in the data must not become another request."""
    with pytest.raises(CorpusError):
        wire(text)


def test_a_case_says_where_it_comes_from_and_what_it_sends() -> None:
    for case in CASES:
        assert case.source, case.id
        assert case.size, case.id
        assert "{{" not in str(case.expect), case.id


def test_each_makes_a_case_of_every_variant() -> None:
    by_id = {case.id: case for case in CASES}
    assert by_id["host-port"].steps == (Send(b"GET /a HTTP/1.1\r\nHost: example.com:8080\r\n\r\n"),)
    assert by_id["host-port"].expect.seen["header"] == {"host": "example.com:8080"}


def test_segments_are_cut_where_the_client_waits() -> None:
    case = a_case(Expect(kind="answer"), Send(b"a"), Send(b"b"), Sleep(0.1), Send(b"c"), EndOfInput())
    assert case.segments() == [b"ab", b"c"]


# ---- responses

FAULTS = [
    (b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "does not end in CRLF"),
    (b"HTTP/1.1 200 OK\r\nX-A: a\rb\r\n\r\n", "no field line"),
    (b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n", "no field line"),
    (b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n", "no field line"),
    (b"HTTP/1.1 99 Odd\r\n\r\n", "no status line"),
    (b"HTTP/1.1 0200 OK\r\n\r\n", "no status line"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "several Content-Lengths"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "Content-Length: "),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "beside Transfer-Encoding",
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding: "),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", "no chunk size"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n", "does not end in CRLF"),
    (OK + b"more", "no response"),
]


@pytest.mark.parametrize(("data", "fault"), FAULTS)
def test_malformed_responses_are_noticed(data: bytes, fault: str) -> None:
    assert fault in read_responses(data, closed=True).faults[0]


def test_responses_are_cut_by_their_framing() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
    until_close = b"HTTP/1.1 200 OK\r\n\r\nrest"
    data = head + OK + b"HTTP/1.1 204 No Content\r\n\r\n" + chunked + until_close
    found = read_responses(data, heads=[0], closed=True)
    assert [(r.status, r.body, r.complete) for r in found.final] == [
        (200, b"", True),
        (200, b"ok", True),
        (204, b"", True),
        (200, b"ok", True),
        (200, b"rest", True),
    ]
    assert not found.faults


def test_a_response_cut_short_is_not_whole() -> None:
    assert not read_responses(OK[:-1], closed=True).whole
    assert not read_responses(b"HTTP/1.1 200 OK\r\n\r\nrest", closed=False).whole


def test_interim_responses_are_not_final() -> None:
    found = read_responses(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, closed=False)
    assert found.interim == [100]
    assert [response.status for response in found.final] == [200]


# ---- verdicts


def a_case(expect: Expect, *steps: Step, head: tuple[int, ...] = ()) -> Case:
    sent = steps or (Send(b"GET /one HTTP/1.1\r\nHost: h\r\n\r\n"),)
    return Case(id="a", topic="t", source="s", level="OK", note="", steps=sent, head=head, expect=expect)


def seen(path: str = "/one", *, body: str = "", complete: bool = True, **headers: str) -> Seen:
    return Seen("http", "GET", path, path, "", [*headers.items()], body, complete)


R, A, E = "reject", "accept", "either"
VERDICTS = [  # expectation, received, closed, seen -> complaint, or none
    (Expect(kind=R), BAD, True, [], ""),
    (Expect(kind=R), BAD, False, [], ""),
    (Expect(kind=R, closed=True), BAD, False, [], "stays open"),
    (Expect(kind=R, status=(431,)), BAD, True, [], "400, not 431"),
    (Expect(kind=R), OK, True, [], "200, not a reject"),
    (Expect(kind=R), b"", True, [], "closed without a response"),
    (Expect(kind=R), b"", False, [], "no response"),
    (Expect(kind=R), BAD, True, [seen()], "whole"),
    (Expect(kind=R), BAD, True, [seen(complete=False)], ""),
    (Expect(kind=R, not_seen=("/x",)), BAD, True, [seen("/x", complete=False)], "asked for /x"),
    (Expect(kind=R), b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", True, [], "500, not a reject"),
    (Expect(kind=A), OK, False, [seen()], ""),
    (Expect(kind=A), OK + OK, False, [seen(), seen()], "2 responses"),
    (Expect(kind=A), OK, False, [seen(), seen("/two")], "given 2 requests"),
    (Expect(kind=A, n=(2,)), OK, False, [seen()], "1 responses with a 2xx, not 2"),
    (Expect(kind=A, n=(1, 2)), OK, False, [seen()], ""),
    (Expect(kind=A, n=(2,), paths=("/one", "/two")), OK + OK, False, [seen("/two"), seen()], "asked for"),
    (Expect(kind=A), BAD, True, [], "400, not a 2xx"),
    (Expect(kind=A), OK + BAD, True, [seen()], "too many"),
    (Expect(kind=A, then=R), OK + BAD, True, [seen()], ""),
    (Expect(kind=A, then=R), OK, True, [seen()], "no response to what follows"),
    (Expect(kind=A, then="reject-or-close"), OK, True, [seen()], ""),
    (Expect(kind=A, then="reject-or-close"), OK, False, [seen()], "no response to what follows"),
    (Expect(kind=A, seen={"body": "hello"}), OK, False, [seen(body="hell")], "body is 'hell'"),
    (Expect(kind=A, seen={"body_len": 5}), OK, False, [seen(body="hell")], "body_len is 4"),
    (Expect(kind=A, seen={"path": "/two"}), OK, False, [seen()], "path is '/one'"),
    (Expect(kind=A, seen={"header": {"host": "h"}}), OK, False, [seen(host="h")], ""),
    (Expect(kind=A, seen={"header": {"host": "h"}}), OK, False, [seen(host="evil")], "host is 'evil'"),
    (Expect(kind=A, seen={"header": {"host": ""}}), OK, False, [seen()], "host is ''"),
    (Expect(kind=A, seen={"no_header": ("te",)}), OK, False, [seen(te="x")], "sees te"),
    (Expect(kind=A, seen={"header_all": {"a": ("1", "2")}}), OK, False, [seen(a="1, 2")], ""),
    (Expect(kind=A, seen={"header_re": {"a": "^b +c$"}}), OK, False, [seen(a="b\r\n c")], "not '^b +c$'"),
    (Expect(kind=A, seen={"path": "/one"}), OK, False, [], "asked for nothing"),
    (Expect(kind=A, interim=(100,)), OK, False, [seen()], "interim responses []"),
    (Expect(kind=A, field={"date": "."}), OK, False, [seen()], "date: []"),
    (Expect(kind=A, no_field={"content-length": "."}), OK, False, [seen()], "content-length: ['2']"),
    (Expect(kind=E, seen={"body": "x"}), BAD, True, [], ""),
    (Expect(kind=E, seen={"body": "x"}), OK, False, [seen(body="x")], ""),
    (Expect(kind=E, seen={"body": "x"}), OK, False, [seen()], "body is ''"),
    (Expect(kind=E), BAD, True, [seen()], "refused, and yet"),
    (Expect(kind="answer"), b"", False, [], "neither"),
    (Expect(kind="answer"), b"", True, [], ""),
    (Expect(kind="answer"), b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", True, [], "500"),
    (Expect(kind="answer"), b"HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n", True, [], ""),
    (Expect(kind="incomplete"), b"", True, [seen(complete=False)], ""),
    (Expect(kind="incomplete"), OK, True, [], "never ended"),
    (Expect(kind="incomplete"), b"", False, [seen()], "whole"),
    (Expect(kind="upgrade"), OK, False, [seen()], "200, not 101"),
    (Expect(kind="no-upgrade"), b"HTTP/1.1 101 Go\r\n\r\n\x81\0", False, [], "101"),
    (Expect(kind="either-upgrade"), b"HTTP/1.1 101 Go\r\n\r\n\x81\0", False, [], ""),
    (Expect(kind="answer-or-h2"), b"\0\0\0\x04\0\0\0\0\0", False, [], ""),
]


@pytest.mark.parametrize(("expect", "received", "closed", "requests", "complaint"), VERDICTS)
def test_verdict(
    expect: Expect, received: bytes, closed: bool, requests: Sequence[Seen], complaint: str
) -> None:
    complaints = judge(a_case(expect), Observation(received, closed, requests))
    assert complaint in complaints[0] if complaint else not complaints


TWO = (Send(b"GET /resp/x HTTP/1.1\r\nHost: h\r\n\r\nGET /second HTTP/1.1\r\nHost: h\r\n\r\n"),)
TWO_DATES = b"HTTP/1.1 200 OK\r\nDate: a\r\nDate: b\r\nContent-Length: 0\r\n\r\n"
ERROR = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
RESPONSES = [
    (Expect(kind="response"), OK + SECOND, False, ""),
    (Expect(kind="response"), OK, True, ""),
    (Expect(kind="response"), OK, False, "/second is not answered"),
    (Expect(kind="response"), OK + OK, False, "the response to /second"),
    (Expect(kind="response"), OK + SECOND + OK, False, "3 responses to 2 requests"),
    (Expect(kind="response"), OK.replace(b"C", b"X-Injected: yes\r\nC", 1) + SECOND, False, "injected"),
    (Expect(kind="response", status=(500,)), OK + SECOND, False, "200, not 500"),
    (Expect(kind="response", body="ok"), ERROR + SECOND, False, "the body is"),
    (Expect(kind="response", invalid_status=True), OK + SECOND, False, "200, not 500"),
    (Expect(kind="response", invalid_status=True), ERROR + SECOND, False, ""),
    (Expect(kind="response", invalid_status=True), b"", True, ""),
    (Expect(kind="response", cut_short=True), OK, True, "looks whole"),
    (Expect(kind="response", cut_short=True), OK[:-1], False, "left waiting"),
    (Expect(kind="response", cut_short=True), OK[:-1], True, ""),
    (Expect(kind="response", once=("date",)), TWO_DATES, True, "date 2 times"),
]


@pytest.mark.parametrize(("expect", "received", "closed", "complaint"), RESPONSES)
def test_verdict_on_responses(expect: Expect, received: bytes, closed: bool, complaint: str) -> None:
    complaints = judge(a_case(expect, *TWO), Observation(received, closed, []))
    assert complaint in complaints[0] if complaint else not complaints


def test_what_was_seen_survives_the_way_back() -> None:
    """The application tells what it saw as JSON."""
    was = seen(body="\u00ff\u0000", host="h")
    told = json.loads(json.dumps([{name: getattr(was, name) for name in Seen.__slots__}]))
    again = Seen(**told[0])
    assert again.body == was.body
    assert again.values("host") == ["h"]
