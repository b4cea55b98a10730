"""Requests in a worker: what their applications receive and send, and what their server is told."""

import asyncio
from typing import Any

import pytest

from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from daphne_like.relay.envelope import CREDIT, END, LOST, SILENT, TIMEOUT, WINDOW, item_cost
from tests.asgi.conversation import Puppet, message, sentences
from tests.relay.workers import at_work

START = message("start", status=200, headers=[])
STARTED = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return message("body", body=data, more_body=more)


# ---- the request


def test_application_gets_the_scope_as_the_server_has_it():
    puppet = Puppet()
    state = {"db": []}
    with at_work(puppet, state=state) as shop:
        shop.request("/a", headers=[(b"host", b"h"), (b"a", b"b")])
        scope = puppet.call.scope
        assert scope["headers"] == [(b"host", b"h"), (b"a", b"b")]
        assert (scope["client"], scope["server"]) == (("127.0.0.1", 50000), ("127.0.0.1", 80))
        assert (scope["type"], scope["path"], scope["extensions"]) == ("http", "/a", {})
        assert scope["state"] == state
        assert scope["state"] is not state
        assert scope["state"]["db"] is state["db"]


def test_without_lifespan_there_is_no_state():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.request()
        assert "state" not in puppet.call.scope


def test_request_without_body_is_one_empty_message():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.request()
        assert puppet.call.receive() == message("http.request", body=b"", more_body=False)
        waiting = puppet.call.begin_receive()
        assert not waiting.done()
        puppet.call.send_at_once(START, body(b""))
        assert waiting.result() == {"type": "http.disconnect"}


def test_body_that_came_whole():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/", b"abc", b"def")
        assert puppet.call.receive() == message("http.request", body=b"abcdef", more_body=False)
        puppet.call.send_at_once(START, body(b""))
        puppet.call.returns()
        assert stream.end == (2, 2, "")


def test_body_in_pieces():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/", b"abc", ended=False)
        assert puppet.call.receive() == message("http.request", body=b"abc", more_body=True)
        waiting = puppet.call.begin_receive()
        assert not waiting.done()
        stream.feed(b"de", b"f")
        assert waiting.result() == message("http.request", body=b"def", more_body=True)
        stream.feed(None)
        assert puppet.call.receive() == message("http.request", body=b"", more_body=False)


def test_credit_is_returned_as_the_application_takes_the_body():
    """Half of the window at a time; nothing before it is taken."""
    puppet = Puppet()
    piece = bytes(100_000)
    with at_work(puppet) as shop:
        stream = shop.request("/", piece, ended=False)
        stream.feed(piece)
        assert stream.envelopes == []
        puppet.call.receive()
        assert stream.envelopes == [[CREDIT, 1, 1, 2 * item_cost(piece), 2]]


def test_client_that_expects_100_is_told_when_the_application_asks():
    puppet = Puppet()
    with at_work(puppet) as shop:
        fields = [(b"host", b"h"), (b"expect", b"100-Continue")]
        stream = shop.request("/", ended=False, headers=fields)
        assert stream.envelopes == []
        waiting = puppet.call.begin_receive()
        assert stream.envelopes == [[CREDIT, 1, 1, 0, 0]]
        stream.feed(b"abc", None)
        assert waiting.result()["body"] == b"abc"
        assert len(stream.envelopes) == 1


def test_missing_piece_of_the_body_is_never_a_short_body(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/", b"abc", ended=False)
        puppet.call.receive()
        stream.sent += 1  # one is lost
        stream.feed(b"ghi", None)
        assert stream.error == "SequenceGap"
        assert puppet.call.receive() == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected):
            puppet.call.send_as_is(START)
        puppet.call.returns()
    assert sentences(caplog) == ["the layer lost an envelope, broke the stream off"]


# ---- the response


def test_small_response_is_one_batch():
    async def application(scope, receive, send):
        await send(START)
        await send(body(b"hello"))

    with at_work(application) as shop:
        shop.request()
        assert shop.server.batches == [[[END, 1, 1, 2, 0, "", [STARTED, body(b"hello")]]]]


