"""An HTTP request as an ASGI conversation: what an application may say, and what its client sees of it."""

import asyncio
import gc
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from daphne_like.testing.wire import Wire
from tests.asgi.conversation import (
    GET,
    Puppet,
    message,
    request,
    response,
    responses,
    sentences,
    serving,
)
from tests.asgi.hosting import window

pytestmark = pytest.mark.usefixtures("hosting")

POST = request("/", "Content-Length: 10", method="POST")
CHUNKED_POST = request("/", "Transfer-Encoding: chunked", method="POST")


def started(puppet, wire, data=GET):
    """The application's call for a request that has just come."""
    wire.receive(data)
    return puppet.call


# ---- the table of states

# What has been said before, by the state that it leads to.
REACH = {
    "REQUEST": [],
    "HEADERS": [message("start", status=200)],
    "BODY": [message("start", status=200), message("body", body=b"a", more_body=True)],
    "TRAILERS": [message("start", status=200, trailers=True), message("body", body=b"a")],
    "DONE": [message("start", status=200), message("body", body=b"a")],
}
TRANSITIONS = [  # state, message -> state after it
    ("REQUEST", message("start", status=200), "HEADERS"),
    ("REQUEST", message("early_hint", links=[b"</a.css>; rel=preload"]), "REQUEST"),
    ("HEADERS", message("body", more_body=True), "BODY"),
    ("HEADERS", message("body"), "DONE"),
    ("BODY", message("body", body=b"b", more_body=True), "BODY"),
    ("BODY", message("body"), "DONE"),
    ("TRAILERS", message("trailers", headers=[(b"a", b"b")], more_trailers=True), "TRAILERS"),
    ("TRAILERS", message("trailers", headers=[(b"a", b"b")]), "DONE"),
]
KINDS = ["start", "body", "early_hint", "pathsend", "trailers", "push", "websocket.send", "nonsense.at.all"]
REFUSED = [
    (state, message(kind)["type"])
    for state in REACH
    for kind in KINDS
    if not any(state == known and message(kind)["type"] == said["type"] for known, said, _ in TRANSITIONS)
    and (state, kind) != ("HEADERS", "pathsend")
]


@pytest.mark.parametrize(("state", "said", "after"), TRANSITIONS)
def test_allowed_transition(state, said, after):
    puppet = Puppet()
    with serving(puppet) as server:
        call = started(puppet, server.connect())
        call.send_at_once(*REACH[state], said)
        (stream,) = server.context.running
        assert stream.state == after


@pytest.mark.parametrize(("state", "kind"), REFUSED)
def test_refused_transition_names_both_sides_and_changes_nothing(state, kind):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(*REACH[state])
        before = wire.take()
        with pytest.raises(UnexpectedMessage) as raised:
            call.send_as_is({"type": kind, "status": 200, "body": b"never"})
        assert str(raised.value) == f"{kind} in {state}"
        assert wire.take() == b""
        (stream,) = server.context.running
        assert stream.state == state
        assert b"never" not in before


def test_trailers_may_follow_an_empty_body():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", "TE: trailers"))
        call.send_at_once(
            message("start", status=200, trailers=True),
            message("body"),
            message("trailers", headers=[(b"checksum", b"1")]),
        )
        assert wire.take().endswith(b"\r\n\r\n0\r\nchecksum: 1\r\n\r\n")


WRONG = [  # what was said before; a message; what the error says of it
    ("REQUEST", {}, "type"),
    ("REQUEST", {"type": None}, "type"),
    ("REQUEST", {"type": b"http.response.start"}, "type"),
    ("REQUEST", "http.response.start", "type"),
    ("REQUEST", message("start"), "status"),
    ("REQUEST", message("start", status=99), "99"),
    ("REQUEST", message("start", status=100), "100"),
    ("REQUEST", message("start", status=1000), "1000"),
    ("REQUEST", message("start", status="200"), "'200'"),
    ("REQUEST", message("start", status=None), "None"),
    ("REQUEST", message("start", status=200, headers=7), "headers"),
    ("REQUEST", message("start", status=200, headers=[b"name"]), "pairs"),
    ("REQUEST", message("start", status=200, headers=[(b"a", b"b", b"c")]), "pairs"),
    ("REQUEST", message("start", status=200, headers=[("name", b"value")]), "bytes, not str"),
    ("REQUEST", message("start", status=200, headers=[(b"name", "value")]), "bytes, not str"),
    ("REQUEST", message("start", status=200, headers=[(b"name", 1)]), "bytes, not int"),
    ("REQUEST", message("start", status=200, headers=[(b"na me", b"value")]), "not a header name"),
    ("REQUEST", message("start", status=200, headers=[(b"name:", b"value")]), "not a header name"),
    ("REQUEST", message("start", status=200, headers=[(b"", b"value")]), "not a header name"),
    ("REQUEST", message("start", status=200, headers=[(b"name", b"a\r\nset-cookie: b")]), "CR, LF or NUL"),
    ("REQUEST", message("start", status=200, headers=[(b"name", b"a\nb")]), "CR, LF or NUL"),
    ("REQUEST", message("start", status=200, headers=[(b"name", b"a\rb")]), "CR, LF or NUL"),
    ("REQUEST", message("start", status=200, headers=[(b"name", b"a\0b")]), "CR, LF or NUL"),
    ("REQUEST", message("start", status=200, headers=[(b"a\r\nb", b"c")]), "not a header name"),
    ("REQUEST", message("start", status=200, headers=[(b"content-length", b"x")]), "Content-Length"),
    ("REQUEST", message("start", status=200, headers=[(b"content-length", b"-1")]), "Content-Length"),
    (
        "REQUEST",
        message("start", status=200, headers=[(b"content-length", b"1"), (b"Content-Length", b"2")]),
        "two Content-Length",
    ),
    ("REQUEST", message("early_hint", links=b"</a>"), "links"),
    ("REQUEST", message("early_hint", links=["</a>"]), "links"),
    ("REQUEST", message("early_hint", links=[b"</a>\r\nx: y"]), "CR, LF or NUL"),
    ("HEADERS", message("body", body="text"), "bytes, not str"),
    ("HEADERS", message("body", body=None), "bytes, not NoneType"),
    ("HEADERS", message("body", body=7, more_body=True), "bytes, not int"),
    ("HEADERS", message("pathsend", path="relative/file"), "absolute path"),
    ("HEADERS", message("pathsend", path=b"/file"), "absolute path"),
    ("HEADERS", message("pathsend"), "absolute path"),
    ("BODY", message("body", body=["a"]), "bytes, not list"),
    ("TRAILERS", message("trailers", headers=[(b"a", b"b\r\nc: d")]), "CR, LF or NUL"),
    ("TRAILERS", message("trailers", headers=[(b"content-length", b"1")]), "trailer"),
    ("TRAILERS", message("trailers", headers=[("a", b"b")]), "bytes, not str"),
]


