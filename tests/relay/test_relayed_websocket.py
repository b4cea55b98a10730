"""WebSockets through the relay, under a server of ours: the socket stays while workers come and go."""

import pytest

from daphne_like.relay.envelope import GAP, HANDED_OFF, HANDOFF, LOST
from tests.asgi.conversation import HANDSHAKE, frame, frames, message, response, responses
from tests.relay.relayed import relayed

ACCEPT = message("websocket.accept")


def connect(bench):
    wire = bench.ask(HANDSHAKE + b"\r\n")
    session = bench.worker.take()
    session.say(ACCEPT)
    assert responses(wire)[0].status == 101
    return wire, session


def hand_on(bench, session):
    """The worker gives its socket away, and the next has it."""
    other = bench.add_worker()
    session.worker.port.serve("websocket.connect", -100)
    session.post([HANDOFF, *session.key])
    assert session.cancels == [HANDED_OFF]
    session.end()
    return other.take()


def texts(wire):
    return [payload for _, payload in frames(wire)]


def test_messages_both_ways():
    with relayed() as bench:
        wire, session = connect(bench)
        assert session.scope["subprotocols"] == []
        wire.receive(frame(1, b"a"), frame(2, b"b"))
        assert session.items == ["a", b"b"]
        session.say("x", b"y")
        assert texts(wire) == [b"x", b"y"]


def test_a_client_that_closes():
    with relayed() as bench:
        wire, session = connect(bench)
        wire.receive(frame(1, b"a") + frame(8, b"\x0f\xa0bye"))
        assert session.items == ["a", {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}]
        assert session.cancels == [LOST]
        session.end()
        assert bench.relay.streams == 0


def test_an_application_that_closes():
    with relayed() as bench:
        wire, session = connect(bench)
        session.say("x", message("websocket.close", code=4001))
        session.end()
        assert texts(wire) == [b"x", b"\x0f\xa1"]


@pytest.mark.parametrize(("error", "code"), [("", b"\x03\xe8"), ("ValueError", b"\x03\xf3")])
def test_an_application_that_ends(error, code):
    with relayed() as bench:
        wire, session = connect(bench)
        session.end(error)
        assert texts(wire) == [code]


@pytest.mark.parametrize(("error", "status"), [("", 500), ("ValueError", 500)])
def test_an_application_that_ends_without_an_answer(error, status):
    with relayed() as bench:
        wire = bench.ask(HANDSHAKE + b"\r\n")
        bench.worker.take().end(error)
        assert response(wire).status == status


def test_a_refusal():
    with relayed() as bench:
        wire = bench.ask(HANDSHAKE + b"\r\n")
        bench.worker.take().say(message("websocket.close"))
        assert response(wire).status == 403


def test_a_denial_response():
    with relayed() as bench:
        wire = bench.ask(HANDSHAKE + b"\r\n")
        session = bench.worker.take()
        session.say(message("websocket.http.response.start", status=401, headers=[]))
        session.say(message("websocket.http.response.body", body=b"who are you"))
        session.end()
        answered = response(wire)
        assert (answered.status, answered.body) == (401, b"who are you")


def test_a_handshake_that_nobody_takes():
    """Before the server's own limit for handshakes, and with a status that says what it is."""
    with relayed(workers=0) as bench:
        wire = bench.ask(HANDSHAKE + b"\r\n")
        bench.advance(6)
        answered = response(wire)
        assert answered.status == 503
        assert answered.all("retry-after") == ["1"]


def test_a_slow_socket_stalls_only_itself():
    with relayed() as bench:
        slow, session = connect(bench)
        fast, other = connect(bench)
        slow.stop_reading()
        while session.outflow.open:
            session.say(b"x" * 65536)
        other.say("x")
        assert texts(fast) == [b"x"]
        slow.read_on()
        assert session.outflow.open


def test_a_client_that_floods_is_stopped():
    with relayed() as bench:
        wire, session = connect(bench)
        for _ in range(100):
            wire.receive(frame(2, b"x" * 16384))
        assert not wire.reading
        before = len(session.items)
        session.taken = before
        session.credit(300_000)
        assert len(session.items) > before


def test_a_gap_closes():
    with relayed() as bench:
        wire, session = connect(bench)
        session.outflow.sent += 1
        session.say("x")
        assert texts(wire) == [b"\x03\xf3"]
        assert session.cancels == [GAP]


