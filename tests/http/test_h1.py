"""
HTTP/1.x connections: one request at a time, whatever the socket's pieces.

`Peer` is a connection together with what a server does with it: it notes events, and answers when told.
"""

import copy
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daphne_like.errors import InvalidMessage, RemoteProtocolError
from daphne_like.http.events import DataReceived, RequestReceived, StreamReset
from daphne_like.http.h1 import MAX_DISCARD, MAX_LEADING_CRLF
from daphne_like.http.h1_tokenizer import FieldTokenizer
from tests.http.wire import connection, cuts_of, one_by_one, read_response, read_responses, split

GET_A = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
GET_B = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
GET_C = b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n"
OLD_GET = b"GET /old HTTP/1.0\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
CHUNKED_HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(body, size=None, *lines):
    size = len(body) if size is None else size
    more = b"".join(line + b"\r\n" for line in lines)
    return b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (size, more, body)


class Peer:
    def __init__(self, **changes):
        self.connection = connection(**changes)
        self.events = []

    def receive(self, *pieces):
        """Feed *pieces* as the socket would, and return the events that came of them."""
        before = len(self.events)
        for piece in pieces:
            # Copies: the same head again is told of with the same object.
            self.events += map(copy.copy, self.connection.receive_data(piece))
        return self.events[before:]

    def eof(self):
        self.connection.receive_eof()
        events = self.connection.events_received()
        self.events += events
        return events

    def answer(self, *pieces, status=200, headers=()):
        """Send a whole response, and return the events that had waited for its end."""
        connection = self.connection
        connection.send_headers(connection.stream_id, status, list(headers))
        for piece in pieces[:-1]:
            connection.send_data(connection.stream_id, piece)
        connection.send_data(connection.stream_id, pieces[-1] if pieces else b"", True)
        events = [] if connection.should_close else list(map(copy.copy, connection.events_received()))
        self.events += events
        return events

    def sent(self):
        return b"".join(self.connection.data_to_send())

    def closing(self):
        return self.connection.should_close, self.connection.lingers


@pytest.fixture
def peer():
    return Peer()


def targets(events):
    return [event.raw_path for event in events if isinstance(event, RequestReceived)]


def body(events):
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


CLOSED, CLOSED_LINGERING, KEPT = (True, False), (True, True), (False, False)


# ---- requests


def test_a_request_without_a_body(peer):
    """One event; the stream is complete with it."""
    assert peer.receive(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y: Z\r\n\r\n") == [
        RequestReceived(
            stream_id=1,
            method="GET",
            raw_path=b"/a",
            query_string=b"b=c",
            headers=[(b"host", b"x"), (b"x-y", b"Z")],
            http_version="1.1",
            end_stream=True,
            upgrade=False,
        )
    ]
    assert not peer.connection.reads_body


def test_a_request_with_a_body(peer):
    request, data = peer.receive(post(b"hello"))
    assert (request.end_stream, data) == (False, DataReceived(1, b"hello", True))


def test_a_body_comes_as_it_arrives(peer):
    """An application may read it while it comes."""
    assert [type(event) for event in peer.receive(post(b"", 5))] == [RequestReceived]
    assert peer.connection.reads_body
    assert peer.receive(b"hel") == [DataReceived(1, b"hel", False)]
    assert peer.receive(b"lo") == [DataReceived(1, b"lo", True)]
    assert not peer.connection.reads_body


