"""Responses: how each is framed, what is held back, and what never reaches the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import InvalidMessage
from tests.http.wire import DATE, connection, read_response, read_responses

TEXT = (b"content-type", b"text/plain")


class Writer:
    """A connection that has received a request and owes the response."""

    def __init__(self, method="GET", version="1.1", trailers=False, server_name="us"):
        self.connection = connection(server_name)
        self.expect(method, version, trailers)

    def expect(self, method="GET", version="1.1", trailers=False):
        """The next response answers a request of this kind, which would keep the connection."""
        lines = [f"{method} / HTTP/{version}", "Host: x"]
        lines += ["TE: trailers"] if trailers else []
        lines += ["Connection: keep-alive"] if version == "1.0" else []
        (request,) = self.connection.receive_data("\r\n".join([*lines, "", ""]).encode())
        self.stream_id = request.stream_id

    def begin(self, status, headers, *, close=False):
        if close:
            self.connection.stop_keeping_alive()
        self.connection.send_headers(self.stream_id, status, headers)

    def body(self, data, end):
        self.connection.send_data(self.stream_id, data, end)

    def trailers(self, headers):
        self.connection.send_trailers(self.stream_id, headers)

    def informational(self, status, headers):
        self.connection.send_informational(self.stream_id, status, headers)

    def switch_protocols(self, headers):
        self.connection.switch_protocols(self.stream_id, headers)

    def withdraw(self):
        return self.connection.withdraw_headers(self.stream_id)

    def take(self):
        return self.connection.data_to_send()

    @property
    def started(self):
        return self.connection.response_started

    @property
    def buffered(self):
        return self.connection.buffered

    @property
    def body_sent(self):
        return self.connection.body_sent

    @property
    def keep_alive(self):
        """Once the response is complete."""
        return not self.connection.should_close


def taken(response):
    return b"".join(response.take())


def test_there_is_something_to_send_or_not():
    """A head that is held counts: it goes out when it is asked for."""
    response = Writer()
    assert not response.connection.has_data_to_send
    response.begin(200, [])
    assert response.connection.has_data_to_send
    response.take()
    assert not response.connection.has_data_to_send
    response.body(b"x", False)
    assert response.connection.has_data_to_send


def written(pieces, *, method="GET", version="1.1", status=200, headers=(), close=False):
    """The octets of a whole response whose body comes in *pieces*."""
    response = Writer(method, version)
    response.begin(status, list(headers), close=close)
    for piece in pieces[:-1]:
        response.body(piece, False)
    response.body(pieces[-1], True)
    return taken(response), response.keep_alive


def length(value):
    return (b"content-length", value)


# ---- framing

FRAMING = [  # method, version, status, fields, pieces -> framing, content-length, body      RFC 9112 §6.3
    ("GET", "1.1", 200, [], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [], [b""], "length", b"0", b""),
    ("GET", "1.1", 200, [], [b"a", b"b"], "chunked", None, b"ab"),
    ("GET", "1.1", 200, [], [b"", b""], "chunked", None, b""),
    ("GET", "1.1", 200, [], [b"a", b""], "chunked", None, b"a"),
    ("GET", "1.1", 200, [], [b"", b"a", b"", b"b", b""], "chunked", None, b"ab"),
    ("GET", "1.1", 200, [length(b"5")], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [length(b"5")], [b"he", b"", b"llo"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [length(b"0")], [b""], "length", b"0", b""),
    ("GET", "1.1", 200, [length(b"005")], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [length(b"5"), length(b"5")], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [(b"Transfer-Encoding", b"chunked")], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.1", 200, [(b"transfer-encoding", b"gzip")], [b"a", b"b"], "chunked", None, b"ab"),
    ("GET", "1.1", 200, [(b"transfer-encoding", b"chunked"), length(b"1")], [b"a"], "length", b"1", b"a"),
    ("GET", "1.1", 404, [], [b"no"], "length", b"2", b"no"),
    ("GET", "1.1", 599, [], [b"no"], "length", b"2", b"no"),
    ("POST", "1.1", 200, [], [b"a", b"b"], "chunked", None, b"ab"),
    ("GET", "1.0", 200, [], [b"hello"], "length", b"5", b"hello"),
    ("GET", "1.0", 200, [], [b"a", b"b"], "close", None, b"ab"),
    ("GET", "1.0", 200, [length(b"2")], [b"a", b"b"], "length", b"2", b"ab"),
    # no body, whatever the application says: RFC 9110 §9.3.2, §15.3.5, §15.3.6, §15.4.5
    ("HEAD", "1.1", 200, [], [b"hello"], "none", None, b""),
    ("HEAD", "1.1", 200, [], [b"a", b"b"], "none", None, b""),
    ("HEAD", "1.1", 200, [length(b"5")], [b""], "none", b"5", b""),
    ("HEAD", "1.1", 200, [length(b"5")], [b"hello"], "none", b"5", b""),
    ("HEAD", "1.0", 200, [], [b"a", b"b"], "none", None, b""),
    ("GET", "1.1", 204, [], [b""], "none", None, b""),
    ("GET", "1.1", 204, [], [b"hello"], "none", None, b""),
    ("GET", "1.1", 204, [length(b"5")], [b"hello"], "none", None, b""),  # "MUST NOT": RFC 9110 §8.6
    ("GET", "1.1", 205, [], [b"hello"], "length", b"0", b""),
    ("GET", "1.1", 205, [length(b"5")], [b"hello"], "length", b"0", b""),
    ("GET", "1.1", 304, [], [b"hello"], "none", None, b""),
    ("GET", "1.1", 304, [length(b"5")], [b""], "none", b"5", b""),  # of the 200 it stands for
    ("HEAD", "1.1", 204, [length(b"5")], [b""], "none", None, b""),
    ("HEAD", "1.1", 205, [length(b"5")], [b""], "none", b"0", b""),  # as GET would say: RFC 9110 §9.3.2
]


@pytest.mark.parametrize(
    ("method", "version", "status", "headers", "pieces", "framing", "announced", "body"), FRAMING
)
def test_response_framing(method, version, status, headers, pieces, framing, announced, body):
    data, _ = written(pieces, method=method, version=version, status=status, headers=headers)
    (response,) = read_responses(data, method)
    assert response.status == status
    assert response.framing == framing
    assert response.values(b"content-length") == ([] if announced is None else [announced])
    assert response.body == body


STATUS_LINES = [
    (200, b"HTTP/1.1 200 OK"),
    (404, b"HTTP/1.1 404 Not Found"),
    (299, b"HTTP/1.1 299 "),  # the SP is not optional: RFC 9112 §4
    (999, b"HTTP/1.1 999 "),
]


@pytest.mark.parametrize(("status", "line"), STATUS_LINES)
def test_status_line(status, line):
    data, _ = written([b""], status=status)
    assert data.partition(b"\r\n")[0] == line


PERSISTENCE = [  # version, close, Connection field, pieces -> Connection on the wire, kept    RFC 9112 §9.3
    ("1.1", False, None, [b"x"], [], True),
    ("1.1", False, None, [b"x", b"y"], [], True),
    ("1.1", True, None, [b"x"], [b"close"], False),
    ("1.1", False, b"close", [b"x"], [b"close"], False),
    ("1.1", False, b"x, Close", [b"x"], [b"close"], False),
    ("1.1", False, b"keep-alive", [b"x"], [], True),
    ("1.1", True, b"keep-alive", [b"x"], [b"close"], False),
    ("1.1", False, b"upgrade", [b"x"], [], True),
    ("1.0", False, None, [b"x"], [b"keep-alive"], True),
    ("1.0", False, None, [b"x", b"y"], [b"close"], False),  # ends with the connection
    ("1.0", False, b"close", [b"x"], [b"close"], False),
    ("1.0", True, b"keep-alive", [b"x"], [b"close"], False),
]


@pytest.mark.parametrize(("version", "close", "field", "pieces", "expected", "keep_alive"), PERSISTENCE)
def test_persistence_is_said_and_meant(version, close, field, pieces, expected, keep_alive):
    headers = [] if field is None else [(b"Connection", field)]
    data, kept = written(pieces, version=version, headers=headers, close=close)
    (response,) = read_responses(data, "GET")
    assert (response.values(b"connection"), kept) == (expected, keep_alive)


# ---- what stands in a head


def test_fields_keep_their_order_and_spelling():
    data, _ = written(
        [b""], headers=[(b"X-B", b"1"), (b"set-cookie", b"a"), (b"Set-Cookie", b"b"), (b"x-a", b"")]
    )
    lines = data.split(b"\r\n")
    assert lines[1:5] == [b"X-B: 1", b"set-cookie: a", b"Set-Cookie: b", b"x-a: "]


IDENTITIES = [  # the application's fields -> Date, Server
    ([], [DATE], [b"us"]),
    ([(b"Server", b"them")], [DATE], [b"them"]),
    ([(b"date", b"then")], [b"then"], [b"us"]),
    ([(b"DATE", b"then"), (b"SERVER", b"them")], [b"then"], [b"them"]),
]


@pytest.mark.parametrize(("headers", "dates", "servers"), IDENTITIES)
def test_identity_stands_once(headers, dates, servers):
    """An application's Date and Server replace ours. RFC 9110 §6.6.1."""
    data, _ = written([b""], headers=headers)
    (response,) = read_responses(data, "GET")
    assert (response.values(b"date"), response.values(b"server")) == (dates, servers)


