"""The exchange keeps the rules of a port (layers/port.py), and its faults are faults."""

import asyncio
from typing import Any

import pytest

from daphne_like.errors import LayerUnavailable, MessageTooLarge
from daphne_like.testing.exchange import MAX_ENVELOPE, Exchange, ExchangePort


class User:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))


async def joined(exchange: Exchange, *names: str) -> list[tuple[ExchangePort, User]]:
    members = [(exchange.port(name), User()) for name in names]
    for port, user in members:
        await port.open(user)
    return members


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_posted_in_one_turn_arrives_together_and_in_order():
    (a, _), (b, told) = await joined(Exchange(), "a", "b")
    a.post(b.address, [1, "first"])
    a.post(b.address, [1, "second"])
    assert told.told == []
    await turns()
    a.post(b.address, [1, b"third"])
    await turns()
    assert told.told == [
        ("envelopes_received", a.address, [[1, "first"], [1, "second"]]),
        ("envelopes_received", a.address, [[1, b"third"]]),
    ]


async def test_envelopes_are_copies():
    (a, _), (b, told) = await joined(Exchange(), "a", "b")
    items = ["kept"]
    a.post(b.address, [1, items])
    a.flush()
    items.append("too late")
    await turns()
    assert told.told[0][2] == [[1, ["kept"]]]


async def test_post_to_nobody_is_nothing():
    ((a, told),) = await joined(Exchange(), "a")
    a.post("nobody", [1])
    await turns()
    assert told.told == []


async def test_an_offer_goes_to_who_has_the_most_free_places():
    exchange = Exchange()
    (s, server), (a, first), (b, second) = await joined(exchange, "s", "a", "b")
    a.serve("http.request", 1)
    b.serve("http.request", 2)
    for ref in range(3):
        s.offer("http.request", ref, {"stream": ref}, 0)
    await turns()
    assert server.told == [
        ("offer_claimed", 0, b.address),
        ("offer_claimed", 1, a.address),
        ("offer_claimed", 2, b.address),
    ]
    assert [each[3] for each in first.told] == [1]
    assert [each[3:] for each in second.told] == [(0, {"stream": 0}), (2, {"stream": 2})]


async def test_offers_wait_for_places_up_to_a_limit():
    exchange = Exchange()
    (s, server), (w, worker) = await joined(exchange, "s", "w")
    for ref in range(3):
        s.offer("http.request", ref, {}, 2)
    await turns()
    assert server.told == [("offer_refused", 2)]
    s.withdraw("http.request", 0)
    assert exchange.waiting("http.request") == 1
    w.serve("http.request", 5)
    w.serve("http.request", -5)
    s.offer("http.request", 3, {}, 2)
    await turns()
    assert [each[3] for each in worker.told] == [1]
    assert exchange.waiting("http.request") == 1


async def test_on_other_layers_nobody_is_told_of_claims():
    (s, server), (w, worker) = await joined(Exchange(knows_claims=False), "s", "w")
    assert not s.knows_claims
    w.serve("http.request", 1)
    s.offer("http.request", 1, {}, 0)
    await turns()
    assert server.told == []
    assert worker.told == [("offer_received", "http.request", s.address, 1, {})]


async def test_who_is_killed_says_nothing_more_and_the_others_are_told():
    exchange = Exchange()
    (a, first), (b, second) = await joined(exchange, "a", "b")
    address = b.address
    b.post(a.address, [1, "not sent yet"])
    a.post(b.address, [1, "not read any more"])
    exchange.kill(b)
    await turns()
    assert first.told == [("member_gone", address)]
    assert second.told == []


async def test_who_closes_has_sent_what_was_posted():
    (a, first), (b, _) = await joined(Exchange(), "a", "b")
    b.post(a.address, [1, "goodbye"])
    await b.close()
    await turns()
    assert [each[0] for each in first.told] == ["envelopes_received", "member_gone"]


async def test_offers_of_the_dead_are_nobodys():
    exchange = Exchange()
    (s, _), (w, worker) = await joined(exchange, "s", "w")
    s.offer("http.request", 1, {}, 0)
    exchange.kill(s)
    w.serve("http.request", 1)
    await turns()
    assert [each[0] for each in worker.told] == ["member_gone"]


async def test_what_is_held_comes_later_and_in_order():
    exchange = Exchange()
    (a, _), (b, told) = await joined(exchange, "a", "b")
    exchange.hold(b)
    for number in range(3):
        a.post(b.address, [number])
        await turns()
    assert told.told == []
    exchange.release(b)
    await turns()
    assert [batch for _, _, batch in told.told] == [[[0]], [[1]], [[2]]]


async def test_what_is_delayed_comes_some_turns_later():
    exchange = Exchange()
    (a, _), (b, told) = await joined(exchange, "a", "b")
    exchange.delay(b, 10)
    a.post(b.address, [1])
    await turns(8)
    assert told.told == []
    await turns(8)
    assert len(told.told) == 1


async def test_what_is_dropped_is_missing_and_counted():
    exchange = Exchange()
    seen = []
    exchange.tap = lambda *what: seen.append(what)
    exchange.drop = lambda sender, to, envelope: envelope[0] == 2
    (a, _), (b, told) = await joined(exchange, "a", "b")
    for number in (1, 2, 3):
        a.post(b.address, [number])
    await turns()
    assert told.told == [("envelopes_received", a.address, [[1], [3]])]
    assert exchange.dropped == 1
    assert seen == [(a.address, b.address, [number]) for number in (1, 2, 3)]


async def test_who_is_cut_off_looks_dead_and_comes_back_under_another_address():
    exchange = Exchange()
    (a, first), (b, second) = await joined(exchange, "a", "b")
    before = b.address
    exchange.cut(b)
    b.post(a.address, [1])
    await turns()
    assert first.told == [("member_gone", before)]
    assert second.told == [("port_lost",)]
    exchange.mend(b)
    b.post(a.address, [2])
    await turns()
    assert second.told[1:] == [("port_regained",)]
    assert first.told[1:] == [("envelopes_received", b.address, [[2]])]
    assert b.address != before


async def test_a_port_that_is_cut_off_cannot_open():
    exchange = Exchange()
    port = exchange.port("a")
    port.cut_off = True
    with pytest.raises(LayerUnavailable):
        await port.open(User())


async def test_an_envelope_has_a_largest_size():
    (a, _), (b, told) = await joined(Exchange(), "a", "b")
    a.post(b.address, [1, bytes(MAX_ENVELOPE // 2)])
    a.post(b.address, [1, bytes(MAX_ENVELOPE // 2)])
    a.flush()
    await turns()
    assert len(told.told[0][2]) == 2
    a.post(b.address, [1, bytes(MAX_ENVELOPE)])
    with pytest.raises(MessageTooLarge):
        a.flush()