@pytest.mark.parametrize(("state", "said", "why"), WRONG)
def test_invalid_message_says_why_and_sends_nothing(state, said, why):
    """Also http.disconnect's cousin: what is wrong at any time never reaches the client."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(*REACH[state])
        wire.take()
        with pytest.raises(InvalidMessage, match=why):
            call.send_as_is(said)
        assert wire.take() == b""


@pytest.mark.parametrize("said", [said for state, said, _ in WRONG if state == "REQUEST"])
def test_after_an_invalid_message_another_may_be_sent(said):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        with pytest.raises((InvalidMessage, UnexpectedMessage)):
            call.send_as_is(said)
        call.send_at_once(message("start", status=201), message("body", body=b"mended"))
        found = response(wire)
        assert (found.status, found.body) == (201, b"mended")


@pytest.mark.parametrize("status", [200, 204, 299, 304, 404, 599, 600, 999])
def test_any_final_status_is_sent(status):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=status), message("body"))
        assert response(wire).status == status


@pytest.mark.parametrize("body", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_body_is_any_kind_of_bytes(body):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=200), message("body", body=body))
        assert response(wire).body == b"abc"


def test_a_buffer_that_its_sender_writes_to_again_is_copied():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.stop_reading()
        call = started(puppet, wire)
        buffer = bytearray(b"first")
        call.send("start", status=200)
        call.send("body", body=buffer, more_body=True)
        buffer[:] = b"XXXXX"
        call.send("body", body=b"")
        wire.read_on()
        assert response(wire).body == b"first"


def test_header_pairs_may_be_lists_or_a_generator():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(
            message("start", status=200, headers=([name, b"1"] for name in (b"x-a", b"X-B"))), message("body")
        )
        assert ("x-a", "1") in response(wire).fields


# ---- what the application does wrong, and what its client sees of it


def test_application_that_raises_before_its_response_gives_500(caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        started(puppet, wire).raises(ValueError("boom"))
        found = response(wire)
        assert (found.status, found.body) == (500, b"Internal Server Error\n")
        assert b"boom" not in found.body
        assert wire.state == "open"
        started(puppet, wire).send_at_once(message("start", status=200), message("body"))
        assert response(wire).status == 200


def test_application_that_raises_with_its_head_still_held_gives_500():
    """No octet of the head has left: a 200 that never was."""

    async def application(scope, receive, send):
        await send(message("start", status=200, headers=[(b"x-secret", b"1"), (b"content-length", b"5")]))
        raise ValueError("boom")

    with serving(application) as server:
        wire = server.connect()
        wire.receive(GET)
        found = response(wire)
        assert found.status == 500
        assert found.all("x-secret") == []


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"100")]])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_application_that_raises_within_its_body_cuts_the_connection(fields, version):
    """Where only the end of the connection says that a body is complete, only a reset says that it is not."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", version=version))
        call.send("start", status=200, headers=fields)
        call.send("body", body=b"half", more_body=True)
        call.raises(ValueError("boom"))
        assert wire.state == "reset"
        assert not wire.take().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("state", ["REQUEST", "HEADERS", "BODY", "TRAILERS", "DONE"])