def test_identity_of_one_response_is_not_that_of_the_next():
    response = Writer()
    response.begin(200, [(b"server", b"them")], close=False)
    response.body(b"", True)
    response.expect()
    response.begin(200, [], close=False)
    response.body(b"", True)
    first, second = read_responses(taken(response), "GET", "GET")
    assert (first.values(b"server"), second.values(b"server")) == ([b"them"], [b"us"])


INVALID = [  # what, fields
    ("CR LF in a value", [(b"x", b"a\r\nset-cookie: b")]),
    ("LF in a value", [(b"x", b"a\nb: c")]),
    ("CR in a value", [(b"x", b"a\rb")]),
    ("NUL in a value", [(b"x", b"a\0")]),
    ("CR LF at its end", [(b"x", b"a\r\n")]),
    ("CR here, LF there", [(b"x", b"a\r"), (b"y", b"b\n")]),
    ("CR LF in a name", [(b"x\r\ny", b"a")]),
    ("LF at the end of a name", [(b"x\n", b"a")]),
    ("no name", [(b"", b"a")]),
    ("SP in a name", [(b"x y", b"a")]),
    ("colon in a name", [(b"x:", b"a")]),
    ("name is str", [("x", b"a")]),
    ("value is str", [(b"x", "a")]),
    ("value is None", [(b"x", None)]),
    ("value is int", [(b"x", 5)]),
    ("LF in Date", [(b"date", b"a\nb")]),
    ("LF in Server", [(b"server", b"a\nb")]),
    ("length no number", [length(b"x")]),
    ("length empty", [length(b"")]),
    ("length negative", [length(b"-1")]),
    ("length signed", [length(b"+1")]),
    ("length with blanks", [length(b" 1")]),
    ("length with a line end", [length(b"1\r\nx: y")]),
    ("length not ASCII", [length("²".encode())]),
    ("length is int", [length(5)]),
    ("length is str", [length("5")]),
    ("lengths differ", [length(b"1"), length(b"2")]),
    ("length of five thousand digits", [length(b"1" * 5000)]),
    ("connection is str", [(b"connection", "close")]),
    ("connection is None", [(b"connection", None)]),
]


