"""Envelopes: what crosses, what it costs, and how large messages travel; windows: order, credit, parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RelayError, SequenceGap
from daphne_like.layers.codec import pack, unpack, unpack_tuples
from daphne_like.relay.envelope import (
    ITEM_OVERHEAD,
    MAX_ITEM,
    WINDOW,
    build_opening,
    item_cost,
    read_opening,
    split_body,
    split_item,
)
from daphne_like.relay.window import Inflow, Joined, Outflow

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.5"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"h"), (b"x", b"y")],
    "client": ("127.0.0.1", 5000),
    "server": ("127.0.0.1", 80),
    "extensions": {"http.response.trailers": {}},
}


def cross(opening):
    return read_opening(unpack(pack(opening)))


def opened(scope, **options):
    return cross(build_opening(7, 1, scope, [], True, **options)).scope


# ---- openings


def test_a_scope_arrives_as_it_was():
    opening = cross(build_opening(7, 1, SCOPE, [b"ab"], False))
    assert opening.scope == SCOPE
    assert (opening.stream, opening.epoch, opening.items, opening.ended) == (7, 1, [b"ab"], False)
    assert opening.credit == WINDOW


def test_what_belongs_to_the_server_does_not_cross():
    """State, callables in extensions, objects that middleware has put there."""
    scope = {
        **SCOPE,
        "state": {"pool": object()},
        "user": object(),
        "tenant": "a",
        "extensions": {"http.response.zerocopysend": {}, "mine": print, "http.response.pathsend": {}},
    }
    arrived = opened(scope)
    assert arrived["extensions"] == {"http.response.pathsend": {}}
    assert arrived["tenant"] == "a"
    assert not {"state", "user"} & set(arrived)


def test_it_is_the_same_through_layers_of_our_own():
    """They make tuples of all lists."""
    scope = {**SCOPE, "type": "websocket", "scheme": "ws", "subprotocols": ["a", "b"]}
    del scope["method"]
    opening = read_opening(unpack_tuples(pack(build_opening(7, 1, scope, [], False, closes=True))))
    assert opening.scope == scope
    assert type(opening.scope["headers"]) is type(opening.scope["subprotocols"]) is list
    assert opening.closes


def test_what_tls_has_told_crosses():
    tls = {"server_cert": "PEM", "client_cert_chain": ["PEM"], "tls_version": 0x0304}
    scope = opened({**SCOPE, "extensions": {"tls": tls, "http.response.trailers": {}}})
    assert scope["extensions"] == {"tls": tls, "http.response.trailers": {}}


def test_a_resumed_scope_says_so():
    opening = cross(build_opening(7, 3, SCOPE, [], True, "drain"))
    assert opening.scope["extensions"]["daphne_like.resume"] == {"epoch": 3, "reason": "drain"}
    assert opening.scope["extensions"]["http.response.trailers"] == {}


def test_a_missing_client_stays_missing():
    opening = cross(build_opening(7, 1, {**SCOPE, "client": None}, [], True))
    assert opening.scope["client"] is None


NO_SCOPE = [1, 7, 1, None, [], True, 0, "", False]
EMPTY_SCOPE = [1, 7, 1, [None] * 15, [], True, 0, "", False]


@pytest.mark.parametrize("opening", [{}, [], [2], [1], NO_SCOPE, EMPTY_SCOPE])
def test_another_version_is_refused(opening):
    with pytest.raises(RelayError):
        read_opening(opening)


# ---- large items


def test_small_items_stay_whole():
    for item in ("text", b"data", {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}):
        assert split_item(item) == [item]


def test_bodies_are_cut_into_bodies():
    body = bytes(range(256)) * 2000
    message = {"type": "http.response.body", "body": body, "more_body": False}
    pieces = split_item(message)
    assert len(pieces) == 3
    assert [piece["more_body"] for piece in pieces] == [True, True, False]
    assert b"".join(piece["body"] for piece in pieces) == body
    assert split_item({"type": "http.response.body"}) == [{"type": "http.response.body"}]
    assert b"".join(split_body(body)) == body


LARGE = [
    "é" * MAX_ITEM,
    b"\xff" * (3 * MAX_ITEM),
    {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b" * MAX_ITEM)] * 2},
    {"type": "websocket.close", "code": 1000, "reason": "x" * 2 * MAX_ITEM},
]


@pytest.mark.parametrize("item", LARGE, ids=["text", "bytes", "head", "reason"])
def test_other_large_items_come_in_parts(item):
    parts = split_item(item)
    assert len(parts) > 1
    assert all(len(part["part"]) <= MAX_ITEM for part in parts)
    inflow = Inflow()
    entries = inflow.arrive(1, unpack(pack(parts)))
    assert len(entries) == 1
    assert type(entries[0]) is Joined
    assert pack(inflow.consume(entries[0])) == pack(item)
    assert inflow.taken == len(parts)


def test_items_cost_their_octets():
    assert item_cost("é") == 2 + ITEM_OVERHEAD
    assert item_cost(b"abc") == 3 + ITEM_OVERHEAD
    assert item_cost(None) == ITEM_OVERHEAD
    assert item_cost({"type": "http.response.body", "body": b"abc"}) == 3 + ITEM_OVERHEAD
    assert item_cost({"part": b"abc", "more": True}) == 3 + ITEM_OVERHEAD
    assert item_cost({"type": "http.response.body"}) > 0


# ---- windows


def test_a_missing_item_is_noticed():
    inflow = Inflow()
    assert inflow.arrive(1, ["a", "b"]) == ["a", "b"]
    with pytest.raises(SequenceGap):
        inflow.arrive(4, ["d"])


def test_a_repeated_item_is_noticed():
    inflow = Inflow()
    inflow.arrive(1, ["a", "b"])
    with pytest.raises(SequenceGap):
        inflow.arrive(2, ["b"])


def test_a_missing_part_is_noticed():
    inflow = Inflow()
    inflow.arrive(1, [{"part": b"\xa3ab", "more": True}])
    with pytest.raises(SequenceGap):
        inflow.arrive(2, ["text"])


def test_parts_that_make_no_message_are_refused():
    inflow = Inflow()
    with pytest.raises(SequenceGap):
        inflow.arrive(1, [{"part": b"\xc1\xc1", "more": False}])


def test_credit_comes_back_by_halves():
    inflow = Inflow(1000)
    entries = inflow.arrive(1, [b"x" * (400 - ITEM_OVERHEAD)] * 3)
    inflow.consume(entries[0])
    assert inflow.give_back() == 0
    inflow.consume(entries[1])
    assert inflow.give_back() == 800
    assert inflow.give_back() == 0


def test_one_large_message_passes_at_a_time():
    """Parts return their credit on arrival, but not those behind a message that nobody has consumed."""
    inflow, outflow = Inflow(), Outflow()
    parts = split_item(b"x" * (10 * MAX_ITEM))
    waiting = [*parts, *parts]
    entries = []
    sent = 0
    while waiting:
        if not outflow.open:
            break
        part = waiting.pop(0)
        entries += inflow.arrive(outflow.spend(part), [part])
        outflow.credit += inflow.give_back()
        sent += 1
    assert len(parts) < sent < 2 * len(parts)
    assert len(entries) == 1
    inflow.consume(entries.pop())
    outflow.credit += inflow.give_back()
    assert outflow.open


@given(st.lists(st.one_of(st.text(), st.binary(max_size=3 * MAX_ITEM)), max_size=8), st.data())
def test_no_order_of_sending_and_consuming_stalls(items, data):
    """Whatever sizes there are, credit comes back as long as the consumer goes on, and nothing is reordered."""
    window = data.draw(st.integers(1, WINDOW))
    inflow, outflow = Inflow(window), Outflow(window)
    unsent = [part for item in items for part in split_item(item)]
    entries, consumed = [], []
    while unsent or entries:
        if unsent and outflow.open and (not entries or data.draw(st.booleans())):
            item = unsent.pop(0)
            entries += inflow.arrive(outflow.spend(item), [item])
        else:
            assert entries, "stalled"
            consumed.append(inflow.consume(entries.pop(0)))
        outflow.credit += inflow.give_back()
    assert consumed == items
    assert inflow.taken == outflow.sent
