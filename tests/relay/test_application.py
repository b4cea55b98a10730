"""The relay under a server of ours: requests, and what becomes of them when nobody answers (any more)."""

import pytest

from daphne_like.relay.envelope import CANCEL, EVENTS, HANDOFF, LOST, SILENT, TIMEOUT, WINDOW
from tests.asgi.conversation import GET, message, request, response, responses, sentences
from tests.relay.relayed import relayed

START = message("start", status=200, headers=[(b"x", b"y")])
BODY = message("body", body=b"hello")
SOME = message("body", body=b"some", more_body=True)


def answer(session):
    session.say(START, BODY)
    session.end()


# ---- a request


def test_a_request_and_its_response():
    with relayed() as bench:
        wire = bench.ask(request("/a%20b?c=d", "X-A: b"))
        session = bench.worker.take()
        assert session.scope["path"] == "/a b"
        assert (b"x-a", b"b") in session.scope["headers"]
        assert "daphne_like.departure" not in session.scope["extensions"]
        assert session.opening.ended
        answer(session)
        assert response(wire).body == b"hello"


def test_one_offer_and_one_batch_are_all_that_crosses():
    sent = []
    with relayed() as bench:
        bench.exchange.tap = lambda sender, to, envelope: sent.append(envelope[0])
        wire = bench.ask(GET)
        session = bench.worker.take()
        session.say(START, BODY)
        session.end()
        assert response(wire).status == 200
        assert sent == [EVENTS, 5]


def test_requests_share_a_connection():
    with relayed() as bench:
        wire = bench.ask(GET + GET)
        answer(bench.worker.take())
        answer(bench.worker.take())
        assert [each.body for each in responses(wire)] == [b"hello", b"hello"]


def test_a_body_that_has_come_goes_with_the_opening():
    with relayed() as bench:
        bench.ask(request("/", "Content-Length: 3", method="POST") + b"abc")
        session = bench.worker.take()
        assert (session.items, session.opening.ended) == ([b"abc"], True)


def test_a_body_in_pieces():
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 6", method="POST"))
        session = bench.worker.take()
        assert (session.items, session.opening.ended) == ([], False)
        wire.receive(b"abc")
        assert session.items == [b"abc"]
        wire.receive(b"def")
        assert session.items == [b"abc", b"def", None]
        answer(session)
        assert response(wire).status == 200


def test_an_upload_reaches_no_further_than_its_credit():
    """The client's window closes when the worker's application does not take its body."""
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 10000000", method="POST"))
        session = bench.worker.take()
        pieces = 0
        while wire.reading and pieces < 150:
            wire.receive(bytes(65536))
            pieces += 1
        received = sum(map(len, session.items))
        assert WINDOW <= received < 2 * WINDOW
        assert not wire.reading
        session.credit(WINDOW)
        assert sum(map(len, session.items)) > received


def test_an_upload_waits_for_the_first_credit_where_100_is_expected():
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        session = bench.worker.take()
        assert wire.take() == b""
        session.credit()
        assert wire.take().startswith(b"HTTP/1.1 100 ")
        wire.receive(b"abc")
        assert session.items == [b"abc", None]
        answer(session)
        assert response(wire).status == 200


def test_a_refusal_without_100():
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        answer(bench.worker.take())
        assert response(wire).status == 200


def test_a_client_that_does_not_read_stops_the_worker():
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        wire.stop_reading()
        session.say(START)
        piece = message("body", body=bytes(65536), more_body=True)
        pieces = 0
        while session.outflow.open:
            session.say(piece)
            pieces += 1
            assert pieces < 50
        assert pieces >= 4
        wire.read_on()
        assert session.outflow.open


@pytest.mark.parametrize(
    "item",
    [
        message("early_hint", links=[b"</a.css>; rel=preload"]),
        message("start", status=200, headers=[], trailers=True),
    ],
)
def test_other_messages_pass(item):
    with relayed() as bench:
        wire = bench.ask(request("/", "TE: trailers"))
        session = bench.worker.take()
        session.say(item)
        if item["type"].endswith("hint"):
            assert wire.take().startswith(b"HTTP/1.1 103 ")
            answer(session)
        else:
            session.say(BODY, message("trailers", headers=[(b"sum", b"5")]))
            session.end()
            assert b"sum: 5\r\n" in wire.take()