def test_what_is_said_leaves_at_the_end_of_its_turn():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        assert stream.said() == [STARTED]
        puppet.call.send_at_once(body(b"a", True), body(b"b", True))
        assert stream.said() == [body(b"a", True), body(b"b", True)]
        puppet.call.send_as_is(body(b""))
        assert stream.said() == [body(b"")]
        assert stream.end is None
        puppet.call.returns()
        assert stream.end == (4, 0, "")


def test_what_two_sessions_say_in_a_turn_leaves_together():
    async def application(scope, receive, send):
        await send(START)
        await send(body(scope["path"].encode()))

    with at_work(application) as shop:
        shop.exchange.hold(shop.port)
        streams = [shop.request("/a"), shop.request("/b")]
        assert shop.server.batches == []
        shop.exchange.release(shop.port)
        shop.loop.settle()
        assert len(shop.server.batches) == 1
        assert [stream.said()[1]["body"] for stream in streams] == [b"/a", b"/b"]


def test_wrong_message_is_an_error_of_send_and_does_not_cross():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        with pytest.raises(UnexpectedMessage, match=r"http\.response\.body in REQUEST"):
            puppet.call.send("body", body=b"early")
        with pytest.raises(InvalidMessage, match="CR, LF or NUL"):
            puppet.call.send("start", status=200, headers=[(b"a", b"\r\n")])
        assert stream.envelopes == []
        puppet.call.send_as_is(START)
        assert stream.said() == [STARTED]


def test_send_waits_for_credit():
    """A window of what the server does not take, and one message more."""
    puppet = Puppet()
    piece = bytes(60_000)
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = []
        while not sending or sending[-1].done():
            sending.append(puppet.call.begin_send("body", body=piece, more_body=True))
        assert len(sending) == WINDOW // len(piece) + 2
        assert len(stream.said()) == len(sending)  # all but the last, and the head
        shop.advance(60)
        assert stream.said() == []
        stream.give(WINDOW)
        assert sending[-1].done()
        assert stream.said() == [body(piece, True)]