@pytest.mark.parametrize("how", ["raises", "returns"])
def test_no_end_looks_like_a_whole_response_unless_it_is_one(state, how, caplog):
    """Whatever an application does, its client sees its whole response, a 500, or a cut."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(*REACH[state])
        if how == "raises":
            call.raises(ValueError("boom"))
        else:
            call.returns()
        server.loop.settle()
        if state == "DONE":
            assert response(wire).status == 200
            assert wire.state == "open"
        elif state == "REQUEST":
            assert response(wire).status == 500
            assert wire.state == "open"
        else:
            assert wire.state == "reset"
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    if how == "raises":
        assert [record.message for record in logged] == ["application failed"]
        assert logged[0].exc_info[0] is ValueError
    elif state == "DONE":
        assert logged == []
    else:
        assert [record.message for record in logged] == ["application ended without a complete response"]


def test_exception_is_logged_once_with_its_traceback(caplog):
    def deep():
        raise ValueError("boom")

    async def application(scope, receive, send):
        deep()

    with serving(application) as server:
        wire = server.connect()
        wire.receive(request("/broken?a=b"))
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("ERROR", "daphne_like.application")
    assert (record.method, record.path) == ("GET", "/broken")
    assert "in deep" in logging.Formatter().formatException(record.exc_info)


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), asyncio.CancelledError(), ExceptionGroup("g", [OSError()])]
)
def test_whatever_is_raised_ends_its_own_stream_only(error):
    """
    An application's failure never ends the process, the loop, or another connection.

    Source: granian's process dies, daphne's every later failure hangs (both tried).
    """
    puppet = Puppet()
    with serving(puppet) as server:
        other = server.connect()
        healthy = started(puppet, other)
        for _ in range(3):
            wire = server.connect()
            started(puppet, wire).raises(error)
            assert response(wire).status == 500
        healthy.send_at_once(message("start", status=200), message("body", body=b"fine"))
        assert response(other).body == b"fine"


def test_unhandled_application_error_of_a_message_gives_500(caplog):
    """Status 99 without a try: the error that send() raised ends the application, and the client is told."""

    async def application(scope, receive, send):
        await send(message("start", status=99))

    with serving(application) as server:
        wire = server.connect()
        wire.receive(GET)
        assert response(wire).status == 500
    assert sentences(caplog) == ["application failed"]


LENGTHS = [  # announced, pieces of body -> what is wrong
    (3, [b"abcd"], "longer"),
    (3, [b"ab", b"cd"], "longer"),
    (0, [b"a"], "longer"),
    (3, [b"ab"], "shorter"),
    (3, [], "shorter"),
    (3, [b"a", b"b"], "shorter"),
]


@pytest.mark.parametrize(("announced", "pieces", "how"), LENGTHS)
def test_body_that_is_not_its_content_length(announced, pieces, how):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send("start", status=200, headers=[(b"content-length", b"%d" % announced)])
        said = [message("body", body=piece, more_body=True) for piece in pieces] + [message("body")]
        with pytest.raises(InvalidMessage, match=f"{how} than its Content-Length of {announced}"):
            call.send_at_once(*said)
        call.raises(ValueError("gives up"))
        assert wire.state == "reset"
        head, _, body = wire.take().partition(b"\r\n\r\n")
        assert b"content-length: %d" % announced in head
        assert len(body) <= announced
        assert b"".join(pieces).startswith(body)


def test_an_application_cannot_choose_its_framing():
    """Transfer-Encoding of an application that frames by itself would be the smuggler's tool."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(
            message("start", status=200, headers=[(b"Transfer-Encoding", b"chunked")]),
            message("body", body=b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        )
        found = response(wire)
        assert found.all("transfer-encoding") == []
        assert found.body == b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"


# ---- kinds of response

NO_BODY = [  # method, status, fields of the application, content-length on the wire
    ("HEAD", 200, [], []),
    ("HEAD", 200, [(b"content-length", b"5")], ["5"]),
    ("HEAD", 404, [(b"content-length", b"5")], ["5"]),
    ("GET", 204, [], []),
    ("GET", 204, [(b"content-length", b"5")], []),
    ("GET", 304, [], []),
    ("GET", 304, [(b"content-length", b"5")], ["5"]),
    ("GET", 205, [], ["0"]),
    ("HEAD", 204, [(b"content-length", b"5")], None),
]