@pytest.mark.parametrize(("what", "headers"), INVALID, ids=[what for what, _ in INVALID])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_invalid_head_writes_nothing(what, headers, method):
    """InvalidMessage, not a byte, and another head may be tried: CWE-113, RFC 9110 §5.5."""
    response = Writer(method)
    with pytest.raises(InvalidMessage):
        response.begin(200, [TEXT, *headers], close=False)
    assert not response.started
    assert taken(response) == b""
    response.begin(500, [], close=False)
    response.body(b"sorry", True)
    (answer,) = read_responses(taken(response), method)
    assert answer.status == 500
    assert answer.values(b"content-type") == answer.values(b"x") == []


NO_PAIRS = [[(b"x",)], [(b"x", b"y", b"z")], [b"xyz"], [5], [None]]


@pytest.mark.parametrize("headers", NO_PAIRS)
def test_what_is_no_pair_is_an_invalid_message(headers):
    response = Writer()
    with pytest.raises(InvalidMessage):
        response.begin(200, headers, close=False)
    assert taken(response) == b""


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"x", b"X-Y", b"content-length", b"date", b"connection", b"x y", b"", b"x\n"]),
        st.binary(max_size=12) | st.text("ab\r\n\0: 1", max_size=8).map(str.encode),
    ),
    max_size=6,
)