def test_files_are_sent_by_the_server(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        session.say(message("start", status=200, headers=[]), message("pathsend", path=str(path)))
        bench.server.loop.settle_until(lambda: bench.worker.envelopes)
        assert response(wire).body == b"content"
        session.end()


def test_a_file_that_is_not_there_is_an_error():
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        session.say(message("start", status=200, headers=[]), message("pathsend", path="/no/such/file"))
        assert response(wire).status == 500
        assert session.cancels == [TIMEOUT]


# ---- departures


def test_a_departure_overtakes_the_body():
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 1000000", method="POST") + bytes(400_000))
        session = bench.worker.take()
        wire.vanish()
        assert session.cancels == [LOST]


def test_a_half_closed_client_gets_its_answer():
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        wire.close_sending()
        assert session.cancels == [SILENT]
        answer(session)
        assert response(wire).body == b"hello"


def test_a_client_that_leaves_the_queue_is_forgotten():
    with relayed(workers=0) as bench:
        wire = bench.ask(GET)
        wire.vanish()
        assert bench.relay.streams == 0
        assert not bench.add_worker().has_got_something


def test_a_worker_that_took_a_withdrawn_offer_is_told():
    with relayed() as bench:
        bench.exchange.hold(bench.relay_port)
        wire = bench.ask(GET)
        session = bench.worker.take()
        wire.vanish()
        bench.exchange.release(bench.relay_port)
        bench.settle()
        assert session.cancels == [LOST]


def test_after_its_client_left_only_the_worker_waits_for_its_application(caplog):
    """Which cancels it after a while."""
    with relayed(settings={"application_close_timeout": 5}) as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        wire.vanish()
        assert not bench.server.context.running
        bench.advance(7)
        assert bench.relay.streams == 1
        assert session.cancels == [LOST]
        session.end("CancelledError")
        assert bench.relay.streams == 0
    assert sentences(caplog) == []


def test_a_request_that_takes_too_long():
    with relayed(settings={"http_timeout": 5}) as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        bench.advance(7)
        assert response(wire).status == 503
        assert TIMEOUT in session.cancels


# ---- nobody answers


def test_requests_wait_for_a_worker():
    with relayed(workers=0) as bench:
        wire = bench.ask(GET)
        bench.advance(5)
        assert wire.take() == b""
        answer(bench.add_worker().take())
        assert response(wire).body == b"hello"


def test_nobody_comes():
    with relayed(workers=0) as bench:
        wire = bench.ask(GET)
        bench.advance(11)
        answered = response(wire)
        assert answered.status == 503
        assert answered.all("retry-after") == ["1"]
        assert bench.relay.counters.refused == 1
        assert bench.exchange.waiting("http.request") == 0


def test_a_full_channel():
    with relayed(workers=0, terms={"queue_limit": 2}) as bench:
        waiting = [bench.ask(GET) for _ in range(2)]
        assert response(bench.ask(GET)).status == 503
        assert [wire.take() for wire in waiting] == [b"", b""]


def test_a_failing_application():
    with relayed() as bench:
        wire = bench.ask(GET)
        bench.worker.take().end("ValueError")
        answered = response(wire)
        assert (answered.status, answered.body) == (500, b"Internal Server Error\n")


def test_an_application_that_fails_later_is_cut_off(caplog):
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        session.say(START, SOME)
        session.end("ValueError")
        assert wire.state == "reset"
    assert sentences(caplog, level="ERROR") == [], "its worker has said what there is to say"


def test_a_gap_cuts_the_response():
    with relayed() as bench:
        bench.exchange.drop = lambda sender, to, envelope: envelope[0] == EVENTS and envelope[3] == 3
        wire = bench.ask(GET)
        session = bench.worker.take()
        session.say(START, SOME)
        session.say(SOME)
        session.say(BODY)
        assert wire.state == "reset"
        assert bench.relay.counters.gaps == 1


# ---- workers that are lost


def test_a_safe_request_runs_again():
    with relayed(workers=2) as bench:
        wire = bench.ask(GET)
        first, second = sorted(bench.workers, key=lambda worker: not worker.has_got_something)
        first.kill()
        session = second.take()
        assert session.scope["extensions"]["daphne_like.resume"] == {"epoch": 2, "reason": "lost"}
        answer(session)
        assert response(wire).body == b"hello"


def test_another_request_is_answered_502():
    with relayed() as bench:
        wire = bench.ask(request("/", "Content-Length: 3", method="POST") + b"abc")
        bench.worker.kill()
        assert response(wire).status == 502


def test_a_begun_response_is_cut():
    with relayed() as bench:
        wire = bench.ask(GET)
        bench.worker.take().say(START, SOME)
        bench.worker.kill()
        assert wire.state == "reset"


def test_an_event_stream_goes_on_elsewhere():
    head = message("start", status=200, headers=[(b"content-type", b"text/event-stream")])
    with relayed() as bench:
        wire = bench.ask(request("/events", "Last-Event-ID: 0"))
        session = bench.worker.take()
        session.say(head, message("body", body=b"id: 1\n\ndata: lo", more_body=True))
        second = bench.add_worker()
        session.post([HANDOFF, *session.key])
        assert session.cancels == ["handoff"]
        session.end("CancelledError")
        again = second.take()
        assert [value for name, value in again.scope["headers"] if name == b"last-event-id"] == [b"1"]
        again.say(head, message("body", body=b"id: 2\n\n", more_body=True))
        again.say(message("body"))
        again.end()
        answered = response(wire)
        assert answered.body == b"id: 1\n\nid: 2\n\n"


def test_what_a_fenced_worker_says_is_not_heard():
    """It was cut off from the layer, went on, and comes back."""
    with relayed(workers=2) as bench:
        wire = bench.ask(GET)
        first, second = sorted(bench.workers, key=lambda worker: not worker.has_got_something)
        old = first.take()
        bench.exchange.cut(first.port)
        bench.settle()
        session = second.take()
        bench.exchange.mend(first.port)
        bench.settle()
        old.say(START, BODY)
        assert wire.take() == b""
        assert old.cancels == [LOST]
        answer(session)
        assert response(wire).status == 200


# ---- the layer


def test_the_layer_comes_and_goes():
    with relayed() as bench:
        waiting, unsafe = bench.ask(GET), bench.ask(request("/", "Content-Length: 0", method="POST"))
        bench.exchange.cut(bench.relay_port)
        bench.settle()
        assert response(unsafe).status == 502
        new = bench.ask(GET)
        assert waiting.take() == new.take() == b""
        bench.exchange.mend(bench.relay_port)
        bench.settle()
        first, second = list(bench.worker.sessions.values())[-2:]
        assert (first.opening.epoch, second.opening.epoch) == (2, 1)
        for session, wire in ((first, waiting), (second, new)):
            answer(session)
            assert response(wire).status == 200


def test_without_a_layer_streams_wait_for_a_while_and_no_more_than_fit():
    with relayed(terms={"queue_timeout": 3, "queue_limit": 2}) as bench:
        bench.ask(GET)
        answer(bench.worker.take())
        bench.exchange.cut(bench.relay_port)
        bench.settle()
        waiting = [bench.ask(GET) for _ in range(2)]
        assert response(bench.ask(GET)).status == 503
        bench.advance(2)
        assert [wire.take() for wire in waiting] == [b"", b""]
        bench.advance(1.5)
        assert [response(wire).status for wire in waiting] == [503, 503]
        assert not bench.relay.streams


def test_a_layer_that_stalls_takes_no_stream_away():
    with relayed() as bench:
        begun = bench.ask(GET)
        session = bench.worker.take()
        bench.relay.port_stalled()
        assert not bench.relay.reachable
        new = bench.ask(GET)
        assert not bench.worker.has_got_something
        answer(session)
        assert response(begun).status == 200
        bench.relay.port_resumed()
        bench.settle()
        answer(bench.worker.take())
        assert response(new).status == 200


@pytest.mark.parametrize(
    "envelope",
    [[], [2], [1, 1], [1, 1, 1, "x", 5, []], [1, 1, 1, 1, [{"type": 5}], 0], [99, 1, 1], [1, [], 1]],
)
def test_garbage_harms_nobody(envelope):
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        bench.worker.port.post(session.server, envelope)
        bench.settle()
        other = bench.ask(GET)
        answer(bench.worker.take())
        assert response(other).status == 200
        if not wire.closed and not wire.take():
            answer(session)


def test_who_speaks_of_a_stream_that_is_over_is_told():
    with relayed() as bench:
        bench.ask(GET)
        session = bench.worker.take()
        answer(session)
        session.say(SOME)
        assert bench.worker.envelopes == [[CANCEL, *session.key, LOST, 1006]]


def test_a_stream_that_two_workers_have_got_is_the_firsts():
    """Layers of others may give an offer twice."""
    with relayed() as bench:
        wire = bench.ask(GET)
        session = bench.worker.take()
        second = bench.add_worker()
        second.port.post(session.server, [EVENTS, *session.key, 1, [START, SOME], 0])
        bench.settle()
        assert second.envelopes == [[CANCEL, *session.key, LOST, 1006]]
        assert wire.take() == b""
        answer(session)
        assert response(wire).status == 200