@pytest.mark.parametrize(("method", "status", "fields", "length"), NO_BODY)
@pytest.mark.parametrize("pieces", [[], [b"hello"], [b"he", b"llo"]])
def test_response_without_body(method, status, fields, length, pieces):
    """The application's body is dropped, and the connection goes on (RFC 9110 §6.4.1, RFC 9112 §6.3)."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", method=method))
        call.send("start", status=status, headers=fields)
        for piece in pieces:
            call.send("body", body=piece, more_body=True)
        call.send("body")
        data = wire.take()
        head, end, rest = data.partition(b"\r\n\r\n")
        assert (end, rest) == (b"\r\n\r\n", b"")
        lengths = [
            line.partition(b": ")[2].decode() for line in head.split(b"\r\n") if b"content-length" in line
        ]
        if length is not None:
            assert lengths == length
        assert b"transfer-encoding" not in head
        call.returns()
        started(puppet, wire).send_at_once(message("start", status=200), message("body", body=b"next"))
        assert response(wire).body == b"next"


def test_complete_response_in_one_piece_has_a_length():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=200), message("body", body=b"hello"))
        assert response(wire).all("content-length") == ["5"]
        assert wire.writes == 1


def test_http_1_0_response_of_unknown_length_ends_with_the_connection():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", "Connection: keep-alive", version="1.0"))
        call.send("start", status=200)
        call.send("body", body=b"a", more_body=True)
        call.send("body", body=b"b")
        found = response(wire)
        assert (found.body, found.all("transfer-encoding"), found.all("connection")) == (b"ab", [], ["close"])
        assert wire.state == "closed"


def test_http_1_0_keeps_alive_when_asked_to():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        for _ in range(2):
            call = started(puppet, wire, request("/", "Connection: keep-alive", version="1.0"))
            call.send_at_once(message("start", status=200), message("body", body=b"a"))
            call.returns()
            assert response(wire).all("connection") == ["keep-alive"]
        call = started(puppet, wire, request("/", version="1.0"))
        call.send_at_once(message("start", status=200), message("body", body=b"a"))
        assert response(wire).all("connection") == ["close"]
        assert wire.state == "closed"


def test_application_may_close_the_connection():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=200, headers=[(b"Connection", b"close")]), message("body"))
        assert response(wire).all("connection") == ["close"]
        assert wire.closed


# ---- early hints and trailers


def test_early_hints_leave_before_the_response():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        assert call.scope["extensions"]["http.response.early_hint"] == {}
        call.send("early_hint", links=[b"</a.css>; rel=preload", b"</b.js>; rel=preload"])
        assert wire.take() == (
            b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
        )
        call.send_at_once(message("start", status=200), message("body", body=b"x"))
        assert response(wire).body == b"x"


def test_early_hints_are_not_for_http_1_0():
    """RFC 9110 §15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client"."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", version="1.0"))
        assert "http.response.early_hint" not in call.scope["extensions"]
        with pytest.raises(UnexpectedMessage):
            call.send("early_hint", links=[b"</a.css>"])
        assert wire.take() == b""


TRAILERS = [  # fields of the request, version -> end of the response
    (["TE: trailers"], "1.1", b"\r\n1\r\na\r\n0\r\nx-sum: 1\r\nx-count: 2\r\n\r\n"),
    (["TE: deflate, Trailers;q=0.5"], "1.1", b"\r\n1\r\na\r\n0\r\n\r\n"),
    (["TE: gzip, TRAILERS"], "1.1", b"\r\n1\r\na\r\n0\r\nx-sum: 1\r\nx-count: 2\r\n\r\n"),
    ([], "1.1", b"\r\n1\r\na\r\n0\r\n\r\n"),
    (["TE: trailers"], "1.0", b"\r\n\r\na"),
]