@given(FIELDS, st.sampled_from(["GET", "HEAD"]))
def test_fields_cannot_split_a_response(headers, method):
    """Whatever an application passes on from its own input: one response, with the fields it asked for."""
    response = Writer(method)
    try:
        response.begin(200, headers, close=False)
        response.body(b"", True)
    except InvalidMessage:
        return
    (answer,) = read_responses(taken(response), method)
    special = (b"content-length", b"connection", b"date", b"server")
    assert [field for field in answer.headers if field[0] not in special] == [
        (name.lower(), value) for name, value in headers if name not in special
    ]


# ---- held heads


def test_a_head_is_held_until_its_body():
    """So that a response of one piece gets its length, and one write."""
    response = Writer()
    response.begin(200, [], close=False)
    assert (response.started, response.buffered) == (False, 0)
    response.body(b"hello", True)
    assert response.started
    size = response.buffered
    data = taken(response)
    assert len(data) == size
    (answer,) = read_responses(data, "GET")
    assert answer.framing == "length"


def test_take_brings_a_held_head_along():
    """Where somebody wants the bytes now, the response is chunked."""
    response = Writer()
    response.begin(200, [TEXT], close=False)
    head = taken(response)
    assert response.started
    assert head.endswith(b"\r\n\r\n")
    response.body(b"hello", True)
    (answer,) = read_responses(head + taken(response), "GET")
    assert (answer.framing, answer.body) == ("chunked", b"hello")


@pytest.mark.parametrize("headers", [[], [length(b"5")]])
def test_a_held_head_can_be_withdrawn(headers):
    """An application that fails between start and body gets a clean 500."""
    response = Writer()
    response.begin(200, [TEXT, *headers], close=False)
    assert response.withdraw()
    assert taken(response) == b""
    response.begin(500, [], close=True)
    response.body(b"sorry", True)
    (answer,) = read_responses(taken(response), "GET")
    assert (answer.status, answer.body, answer.values(b"content-type")) == (500, b"sorry", [])


def test_nothing_begun_can_be_begun():
    assert Writer().withdraw()


@pytest.mark.parametrize("body", [None, b"h"])
def test_a_head_on_its_way_cannot_be_withdrawn(body):
    response = Writer()
    response.begin(200, [], close=False)
    if body is None:
        response.take()
    else:
        response.body(body, False)
    assert not response.withdraw()


def test_take_empties_the_buffer():
    response = Writer()
    response.begin(200, [], close=False)
    response.body(b"hello", True)
    assert taken(response)
    assert (response.buffered, response.take()) == (0, [])


# ---- the body

WRONG = [  # announced, pieces before, last piece, ends, words
    (b"5", [], b"hello!", False, "longer"),
    (b"5", [], b"hello!", True, "longer"),
    (b"5", [], b"hell", True, "shorter"),
    (b"5", [], b"", True, "shorter"),
    (b"5", [b"hel"], b"lo!", False, "longer"),
    (b"5", [b"hel"], b"", True, "shorter"),
    (b"5", [b"hello"], b"!", False, "longer"),
    (b"0", [], b"!", False, "longer"),
]


