"""WebSockets in a worker: what their applications receive and send, handoffs, and what was taken."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from daphne_like.layers.base import current_stream, stream_will
from daphne_like.layers.codec import pack
from daphne_like.relay.envelope import CREDIT, EVENTS, LOST, SILENT, TIMEOUT, WILL, WINDOW, item_cost
from tests.asgi.conversation import Puppet, message, sentences
from tests.relay.workers import at_work

CLOSED = {"type": "websocket.disconnect", "code": 1001, "reason": "bye"}
ABNORMAL = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
RESTART = {"type": "websocket.disconnect", "code": 1012, "reason": ""}


def text(said: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": said}


# ---- the conversation


def test_connect_comes_first_and_messages_after_the_accept():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        assert puppet.call.receive() == {"type": "websocket.connect"}
        waiting = puppet.call.begin_receive()
        puppet.call.send("websocket.accept", headers=[(b"a", b"b")])
        assert stream.said() == [{"type": "websocket.accept", "subprotocol": None, "headers": [[b"a", b"b"]]}]
        stream.feed("text", b"bytes")
        assert waiting.result() == text("text")
        assert puppet.call.receive() == {"type": "websocket.receive", "bytes": b"bytes"}
        puppet.call.send("websocket.send", text="answer")
        puppet.call.send("websocket.send", bytes=b"answer")
        assert stream.said() == ["answer", b"answer"]


def test_wrong_messages_are_errors_of_send():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        with pytest.raises(UnexpectedMessage, match=r"websocket\.send in HANDSHAKE"):
            puppet.call.send("websocket.send", text="early")
        puppet.call.send("websocket.accept")
        with pytest.raises(UnexpectedMessage, match=r"websocket\.accept in OPEN"):
            puppet.call.send("websocket.accept")
        with pytest.raises(InvalidMessage, match="lone surrogate"):
            puppet.call.send("websocket.send", text="\udc00")
        assert len(stream.said()) == 1


def test_early_items_wait_for_the_accept():
    """What an epoch before has not taken comes with the opening."""
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.websocket("kept", epoch=2, resume="lost")
        assert puppet.call.receive() == {"type": "websocket.connect"}
        waiting = puppet.call.begin_receive()
        assert not waiting.done()
        puppet.call.send("websocket.accept")
        assert waiting.result() == text("kept")


def test_resumed_scope_says_so():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.websocket()
        assert puppet.call.scope["extensions"] == {}
        shop.websocket(epoch=3, resume="drain")
        resume = {"epoch": 3, "reason": "drain"}
        assert puppet.call.scope["extensions"] == {"daphne_like.resume": resume}


def test_large_message_comes_and_goes_in_parts():
    puppet = Puppet()
    long = "x" * 500_000
    packed = pack(long)
    cuts = [packed[start : start + 150_000] for start in range(0, len(packed), 150_000)]
    parts = [{"part": cut, "more": cut is not cuts[-1]} for cut in cuts]
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        for part in parts:
            stream.feed(part)
        credit = [each for each in stream.envelopes if each[0] == CREDIT]
        assert sum(each[3] for each in credit) > sum(map(item_cost, parts)) - WINDOW // 2
        assert puppet.call.receive() == text(long)
        assert stream.taken == len(parts)
        sending = puppet.call.begin_send("websocket.send", text=long)
        assert not sending.done()
        stream.give(WINDOW * 2)
        assert sending.done()
        assert b"".join(part["part"] for part in stream.said()) == packed


def test_message_that_lost_a_part_is_not_delivered():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed({"part": pack("abc")[:2], "more": True})
        stream.feed("whole")
        assert stream.error == "SequenceGap"
        assert puppet.call.receive() == ABNORMAL


# ---- what was taken


def test_what_is_taken_is_told_with_what_is_said():
    """An echo costs no envelope more."""
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        del stream.envelopes[:]
        shop.exchange.hold(shop.port)
        stream.feed("a")

        async def echo() -> None:
            await puppet.call._send(message("websocket.send", text=(await puppet.call._receive())["text"]))

        task = shop.loop.create_task(echo())
        shop.exchange.release(shop.port)
        shop.loop.settle()
        task.result()
        assert stream.envelopes == [[EVENTS, stream.number, 1, 2, ["a"], 1]]


def test_what_is_taken_in_silence_is_told_at_the_end_of_the_turn():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        del stream.envelopes[:]
        stream.feed("a", "b")
        assert stream.envelopes == []
        puppet.call.receive()
        assert stream.envelopes == [[CREDIT, stream.number, 1, 0, 1]]
        puppet.call.returns()
        assert stream.end == (1, 1, "")


def test_credit_is_returned_with_half_of_the_window():
    puppet = Puppet()
    piece = bytes(50_000)
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed(*[piece] * 4)
        for _ in range(4):
            puppet.call.receive()
        given = [each[3] for each in stream.envelopes if each[0] == CREDIT]
        assert given == [0, 0, 3 * item_cost(piece), 0]


# ---- the end


def test_client_that_closes_is_heard_behind_its_messages():
    """send() raises from then on; receive() first gives what came before."""
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed("a", "b", CLOSED)
        with pytest.raises(ClientDisconnected, match="the WebSocket is closed"):
            puppet.call.send("websocket.send", text="too late")
        assert [puppet.call.receive() for _ in range(4)] == [text("a"), text("b"), CLOSED, CLOSED]


def test_lost_client_is_heard_ahead_of_its_messages():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.cancel(LOST, 1001)
        with pytest.raises(ClientDisconnected):
            puppet.call.send("websocket.send", text="too late")
        waiting = puppet.call.begin_receive()
        assert not waiting.done()
        stream.feed("a")
        assert waiting.result() == text("a")
        stream.feed(CLOSED)
        assert puppet.call.receive() == CLOSED


def test_server_that_is_gone_says_nothing_more():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed("a")
        shop.exchange.kill(shop.server.port)
        shop.loop.settle()
        assert [puppet.call.receive() for _ in range(2)] == [text("a"), ABNORMAL]
        with pytest.raises(ClientDisconnected):
            puppet.call.send("websocket.send", text="too late")


def test_applications_own_close_is_what_it_hears():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed("not wanted any more")
        puppet.call.send("websocket.close", code=4000, reason="enough")
        assert stream.said() == [message("websocket.close", code=4000, reason="enough")]
        own = {"type": "websocket.disconnect", "code": 4000, "reason": "enough"}
        assert puppet.call.receive() == own
        with pytest.raises(ClientDisconnected):
            puppet.call.send("websocket.send", text="too late")
        stream.feed("later", CLOSED)
        assert puppet.call.receive() == own


def test_refusal():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        puppet.call.receive()
        puppet.call.send("websocket.close", code=4001)
        assert stream.said() == [message("websocket.close")]
        assert puppet.call.receive() == ABNORMAL


def test_denial_response():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        puppet.call.send("websocket.http.response.start", status=401)
        puppet.call.send("websocket.http.response.body", body=b"no")
        assert [item["type"] for item in stream.said()] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        puppet.call.returns()
        assert stream.error == ""


ENDS = [  # what it says before, how it ends, END, log
    ([], None, "unfinished", ["application neither accepted nor closed a WebSocket"]),
    (["websocket.accept"], None, "", []),
    (["websocket.accept", "websocket.close"], None, "", []),
    (["websocket.accept"], ZeroDivisionError(), "ZeroDivisionError", ["application failed"]),
]


@pytest.mark.parametrize(("said", "error", "told", "logged"), ENDS)
def test_application_ends(said, error, told, logged, caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        for kind in said:
            puppet.call.send(kind)
        if error is None:
            puppet.call.returns()
        else:
            puppet.call.raises(error)
        assert stream.error == told
    assert sentences(caplog) == logged


def test_departure_that_ends_the_application_is_no_error(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.cancel(SILENT)
        with pytest.raises(ClientDisconnected) as raised:
            puppet.call.send("websocket.send", text="too late")
        puppet.call.raises(raised.value)
        assert stream.end is not None
    assert sentences(caplog) == []


def test_application_that_does_not_notice_is_cancelled(caplog):
    puppet = Puppet()
    with at_work(puppet, application_close_timeout=5) as shop:
        stream = shop.opened(puppet)
        stream.feed(CLOSED)
        shop.advance(4)
        assert not puppet.call.cancelled
        shop.advance(3)
        assert puppet.call.cancelled
        assert stream.end is not None
    assert sentences(caplog) == ["application did not end after its WebSocket closed, cancelled it"]


def test_server_that_waits_no_longer_cancels_at_once(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.cancel(TIMEOUT)
        assert puppet.call.cancelled
    assert sentences(caplog) == []


# ---- handoff


def test_handoff_is_a_disconnect_with_1012_and_everything_said_counts():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.feed("a")
        stream.release()
        assert puppet.call.receive() == text("a")
        assert puppet.call.receive() == RESTART
        puppet.call.send("websocket.send", text="last words")
        assert stream.said() == ["last words"]
        puppet.call.send("websocket.close")
        assert stream.said() == []
        with pytest.raises(ClientDisconnected):
            puppet.call.send("websocket.send", text="too late")
        puppet.call.returns()
        assert stream.end == (2, 1, "")


def test_close_before_the_application_knows_is_real():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        stream.release()
        puppet.call.send("websocket.close", code=4000)
        assert stream.said() == [message("websocket.close", code=4000, reason="")]
        assert puppet.call.receive()["code"] == 4000


def test_handoff_before_the_accept_logs_nothing(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.websocket()
        puppet.call.receive()
        waiting = puppet.call.begin_receive()
        stream.release()
        assert waiting.result() == RESTART
        puppet.call.returns()
        assert stream.end is not None
    assert sentences(caplog) == []


def test_application_that_stays_after_a_handoff_is_cancelled():
    puppet = Puppet()
    with at_work(puppet, application_close_timeout=5) as shop:
        stream = shop.opened(puppet)
        stream.release()
        shop.advance(7)
        assert puppet.call.cancelled
        assert stream.error == "CancelledError"


def test_last_words_that_nobody_takes_do_not_keep_a_handed_off_session():
    puppet = Puppet()
    with at_work(puppet, application_close_timeout=5) as shop:
        stream = shop.opened(puppet)
        sending = puppet.call.begin_send("websocket.send", bytes=bytes(500_000))
        stream.release()
        sending.cancel()
        shop.loop.settle()
        puppet.call.returns()
        assert stream.end is None
        shop.advance(7)
        assert stream.end is not None
        assert shop.worker.sessions["websocket.connect"] == 0


class GroupLayer:
    """Notes what a layer is told of handoffs."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def stream_leaving(self, label: str) -> None:
        self.told.append(("leaving", label))

    def stream_left(self, label: str) -> None:
        self.told.append(("left", label))

    def stream_inherited(self, label: str, will: Mapping[str, str]) -> None:
        self.told.append(("inherited", label, will))