@pytest.mark.parametrize(("fields", "version", "end"), TRAILERS)
def test_trailers_go_to_clients_that_take_them(fields, version, end):
    """Who said so in TE (RFC 9110 §6.5.1); they are dropped otherwise."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", *fields, version=version))
        assert call.scope["extensions"]["http.response.trailers"] == {}
        call.send("start", status=200, trailers=True)
        call.send("body", body=b"a")
        call.send("trailers", headers=[(b"x-sum", b"1")], more_trailers=True)
        call.send("trailers", headers=[(b"x-count", b"2")])
        assert wire.take().endswith(end)
        assert wire.closed == (version == "1.0")


def test_announced_trailers_that_never_come_leave_an_incomplete_response():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", "TE: trailers"))
        call.send_at_once(message("start", status=200, trailers=True), message("body", body=b"a"))
        call.returns()
        assert wire.state == "reset"
        assert not wire.take().endswith(b"0\r\n\r\n")


# ---- pathsend


def test_pathsend_sends_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        assert call.scope["extensions"]["http.response.pathsend"] == {}
        call.send("start", status=200, headers=[(b"content-length", b"7")])
        sent = call.begin_send("pathsend", path=str(file))
        server.loop.settle_until(sent.done)
        sent.result()
        assert response(wire).body == b"content"
        assert wire.state == "open"


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 1_000_000])
@pytest.mark.parametrize("announced", [True, False])
def test_pathsend_of_any_size(tmp_path, size, announced):
    content = os.urandom(size)
    file = tmp_path / "file"
    file.write_bytes(content)
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send("start", status=200, headers=[(b"content-length", b"%d" % size)] if announced else [])
        sent = call.begin_send("pathsend", path=str(file))
        server.loop.settle_until(sent.done)
        sent.result()
        assert response(wire).body == content


def test_pathsend_of_a_request_that_is_refused_meanwhile(tmp_path):
    """The rest of the request proves malformed while a thread reads: the request is over once, not twice."""
    file = tmp_path / "empty"
    file.touch()
    opened = threading.Event()
    puppet = Puppet()
    with serving(puppet) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(opened.wait)
        server.loop.set_default_executor(pool)
        ends_of_turns = []
        server.factory._call_soon = ends_of_turns.append  # the turn goes on, and the head is held
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        call.send("start", status=200)
        sent = call.begin_send("pathsend", path=str(file))
        wire.receive(b"no chunk")
        opened.set()
        server.loop.settle_until(sent.done)
        assert isinstance(sent.exception(), ClientDisconnected)
        assert server.context.requests == 0
        assert response(wire).status == 400
        call.returns()


def test_pathsend_answers_head_without_the_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", method="HEAD"))
        call.send("start", status=200, headers=[(b"content-length", b"7")])
        sent = call.begin_send("pathsend", path=str(file))
        server.loop.settle_until(sent.done)
        sent.result()
        found = response(wire, heads=(0,))
        assert (found.all("content-length"), found.body) == (["7"], b"")


def test_pathsend_of_a_missing_file_is_the_applications_error_and_a_500(tmp_path, caplog):
    """A head that is followed by a file has not left before the file is open."""

    async def application(scope, receive, send):
        await send(message("start", status=200))
        await send(message("pathsend", path=str(tmp_path / "missing")))

    with serving(application) as server:
        wire = server.connect()
        wire.receive(GET)
        server.loop.settle_until(lambda: not server.context.running)
        assert response(wire).status == 500
    assert [record.exc_info[0] for record in caplog.records] == [FileNotFoundError]


def test_pathsend_of_a_file_shorter_than_announced_cuts_the_connection(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content")

    async def application(scope, receive, send):
        await send(message("start", status=200, headers=[(b"content-length", b"8")]))
        await send(message("pathsend", path=str(file)))

    with serving(application) as server:
        wire = server.connect()
        wire.receive(GET)
        server.loop.settle_until(lambda: not server.context.running)
        server.loop.settle()
        assert wire.state == "reset" or response(wire).status == 500


def test_pathsend_waits_for_a_slow_reader(tmp_path):
    """No more of a large file is in memory than one read and the send buffer."""
    file = tmp_path / "file"
    size = 4 * 1024 * 1024
    file.write_bytes(bytes(size))
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.stop_reading()
        call = started(puppet, wire)
        call.send("start", status=200, headers=[(b"content-length", b"%d" % size)])
        sent = call.begin_send("pathsend", path=str(file))
        (protocol,) = server.factory.connections
        server.loop.settle_until(lambda: protocol.connection.buffered > 0)
        server.advance(5)
        assert not sent.done()
        held = wire.bytes_unsent() + protocol.connection.buffered
        assert held <= 3 * 256 * 1024
        wire.read_on()
        server.loop.settle_until(sent.done)
        sent.result()
        assert len(response(wire).body) == size


def test_pathsend_stops_when_the_client_leaves(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(4 * 1024 * 1024))
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.stop_reading()
        call = started(puppet, wire)
        call.send("start", status=200)
        sent = call.begin_send("pathsend", path=str(file))
        (protocol,) = server.factory.connections
        server.loop.settle_until(lambda: protocol.connection.buffered > 0)
        wire.vanish()
        server.loop.settle_until(sent.done)
        with pytest.raises(ClientDisconnected):
            sent.result()


def descriptors_open() -> int:
    return len(os.listdir("/proc/self/fd"))


counts_descriptors = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc"
)


@counts_descriptors
def test_pathsend_that_is_cancelled_while_a_thread_reads_closes_the_file_after_that(tmp_path):
    """
    Starlette cancels a response when its client leaves; a thread that reads cannot be.

    Closed under it, the descriptor's number could be somebody else's when the thread comes to read.
    """
    file = tmp_path / "file"
    file.write_bytes(b"content")
    puppet = Puppet()
    with serving(puppet) as server:
        server.loop.set_default_executor(ThreadPoolExecutor(1))
        release = threading.Event()
        server.loop.run_in_executor(
            None, release.wait
        )  # the reading thread is held as long as the test likes
        call = started(puppet, server.connect())
        before = descriptors_open()
        call.send("start", status=200)
        sent = call.begin_send("pathsend", path=str(file))
        assert not sent.done()
        sent.cancel()
        server.loop.settle()
        assert sent.cancelled()
        assert descriptors_open() == before + 1
        release.set()
        server.loop.settle_until(lambda: descriptors_open() == before)


@counts_descriptors
def test_pathsend_of_a_directory_is_the_applications_error_and_leaks_no_descriptor(tmp_path, caplog):
    async def application(scope, receive, send):
        await send(message("start", status=200))
        await send(message("pathsend", path=str(tmp_path)))

    with serving(application) as server:
        before = descriptors_open()
        for _ in range(3):
            wire = server.connect()
            wire.receive(GET)
            server.loop.settle_until(lambda: not server.context.running)
            assert response(wire).status == 500
        gc.collect()
        assert descriptors_open() == before
    assert [record.exc_info[0] for record in caplog.records] == [IsADirectoryError] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_pathsend_of_a_pipe_holds_nobody(tmp_path):
    """Opening one waits for a writer, which may never come."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send("start", status=200)
        sent = call.begin_send("pathsend", path=str(pipe))
        server.loop.settle_until(sent.done)
        assert response(wire).body == b""


# ---- the request's body


def test_body_arrives_as_it_comes():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, POST)
        waiting = call.begin_receive()
        assert not waiting.done()
        wire.receive(b"0123")
        assert waiting.result() == {"type": "http.request", "body": b"0123", "more_body": True}
        wire.receive(b"45", b"67")
        assert call.receive() == {"type": "http.request", "body": b"4567", "more_body": True}
        wire.receive(b"89")
        assert call.receive() == {"type": "http.request", "body": b"89", "more_body": False}
        call.send_at_once(message("start", status=200), message("body"))
        assert call.receive() == {"type": "http.disconnect"}