@pytest.mark.parametrize(("announced", "before", "last", "end", "how"), WRONG)
def test_a_wrong_length_writes_nothing(announced, before, last, end, how):
    """RFC 9112 §6.3: a longer body would be read as the next response."""
    response = Writer()
    response.begin(200, [length(announced)], close=False)
    for piece in before:
        response.body(piece, False)
    buffered, sent = response.buffered, response.body_sent
    with pytest.raises(InvalidMessage, match=f"{how} than its Content-Length of {announced.decode()}"):
        response.body(last, end)
    assert (response.buffered, response.body_sent) == (buffered, sent)
    assert response.withdraw() is (not before)


BODIES_SENT = [  # method, fields, pieces -> octets of content written
    ("GET", [], [b"hello"], 5),
    ("GET", [], [b"he", b"llo"], 5),
    ("GET", [length(b"5")], [b"he", b"llo"], 5),
    ("HEAD", [], [b"hello"], 0),
]


@pytest.mark.parametrize(("method", "headers", "pieces", "expected"), BODIES_SENT)
def test_body_sent_counts_content_only(method, headers, pieces, expected):
    response = Writer(method)
    response.begin(200, headers, close=False)
    for index, piece in enumerate(pieces):
        response.body(piece, index == len(pieces) - 1)
    assert response.body_sent == expected
    response.expect()
    assert response.body_sent == 0


def test_an_empty_piece_does_not_end_a_chunked_body():
    """A chunk of size 0 is the end: RFC 9112 §7.1."""
    response = Writer()
    response.begin(200, [], close=False)
    for piece in (b"a", b"", b"b"):
        response.body(piece, False)
    assert b"\r\n0\r\n" not in taken(response)


PIECES = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


@given(PIECES, st.sampled_from(["1.0", "1.1"]), st.booleans(), st.lists(st.integers(0, 6), max_size=3))
def test_any_pieces_make_the_body(pieces, version, announce, takes):
    """Whoever takes bytes in between, and however the body comes: the client reads the same content."""
    response = Writer(version=version)
    content = b"".join(pieces)
    response.begin(200, [length(b"%d" % len(content))] if announce else [], close=False)
    out = b""
    for index, piece in enumerate(pieces):
        if index in takes:
            out += taken(response)
        before = response.buffered
        response.body(piece, index == len(pieces) - 1)
        assert response.buffered >= before
    size = response.buffered
    rest = taken(response)
    assert len(rest) == size
    (answer,) = read_responses(out + rest, "GET")
    assert answer.body == content
    assert response.body_sent == len(content)
    assert response.keep_alive is (answer.values(b"connection") != [b"close"])


# ---- trailers


def chunked_with_trailers(headers, **start):
    response = Writer(**start)
    response.begin(200, [], close=False)
    response.body(b"hello", False)
    response.trailers(headers)
    return taken(response)


def test_trailers_for_who_takes_them():
    """RFC 9110 §6.5.1: TE: trailers."""
    (answer,) = read_responses(chunked_with_trailers([(b"X-Sum", b"1")], trailers=True), "GET")
    assert (answer.body, answer.trailers) == (b"hello", [(b"x-sum", b"1")])


def test_trailers_are_left_out_for_others():
    (answer,) = read_responses(chunked_with_trailers([(b"x-sum", b"1")], trailers=False), "GET")
    assert (answer.body, answer.trailers) == (b"hello", [])


def test_trailers_on_http_1_0_end_nothing():
    """There the connection ends the body."""
    (answer,) = read_responses(chunked_with_trailers([(b"x-sum", b"1")], version="1.0", trailers=True), "GET")
    assert (answer.framing, answer.body) == ("close", b"hello")


def test_trailers_where_there_is_no_body():
    (answer,) = read_responses(
        chunked_with_trailers([(b"x-sum", b"1")], method="HEAD", trailers=True), "HEAD"
    )
    assert answer.trailers == []