def test_layer_keeps_group_messages_from_the_cancel_to_the_end():
    layer = GroupLayer()
    labels = []

    async def application(scope, receive, send):
        labels.append(current_stream.get())
        await send(message("websocket.accept"))
        while (await receive())["type"] != "websocket.disconnect":
            pass
        layer.told.append("told")

    with at_work(application, layer=layer) as shop:
        stream = shop.websocket()
        stream.release()
        label = f"{shop.server.port.address}.{stream.number}"
        assert labels == [label]
        assert layer.told == [("leaving", label), "told", ("left", label)]
        assert current_stream.get() == ""


def test_label_is_the_same_at_every_epoch_and_requests_have_none():
    labels = []

    async def application(scope, receive, send):
        labels.append(current_stream.get())
        await send(message("websocket.close" if scope["type"] == "websocket" else "start", status=200))

    with at_work(application, layer=GroupLayer()) as shop:
        shop.websocket(number=7)
        shop.websocket(number=7, epoch=2, resume="lost")
        shop.request()
        assert labels[0] == labels[1] != ""
        assert labels[2] == ""


def test_what_the_layer_leaves_goes_to_the_server_and_to_the_next_layer():
    """Said in a thread of the application's, too: then at the loop's next turn."""
    layer = GroupLayer()

    async def application(scope, receive, send):
        await send(message("websocket.accept"))
        tell = stream_will.get()
        tell("g", "c")
        thread = threading.Thread(target=tell, args=("h", None))
        thread.start()
        thread.join()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with at_work(application, layer=layer) as shop:
        stream = shop.websocket(will={"g": "before"})
        label = f"{shop.server.port.address}.{stream.number}"
        assert layer.told == [("inherited", label, {"g": "before"})]
        said = [envelope for batch in shop.server.batches for envelope in batch if envelope[0] == WILL]
        assert said == [[WILL, stream.number, 1, "g", "c"], [WILL, stream.number, 1, "h", None]]
        stream.release()
    assert stream_will.get() is None