def test_request_without_body_is_one_empty_message():
    puppet = Puppet()
    with serving(puppet) as server:
        call = started(puppet, server.connect())
        assert call.receive() == {"type": "http.request", "body": b"", "more_body": False}
        assert not (waiting := call.begin_receive()).done()
        call.send_at_once(message("start", status=200), message("body"))
        assert waiting.result() == {"type": "http.disconnect"}


def test_chunked_body_arrives_without_its_framing_and_trailers():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        wire.receive(b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nx-secret: 1\r\n\r\n")
        assert call.receive() == {"type": "http.request", "body": b"abcde", "more_body": False}


def test_end_of_a_chunked_body_may_come_late():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        wire.receive(b"3\r\nabc\r\n")
        assert call.receive() == {"type": "http.request", "body": b"abc", "more_body": True}
        wire.receive(b"0\r\n\r\n")
        assert call.receive() == {"type": "http.request", "body": b"", "more_body": False}


def test_body_that_was_not_read_does_not_become_the_next_request():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, POST)
        call.send_at_once(message("start", status=200), message("body", body=b"a"))
        call.returns()
        assert response(wire).body == b"a"
        wire.receive(b"GET /evil ", GET)
        assert len(puppet.calls) == 2
        assert puppet.call.scope["path"] == "/"


def test_body_that_goes_bad_ends_the_request_with_400(caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        waiting = call.begin_receive()
        wire.receive(b"nonsense\r\n")
        assert waiting.result() == {"type": "http.disconnect"}
        assert response(wire).status == 400
        assert wire.closed
        with pytest.raises(ClientDisconnected):
            call.send("start", status=200)
        call.raises(ClientDisconnected("told"))
    assert sentences(caplog, level="ERROR") == []


def test_body_that_goes_bad_after_the_response_has_begun_cuts_it():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        call.send("start", status=200)
        call.send("body", body=b"half", more_body=True)
        wire.receive(b"nonsense\r\n")
        assert wire.state == "reset"
        assert not wire.take().endswith(b"0\r\n\r\n")


def test_application_whose_request_was_refused_is_cancelled_after_a_while(caplog):
    """--application-close-timeout holds however a client was lost."""
    puppet = Puppet()
    with serving(puppet, application_close_timeout=3) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        wire.receive(b"nonsense\r\n")
        wire.vanish()
        server.advance(5)
        assert call.cancelled


# ---- Expect: 100-continue


EXPECT = request("/", "Content-Length: 3", "Expect: 100-continue", method="POST")


def test_100_is_sent_at_the_first_receive_only():
    """The application may still refuse a body that has not been sent (RFC 9110 §10.1.1)."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT)
        assert wire.take() == b""
        waiting = call.begin_receive()
        assert wire.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.receive(b"a")
        assert waiting.result()["body"] == b"a"
        waiting = call.begin_receive()
        assert wire.take() == b""
        wire.receive(b"bc")
        assert waiting.result() == {"type": "http.request", "body": b"bc", "more_body": False}
        call.send_at_once(message("start", status=200), message("body"))
        assert response(wire).all("connection") == []


def test_100_is_not_sent_when_the_body_has_come():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT + b"abc")
        assert call.receive()["body"] == b"abc"
        assert wire.take() == b""


def test_refusing_a_body_that_waits_for_100_closes_the_connection():
    """Whether the client sends the body then is not known: what follows cannot be read."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT)
        call.send_at_once(message("start", status=403), message("body", body=b"no"))
        found = response(wire)
        assert (found.status, found.all("connection")) == (403, ["close"])
        assert wire.closed


def test_100_is_not_sent_after_the_response_has_begun():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT)
        call.send("start", status=200)
        wire.take()
        call.begin_receive()
        assert wire.take() == b""


def test_100_is_not_for_http_1_0():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT.replace(b"/1.1", b"/1.0", 1))
        call.begin_receive()
        assert wire.take() == b""


def test_client_that_waits_for_100_is_not_late():
    """It is the application that lets it wait: --body-timeout counts from the 100 on."""
    puppet = Puppet()
    with serving(puppet, body_timeout=5) as server:
        wire = server.connect()
        call = started(puppet, wire, EXPECT)
        server.advance(20)
        assert wire.state == "open"
        waiting = call.begin_receive()
        assert wire.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        server.advance(3)
        wire.receive(b"abc")
        assert waiting.result()["body"] == b"abc"


# ---- departure


def test_disconnect_comes_at_once():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.receive()
        waiting = call.begin_receive()
        wire.vanish()
        assert waiting.result() == {"type": "http.disconnect"}
        assert call.receive() == {"type": "http.disconnect"}


def test_disconnect_comes_at_once_within_a_body():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, POST)
        wire.receive(b"abc")
        wire.vanish()
        assert call.receive()["body"] == b"abc"
        assert call.receive() == {"type": "http.disconnect"}