def test_trailers_with_a_length():
    """Content-Length leaves no place for them; the response is complete all the same."""
    response = Writer(trailers=True)
    response.begin(200, [length(b"5")], close=False)
    response.body(b"hello", False)
    response.trailers([(b"x-sum", b"1")])
    (answer,) = read_responses(taken(response), "GET")
    assert answer.body == b"hello"


def test_trailers_after_a_body_too_short():
    response = Writer(trailers=True)
    response.begin(200, [length(b"5")], close=False)
    response.body(b"hell", False)
    with pytest.raises(InvalidMessage, match="shorter"):
        response.trailers([])


def test_trailers_right_after_the_head():
    """Nothing of a body, and yet an end: the response must not be left open."""
    response = Writer(trailers=True)
    response.begin(200, [], close=False)
    response.trailers([(b"x-sum", b"1")])
    (answer,) = read_responses(taken(response), "GET")
    assert answer.body == b""


BAD_TRAILERS = [
    [(b"content-length", b"1")],
    [(b"Transfer-Encoding", b"chunked")],
    [(b"connection", b"close")],
    [(b"x", b"a\r\nb: c")],
    [(b"x y", b"a")],
    [("x", b"a")],
    [(b"x", "a")],
    [(b"x", None)],
    *NO_PAIRS,
]


@pytest.mark.parametrize("headers", BAD_TRAILERS)
@pytest.mark.parametrize("wanted", [True, False])
def test_bad_trailers_write_nothing(headers, wanted):
    """RFC 9110 §6.5.1: what frames or routes a message cannot come behind it."""
    response = Writer(trailers=wanted)
    response.begin(200, [], close=False)
    response.body(b"hello", False)
    response.take()
    with pytest.raises(InvalidMessage):
        response.trailers(headers)
    assert taken(response) == b""


# ---- informational, 101


def test_informational_leaves_the_final_response_to_come():
    response = Writer()
    response.informational(103, [(b"link", b"</a>; rel=preload")])
    assert not response.started
    response.begin(200, [], close=False)
    response.body(b"hello", True)
    hint, answer = read_responses(taken(response), "GET", "GET")
    assert (hint.status, hint.headers) == (103, [(b"link", b"</a>; rel=preload")])
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize(
    ("status", "line"), [(100, b"HTTP/1.1 100 Continue"), (103, b"HTTP/1.1 103 Early Hints")]
)
def test_informational_is_a_head_without_identity(status, line):
    response = Writer()
    response.informational(status, [])
    assert taken(response) == line + b"\r\n\r\n"


def test_informational_is_spared_to_http_1_0():
    """RFC 9110 §15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client"."""
    response = Writer(version="1.0")
    response.informational(103, [])
    assert taken(response) == b""


@pytest.mark.parametrize(
    "headers", [[(b"x", b"a\nb")], [("x", b"a")], [(b"x", "a")], [(b"x y", b"a")], *NO_PAIRS]
)
def test_bad_informational_writes_nothing(headers):
    response = Writer()
    with pytest.raises(InvalidMessage):
        response.informational(103, headers)
    assert taken(response) == b""


def test_switching_protocols():
    response = Writer()
    response.switch_protocols([(b"upgrade", b"websocket"), (b"connection", b"Upgrade")])
    assert response.started
    answer, rest = read_response(taken(response))
    assert rest == b""
    assert answer.status == 101
    assert answer.headers[:2] == [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    assert (answer.values(b"date"), answer.values(b"server")) == ([DATE], [b"us"])
    assert answer.values(b"content-length") == answer.values(b"transfer-encoding") == []


def test_what_follows_101_goes_through_as_it_is():
    response = Writer()
    response.switch_protocols([(b"upgrade", b"websocket")])
    response.take()
    response.body(b"\x81\x00", False)
    assert taken(response) == b"\x81\x00"


def test_bad_fields_of_101_write_nothing():
    response = Writer()
    with pytest.raises(InvalidMessage):
        response.switch_protocols([(b"x", b"a\r\nb: c")])
    assert not response.started
    assert taken(response) == b""
