"""A worker takes streams as it has places, drains without losing one, and outlives servers and layers."""

import asyncio
import time
from typing import Any

import pytest

from daphne_like.errors import ConfigurationError, LayerUnavailable
from daphne_like.relay.envelope import BOUND, END, EVENTS, HTTP_CHANNEL, LOST, TIMEOUT, WEBSOCKET_CHANNEL
from daphne_like.relay.worker import HANDOFFS_AT_ONCE, Worker
from daphne_like.settings import Settings
from daphne_like.testing.exchange import Exchange
from tests.asgi.conversation import Puppet, message, sentences
from tests.relay.workers import Workshop, at_work

START = message("start", status=200)
BODY = message("body", body=b"")
EVENT_STREAM = [(b"Content-Type", b"text/event-stream; charset=utf-8")]


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


def free(shop: Workshop) -> dict[str, int]:
    """The places that the layer knows of."""
    return shop.port.places


# ---- places


def test_only_as_many_streams_as_there_are_places():
    puppet = Puppet()
    with at_work(puppet, worker_sessions=2) as shop:
        for _ in range(3):
            shop.request()
        assert len(puppet.calls) == 2
        assert shop.worker.sessions == {HTTP_CHANNEL: 2, WEBSOCKET_CHANNEL: 0}
        assert shop.exchange.waiting(HTTP_CHANNEL) == 1
        shop.websocket()
        assert len(puppet.calls) == 3, "WebSockets have places of their own"
        puppet.calls[0].send_at_once(START, BODY)
        puppet.calls[0].returns()
        assert len(puppet.calls) == 4
        assert shop.worker.served == 4


def test_places_are_given_back():
    with at_work(answering, worker_sessions=5) as shop:
        for _ in range(20):
            assert shop.request().error == ""
        assert free(shop) == {HTTP_CHANNEL: 5, WEBSOCKET_CHANNEL: 10_000}


@pytest.mark.parametrize(
    ("only", "served"),
    [
        ((), {HTTP_CHANNEL, WEBSOCKET_CHANNEL}),
        (("websocket.*",), {WEBSOCKET_CHANNEL}),
        (("http.request", "nothing.*"), {HTTP_CHANNEL}),
        (("thumbnails",), set()),
    ],
)
def test_only_some_channels(only, served):
    with at_work(answering, only=only) as shop:
        assert set(free(shop)) == served


def test_on_other_layers_the_worker_says_who_has_the_stream():
    """Alone, and before the application does anything: a worker that dies in it leaves no riddle."""
    with at_work(answering) as shop:
        shop.port.knows_claims = False
        shop.request()
        assert shop.server.batches[0] == [[BOUND, 1, 1]]
        assert [envelope[0] for envelope in shop.server.batches[1]] == [END]


def test_beat_is_once_a_second():
    with at_work(answering) as shop:
        shop.worker.beat = 0.0
        shop.advance(2)
        assert time.monotonic() - shop.worker.beat < 5


# ---- servers of other versions, and worse


def test_opening_of_another_version_is_refused(caplog):
    with at_work(answering, worker_sessions=1) as shop:
        opening = [99, 1, 1, "as it will be one day"]
        got: list[Any] = []
        shop.server.envelopes_received = lambda sender, batch: got.extend(batch)  # type: ignore[method-assign]
        shop.server.port.offer(HTTP_CHANNEL, 1, opening, 0)
        shop.loop.settle()
        assert got == [[END, 1, 1, 0, 0, "RelayError", []]]
        assert free(shop)[HTTP_CHANNEL] == 1
    assert sentences(caplog) == ["refused a stream that this worker does not understand"]


@pytest.mark.parametrize("garbage", [5, [], "text", {}, [1], [1, "x", 1, [], [], True, 0, "", False]])
def test_garbage_for_an_opening_is_refused(garbage, caplog):
    with at_work(answering, worker_sessions=1) as shop:
        shop.server.port.offer(HTTP_CHANNEL, 1, garbage, 0)
        shop.loop.settle()
        assert free(shop)[HTTP_CHANNEL] == 1
        assert shop.request().error == ""
    assert len(sentences(caplog)) == 1


def test_garbage_for_an_envelope_harms_nobody_else(caplog):
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        number = stream.number
        for garbage in ([], [1], [1, number, 1], [1, number, 1, "x", 5, None], [1, [], 1], [99, number, 1]):
            shop.server.port.post(shop.worker.address, garbage)
        shop.server.port.post(shop.worker.address, [EVENTS, 12345, 1, 1, ["nobody"], 0])
        stream.feed("text")
        assert puppet.call.receive()["text"] == "text"
    assert set(sentences(caplog)) == {"envelope that this worker does not understand"}