def test_disconnect_comes_at_once_when_the_client_closes_its_side():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.receive()
        waiting = call.begin_receive()
        wire.close_sending()
        assert waiting.result() == {"type": "http.disconnect"}


def test_send_raises_once_the_client_has_left():
    """An OSError, as ASGI HTTP 2.4 asks for: frameworks catch that."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send("start", status=200)
        call.send("body", body=b"a", more_body=True)
        wire.vanish()
        with pytest.raises(OSError) as raised:
            call.send("body", body=b"b", more_body=True)
        assert type(raised.value) is ClientDisconnected
        call.raises(raised.value)


@pytest.mark.parametrize("how", ["raises", "returns"])
@pytest.mark.parametrize("state", ["REQUEST", "HEADERS", "BODY"])
def test_application_that_ends_because_its_client_left_is_no_error(state, how, caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(*REACH[state])
        wire.vanish()
        if how == "raises":
            call.raises(ClientDisconnected("it left"))
        else:
            call.returns()
    assert sentences(caplog) == []


def test_an_error_of_its_own_is_logged_even_when_the_client_has_left(caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        wire.vanish()
        call.raises(ValueError("boom"))
    assert sentences(caplog) == ["application failed"]


def test_half_closed_client_gets_its_answer_when_the_application_was_not_told():
    """`printf ... | nc`: the client has sent all it had, and reads."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        assert call.receive()["type"] == "http.request"
        wire.close_sending()
        call.send("start", status=200)
        call.send("body", body=b"still ", more_body=True)
        call.send("body", body=b"here")
        found = response(wire)
        assert (found.body, found.all("connection")) == (b"still here", ["close"])
        assert wire.state == "closed"


def test_send_raises_after_the_application_was_told():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.receive()
        wire.close_sending()
        assert call.receive() == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected):
            call.send("start", status=200)
        call.returns()
        assert wire.state == "reset"
        assert wire.take() == b""


def test_end_within_a_body_is_a_departure():
    """A body that will never be whole must not be answered as if it were."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, POST)
        wire.receive(b"abc")
        wire.close_sending()
        assert wire.state == "reset"
        assert call.receive()["more_body"] is True
        assert call.receive() == {"type": "http.disconnect"}


@pytest.mark.parametrize("leave", [Wire.vanish, Wire.close_sending])
def test_application_that_does_not_notice_the_departure_is_cancelled(leave, caplog):
    puppet = Puppet()
    with serving(puppet, application_close_timeout=10) as server:
        wire = server.connect()
        call = started(puppet, wire)
        leave(wire)
        server.advance(9)
        assert not call.over
        server.advance(2)
        assert call.cancelled
        assert wire.take() == b""
    assert sentences(caplog) == ["application did not end after its client left, cancelled it"]


@pytest.mark.parametrize("leave", [Wire.vanish, Wire.close_sending])
def test_application_that_takes_no_cancellation_gets_one(leave, caplog):
    """And one record of it."""
    cancelled = []
    free = asyncio.Event()

    async def stubborn(scope, receive, send):
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancelled.append(scope["path"])

    with serving(stubborn, application_close_timeout=10) as server:
        wire = server.connect()
        wire.receive(GET)
        leave(wire)
        server.advance(60)
        assert cancelled == ["/"]
        free.set()
    assert sentences(caplog) == ["application did not end after its client left, cancelled it"]


def test_application_close_timeout_0_cancels_at_once():
    """As docs/reference/settings.md has it."""
    puppet = Puppet()
    with serving(puppet, application_close_timeout=0) as server:
        wire = server.connect()
        call = started(puppet, wire)
        wire.vanish()
        server.advance(1)
        assert call.cancelled


def test_application_that_has_answered_may_run_on():
    """Background tasks of Starlette run after the response, in the same call."""
    puppet = Puppet()
    with serving(puppet, application_close_timeout=3) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=200), message("body"))
        wire.vanish()
        server.advance(60)
        assert not call.over
        call.returns()


def test_application_that_runs_on_does_not_hold_the_next_request():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        background = started(puppet, wire)
        background.send_at_once(message("start", status=200), message("body", body=b"1"))
        assert response(wire).body == b"1"
        call = started(puppet, wire)
        assert call is not background
        assert background.receive() == {"type": "http.request", "body": b"", "more_body": False}
        assert background.receive() == {"type": "http.disconnect"}
        with pytest.raises(UnexpectedMessage, match=r"http\.response\.body in DONE"):
            background.send("body", body=b"into the next response")
        call.send_at_once(message("start", status=200), message("body", body=b"2"))
        assert response(wire).body == b"2"
        background.returns()


# ---- backpressure


def test_slow_application_pauses_the_socket():
    """By counters: never more than --receive-buffer-size and one read are kept."""
    puppet = Puppet()
    piece = bytes(1024)
    with serving(puppet, receive_buffer_size=4096) as server:
        wire = server.connect()
        call = started(puppet, wire, request("/", "Content-Length: 1048576", method="POST"))
        wire.receive(*[piece] * 1024)
        assert not wire.reading
        taken = 0
        while taken < 1024 * 1024:
            size = len(call.receive()["body"])
            assert 0 < size <= 4096 + 1024 + window()
            taken += size
        assert taken == 1024 * 1024
        assert wire.reading


def test_application_that_never_receives_holds_the_client():
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=1024) as server:
        wire = server.connect()
        call = started(puppet, wire, CHUNKED_POST)
        wire.receive(*[b"400\r\n" + bytes(1024) + b"\r\n"] * (100 + window() // 1024))
        assert not wire.reading
        server.advance(600)
        assert wire.state == "open", "it is the application that is late, not the client"
        call.send_at_once(message("start", status=200), message("body", body=b"deaf"))
        assert responses(wire)[0].body == b"deaf"


def test_send_waits_while_the_client_does_not_read():
    """By counters: the application is held back at --send-buffer-size and one message."""
    puppet = Puppet()
    with serving(puppet, send_buffer_size=4096) as server:
        wire = server.connect()
        call = started(puppet, wire)
        wire.stop_reading()
        call.send("start", status=200)
        sent = 0
        while (task := call.begin_send("body", body=bytes(1024), more_body=True)).done():
            sent += 1024
            assert sent < 100_000 + window()
        (protocol,) = server.factory.connections
        assert protocol.connection.buffered <= 4096 + 1024 + 100
        server.advance(10)
        assert not task.done()
        wire.read_on()
        assert task.done()
        task.result()
        assert wire.bytes_unsent() == 0
        call.send("body")
        assert len(response(wire).body) == sent + 1024


def test_send_that_waits_raises_when_the_client_leaves():
    puppet = Puppet()
    with serving(puppet, send_buffer_size=1024) as server:
        wire = server.connect()
        call = started(puppet, wire)
        wire.stop_reading()
        call.send("start", status=200)
        call.send("body", body=bytes(1000), more_body=True)
        while (task := call.begin_send("body", body=bytes(1000), more_body=True)).done():
            pass
        wire.vanish()
        with pytest.raises(ClientDisconnected):
            task.result()


def test_send_that_waits_can_be_cancelled_without_harm():
    puppet = Puppet()
    with serving(puppet, send_buffer_size=1024) as server:
        wire = server.connect()
        call = started(puppet, wire)
        wire.stop_reading()
        call.send("start", status=200)
        while (task := call.begin_send("body", body=bytes(1000), more_body=True)).done():
            pass
        task.cancel()
        server.loop.settle()
        wire.read_on()
        call.send("body", body=b"end")
        assert response(wire).body.endswith(b"end")


def test_cancelled_receive_loses_nothing():
    """asyncio.wait_for(receive(), ...) is how applications poll."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire, POST)
        waiting = call.begin_receive()
        waiting.cancel()
        server.loop.settle()
        wire.receive(b"0123456789")
        assert call.receive()["body"] == b"0123456789"