# ---- workers come and go


def test_a_handoff_is_not_noticed():
    with relayed() as bench:
        wire, session = connect(bench)
        wire.receive(frame(1, b"a"))
        session.taken = 1
        session.say("answer to a")
        session.worker.port.serve("websocket.connect", -100)
        other = bench.add_worker()
        session.post([HANDOFF, *session.key])
        wire.receive(frame(1, b"b"), frame(1, b"c"))
        assert session.items == ["a"]
        session.say("last words")
        session.end()
        assert texts(wire) == [b"answer to a", b"last words"]
        again = other.take()
        assert again.scope["path"] == session.scope["path"]
        assert again.scope["extensions"]["daphne_like.resume"] == {"epoch": 2, "reason": "drain"}
        again.say(ACCEPT)
        assert again.items == ["b", "c"]
        again.taken = 2
        again.say("answers")
        assert texts(wire) == [b"answers"]
        assert bench.relay.counters.resumed == 1


def test_a_worker_that_dies_is_not_noticed():
    with relayed() as bench:
        wire, session = connect(bench)
        wire.receive(frame(1, b"a"), frame(1, b"b"))
        session.taken = 1
        session.say("answer to a")
        other = bench.add_worker()
        session.worker.kill()
        again = other.take()
        assert again.items == ["b"]
        assert again.scope["extensions"]["daphne_like.resume"] == {"epoch": 2, "reason": "lost"}
        again.say(ACCEPT, "answer to b")
        assert texts(wire) == [b"answer to a", b"answer to b"]


def test_sockets_wait_for_a_worker():
    with relayed() as bench:
        wire, session = connect(bench)
        session.worker.kill()
        wire.receive(frame(1, b"a"))
        bench.advance(10)
        other = bench.add_worker()
        other_session = other.take()
        other_session.say(ACCEPT)
        assert other_session.items == ["a"]
        assert texts(wire) == []


def test_and_are_closed_when_none_comes():
    with relayed(terms={"resume_timeout": 5.0}) as bench:
        wire, session = connect(bench)
        session.worker.kill()
        bench.advance(6)
        assert texts(wire) == [b"\x03\xf4"]


@pytest.mark.parametrize("moment", ["releasing", "opening"])
def test_a_client_that_leaves_meanwhile(moment):
    with relayed() as bench:
        wire, session = connect(bench)
        if moment == "releasing":
            session.post([HANDOFF, *session.key])
        else:
            session.worker.kill()
        wire.vanish()
        assert bench.relay.streams == 0
        assert not bench.add_worker().has_got_something


def test_another_subprotocol_closes():
    with relayed() as bench:
        wire, session = connect(bench)
        again = hand_on(bench, session)
        again.say(message("websocket.accept", subprotocol="chat"))
        assert texts(wire)[0][:2] == b"\x03\xf4"
        assert again.cancels == [LOST] or again.items


def test_a_refusal_by_the_new_application_closes():
    with relayed() as bench:
        wire, session = connect(bench)
        hand_on(bench, session).say(message("websocket.close"))
        assert texts(wire) == [b"\x03\xf0"]


def test_an_application_that_fails_when_resumed():
    with relayed() as bench:
        wire, session = connect(bench)
        hand_on(bench, session).end("")
        assert texts(wire) == [b"\x03\xf3"]


# ---- sockets that are closed instead


def test_by_setting():
    with relayed(on_worker_restart="close", restart_spread=4.0) as bench:
        wire, session = connect(bench)
        session.post([HANDOFF, *session.key])
        assert session.cancels == []
        bench.advance(5)
        assert texts(wire)[0][:2] == b"\x03\xf4"
        assert LOST in session.cancels or session.items


def test_by_setting_when_the_worker_dies():
    with relayed(on_worker_restart="close") as bench:
        wire, session = connect(bench)
        session.worker.kill()
        assert texts(wire) == [b"\x03\xf4"]


def test_by_path():
    rules = [("/ws*", "close"), ("*", "resume")]
    with relayed(restart_rules=rules) as bench:
        wire, session = connect(bench)
        session.worker.kill()
        assert texts(wire) == [b"\x03\xf4"]
