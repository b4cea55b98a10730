"""Server-Sent Events: whole events only, and another worker goes on after the last of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.relay.envelope import HANDED_OFF
from daphne_like.relay.event_stream import MAX_PARTIAL, EventStream, asking_again
from daphne_like.relay.keeper import BROKEN, ENDED, HELD, LOST_WORKER, OPENING, OVER, RELEASING
from tests.relay.leases import FakeKeeper, deliver, end, kinds, request, say

STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")],
}


def body(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


def stream():
    found = EventStream.of("GET", STREAM)
    assert found is not None
    return found


HEADS = [  # method, changes to the head -> can be resumed
    ("GET", {}, True),
    ("GET", {"headers": [(b"content-type", b"TEXT/Event-Stream")]}, True),
    ("GET", {"headers": [*STREAM["headers"], (b"content-encoding", b"identity")]}, True),
    ("GET", {"headers": [*STREAM["headers"], (b"content-encoding", b"gzip")]}, False),
    ("GET", {"headers": [*STREAM["headers"], (b"content-length", b"100")]}, False),
    ("GET", {"headers": [(b"content-type", b"text/event-stream-of-mine")]}, False),
    ("GET", {"headers": []}, False),
    ("GET", {"status": 201}, False),
    ("GET", {"trailers": True}, False),
    ("POST", {}, False),
    ("HEAD", {}, False),
]


@pytest.mark.parametrize(("method", "changes", "expected"), HEADS)
def test_which_responses_are_event_streams(method, changes, expected):
    assert (EventStream.of(method, {**STREAM, **changes}) is not None) == expected


PIECES = [  # what comes; what the client gets at once
    ([b"data: a\n\n"], [b"data: a\n\n"]),
    ([b"data: a\n"], [b""]),
    ([b"data: a\n", b"\n"], [b"", b"data: a\n\n"]),
    ([b"da", b"ta: a\n\nda", b"ta: b\n\n"], [b"", b"data: a\n\n", b"data: b\n\n"]),
    ([b"data: a\r\n\r\n"], [b"data: a\r\n\r\n"]),
    ([b"data: a\r\r", b"data: b"], [b"", b"data: a\r\r"]),
    ([b"data: a\r\n\r", b"\ndata: b\r\n\r\n"], [b"", b"data: a\r\n\r\ndata: b\r\n\r\n"]),
    ([b": ping\n"], [b": ping\n"]),
    ([b"\n\n"], [b"\n\n"]),
    ([b"data: a\n: ping\n", b"\n"], [b"", b"data: a\n: ping\n\n"]),
    ([b"retry: 10\n\n"], [b"retry: 10\n\n"]),
]


@pytest.mark.parametrize(("pieces", "expected"), PIECES)
def test_partial_events_are_withheld(pieces, expected):
    events = stream()
    assert [events.pass_on(piece) for piece in pieces] == expected


IDS = [
    (b"data: a\n\n", None),
    (b"id: 1\ndata: a\n\n", b"1"),
    (b"id: 1\ndata: a\n", None),
    (b"id: 1\n\nid: 2\ndata: b\n", b"1"),
    (b"id:1\n\n", b"1"),
    (b"id:  1\n\n", b" 1"),
    (b"id\n\n", b""),
    (b"id: a\0b\n\n", None),
    (b"id: 1\r\nid: 2\r\n\r\n", b"2"),
    (b"id: 1\n\ndata: b\n\n", b"1"),
    (b"idea: 1\n\n", None),
]


@pytest.mark.parametrize(("data", "expected"), IDS)
def test_the_last_id(data, expected):
    events = stream()
    events.pass_on(data)
    assert events.last_id == expected
    assert events.resumable == (expected is not None)


LINES = st.sampled_from([b"data: a", b"id: 7", b"", b": c", b"event: e", b"\xff\x00"])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES, ENDS)), st.lists(st.integers(1, 6)))
def test_nothing_is_lost_however_it_is_split(lines, cuts):
    """And the client never has a part of an event: what it has got ends in an empty line or a comment."""
    data = b"".join(line + line_end for line, line_end in lines)
    events, whole = stream(), stream()
    passed = []
    rest = data
    for cut in cuts:
        passed.append(events.pass_on(rest[:cut]))
        rest = rest[cut:]
        text = b"".join(passed).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        event = text.rpartition(b"\n\n")[2]
        assert text == b"" or text.endswith(b"\n")
        assert all(line.startswith(b":") or not line for line in event.split(b"\n"))
    passed.append(events.pass_on(rest, last=True))
    assert b"".join(passed) == data
    whole.pass_on(data, last=True)
    assert events.last_id == whole.last_id


def test_a_huge_event_passes_and_is_not_resumed():
    events = stream()
    events.pass_on(b"id: 1\n\n")
    assert events.resumable
    huge = b"data: " + b"x" * MAX_PARTIAL
    assert events.pass_on(huge) == huge
    assert not events.resumable
    assert events.pass_on(b"rest") == b"rest"


def test_asking_again_replaces_the_id():
    scope = {"headers": [(b"host", b"h"), (b"last-event-id", b"1")]}
    assert asking_again(scope, b"2")["headers"] == [(b"host", b"h"), (b"last-event-id", b"2")]
    assert asking_again(scope, b"")["headers"] == [(b"host", b"h")]


# ---- in a lease


@pytest.fixture
def keeper():
    return FakeKeeper()


def streaming(keeper, data=b"id: 1\ndata: a\n\ndata: par"):
    lease = request(keeper)
    lease.claimed("w1")
    say(lease, STREAM, body(data))
    keeper.take_offer()
    return lease


def said(messages):
    return b"".join(message["body"] for message in messages if message["type"] == "http.response.body")


def last_event_id(opening):
    return dict(opening.scope["headers"]).get(b"last-event-id")


@pytest.mark.parametrize("delivered", [True, False])
def test_a_stream_outlives_its_worker(keeper, delivered):
    lease = streaming(keeper)
    if delivered:
        messages = deliver(lease)
    else:
        lease.deliver(lease.entries.popleft())  # its head has left, its events wait
        messages = []
    lease.worker_gone()
    opening = keeper.take_offer()
    assert (opening.epoch, opening.resume, opening.ended) == (2, "lost", True)
    assert last_event_id(opening) == b"1"
    lease.claimed("w2")
    say(lease, STREAM, body(b"id: 2\ndata: b\n\n"))
    messages += deliver(lease)
    assert said(messages) == b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"
    assert [message["type"] for message in messages].count("http.response.start") == delivered
    assert keeper.counters.resumed == 1
    lease.worker_gone()
    keeper.advance(lease, 1)
    assert last_event_id(keeper.take_offer()) == b"2"


def test_a_stream_that_is_handed_on(keeper):
    lease = streaming(keeper)
    messages = deliver(lease)
    lease.receive_handoff()
    assert lease.state is RELEASING
    assert keeper.take_posted() == [[4, 7, 1, HANDED_OFF, 1012]]
    say(lease, body(b"tial\n\nid: 2\n\nda"))
    end(lease, "CancelledError")
    assert lease.state is OPENING
    opening = keeper.take_offer()
    assert (opening.resume, last_event_id(opening)) == ("drain", b"2")
    messages += deliver(lease)
    assert said(messages) == b"id: 1\ndata: a\n\ndata: partial\n\nid: 2\n\n"


def test_a_handoff_waits_for_an_id(keeper):
    lease = streaming(keeper, b"data: a\n\n")
    deliver(lease)
    lease.receive_handoff()
    assert (lease.state, keeper.take_posted()) == (HELD, [])
    say(lease, body(b"id: 1\ndata: b\n\n"))
    deliver(lease)
    assert kinds(keeper.take_posted()) == [HANDED_OFF]


def test_a_stream_without_ids_is_cut(keeper):
    lease = streaming(keeper, b"data: a\n\n")
    deliver(lease)
    lease.worker_gone()
    assert lease.verdict is LOST_WORKER


def test_a_stream_that_ends_as_it_is_handed_on_has_ended(keeper):
    lease = streaming(keeper)
    deliver(lease)
    lease.receive_handoff()
    say(lease, body(b"tial\n\n", more=False))
    end(lease)
    assert lease.verdict is OVER
    assert deliver(lease) == [body(b"data: partial\n\n", more=False)]


def test_an_application_that_fails_is_not_resumed(keeper):
    lease = streaming(keeper)
    deliver(lease)
    end(lease, "ValueError")
    assert lease.state is ENDED


OTHER_HEADS = [
    {**STREAM, "status": 204},
    {**STREAM, "headers": [(b"content-type", b"text/html")]},
    {**STREAM, "headers": [(b"content-type", b"text/event-stream")]},
]


@pytest.mark.parametrize("head", OTHER_HEADS)
def test_another_answer_cuts_the_stream(keeper, head):
    """The client asks again by itself, and hears it."""
    lease = streaming(keeper)
    deliver(lease)
    lease.worker_gone()
    lease.claimed("w2")
    say(lease, head, body(b"data: x\n\n"))
    lease.deliver(lease.entries.popleft())  # the epoch's beginning
    assert lease.deliver(lease.entries.popleft()) is None
    assert lease.verdict is BROKEN
    assert lease.begun
    assert deliver(lease) == []


def test_nobody_resumes_it_in_time(keeper):
    lease = streaming(keeper)
    deliver(lease)
    lease.worker_gone()
    keeper.advance(lease, keeper.terms.resume_timeout + 1)
    assert lease.verdict


def test_an_application_that_does_not_let_go(keeper):
    lease = streaming(keeper)
    deliver(lease)
    lease.receive_handoff()
    keeper.advance(lease, keeper.terms.release_timeout + 1)
    assert (lease.state, lease.epoch) == (OPENING, 2)


def test_a_stream_before_its_first_octet_runs_again(keeper):
    lease = streaming(keeper)
    lease.worker_gone()
    opening = keeper.take_offer()
    assert last_event_id(opening) is None
    lease.claimed("w2")
    say(lease, STREAM, body(b"data: a\n\n"))
    assert deliver(lease)[0] == STREAM