def test_large_body_is_cut_and_sent_as_credit_comes():
    puppet = Puppet()
    data = bytes(range(256)) * 4096  # 1 MiB
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = puppet.call.begin_send("body", body=data)
        received = [item for item in stream.said() if item["type"] == "http.response.body"]
        while not sending.done():
            assert stream.credit <= 0
            stream.give(WINDOW // 2)
            received += stream.said()
        assert b"".join(item["body"] for item in received) == data
        assert [item["more_body"] for item in received] == [True] * (len(received) - 1) + [False]


def test_what_was_said_before_a_cancelled_send_is_sent_all_the_same():
    """As embedded: a message has been taken when send() waits."""
    puppet = Puppet()
    data = bytes(500_000)
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = puppet.call.begin_send("body", body=data)
        assert not sending.done()
        sending.cancel()
        shop.loop.settle()
        puppet.call.returns()
        assert stream.end is None
        while stream.end is None:
            stream.give(WINDOW // 2)
        assert sum(len(item.get("body", b"")) for item in stream.said()) == len(data)
        assert stream.error == ""


def test_head_that_is_too_large_for_an_envelope_crosses_in_parts():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send("start", status=200, headers=[(b"a", b"b" * 300_000)])
        parts = stream.said()
        assert [set(part) for part in parts] == [{"part", "more"}] * 2
        assert [part["more"] for part in parts] == [True, False]
        assert puppet.call.begin_send("body", body=b"next").done() is False  # the window is used up
        stream.give(WINDOW)


def test_file_has_been_sent_when_send_returns(tmp_path):
    """Applications delete their files after that."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = puppet.call.begin_send("pathsend", path=str(file))
        assert stream.said()[1] == message("pathsend", path=str(file))
        assert not sending.done()
        stream.give(0, taken=1)
        assert not sending.done()
        stream.give(0, taken=2)
        assert sending.done()


def test_client_that_leaves_ends_the_wait_for_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = puppet.call.begin_send("pathsend", path=str(file))
        stream.cancel(LOST)
        assert isinstance(sending.exception(), ClientDisconnected)


# ---- departure


def test_silent_client_may_still_read_until_the_application_is_told():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/", b"abc", ended=False)
        waiting = puppet.call.begin_receive()
        assert waiting.done()
        stream.cancel(SILENT)
        puppet.call.send_as_is(START)
        puppet.call.send_as_is(body(b"a", True))
        assert len(stream.said()) == 2
        assert puppet.call.receive() == {"type": "http.disconnect"}
        with pytest.raises(ClientDisconnected, match="the client has left"):
            puppet.call.send_as_is(body(b"b"))
        puppet.call.returns()
        assert stream.error


def test_lost_client_is_told_ahead_of_everything():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/", b"abc", ended=False)
        stream.cancel(LOST)
        with pytest.raises(ClientDisconnected):
            puppet.call.send_as_is(START)
        assert puppet.call.receive()["body"] == b"abc"
        assert puppet.call.receive() == {"type": "http.disconnect"}
        assert puppet.call.receive() == {"type": "http.disconnect"}


def test_send_that_waits_for_credit_raises_when_the_client_is_lost():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        sending = puppet.call.begin_send("body", body=bytes(500_000))
        assert not sending.done()
        stream.cancel(LOST)
        assert isinstance(sending.exception(), ClientDisconnected)


def test_departure_that_the_application_notices_is_no_error(caplog):
    async def application(scope, receive, send):
        await send(START)
        while True:
            await send(body(bytes(100_000), True))

    with at_work(application) as shop:
        stream = shop.request()
        stream.cancel(LOST)
        assert stream.error == "ClientDisconnected"
    assert sentences(caplog) == []


def test_application_that_does_not_notice_is_cancelled(caplog):
    puppet = Puppet()
    with at_work(puppet, application_close_timeout=5) as shop:
        stream = shop.request()
        stream.cancel(LOST)
        shop.advance(4)
        assert not puppet.call.cancelled
        shop.advance(3)
        assert puppet.call.cancelled
        assert stream.error == "CancelledError"
    assert sentences(caplog) == ["application did not end after its client left, cancelled it"]


def test_application_that_has_answered_may_go_on():
    puppet = Puppet()
    with at_work(puppet, application_close_timeout=5) as shop:
        stream = shop.request()
        puppet.call.send_at_once(START, body(b""))
        stream.cancel(LOST)
        shop.advance(60)
        assert not puppet.call.cancelled
        puppet.call.returns()
        assert stream.error == ""


def test_server_that_waits_no_longer_cancels_at_once(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        stream.cancel(TIMEOUT)
        shop.loop.settle()
        assert puppet.call.cancelled
        assert stream.end is not None
    assert sentences(caplog) == []


# ---- the application ends


def test_application_that_raises_is_logged_here_and_told(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request("/oh")
        puppet.call.raises(ZeroDivisionError("by 0"))
        assert stream.end == (0, 0, "ZeroDivisionError")
    (record,) = [each for each in caplog.records if each.name.startswith("daphne_like")]
    assert record.message == "application failed"
    assert record.exc_info[0] is ZeroDivisionError
    assert (record.method, record.path, record.state) == ("GET", "/oh", "REQUEST")


def test_application_that_returns_early_is_logged_here_and_told(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_as_is(START)
        puppet.call.returns()
        assert stream.end == (1, 0, "unfinished")
    assert sentences(caplog) == ["application ended without a complete response"]


def test_error_after_the_response_is_the_workers_alone(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        puppet.call.send_at_once(START, body(b""))
        puppet.call.raises(ZeroDivisionError())
        assert stream.error == ""
    assert sentences(caplog) == ["application failed"]


def test_tasks_that_the_application_has_left_behind_come_to_an_end():
    left = []

    async def application(scope, receive, send):
        loop = asyncio.get_running_loop()
        await receive()
        left.append(loop.create_task(receive()))
        await asyncio.sleep(0)

    with at_work(application) as shop:
        shop.request()
        assert left[0].result() == {"type": "http.disconnect"}
