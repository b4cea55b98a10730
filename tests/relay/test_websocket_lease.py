"""The lease of a WebSocket: the socket stays, and nothing that its client says is lost or doubled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.relay.envelope import CREDIT, EVENTS, GAP, HANDED_OFF, LOST, TIMEOUT
from daphne_like.relay.keeper import (
    BROKEN,
    ENDED,
    FAILED,
    GONE,
    HELD,
    LOST_WORKER,
    OPENING,
    OVER,
    RELEASING,
    UNAVAILABLE,
)
from daphne_like.relay.websocket_lease import MAX_DEATHS, MAX_WILL
from tests.relay.leases import (
    ACCEPT,
    FakeKeeper,
    deliver,
    end,
    fed,
    kinds,
    open_socket,
    say,
    sent,
    socket,
    text,
)

CLOSE = {"type": "websocket.close", "code": 4000, "reason": "done"}


@pytest.fixture
def keeper():
    return FakeKeeper()


# ---- one worker


def test_messages_both_ways(keeper):
    lease = open_socket(keeper)
    lease.feed(text("a"))
    lease.feed({"type": "websocket.receive", "bytes": b"b"})
    lease.feed({"type": "websocket.receive", "text": None, "bytes": b"c"})
    assert keeper.take_posted() == [
        [EVENTS, 7, 1, 1, ["a"], 1],
        [EVENTS, 7, 1, 2, [b"b"], 1],
        [EVENTS, 7, 1, 3, [b"c"], 1],
    ]
    say(lease, "x", b"y")
    assert deliver(lease) == [sent("x"), {"type": "websocket.send", "bytes": b"y"}]


def test_large_messages_both_ways(keeper):
    lease = open_socket(keeper)
    large = "é" * 500_000
    lease.feed(text(large))
    while lease.outflow.sent < 6:
        lease.receive_credit(200_000, 0)
    assert len(fed(keeper.take_posted())) == 6
    for _ in range(2):
        say(lease, large, {**ACCEPT, "type": "websocket.http.response.start"})
    assert deliver(lease)[0] == sent(large)


def test_a_disconnect_follows_what_came_before_it(keeper):
    lease = open_socket(keeper)
    lease.feed(text("a"))
    lease.feed({"type": "websocket.disconnect", "code": 1001, "reason": "bye"})
    posted = keeper.take_posted()
    assert fed(posted) == ["a", {"type": "websocket.disconnect", "code": 1001, "reason": "bye"}]
    assert kinds(posted) == [EVENTS, LOST, EVENTS], "send() raises as soon as that is known"
    assert not lease.verdict
    end(lease)
    assert lease.state is ENDED


def test_nobody_takes_it_in_time(keeper):
    lease = socket(keeper)
    keeper.advance(lease, keeper.terms.connect_timeout + 0.5)
    assert lease.verdict is UNAVAILABLE


def test_the_application_ends(keeper):
    lease, failing = open_socket(keeper), open_socket(keeper)
    end(lease)
    end(failing, "ValueError")
    assert (lease.verdict, failing.verdict) == (OVER, FAILED)


def test_a_gap(keeper):
    lease = open_socket(keeper)
    lease.receive_events(3, ["x"], 0)
    assert lease.verdict is BROKEN
    assert kinds(keeper.take_posted()) == [GAP]


# ---- handoff


def test_a_handoff_has_two_phases(keeper):
    lease = open_socket(keeper)
    lease.feed(text("a"))
    keeper.take_posted()
    lease.receive_handoff()
    assert lease.state is RELEASING
    assert not lease.may_feed
    assert keeper.take_posted() == [[4, 7, 1, HANDED_OFF, 1012]]
    lease.feed(text("b"))  # which had been asked for
    assert keeper.take_posted() == []
    assert keeper.offers == []
    say(lease, "answer to a", taken=1)
    end(lease, taken=1)
    opening = keeper.take_offer()
    assert (opening.epoch, opening.resume, opening.items) == (2, "drain", ["b"])
    lease.claimed("w2")
    say(lease, ACCEPT, "answer to b", taken=1)
    assert deliver(lease) == [sent("answer to a"), sent("answer to b")]
    assert lease.may_feed
    assert keeper.counters.resumed == 1
    assert keeper.counters.frames_redelivered == 0


def test_what_was_sent_and_not_taken_goes_to_the_next(keeper):
    lease = open_socket(keeper)
    for word in "abcd":
        lease.feed(text(word))
    lease.receive_credit(0, 1)
    lease.receive_handoff()
    end(lease, taken=2)
    assert keeper.take_offer().items == ["c", "d"]


def test_what_does_not_fit_into_the_opening_follows(keeper):
    lease = open_socket(keeper)
    words = [letter * 60_000 for letter in "abcd"]
    for word in words:
        lease.feed(text(word))
    lease.receive_handoff()
    end(lease)
    items = keeper.take_offer().items
    keeper.take_posted()
    lease.claimed("w2")
    assert items + fed(keeper.take_posted()) == words
    assert len(items) == 3


def test_a_large_message_goes_whole_to_the_next(keeper):
    lease = open_socket(keeper)
    lease.feed(text("x" * 300_000))
    lease.receive_handoff()
    end(lease)
    items = keeper.take_offer().items
    lease.claimed("w2")
    items += fed(keeper.take_posted()[-1:])
    assert [item["more"] for item in items] == [True, False]


def test_an_application_that_does_not_end_is_cancelled(keeper):
    lease = open_socket(keeper)
    lease.receive_handoff()
    keeper.advance(lease, keeper.terms.release_timeout + 1)
    assert kinds(keeper.take_posted()) == [HANDED_OFF, TIMEOUT]
    assert (lease.state, lease.epoch) == (OPENING, 2)


def test_a_failure_after_the_handoff_changes_nothing(keeper):
    lease = open_socket(keeper)
    lease.receive_handoff()
    end(lease, "ClientDisconnected")
    assert lease.state is OPENING


def test_a_close_said_before_the_handoff_is_real(keeper):
    lease = open_socket(keeper)
    lease.receive_handoff()
    say(lease, CLOSE)
    end(lease)
    assert lease.verdict is OVER
    assert deliver(lease) == [CLOSE]


@pytest.mark.parametrize("moment", ["releasing", "opening"])
def test_a_client_gone_during_the_handoff_ends_it(keeper, moment):
    lease = open_socket(keeper)
    lease.receive_handoff()
    if moment == "opening":
        end(lease)
    lease.client_departed(True)
    assert lease.verdict is GONE
    assert keeper.withdrawn == ([lease.ref] if moment == "opening" else [])


def test_a_handshake_is_handed_on_too(keeper):
    lease = socket(keeper)
    lease.claimed("w1")
    keeper.take_offer()
    lease.receive_handoff()
    end(lease)
    lease.claimed("w2")
    say(lease, ACCEPT)
    assert deliver(lease) == [ACCEPT]


def test_sockets_that_are_not_to_be_resumed_are_closed_over_time(keeper):
    lease = open_socket(keeper, closes=True, spread=5.0)
    lease.receive_handoff()
    assert lease.state is HELD
    keeper.advance(lease, 5.5)
    assert lease.farewell == {"type": "websocket.close", "code": 1012, "reason": "restart"}


# ---- the new application


def resumed(keeper, **how):
    lease = open_socket(keeper, **how)
    lease.worker_gone()
    keeper.take_offer()
    lease.claimed("w2")
    keeper.take_posted()
    return lease


def closing(code, reason=""):
    return {"type": "websocket.close", "code": code, "reason": reason}


JUDGED = [  # what the new application says first; what the client gets
    (ACCEPT, []),
    ({"type": "websocket.accept"}, []),
    ({**ACCEPT, "subprotocol": "other"}, [closing(1012, "subprotocol changed")]),
    (CLOSE, [CLOSE]),
    ({"type": "websocket.close"}, [closing(1008)]),
    ({"type": "websocket.close", "code": None, "reason": None}, [closing(1008)]),
    ({"type": "websocket.http.response.start", "status": 403, "headers": []}, [closing(1008)]),
]


@pytest.mark.parametrize(("said", "expected"), JUDGED)
def test_what_the_new_application_may_say(keeper, said, expected):
    lease = resumed(keeper)
    say(lease, said)
    assert deliver(lease) == expected


def test_a_denial_response_closes_once(keeper):
    lease = resumed(keeper)
    say(
        lease,
        {"type": "websocket.http.response.start", "status": 403, "headers": []},
        {"type": "websocket.http.response.body", "body": b"no"},
    )
    assert deliver(lease) == [closing(1008)]


def test_after_it_has_accepted_a_close_is_its_own(keeper):
    lease = resumed(keeper)
    say(lease, ACCEPT, {"type": "websocket.close"})
    assert deliver(lease) == [{"type": "websocket.close"}]


# ---- a worker that dies


def test_the_socket_outlives_its_worker(keeper):
    lease = open_socket(keeper)
    for word in "abc":
        lease.feed(text(word))
    say(lease, "answer to a", taken=1)
    lease.receive_credit(0, 2)
    lease.worker_gone()
    opening = keeper.take_offer()
    assert (opening.resume, opening.items) == ("lost", ["c"])
    assert keeper.counters.frames_unanswered == 1, "b"
    assert keeper.counters.frames_redelivered == 1, "c"
    lease.claimed("w2")
    say(lease, ACCEPT, "answer to c", taken=1)
    assert deliver(lease) == [sent("answer to a"), sent("answer to c")]


def test_it_is_offered_without_delay(keeper):
    lease = open_socket(keeper)
    lease.worker_gone()
    assert len(keeper.offers) == 1


def test_the_next_tries_take_a_pause(keeper):
    """An application that ends each worker at its connect would keep them all busy otherwise."""
    lease = open_socket(keeper)
    lease.worker_gone()
    keeper.take_offer()
    lease.claimed("w2")
    lease.worker_gone()
    assert keeper.offers == []
    keeper.advance(lease, 1)
    assert keeper.take_offer().epoch == 3


def test_nobody_resumes_it_in_time(keeper):
    lease = open_socket(keeper)
    lease.worker_gone()
    keeper.advance(lease, keeper.terms.resume_timeout + 1)
    assert lease.verdict is UNAVAILABLE
    assert lease.accepted


def test_tries_end_at_the_deadline_of_the_first(keeper):
    lease = open_socket(keeper)
    workers = 1
    for _ in range(100):
        if lease.verdict:
            break
        lease.worker_gone()
        keeper.advance(lease, 3)
        if lease.state is OPENING:
            workers += 1
            lease.claimed(f"w{workers}")
    assert lease.verdict is UNAVAILABLE
    assert workers < 15


def test_a_message_that_ends_each_worker_ends_the_socket(keeper):
    lease = open_socket(keeper)
    lease.feed(text("poison"))
    for death in range(MAX_DEATHS):
        assert not lease.verdict, death
        lease.worker_gone()
        keeper.advance(lease, 3)
        lease.claimed("w")
        say(lease, ACCEPT)
        deliver(lease)
    assert lease.verdict is LOST_WORKER


def test_idle_sockets_outlive_any_number_of_workers(keeper):
    lease = open_socket(keeper)
    for _ in range(50):
        lease.worker_gone()
        keeper.take_offer()
        lease.claimed("w")
        say(lease, ACCEPT)
        assert deliver(lease) == []
    assert not lease.verdict
    assert keeper.counters.resumed == 50


def test_a_refused_offer_is_made_again(keeper):
    lease = open_socket(keeper)
    lease.worker_gone()
    assert keeper.offers[0][2] == 0, "sockets are no new work: no limit"
    keeper.take_offer()
    lease.refused()
    keeper.advance(lease, 1)
    assert keeper.take_offer().epoch == 2


def test_its_close_outlives_the_worker(keeper):
    lease = open_socket(keeper)
    say(lease, CLOSE)
    lease.worker_gone()
    assert lease.verdict is OVER
    assert deliver(lease) == [CLOSE]


def test_a_worker_that_dies_releasing(keeper):
    lease = open_socket(keeper)
    lease.receive_handoff()
    lease.worker_gone()
    assert lease.state is OPENING


def test_sockets_that_are_not_to_be_resumed_are_closed(keeper):
    lease = open_socket(keeper, closes=True)
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER


def test_a_client_gone_before_its_worker(keeper):
    lease = open_socket(keeper)
    lease.client_departed(True)
    lease.worker_gone()
    assert lease.verdict is GONE


def test_the_layer_comes_and_goes(keeper):
    lease = open_socket(keeper)
    keeper.reachable = False
    lease.layer_lost()
    assert keeper.offers == []
    keeper.reachable = True
    lease.layer_regained()
    keeper.take_offer()
    keeper.reachable = False
    lease.layer_lost()
    assert lease.epoch == 3
    keeper.reachable = True
    lease.layer_regained()
    assert keeper.take_offer().epoch == 3


# ---- any order of things

STEPS = st.lists(
    st.sampled_from(["feed", "feed large", "take", "answer", "die", "hand off", "tick", "credit"]),
    max_size=40,
)


@given(STEPS)
def test_no_message_is_lost_doubled_or_reordered(steps):
    """
    A worker that echoes: whatever happens to it, the client gets the echoes in order, each at most once, and
    only those are missing that a worker had taken when it died.
    """
    keeper = FakeKeeper()
    lease = open_socket(keeper)
    counter = 0
    worker: list[str] = []  # what the present worker has got and its application has not taken
    taken = 0
    in_hand: list[str] = []  # taken, and not answered
    lost: set[str] = set()
    answers: list[str] = []
    parts = ""

    def arrive(items):
        nonlocal parts
        for item in items:
            if isinstance(item, dict):
                parts += "x"
                if not item["more"]:
                    worker.append((large.pop(0), len(parts)))
                    parts = ""
            else:
                worker.append((item, 1))

    large: list[str] = []
    large_unsent: list[str] = []

    def settle():
        nonlocal worker, taken, in_hand, parts
        if keeper.offers:
            opening = keeper.take_offer()
            keeper.take_posted()
            worker, taken, parts = [], 0, ""
            large[:] = list(large_unsent)
            arrive(opening.items)
            lease.claimed("w")
            say(lease, ACCEPT)
        arrive(fed(keeper.take_posted()))
        answers.extend(message["text"] for message in deliver(lease))

    for step in steps:
        if lease.verdict:
            break
        if step.startswith("feed") and lease.may_feed:
            counter += 1
            word = str(counter)
            if step == "feed large":
                # All large messages look alike once packed: only their number of parts counts here.
                lease.feed(text(word.rjust(400_000)))
                large.append(word)
                large_unsent.append(word)
            else:
                lease.feed(text(word))
        elif step == "take" and worker and lease.state is HELD:
            word, parts_of_it = worker.pop(0)
            taken += parts_of_it
            in_hand.append(word)
            if word in large_unsent:
                large_unsent.remove(word)
            lease.receive_credit(400_000 * (parts_of_it > 1), taken)
        elif step == "answer" and in_hand and lease.state is HELD:
            say(lease, in_hand.pop(0), taken=taken)
        elif step == "die" and lease.worker:
            lost.update(in_hand)
            in_hand = []
            lease.worker_gone()
        elif step == "hand off" and lease.state is HELD:
            lease.receive_handoff()
            counter += 1
            lease.feed(text(str(counter)))  # which had been asked for
            arrive(fed(keeper.take_posted()))
            say(lease, *in_hand, taken=taken)
            in_hand = []
            end(lease, taken=taken)
        elif step == "tick":
            keeper.advance(lease, 3)
        elif step == "credit" and lease.worker:
            lease.receive_credit(200_000, taken)
        settle()
    assert [int(answer) for answer in answers] == sorted({int(answer) for answer in answers})
    assert not lost & set(answers)
    if not lease.verdict:
        waiting = counter - len(answers) - len(lost) - len(in_hand)
        while lease.state is not HELD:
            keeper.advance(lease, 3)
            settle()
        for _ in range(100):
            lease.receive_credit(200_000, taken)
            settle()
        assert len(worker) == waiting, "nothing else is missing"
    assert keeper.counters.frames_unanswered >= 0


def test_its_credit_returns_as_the_client_takes(keeper):
    lease = open_socket(keeper)
    say(lease, *["x" * 50_000] * 4)
    assert keeper.take_posted() == []
    deliver(lease)
    assert kinds(keeper.take_posted()) == [CREDIT]


def test_credit_of_an_epoch_that_is_over_is_not_given(keeper):
    lease = open_socket(keeper)
    say(lease, *["x" * 50_000] * 4)
    lease.worker_gone()
    lease.claimed("w2")
    deliver(lease)
    assert keeper.take_posted() == []


# ---- what a dead worker has left


def test_a_will_goes_with_the_stream_when_its_worker_dies(keeper):
    lease = open_socket(keeper)
    lease.receive_will("g", "c1")
    lease.receive_will("h", "c1")
    lease.receive_will("h", None)
    lease.worker_gone()
    opening = keeper.take_offer()
    assert (opening.resume, opening.will) == ("lost", {"g": "c1"})


def test_a_will_stands_until_the_next_worker_says_something_else(keeper):
    lease = open_socket(keeper)
    lease.receive_will("g", "c1")
    lease.receive_will("h", "c1")
    lease.worker_gone()
    keeper.take_offer()
    lease.claimed("w2")
    lease.receive_will("g", "c2")
    lease.worker_gone()
    keeper.advance(lease, 5)
    assert keeper.take_offer().will == {"g": "c2", "h": "c1"}


def test_a_worker_that_hands_over_leaves_no_will(keeper):
    lease = open_socket(keeper)
    lease.receive_will("g", "c1")
    lease.receive_handoff()
    end(lease)
    opening = keeper.take_offer()
    assert (opening.resume, opening.will) == ("drain", {})
    lease.claimed("w2")
    lease.worker_gone()
    keeper.advance(lease, 5)
    assert keeper.take_offer().will == {}


def test_a_will_has_a_bound(keeper):
    lease = open_socket(keeper)
    for number in range(MAX_WILL + 1):
        lease.receive_will(f"g{number}", "c")
    lease.receive_will("g0", "d")
    assert len(lease.will) == MAX_WILL
    assert lease.will["g0"] == "d"