def test_envelopes_of_another_epoch_are_dropped():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        shop.server.port.post(shop.worker.address, [EVENTS, stream.number, 2, 1, ["not for us"], 0])
        stream.feed("text")
        assert puppet.call.receive()["text"] == "text"


def test_next_epoch_at_the_same_worker_ends_the_one_before():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.opened(puppet, number=7)
        before = puppet.call
        after = shop.opened(puppet, number=7, epoch=2)
        assert before.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        before.returns()
        after.feed("text")
        assert puppet.call.receive()["text"] == "text"


def test_session_that_fails_at_the_end_of_a_turn_harms_nobody_else(caplog):
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await receive()
        await receive()

    with at_work(application) as shop:
        whole = shop.worker.post
        shop.worker.post = lambda to, envelope: whole(to, envelope) if envelope[1] == 2 else 1 / 0
        shop.exchange.hold(shop.port)
        streams = [shop.request(), shop.request()]
        shop.exchange.release(shop.port)
        shop.loop.settle()
        assert [len(stream.said()) for stream in streams] == [0, 1]
        shop.worker.post = whole
        assert shop.worker.sessions[HTTP_CHANNEL] == 1
    assert "session failed at the end of a turn, broke it off" in sentences(caplog)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_stream_that_is_cancelled_before_its_first_turn_gives_its_place_back(kind):
    with at_work(answering) as shop:
        shop.exchange.hold(shop.port)
        stream = shop.server.offer(kind)
        stream.cancel(TIMEOUT)
        shop.exchange.release(shop.port)
        shop.loop.settle()
        assert stream.error == "CancelledError"
        assert not any(shop.worker.sessions.values())
        assert free(shop) == {HTTP_CHANNEL: 1000, WEBSOCKET_CHANNEL: 10_000}


# ---- servers and layers that go


def test_server_that_dies_takes_its_sessions_and_no_others():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.opened(puppet)
        first = puppet.call
        other = shop.join()
        stream = other.offer("websocket", ended=False)
        second = puppet.call
        assert second.receive() == {"type": "websocket.connect"}
        shop.exchange.kill(shop.server.port)
        shop.loop.settle()
        assert first.receive()["code"] == 1006
        second.send("websocket.accept")
        assert len(stream.said()) == 1


def test_layer_that_is_lost_and_regained():
    puppet = Puppet()
    with at_work(puppet, worker_sessions=3) as shop:
        shop.opened(puppet)
        shop.request()
        request = puppet.call
        shop.exchange.cut(shop.port)
        shop.loop.settle()
        assert puppet.calls[0].receive()["code"] == 1006
        request.receive()
        assert request.receive() == {"type": "http.disconnect"}
        shop.exchange.mend(shop.port)
        shop.loop.settle()
        assert free(shop)[HTTP_CHANNEL] == 2, "one session of the time before still runs"
        request.returns()
        assert free(shop)[HTTP_CHANNEL] == 3
        assert shop.request().error is None
        assert len(puppet.calls) == 3


async def test_layer_that_cannot_be_reached_keeps_a_worker_from_starting():
    port = Exchange().port("worker")
    port.cut_off = True
    with pytest.raises(LayerUnavailable):
        await Worker(answering, port).start()


# ---- drain


def test_idle_worker_drains_at_once():
    with at_work(answering) as shop:
        shop.request()
        assert shop.begin_drain().result() is True
        assert free(shop) == {HTTP_CHANNEL: 0, WEBSOCKET_CHANNEL: 0}


def test_drain_does_not_wait_for_an_application_that_takes_no_cancellation(caplog):
    """Its server has given it up. stop() gives it a last moment, and says so."""
    cancelled = []
    free = asyncio.Event()

    async def stubborn(scope, receive, send):
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancelled.append(scope["path"])

    with at_work(stubborn) as shop:
        stream = shop.request()
        draining = shop.begin_drain()
        assert not draining.done()
        stream.cancel(TIMEOUT)
        stream.cancel(TIMEOUT)
        assert draining.result() is True
        stopping = shop.loop.create_task(shop.worker.stop())
        shop.loop.settle()
        shop.advance(3)
        assert stopping.done()
        assert cancelled == ["/"]
        free.set()
    assert sentences(caplog) == ["an application does not end, leaving it behind"]


def test_requests_run_to_their_end():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        draining = shop.begin_drain()
        later = shop.request()
        assert (len(puppet.calls), later.envelopes) == (1, [])
        puppet.call.send_at_once(START, BODY)
        assert not draining.done()
        puppet.call.returns()
        assert draining.result() is True
        assert (stream.error, stream.handed_off) == ("", False)
        assert free(shop)[HTTP_CHANNEL] == 0