def test_a_chunked_body(peer):
    request, data = peer.receive(CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n")
    assert (request.end_stream, data) == (False, DataReceived(1, b"hello", True))


def test_a_chunked_body_comes_as_it_arrives(peer):
    peer.receive(CHUNKED_HEAD)
    assert peer.receive(b"5\r\nhel") == [DataReceived(1, b"hel", False)]
    assert peer.receive(b"lo\r\n") == [DataReceived(1, b"lo", False)]
    assert peer.receive(b"0\r\n") == []
    assert peer.receive(b"\r\n") == [DataReceived(1, b"", True)]


def test_streams_count_up(peer):
    for number, request in enumerate((GET_A, post(b"x"), OLD_GET), start=1):
        (first, *_) = peer.receive(request)
        assert first.stream_id == peer.connection.stream_id == number
        peer.answer(b"ok")


def test_http_version_is_told(peer):
    assert peer.receive(OLD_GET)[0].http_version == "1.0"


# ---- where the reading stands

STANDING = [  # octets -> is_idle, reads_head, reads_body
    (b"", (True, True, False)),
    (b"G", (False, True, False)),
    (b"\r", (False, True, False)),
    (b"\r\n", (True, True, False)),
    (GET_A[:-1], (False, True, False)),
    (GET_A, (False, False, False)),
    (post(b"", 5), (False, False, True)),
    (post(b"hello"), (False, False, False)),
    (CHUNKED_HEAD, (False, False, True)),
    (CHUNKED_HEAD + b"0\r\n\r\n", (False, False, False)),
]


@pytest.mark.parametrize(("octets", "expected"), STANDING)
def test_what_the_connection_waits_for(peer, octets, expected):
    """Timers hang on this."""
    peer.receive(octets)
    connection = peer.connection
    assert (connection.is_idle(), connection.reads_head, connection.reads_body) == expected


# ---- empty lines before a request                                      RFC 9112 §2.2


@pytest.mark.parametrize("count", range(MAX_LEADING_CRLF // 2 + 1))
def test_some_empty_lines_are_skipped(count):
    for cut in (lambda octets: [octets], one_by_one):
        peer = Peer()
        assert targets(peer.receive(*cut(b"\r\n" * count + GET_A))) == [b"/a"]


def test_empty_lines_without_end_are_refused():
    for cut in (lambda octets: [octets], one_by_one):
        with pytest.raises(RemoteProtocolError):
            Peer().receive(*cut(b"\r\n" * (MAX_LEADING_CRLF // 2 + 1) + GET_A))


def test_empty_lines_are_counted_for_each_request(peer):
    for _ in range(4):
        assert targets(peer.receive(b"\r\n\r\n" + GET_A)) == [b"/a"]
        peer.answer(b"ok")


# ---- heads that are refused

REFUSED = [  # what, octets, status; nothing more need come
    ("TLS", b"\x16\x03\x01\x02\x00", 400),
    ("a space first", b" GET / HTTP/1.1\r\n", 400),
    ("bare LF first", b"\nGET / HTTP/1.1\r\n", 400),
    ("bare CR first", b"\rG", 400),
    ("NUL in the line", b"GET /\0", 400),
    ("bare LF ends the line", b"GET / HTTP/1.1\n", 400),
    ("bare LF ends a field", b"GET / HTTP/1.1\r\nHost: x\n", 400),
    ("bare CR in a field", b"GET / HTTP/1.1\r\nHost: x\ry", 400),
    ("NUL in a field", b"GET / HTTP/1.1\r\nHost: x\0", 400),
    ("no version", b"GET /\r\n", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n", 505),
    ("a target too long", b"GET /" + b"a" * 1024 + b" HTTP/1.1\r\n", 414),
    ("a line without end", b"GET /" + b"a" * 1200, 414),
    ("a head without end", b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 4096, 431),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("CONNECT", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    ("too many fields", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 20 + b"\r\n", 431),
    ("too large a body", post(b"", 6), 413),
    ("a coding unknown", CHUNKED_HEAD.replace(b"chunked", b"gzip, chunked"), 501),
]


@pytest.mark.parametrize(("what", "octets", "status"), REFUSED, ids=[case[0] for case in REFUSED])
@pytest.mark.parametrize("cut", [lambda octets: [octets], one_by_one], ids=["whole", "one by one"])
def test_a_head_is_refused_as_soon_as_it_is_wrong(what, octets, status, cut):
    peer = Peer(max_body_size=5)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.receive(*cut(octets))
    assert caught.value.status_hint == status
    assert peer.events == []


def head_of(size):
    return b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (size - 32) + b"\r\n\r\n"


def test_head_up_to_its_limit():
    octets = head_of(200)
    assert len(octets) == 200
    for cut in (lambda octets: [octets], one_by_one):
        assert len(Peer(max_head_size=200).receive(*cut(octets))) == 1


def test_head_beyond_its_limit():
    """Also where all of it has come at once."""
    for cut in (lambda octets: [octets], one_by_one):
        with pytest.raises(RemoteProtocolError) as caught:
            Peer(max_head_size=200).receive(*cut(head_of(201)))
        assert caught.value.status_hint == 431


@pytest.mark.parametrize("cut", [lambda octets: [octets], one_by_one], ids=["whole", "one by one"])
def test_a_long_method_leaves_the_target_its_length(cut):
    """The verdict on a long request line must not hang on how it was cut."""
    octets = b"%b /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"A" * 100, b"a" * 1023)
    verdicts = set()
    for pieces in ([octets], one_by_one(octets), cut(octets)):
        try:
            Peer().receive(*pieces)
            verdicts.add("accepted")
        except RemoteProtocolError as error:
            verdicts.add(error.status_hint)
    assert len(verdicts) == 1


# ---- chunked bodies that are refused


def test_broken_chunks_are_refused(peer):
    peer.receive(CHUNKED_HEAD)
    with pytest.raises(RemoteProtocolError):
        peer.receive(b"x\r\n")


@pytest.mark.parametrize("cut", [lambda octets: [octets], one_by_one], ids=["whole", "one by one"])
def test_a_chunked_body_beyond_the_limit(cut):
    peer = Peer(max_body_size=5)
    peer.receive(CHUNKED_HEAD)
    with pytest.raises(RemoteProtocolError) as caught:
        peer.receive(*cut(b"6\r\nhello!\r\n0\r\n\r\n"))
    assert caught.value.status_hint == 413


def test_a_chunked_body_up_to_the_limit():
    peer = Peer(max_body_size=5)
    for _ in range(3):  # counted for each request
        assert body(peer.receive(CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n")) == b"hello"
        peer.answer(b"ok")


# ---- one request at a time                                             RFC 9112 §9.3.2


def test_the_second_request_waits_for_the_first_response(peer):
    """A pipelined request is not announced until the response before it has ended."""
    assert targets(peer.receive(GET_A + GET_B)) == [b"/a"]
    assert peer.connection.held == len(GET_B)
    assert targets(peer.answer(b"one")) == [b"/b"]
    assert peer.connection.held == 0
    peer.answer(b"two")
    assert [answer.body for answer in read_responses(peer.sent(), "GET", "GET")] == [b"one", b"two"]


def test_a_request_that_comes_meanwhile_is_held(peer):
    peer.receive(GET_A)
    assert peer.receive(GET_B[:5], GET_B[5:], GET_C) == []
    assert peer.connection.held == len(GET_B + GET_C)
    assert targets(peer.answer(b"one")) == [b"/b"]
    assert peer.connection.held == len(GET_C)
    assert targets(peer.answer(b"two")) == [b"/c"]


def test_half_a_request_that_was_held_goes_on_when_the_rest_comes(peer):
    peer.receive(GET_A + GET_B[:9])
    assert peer.answer(b"one") == []
    assert not peer.connection.is_idle()
    assert targets(peer.receive(GET_B[9:])) == [b"/b"]


def test_a_body_behind_a_held_head_is_read_with_it(peer):
    peer.receive(GET_A + post(b"hello") + GET_B)
    assert body(peer.answer(b"one")) == b"hello"
    assert targets(peer.answer(b"two")) == [b"/b"]


def test_a_chunked_body_is_followed_by_the_next_request(peer):
    assert body(peer.receive(CHUNKED_HEAD + b"1\r\nx\r\n0\r\n\r\n" + GET_B)) == b"x"
    assert targets(peer.answer(b"ok")) == [b"/b"]


def test_a_held_request_that_is_wrong_is_refused_in_its_turn(peer):
    """The response before it is not harmed."""
    peer.receive(GET_A + b"GET / HTTP/3.0\r\n\r\n")
    connection = peer.connection
    connection.send_headers(1, 200, [])
    connection.send_data(1, b"one", True)
    with pytest.raises(RemoteProtocolError) as caught:
        connection.events_received()
    connection.refuse(caught.value)
    first, second = read_responses(peer.sent(), "GET", "GET")
    assert (first.status, second.status) == (200, 505)


def test_events_are_given_once(peer):
    peer.receive(GET_A)
    assert peer.connection.events_received() == []


def test_events_that_were_taken_are_the_takers(peer):
    """A list that was handed out, empty or not, does not grow later; what is done to it goes unnoticed."""
    connection = peer.connection
    none = connection.events_received()
    taken = connection.receive_data(GET_A)
    assert (none, len(taken)) == ([], 1)
    taken.clear()
    none.append(None)
    assert connection.events_received() == []


# ---- one header section after the other

SECTION = b"Host: a\r\nX: y\r\n\r\n"
FIELDS = [(b"host", b"a"), (b"x", b"y")]


def test_the_same_section_again_is_the_same_fields_again(peer):
    """A client repeats itself, and is told apart by the stream alone."""
    for number in range(1, 4):
        (request,) = peer.receive(b"GET / HTTP/1.1\r\n" + SECTION)
        assert (request.stream_id, request.headers) == (number, FIELDS)
        peer.answer(b"ok")


def test_the_same_section_under_another_request_line(peer):
    """Target and version are judged with it each time."""
    (first,) = peer.receive(b"GET http://b/ HTTP/1.1\r\n" + SECTION)
    assert first.headers == [(b"host", b"b"), (b"x", b"y")]
    peer.answer(b"ok")
    (second,) = peer.receive(b"HEAD /c?d HTTP/1.1\r\n" + SECTION)
    assert (second.method, second.raw_path, second.query_string) == ("HEAD", b"/c", b"d")
    assert second.headers == FIELDS
    peer.answer(b"")
    assert peer.closing() == KEPT
    (third,) = peer.receive(b"GET / HTTP/1.0\r\n" + SECTION)
    assert (third.http_version, third.headers) == ("1.0", FIELDS)
    peer.answer(b"ok")
    assert peer.closing() == CLOSED


def test_another_section_is_another_request(peer):
    """Sections that differ in an octet."""
    for value in (b"y", b"z", b"y", b"Y"):
        (request,) = peer.receive(b"GET / HTTP/1.1\r\n" + SECTION.replace(b"y", value))
        assert request.headers == [(b"host", b"a"), (b"x", value)]
        peer.answer(b"ok")


REPEATED = [  # requests that say something about their bodies or the connection, twice in a row
    post(b"hello"),
    CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n",
    post(b"hello", None, b"Expect: 100-continue"),
    post(b"hello", None, b"Connection: keep-alive"),
]


@pytest.mark.parametrize("request_", REPEATED)
def test_a_body_follows_the_same_section_each_time(peer, request_):
    for _ in range(3):
        assert body(peer.receive(request_)) == b"hello"
        peer.answer(b"ok")
        assert peer.closing() == KEPT


def test_connections_that_share_a_tokenizer_do_not_meet():
    """What one client says, right or wrong, changes nothing for the next."""
    tokenizer = FieldTokenizer()
    wrong = [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        UPGRADE,
        CHUNKED_HEAD,
        post(b"", 1000),
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    ]
    for octets in wrong:
        with suppress(RemoteProtocolError):
            connection(tokenizer=tokenizer).receive_data(octets)
        other = connection(tokenizer=tokenizer)
        (request,) = other.receive_data(b"GET / HTTP/1.1\r\n" + SECTION)
        assert request.headers == FIELDS


# ---- keep-alive and close


def test_a_connection_is_kept(peer):
    for _ in range(3):
        assert targets(peer.receive(GET_A)) == [b"/a"]
        peer.answer(b"ok")
        assert peer.closing() == KEPT
        assert peer.connection.is_idle()
    assert len(read_responses(peer.sent(), "GET", "GET", "GET")) == 3


CLOSES = [  # request, fields of the response, pieces -> Connection, closing
    (GET_A, [], [b"ok"], [], KEPT),
    (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [], [b"ok"], [b"close"], CLOSED),
    (GET_A, [(b"connection", b"close")], [b"ok"], [b"close"], CLOSED),
    (OLD_GET, [], [b"ok"], [b"close"], CLOSED),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [], [b"ok"], [b"keep-alive"], KEPT),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [], [b"o", b"k"], [b"close"], CLOSED),
    # a pipelined request is in the socket: its sender must get to read the answer before a reset
    (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET_B,
        [],
        [b"ok"],
        [b"close"],
        CLOSED_LINGERING,
    ),
    (GET_A + GET_B, [(b"connection", b"close")], [b"ok"], [b"close"], CLOSED_LINGERING),
]


@pytest.mark.parametrize(("request_", "headers", "pieces", "said", "closing"), CLOSES)
def test_who_ends_the_connection(peer, request_, headers, pieces, said, closing):
    """RFC 9112 §9.3, §9.6: what the response says is what happens."""
    peer.receive(request_)
    peer.answer(*pieces, headers=headers)
    assert peer.closing() == closing
    answer, _ = read_response(peer.sent())
    assert (answer.values(b"connection"), answer.body) == (said, b"".join(pieces))


def test_nothing_is_read_after_the_last_response(peer):
    peer.receive(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    peer.answer(b"ok")
    assert peer.receive(GET_B, b"\0\0\0") == []
    assert not peer.connection.is_idle()


# ---- bodies that the application did not read                          RFC 9112 §9.3, §9.6


def test_the_rest_of_a_small_body_is_dropped(peer):
    """What the application left unread does not become the next request."""
    peer.receive(post(b"GET ", 20))
    assert peer.answer(b"early") == []
    assert peer.closing() == KEPT
    assert not peer.connection.reads_body
    assert peer.receive(b"x" * 10) == []
    assert targets(peer.receive(b"y" * 6 + GET_B)) == [b"/b"]


def test_what_follows_a_dropped_body_is_read_at_once(peer):
    peer.receive(post(b"", 5))
    peer.answer(b"early")
    peer.receive(b"hello")
    assert peer.connection.is_idle()
    assert targets(peer.receive(GET_B)) == [b"/b"]


UNREAD = [  # request, closing
    (post(b"", MAX_DISCARD), KEPT),
    (post(b"", MAX_DISCARD + 1), CLOSED_LINGERING),
    (post(b"x", MAX_DISCARD + 1), KEPT),
    (CHUNKED_HEAD, CLOSED_LINGERING),
    (CHUNKED_HEAD + b"5\r\nhello\r\n", CLOSED_LINGERING),
    (CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n", KEPT),
    (post(b"", 5, b"Expect: 100-continue"), CLOSED_LINGERING),
]


@pytest.mark.parametrize(("request_", "closing"), UNREAD)
def test_how_much_is_read_for_a_connections_sake(peer, request_, closing):
    """The head of the response says it before the fact."""
    peer.receive(request_)
    peer.answer(b"early")
    assert peer.closing() == closing
    answer, _ = read_response(peer.sent())
    assert answer.values(b"connection") == ([b"close"] if closing[0] else [])


def test_a_response_that_outlasts_the_body_keeps_the_connection(peer):
    """Begun with a little of the body to come, ended when all of it has."""
    peer.receive(post(b"", 5))
    peer.connection.send_headers(1, 200, [])
    peer.connection.send_data(1, b"a")
    assert body(peer.receive(b"hello")) == b"hello"
    peer.connection.send_data(1, b"b", True)
    assert peer.closing() == KEPT
    assert targets(peer.receive(GET_B)) == [b"/b"]


# ---- the client has closed


def test_eof_between_requests(peer):
    peer.receive(GET_A)
    peer.answer(b"ok")
    assert peer.eof() == []
    assert peer.closing() == CLOSED


def test_eof_at_once(peer):
    assert peer.eof() == []
    assert peer.closing() == CLOSED


def test_eof_within_a_head(peer):
    peer.receive(b"GET /")
    with pytest.raises(RemoteProtocolError, match="within a request head"):
        peer.eof()


@pytest.mark.parametrize("request_", [post(b"hel", 5), CHUNKED_HEAD + b"5\r\nhel", CHUNKED_HEAD])
def test_eof_within_a_body(peer, request_):
    """The application must not take the part for the whole (CWE-444 among others)."""
    peer.receive(request_)
    (event,) = peer.eof()
    assert isinstance(event, StreamReset)
    assert event.stream_id == 1
    assert peer.closing() == CLOSED
    assert not any(getattr(event, "end_stream", False) for event in peer.events)


def test_eof_within_the_body_of_a_request_that_waited(peer):
    """Said again once that request has begun, the end tells that its body is cut."""
    peer.receive(GET_A + post(b"hel", 5))
    assert peer.eof() == []
    peer.answer(b"ok")
    assert peer.connection.client_ended
    assert not peer.connection.should_close
    peer.connection.events_received()
    (event,) = peer.eof()
    assert isinstance(event, StreamReset)
    assert event.stream_id == 2


def test_eof_while_a_response_is_due(peer):
    """A client may close its half when it has asked all (RFC 9112 §9.6): the answer still goes out."""
    peer.receive(GET_A)
    assert peer.eof() == []
    assert not peer.connection.should_close
    peer.answer(b"ok")
    (answer,) = read_responses(peer.sent(), "GET")
    assert (answer.body, answer.values(b"connection")) == (b"ok", [b"close"])
    assert peer.connection.should_close


def test_eof_while_a_response_is_on_its_way(peer):
    """Its head said keep-alive, which the client then made untrue."""
    peer.receive(GET_A)
    peer.connection.send_headers(1, 200, [])
    peer.connection.send_data(1, b"a")
    peer.eof()
    peer.connection.send_data(1, b"b", True)
    assert peer.connection.should_close


def test_eof_while_a_body_is_dropped(peer):
    peer.receive(post(b"", 5))
    peer.answer(b"early")
    assert peer.eof() == []
    assert peer.closing() == CLOSED


def test_eof_after_an_upgrade(peer):
    peer.receive(UPGRADE)
    peer.connection.switch_protocols(1, [])
    assert peer.eof() == []
    assert peer.closing() == CLOSED
    assert peer.receive(b"more") == []


def test_eof_after_the_end(peer):
    peer.receive(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    peer.answer(b"ok")
    assert peer.eof() == []
    assert peer.closing() == CLOSED


# ---- Expect: 100-continue                                              RFC 9110 §10.1.1


def test_a_client_that_waits_for_100(peer):
    (request,) = peer.receive(post(b"", 5, b"Expect: 100-continue"))
    assert not request.end_stream
    assert peer.connection.expects_continue
    peer.connection.send_informational(1, 100, [])
    assert not peer.connection.expects_continue
    assert peer.sent() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.receive(b"hello") == [DataReceived(1, b"hello", True)]
    peer.answer(b"ok")
    assert peer.closing() == KEPT


@pytest.mark.parametrize(
    ("head", "octets"),
    [
        (post(b"", 5, b"Expect: 100-continue"), b"h"),
        (CHUNKED_HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), b"1\r\n"),
    ],
)
def test_a_client_that_did_not_wait_is_sent_no_100(peer, head, octets):
    """ "MAY omit sending a 100 response if it has already received some or all of the content"."""
    peer.receive(head)
    assert peer.connection.expects_continue
    peer.receive(octets)
    assert not peer.connection.expects_continue


def test_other_informational_responses_leave_the_expectation(peer):
    peer.receive(post(b"", 5, b"Expect: 100-continue"))
    peer.connection.send_informational(1, 103, [(b"link", b"</a>")])
    assert peer.connection.expects_continue


def test_an_expectation_is_over_with_its_request(peer):
    peer.receive(post(b"", 5, b"Expect: 100-continue"), b"hello")
    peer.answer(b"ok")
    peer.receive(GET_B)
    assert not peer.connection.expects_continue


# ---- responses


def test_what_waits_to_be_sent_is_counted(peer):
    """The socket's keeper measures backpressure with it."""
    peer.receive(GET_A)
    peer.answer(b"hello")
    buffered = peer.connection.buffered
    assert sum(map(len, peer.connection.data_to_send())) == buffered
    assert (peer.connection.buffered, peer.connection.data_to_send()) == (0, [])


def test_a_large_body_is_not_copied(peer):
    """The socket can gather: the application's own bytes object goes through."""
    peer.receive(GET_A)
    large = b"x" * 1_000_000
    peer.answer(large)
    assert any(piece is large for piece in peer.connection.data_to_send())


def test_what_has_been_sent_is_told(peer):
    peer.receive(GET_A)
    connection = peer.connection
    connection.send_headers(1, 200, [])
    assert (connection.response_started, connection.body_sent) == (False, 0)
    connection.send_data(1, b"hello")
    assert (connection.response_started, connection.body_sent) == (True, 5)
    connection.send_data(1, b"!", True)
    assert connection.body_sent == 6
    peer.receive(GET_B)
    assert (connection.response_started, connection.body_sent) == (False, 0)


def test_a_head_can_be_withdrawn_until_it_is_sent(peer):
    peer.receive(GET_A)
    connection = peer.connection
    connection.send_headers(1, 200, [])
    assert connection.withdraw_headers(1)
    connection.send_headers(1, 500, [])
    connection.send_data(1, b"sorry", True)
    (answer,) = read_responses(peer.sent(), "GET")
    assert answer.status == 500
    peer.receive(GET_B)
    connection.send_headers(2, 200, [])
    connection.data_to_send()
    assert not connection.withdraw_headers(2)


def test_an_invalid_response_leaves_the_stream_open(peer):
    """Before anything of it is on its way; another one may be tried."""
    peer.receive(GET_A)
    connection = peer.connection
    with pytest.raises(InvalidMessage):
        connection.send_headers(1, 200, [(b"x", b"a\r\nb: c")])
    connection.send_headers(1, 200, [(b"content-length", b"1")])
    with pytest.raises(InvalidMessage):
        connection.send_data(1, b"too long", True)
    assert connection.withdraw_headers(1)
    assert peer.answer(b"sorry", status=500) == []
    (answer,) = read_responses(peer.sent(), "GET")
    assert (answer.status, answer.body) == (500, b"sorry")
    assert peer.closing() == KEPT


def test_head_has_no_body(peer):
    peer.receive(GET_A.replace(b"GET", b"HEAD"))
    peer.answer(b"hello")
    peer.receive(GET_B)
    peer.answer(b"two")
    first, second = read_responses(peer.sent(), "HEAD", "GET")
    assert (first.body, second.body) == (b"", b"two")


def test_trailers_end_a_stream(peer):
    peer.receive(b"GET /a HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n" + GET_B)
    connection = peer.connection
    connection.send_headers(1, 200, [])
    connection.send_data(1, b"hello")
    connection.send_trailers(1, [(b"x-sum", b"1")])
    assert targets(connection.events_received()) == [b"/b"]
    (answer,) = read_responses(peer.sent(), "GET")
    assert (answer.body, answer.trailers) == (b"hello", [(b"x-sum", b"1")])


def test_bad_trailers_leave_the_stream_open(peer):
    peer.receive(GET_A + GET_B)
    connection = peer.connection
    connection.send_headers(1, 200, [])
    connection.send_data(1, b"hello")
    with pytest.raises(InvalidMessage):
        connection.send_trailers(1, [(b"content-length", b"1")])
    assert connection.events_received() == []


# ---- upgrade


def test_an_upgrade_turns_the_connection_into_a_tunnel(peer):
    """From the 101 on, octets go through in both directions. RFC 9110 §7.8."""
    (request,) = peer.receive(UPGRADE)
    assert (request.upgrade, request.end_stream) == (True, True)
    connection = peer.connection
    connection.switch_protocols(1, [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")])
    answer, rest = read_response(peer.sent())
    assert (answer.status, rest) == (101, b"")
    assert peer.receive(b"\x81\x80", GET_B) == [
        DataReceived(1, b"\x81\x80", False),
        DataReceived(1, GET_B, False),
    ]
    connection.send_data(1, b"\x81\x00")
    assert peer.sent() == b"\x81\x00"
    assert not connection.should_close


def test_octets_behind_an_upgrade_wait_for_the_101(peer):
    """They are the next request, or frames: only the answer tells."""
    assert len(peer.receive(UPGRADE + b"frames")) == 1
    assert peer.connection.held == 6
    peer.connection.switch_protocols(1, [])
    assert peer.connection.events_received() == [DataReceived(1, b"frames", False)]
    assert peer.connection.held == 0


def test_an_upgrade_that_is_denied_goes_on_as_http(peer):
    peer.receive(UPGRADE + GET_B)
    assert targets(peer.answer(b"no", status=403)) == [b"/b"]


def test_an_upgrade_with_bad_fields_is_not_done(peer):
    peer.receive(UPGRADE)
    with pytest.raises(InvalidMessage):
        peer.connection.switch_protocols(1, [(b"x", b"a\nb")])
    peer.answer(b"sorry", status=500)
    (answer,) = read_responses(peer.sent(), "GET")
    assert answer.status == 500


# ---- refuse


def refuse(peer, *pieces):
    with pytest.raises(RemoteProtocolError) as caught:
        peer.receive(*pieces)
    peer.connection.refuse(caught.value)
    return caught.value


REFUSALS = [  # octets, status
    (b"GET / HTTP/3.0\r\n\r\n", 505),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"HEAD / HTTP/1.1\r\n\r\n", 400),
    (CHUNKED_HEAD + b"x", 400),
]


@pytest.mark.parametrize(("octets", "status"), REFUSALS)
def test_a_refusal_is_a_whole_response_and_the_last(peer, octets, status):
    error = refuse(peer, octets)
    assert peer.closing() == CLOSED_LINGERING
    (answer,) = read_responses(peer.sent(), "GET")
    assert (answer.status, answer.framing) == (status, "length")
    assert answer.values(b"connection") == [b"close"]
    assert answer.body == error.reason.encode() + b"\n"
    assert peer.receive(GET_A) == []
    assert peer.closing() == CLOSED_LINGERING


def test_a_refusal_replaces_a_head_that_is_held(peer):
    """The body turned out to be broken before anything of the response was sent."""
    peer.receive(CHUNKED_HEAD)
    peer.connection.send_headers(1, 200, [(b"x", b"y")])
    refuse(peer, b"x\r\n")
    (answer,) = read_responses(peer.sent(), "GET")
    assert (answer.status, answer.values(b"x")) == (400, [])


def test_a_refusal_of_words_that_are_not_ascii(peer):
    """A reason may quote the peer."""
    peer.connection.refuse(RemoteProtocolError("naïve"))
    (answer,) = read_responses(peer.sent(), "GET")
    assert answer.body == b"na?ve\n"


def test_a_refusal_drops_events_not_taken(peer):
    """Whoever refused does not start an application for what came before."""
    with pytest.raises(RemoteProtocolError) as caught:
        peer.connection.receive_data(CHUNKED_HEAD + b"x")
    peer.connection.refuse(caught.value)
    assert peer.connection.events_received() == []


def test_a_refusal_after_an_http_1_0_request(peer):
    """The kind of the request before does not stick."""
    peer.receive(b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    peer.answer(b"")
    peer.sent()
    refuse(peer, b"\0")
    (answer,) = read_responses(peer.sent(), "GET")
    assert answer.framing == "length"


# ---- drain


def test_an_idle_connection_is_over_at_once(peer):
    peer.connection.stop_keeping_alive()
    assert peer.closing() == CLOSED
    assert peer.receive(GET_A) == []


@pytest.mark.parametrize("before", [b"", GET_A[:9]])
def test_the_response_in_course_is_the_last(peer, before):
    peer.receive(before)
    if not before:
        peer.receive(GET_A)
    peer.connection.stop_keeping_alive()
    assert not peer.connection.should_close
    peer.receive(GET_A[9:] if before else b"")
    peer.answer(b"ok")
    (answer,) = read_responses(peer.sent(), "GET")
    assert answer.values(b"connection") == [b"close"]
    assert peer.connection.should_close


def test_a_response_that_said_keep_alive_is_the_last_all_the_same(peer):
    peer.receive(GET_A)
    peer.connection.send_headers(1, 200, [])
    peer.connection.send_data(1, b"a")
    peer.connection.stop_keeping_alive()
    peer.connection.send_data(1, b"b", True)
    assert peer.connection.should_close


def test_a_body_that_is_dropped_is_not_waited_for_when_draining(peer):
    """The answer is out; when the rest of the body has come, the connection is as good as idle."""
    peer.receive(post(b"", 5))
    peer.answer(b"early")
    peer.connection.stop_keeping_alive()
    peer.receive(b"hello")
    assert peer.connection.should_close


# ---- any split

FIELD = st.sampled_from(
    [b"X: y", b"X-Long: " + b"z" * 30, b"Connection: keep-alive", b"TE: trailers", b"a_b: c"]
)
HEADS = st.tuples(
    st.sampled_from([b"GET", b"POST", b"HEAD"]),
    st.sampled_from([b"/", b"/a?b", b"http://y/c"]),
    st.lists(FIELD, max_size=3),
)
CONTENT = st.binary(max_size=30)
BODY = st.one_of(
    st.just(("none", b"")),
    st.tuples(st.just("length"), CONTENT),
    st.tuples(st.just("chunked"), st.lists(CONTENT.filter(bool), max_size=3)),
)


def octets_of(head, request_body):
    method, target, fields = head
    kind, content = request_body
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: x", *fields]
    if kind == "length":
        lines.append(b"Content-Length: %d" % len(content))
    elif kind == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        content = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in content) + b"0\r\n\r\n"
    return b"\r\n".join([*lines, b"", content])


def conversation(pieces, **changes):
    """
    What an application sees that answers each request when it is complete: a list of
    (method, path, query, headers, body), and the status of the refusal that ended it, or None.
    """
    peer = Peer(**changes)
    seen, status = [], None
    fresh = []
    try:
        for piece in pieces:
            fresh += peer.receive(piece)
            while fresh and (fresh[-1].end_stream or peer.connection.should_close):
                head = fresh[0]
                seen.append((head.method, head.raw_path, head.query_string, head.headers, body(fresh)))
                fresh = list(peer.answer(b"ok"))
    except RemoteProtocolError as error:
        status = error.status_hint
    return seen, status


@settings(max_examples=300)
@given(st.lists(st.tuples(HEADS, BODY), max_size=4), st.data())
def test_any_split_of_requests_gives_the_same_events(requests, data):
    """Pipelined, with bodies of both kinds: the socket's pieces do not show."""
    octets = b"".join(octets_of(*request) for request in requests)
    pieces = split(octets, data.draw(cuts_of(len(octets))))
    whole = conversation([octets])
    assert conversation(pieces) == whole
    assert whole[1] is None
    contents = [b"".join(content) if kind == "chunked" else content for _, (kind, content) in requests]
    assert [content for *_, content in whole[0]] == contents


FRAGMENTS = st.one_of(
    st.sampled_from([GET_A, post(b"hello"), CHUNKED_HEAD, b"5\r\nhello\r\n0\r\n\r\n", OLD_GET]),
    st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"Host: x", b":", b"x" * 50, b"Content-Length: 3\r\n"]),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"\0", b"\r\n\r\n", b"\xff"]),
)


@settings(max_examples=500)
@given(st.lists(FRAGMENTS, max_size=8).map(b"".join), st.data())
def test_any_split_of_anything_gives_the_same_requests(octets, data):
    """
    Of octets that may be no requests at all: the same requests are complete, and a refusal is one in all
    ways of cutting. Its status may differ where a head is wrong in two ways.
    """
    changes = {"max_head_size": 150, "max_target_length": 60, "max_body_size": 20}
    pieces = split(octets, data.draw(cuts_of(len(octets))))
    seen, status = conversation(pieces, **changes)
    seen_whole, status_whole = conversation([octets], **changes)
    assert (seen, status is None) == (seen_whole, status_whole is None)
