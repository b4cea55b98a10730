"""The lease of a request: who has it, what its loss costs, how credit goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.relay.envelope import CREDIT, EVENTS, GAP, KEEPALIVE, LOST, SILENT, TIMEOUT, WINDOW
from daphne_like.relay.keeper import (
    BROKEN,
    ENDED,
    FAILED,
    GONE,
    HELD,
    LOST_WORKER,
    OPENING,
    OVER,
    UNAVAILABLE,
)
from tests.relay.leases import (
    BODY,
    SCOPE,
    SOME,
    START,
    FakeKeeper,
    deliver,
    end,
    fed,
    kinds,
    request,
    say,
)

UNSAFE = ["POST", "PUT", "PATCH", "DELETE"]
SAFE = ["GET", "HEAD", "OPTIONS", "TRACE"]


@pytest.fixture
def keeper():
    return FakeKeeper()


# ---- OPENING


def test_a_whole_request_goes_with_its_opening(keeper):
    lease = request(keeper, b"abc", method="POST")
    ref, opening, limit = keeper.offers[0]
    assert (ref, limit) == (lease.ref, keeper.terms.queue_limit)
    assert (opening.stream, opening.epoch, opening.items, opening.ended) == (7, 1, [b"abc"], True)
    assert opening.scope["method"] == "POST"
    assert lease.state is OPENING
    assert keeper.take_posted() == []


def test_what_comes_before_a_worker_has_it_follows(keeper):
    lease = request(keeper, None, method="POST")
    opening = keeper.take_offer()
    assert (opening.items, opening.ended) == ([], False)
    lease.feed({"type": "http.request", "body": b"abc", "more_body": True})
    lease.feed({"type": "http.request", "body": b"def"})
    assert keeper.take_posted() == []
    lease.claimed("w1")
    assert keeper.take_posted() == [[EVENTS, 7, 1, 1, [b"abc", b"def", None], 0]]
    assert lease.state is HELD


def test_before_a_worker_has_it_little_is_fed(keeper):
    lease = request(keeper, None, method="POST")
    assert lease.may_feed
    lease.feed({"type": "http.request", "body": bytes(64 * 1024), "more_body": True})
    assert not lease.may_feed
    lease.claimed("w1")
    assert lease.may_feed


def test_nobody_takes_it_in_time(keeper):
    lease = request(keeper)
    keeper.advance(lease, keeper.terms.queue_timeout - 0.5)
    assert not lease.verdict
    keeper.advance(lease, 1)
    assert lease.verdict is UNAVAILABLE
    assert keeper.withdrawn == [lease.ref]
    assert keeper.counters.refused == 1


def test_a_full_channel_refuses_at_once(keeper):
    lease = request(keeper)
    lease.refused()
    assert lease.verdict is UNAVAILABLE


def test_without_a_layer_it_waits_for_it_and_is_offered_then(keeper):
    keeper.reachable = False
    lease = request(keeper)
    keeper.advance(lease, keeper.terms.queue_timeout - 1)
    assert (lease.state, keeper.offers) == (OPENING, [])
    keeper.reachable = True
    lease.layer_regained()
    assert keeper.take_offer().epoch == 1


def test_without_a_layer_it_is_refused_when_its_time_is_up(keeper):
    keeper.reachable = False
    lease = request(keeper)
    keeper.advance(lease, keeper.terms.queue_timeout)
    assert lease.verdict is UNAVAILABLE
    assert (keeper.offers, keeper.withdrawn) == ([], [])


def test_without_a_layer_and_without_room_it_is_refused_at_once(keeper):
    keeper.reachable = keeper.room = False
    assert request(keeper).verdict is UNAVAILABLE
    assert keeper.offers == []


def test_a_client_that_leaves_the_queue_ends_it(keeper):
    lease = request(keeper)
    lease.client_departed(True)
    assert (lease.state, lease.verdict) == (ENDED, GONE)
    assert keeper.withdrawn == [lease.ref]


def test_a_half_closed_client_keeps_its_place(keeper):
    lease = request(keeper)
    lease.client_departed(False)
    assert lease.state is OPENING
    lease.claimed("w1")
    assert kinds(keeper.take_posted()) == [SILENT]


# ---- HELD


def test_a_small_response(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, BODY)
    end(lease)
    assert lease.verdict is OVER
    assert deliver(lease) == [START, BODY]
    assert keeper.take_posted() == []


def test_who_waits_is_woken_once(keeper):
    class Waiter:
        results = 0

        def done(self):
            return self.results > 0

        def set_result(self, result):
            self.results += 1

    lease = request(keeper)
    waiter = lease.waiter = Waiter()
    lease.claimed("w1")
    assert waiter.results == 0
    say(lease, START)
    say(lease, BODY)
    end(lease)
    assert waiter.results == 1


def test_an_application_that_raises(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    end(lease, "ValueError")
    assert lease.verdict is FAILED


def test_credit_returns_as_the_client_takes(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    pieces = [{**SOME, "body": bytes(50_000)} for _ in range(4)]
    say(lease, START, *pieces)
    assert keeper.take_posted() == []
    deliver(lease)
    ((kind, stream, epoch, octets, taken),) = keeper.take_posted()
    assert (kind, stream, epoch) == (CREDIT, 7, 1)
    assert octets >= WINDOW / 2
    assert taken == 4  # the last was not half of the window yet


def test_an_upload_stops_without_credit(keeper):
    lease = request(keeper, None, method="POST")
    lease.claimed("w1")
    piece = {"type": "http.request", "body": bytes(65536), "more_body": True}
    pieces = 0
    while lease.may_feed:
        lease.feed(piece)
        pieces += 1
    assert pieces == 4
    lease.receive_credit(2 * 65536, 2)
    assert lease.may_feed
    assert len(fed(keeper.take_posted())) == 4


def test_large_pieces_leave_one_by_one(keeper):
    """No envelope is larger than a layer carries, and what exceeds the credit waits."""
    lease = request(keeper, None, method="POST")
    lease.claimed("w1")
    lease.feed({"type": "http.request", "body": bytes(1024 * 1024)})
    envelopes = keeper.take_posted()
    assert all(sum(map(len, envelope[4])) <= 192 * 1024 for envelope in envelopes)
    assert sum(map(len, fed(envelopes))) < WINDOW + 192 * 1024
    assert not lease.may_feed
    lease.receive_credit(1024 * 1024, 2)
    assert fed(keeper.take_posted())[-1] is None


def test_expected_bodies_wait_for_the_first_credit(keeper):
    lease = request(keeper, None, method="POST")
    lease.held_body = True
    lease.claimed("w1")
    assert not lease.may_feed
    lease.receive_credit(0, 0)
    assert lease.may_feed


def test_a_gap_breaks_the_stream_off(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, SOME)
    lease.receive_events(4, [BODY], 0)
    assert lease.verdict is BROKEN
    assert kinds(keeper.take_posted()) == [GAP]
    assert keeper.counters.gaps == 1
    assert BODY not in deliver(lease)


def test_a_lost_last_piece_is_a_gap(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START)
    lease.receive_end(2, 0, "")
    assert lease.verdict is BROKEN


def test_after_its_client_left_the_worker_is_heard_out(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, {**SOME, "body": bytes(200_000)})
    lease.client_departed(True)
    assert kinds(keeper.take_posted()) == [LOST, CREDIT]
    assert not lease.entries
    say(lease, {**SOME, "body": bytes(200_000)})
    assert kinds(keeper.take_posted()) == [CREDIT], "who still waits in send() gets on"
    assert not lease.verdict
    end(lease, "CancelledError")
    assert lease.verdict


def test_a_cancelled_host_cancels_the_session(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    lease.abandon()
    assert kinds(keeper.take_posted()) == [TIMEOUT]
    assert lease.state is ENDED


def test_a_file_is_reported_as_sent(keeper):
    """Whose application may want to delete it."""
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, {"type": "http.response.pathsend", "path": "/f"})
    deliver(lease)
    assert keeper.take_posted() == [[CREDIT, 7, 1, 0, 2]]


# ---- its worker is gone


@pytest.mark.parametrize("method", SAFE)
def test_a_safe_request_runs_again(keeper, method):
    lease = request(keeper, b"query", method=method)
    first = keeper.take_offer()
    lease.claimed("w1")
    say(lease, START)  # which the client has not got
    lease.worker_gone()
    assert lease.state is OPENING
    again = keeper.take_offer()
    assert (again.epoch, again.resume) == (2, "lost")
    assert (again.items, again.ended) == (first.items, first.ended) == ([b"query"], True)
    lease.claimed("w2")
    say(lease, START, BODY)
    end(lease)
    assert deliver(lease) == [START, BODY]
    assert keeper.counters.run_again == 1


@pytest.mark.parametrize("method", UNSAFE)
def test_another_request_does_not(keeper, method):
    lease = request(keeper, method=method)
    lease.claimed("w1")
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER
    assert not lease.begun


def test_a_request_that_nobody_has_yet_is_not_lost(keeper):
    """member_gone() is for those whose worker it was."""
    lease = request(keeper, method="POST")
    assert lease.worker == ""


def test_a_response_that_has_begun_is_cut(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, SOME)
    deliver(lease)
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER
    assert lease.begun
    assert keeper.counters.cut == 1


TRAILING = {**START, "trailers": True}
TRAILERS = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
FILE = {"type": "http.response.pathsend", "path": "/f"}
WHOLE = [  # what has come; whether that is a whole response
    ([START, BODY], True),
    ([START, SOME, BODY], True),
    ([START, FILE], True),
    ([TRAILING, BODY, TRAILERS], True),
    ([START], False),
    ([START, SOME], False),
    ([TRAILING, BODY], False),
    ([TRAILING, FILE], False),
    ([TRAILING, BODY, {**TRAILERS, "more_trailers": True}], False),
]


@pytest.mark.parametrize(("items", "whole"), WHOLE)
@pytest.mark.parametrize("delivered", [0, 1, 2, 3])
def test_a_response_that_has_come_whole_stays(keeper, items, whole, delivered):
    """Though the END is missing; however much of it the client has got."""
    lease = request(keeper, method="POST")
    lease.claimed("w1")
    say(lease, *items[:delivered])
    deliver(lease)
    if items[delivered:]:
        say(lease, *items[delivered:])
    lease.worker_gone()
    assert lease.verdict is (OVER if whole else LOST_WORKER)


def test_a_request_that_ends_each_worker_ends_here(keeper):
    lease = request(keeper)
    for run in range(1, keeper.terms.max_runs + 1):
        assert not lease.verdict
        lease.claimed(f"w{run}")
        lease.worker_gone()
        keeper.advance(lease, 3)
    assert lease.verdict is LOST_WORKER


def test_a_long_run_does_not_count_as_waiting():
    keeper = FakeKeeper(max_runs=3)
    lease = request(keeper)
    lease.claimed("w1")
    lease.worker_gone()
    lease.claimed("w2")
    keeper.advance(lease, 1000)
    lease.worker_gone()
    keeper.advance(lease, 2)
    assert lease.state is OPENING


def test_a_body_too_large_to_keep_is_not_sent_again(keeper):
    lease = request(keeper, bytes(65 * 1024))
    lease.claimed("w1")
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER


def test_a_body_still_under_way_runs_again_from_its_beginning(keeper):
    lease = request(keeper, None)
    lease.feed({"type": "http.request", "body": b"abc", "more_body": True})
    keeper.take_offer()
    lease.claimed("w1")
    lease.worker_gone()
    again = keeper.take_offer()
    assert (again.items, again.ended) == ([b"abc"], False)
    lease.claimed("w2")
    keeper.take_posted()
    lease.feed({"type": "http.request", "body": b"def", "more_body": False})
    assert keeper.take_posted() == [[EVENTS, 7, 2, 2, [b"def", None], 0]]


def test_when_its_client_is_gone_too_nothing_runs_again(keeper):
    lease = request(keeper)
    lease.claimed("w1")
    lease.client_departed(True)
    lease.worker_gone()
    assert lease.verdict is GONE


# ---- the layer is gone


def test_safe_requests_outlive_the_layer(keeper):
    """Its worker may go on unheard; its epoch is over."""
    lease = request(keeper)
    lease.claimed("w1")
    keeper.take_offer()
    keeper.reachable = False
    lease.layer_lost()
    assert (lease.state, lease.epoch) == (OPENING, 2)
    assert keeper.offers == []
    keeper.reachable = True
    lease.layer_regained()
    assert keeper.take_offer().epoch == 2


def test_an_offer_that_may_have_been_taken_is_made_anew(keeper):
    safe, unsafe = request(keeper), request(keeper, method="POST")
    keeper.reachable = False
    safe.layer_lost()
    unsafe.layer_lost()
    assert safe.epoch == 2
    assert unsafe.verdict is LOST_WORKER


def test_nobody_waits_for_the_layer_for_ever(keeper):
    lease = request(keeper)
    keeper.reachable = False
    lease.layer_lost()
    keeper.advance(lease, keeper.terms.queue_timeout + 1)
    assert lease.verdict is UNAVAILABLE


# ---- layers that do not tell who has taken an offer


def test_an_unclaimed_request_is_offered_again(keeper):
    keeper.knows_claims = False
    lease = request(keeper)
    keeper.take_offer()
    keeper.advance(lease, keeper.terms.claim_timeout + 0.5)
    again = keeper.take_offer()
    assert (again.epoch, again.resume, again.ended) == (2, "", True)
    keeper.advance(lease, keeper.terms.queue_timeout)
    assert lease.verdict is UNAVAILABLE


def test_an_unclaimed_unsafe_request_is_answered(keeper):
    keeper.knows_claims = False
    lease = request(keeper, method="POST")
    keeper.advance(lease, keeper.terms.claim_timeout + 0.5)
    assert lease.verdict is LOST_WORKER


# ---- layers that may lose envelopes


def test_both_sides_compare_what_was_sent(keeper):
    lease = request(keeper, b"abc", method="POST")
    lease.claimed("w1")
    say(lease, START, {**SOME, "body": bytes(150_000)})
    deliver(lease)
    ((_, _, _, octets, _),) = keeper.take_posted()
    lease.receive_credit(100, 1)
    lease.keep_alive()
    assert keeper.take_posted() == [[KEEPALIVE, 7, 1, 1, octets]]
    lease.receive_keepalive(2, 100)
    assert not lease.verdict


@pytest.mark.parametrize(("sent", "granted"), [(3, 0), (2, 100), (-1, 0)])
def test_a_loss_with_nothing_after_it_is_noticed(keeper, sent, granted):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, START, SOME)
    lease.receive_keepalive(sent, granted)
    assert lease.verdict is BROKEN


def test_a_worker_that_is_ended_for_what_it_does(keeper):
    """Its requests may be why."""
    lease = request(keeper)
    lease.claimed("w1")
    lease.worker_condemned(0)
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER


# ---- any order of things


ACTIONS = st.lists(
    st.sampled_from(
        [
            "claim",
            "start",
            "some",
            "body",
            "gap",
            "end",
            "fail",
            "gone",
            "deliver",
            "silent",
            "left",
            "feed",
            "credit",
            "tick",
            "handoff",
            "refused",
            "lost",
            "regained",
        ]
    ),
    max_size=30,
)


@given(ACTIONS, st.sampled_from(["GET", "POST"]))
def test_no_order_of_events_breaks_a_lease(actions, method):
    """At any time it is in a state of the table, and once it has ended it says nothing to any worker."""
    keeper = FakeKeeper()
    lease = request(keeper, None, method=method)
    workers = 0
    for action in actions:
        ended = lease.state is ENDED
        keeper.take_posted()
        if action == "claim":
            workers += 1
            lease.claimed(f"w{workers}")
        elif action in ("start", "some", "body") and lease.worker:
            say(lease, {"start": START, "some": SOME, "body": BODY}[action])
        elif action == "gap" and lease.worker:
            lease.receive_events(99, [SOME], 0)
        elif action in ("end", "fail") and lease.worker:
            end(lease, "" if action == "end" else "ValueError")
        elif action == "gone" and lease.worker and not ended:
            lease.worker_gone()
        elif action == "deliver":
            deliver(lease)
        elif action in ("silent", "left"):
            lease.client_departed(action == "left")
        elif action == "feed" and lease.may_feed:
            lease.feed({"type": "http.request", "body": bytes(70_000), "more_body": True})
        elif action == "credit" and lease.worker:
            lease.receive_credit(100_000, 0)
        elif action == "tick":
            keeper.advance(lease, 1)
        elif action == "handoff" and lease.worker:
            lease.receive_handoff()
        elif action == "refused":
            lease.refused()
        elif action == "lost":
            keeper.reachable = False
            lease.layer_lost()
        elif action == "regained" and not keeper.reachable:
            keeper.reachable = True
            lease.layer_regained()
        assert bool(lease.verdict) == (lease.state is ENDED)
        if ended:
            assert keeper.take_posted() == []
            assert lease.state is ENDED
        assert (lease.state is OPENING) == (not lease.worker) or lease.state is ENDED
        if lease.state is OPENING:
            assert lease.deadline < float("inf"), "it would wait for ever"


def test_scopes_are_not_changed(keeper):
    scope = {**SCOPE, "headers": [(b"a", b"b")]}
    request(keeper, **scope)
    assert scope["headers"] == [(b"a", b"b")]