def test_requests_that_take_too_long_are_left_to_stop():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.request()
        draining = shop.begin_drain(timeout=5)
        shop.advance(6)
        assert draining.result() is False
        address = shop.port.address
        shop.stop()
        shop.loop.settle()
        assert puppet.call.cancelled
        assert stream.end is None, "to its server the worker has died, and others may go on"
        assert shop.server.gone == [address]


def test_websockets_are_handed_off():
    puppet = Puppet()
    with at_work(puppet) as shop:
        stream = shop.opened(puppet)
        draining = shop.begin_drain()
        assert stream.handed_off
        stream.release()
        assert puppet.call.receive()["code"] == 1012
        puppet.call.returns()
        assert stream.error == ""
        assert draining.result() is True


def test_many_websockets_are_handed_off_some_at_a_time():
    puppet = Puppet()
    with at_work(puppet) as shop:
        streams = [shop.opened(puppet) for _ in range(HANDOFFS_AT_ONCE + 10)]
        draining = shop.begin_drain()
        assert sum(stream.handed_off for stream in streams) == HANDOFFS_AT_ONCE
        for stream, call in zip(streams, puppet.calls, strict=True):
            assert stream.handed_off
            stream.release()
            call.returns()
        assert draining.result() is True


def test_websocket_that_closes_while_it_waits_for_its_handoff_is_passed_over():
    puppet = Puppet()
    with at_work(puppet) as shop:
        streams = [shop.opened(puppet) for _ in range(HANDOFFS_AT_ONCE + 2)]
        draining = shop.begin_drain()
        streams[-2].cancel(LOST)
        puppet.calls[-2].returns()
        for stream, call in zip(streams, puppet.calls, strict=True):
            if stream is not streams[-2]:
                stream.release()
                call.returns()
        assert not streams[-2].handed_off
        assert draining.result() is True


def test_event_streams_are_handed_off_even_if_they_begin_later():
    puppet = Puppet()
    with at_work(puppet) as shop:
        early, late, plain = shop.request(), shop.request(), shop.request()
        puppet.calls[0].send("start", status=200, headers=EVENT_STREAM)
        puppet.calls[2].send("start", status=200)
        shop.begin_drain()
        assert [each.handed_off for each in (early, late, plain)] == [True, False, False]
        puppet.calls[1].send("start", status=200, headers=EVENT_STREAM)
        shop.advance(3)
        assert [each.handed_off for each in (early, late, plain)] == [True, True, False]
        early.release()
        puppet.calls[0].receive()
        assert puppet.calls[0].receive() == {"type": "http.disconnect"}
        with pytest.raises(OSError):
            puppet.calls[0].send("body", body=b"data: twice\n\n", more_body=True)


def test_offer_that_was_on_its_way_when_the_drain_began_is_served():
    puppet = Puppet()
    with at_work(puppet) as shop:
        shop.exchange.hold(shop.port)
        stream = shop.request()
        socket = shop.websocket()
        draining = shop.begin_drain()
        assert not draining.done()
        shop.exchange.release(shop.port)
        shop.loop.settle()
        assert not draining.done()
        puppet.calls[0].send_at_once(START, BODY)
        puppet.calls[0].returns()
        assert stream.error == ""
        assert socket.handed_off
        socket.release()
        puppet.calls[1].returns()
        assert draining.result() is True


def test_drain_does_not_wait_for_a_layer_that_is_gone():
    with at_work(answering) as shop:
        shop.exchange.hold(shop.port)
        draining = shop.begin_drain()
        shop.advance(3)
        assert draining.result() is True
        shop.exchange.release(shop.port)


def test_drained_worker_serves_nothing_when_the_layer_comes_back():
    with at_work(answering) as shop:
        shop.begin_drain()
        shop.exchange.cut(shop.port)
        shop.exchange.mend(shop.port)
        shop.loop.settle()
        assert free(shop) == {}


def test_named_channels_need_a_layer():
    with pytest.raises(ConfigurationError, match="--channels"):
        Worker(answering, Exchange().port(), Settings(channels=("thumbnails",)))


def test_sockets_that_their_server_closes_are_all_handed_off_at_once():
    """The server spreads their ends over the drain: none may wait for another's."""
    puppet = Puppet()
    with at_work(puppet) as shop:
        streams = [shop.opened(puppet, closes=True) for _ in range(HANDOFFS_AT_ONCE + 10)]
        draining = shop.begin_drain()
        assert all(stream.handed_off for stream in streams)
        for stream, call in zip(streams, puppet.calls, strict=True):
            stream.cancel(LOST)
            call.returns()
        assert draining.result() is True