def test_two_receives_at_once_are_both_woken():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.receive()
        waiting = [call.begin_receive(), call.begin_receive()]
        wire.vanish()
        assert [task.result() for task in waiting] == [{"type": "http.disconnect"}] * 2


# ---- one write a turn


def test_each_body_message_leaves_in_its_own_turn():
    """A server-sent event is on the wire when the turn ends in which it was sent."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send("start", status=200, headers=[(b"content-type", b"text/event-stream")])
        assert wire.take().endswith(b"\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            call.send("body", body=event, more_body=True)
            assert wire.take() == b"%x\r\n%b\r\n" % (len(event), event)
        assert wire.writes == 4


def test_start_and_first_body_leave_in_one_write():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        call = started(puppet, wire)
        call.send_at_once(message("start", status=200), message("body", body=b"a", more_body=True))
        assert wire.writes == 1


def test_a_hundred_chunks_leave_in_one_or_two_writes():
    async def application(scope, receive, send):
        await send(message("start", status=200))
        for _ in range(100):
            await send(message("body", body=bytes(1024), more_body=True))
        await send(message("body"))

    with serving(application, send_buffer_size=1024 * 1024) as server:
        wire = server.connect()
        wire.receive(GET)
        assert wire.writes <= 2
        assert len(response(wire).body) == 100 * 1024


def test_a_fast_application_leaves_in_as_many_writes_as_the_send_buffer_demands():
    async def application(scope, receive, send):
        await send(message("start", status=200))
        for _ in range(100):
            await send(message("body", body=bytes(1024), more_body=True))
        await send(message("body"))

    with serving(application) as server:
        wire = server.connect()
        wire.receive(GET)
        assert wire.writes <= 3
        assert len(response(wire).body) == 100 * 1024


@pytest.mark.embedded_only("a worker's application has a scope of its own")
def test_scope_that_was_changed_beyond_reading_costs_its_record_only(caplog):
    """Applications may write into their scope: the connection must come to its end without it."""
    caplog.set_level(logging.INFO, logger="daphne_like.access")
    puppet = Puppet()
    with serving(puppet) as server:
        server.context.access_log.enabled = True
        wire = server.connect()
        call = started(puppet, wire)
        call.scope["query_string"] = "a=b"
        call.send("start", status=200)
        call.send("body", body=b"whole")
        assert response(wire).body == b"whole"
        assert wire.protocol.stream is None
        call.returns()
    assert sentences(caplog) == ["no access log record: the application has changed its scope beyond reading"]
