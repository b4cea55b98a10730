"""What waits for a node keeps its order, whatever is refused and tried again."""

import asyncio
from random import Random

import pytest

from daphne_like.layers.redis.backlog import Backlog, Call
from daphne_like.layers.redis.refusals import MAX_HOPS, sort_out
from daphne_like.layers.redis.scripts import Script


class NoFuture(asyncio.Future):  # type: ignore[type-arg]
    """Of no event loop."""

    def __init__(self) -> None:
        pass


def call(tag: str, number: int, deadline: float = 0.0) -> Call:
    return Call(("PING", number), tag, NoFuture(), deadline)


def shown(backlog: Backlog) -> list[tuple[str | None, bytes]]:
    return [(waiting.tag, waiting.packed.split()[-1]) for waiting in backlog.ready]


def test_octets_are_those_of_the_command() -> None:
    assert call("a", 1).octets == len(b"*2\r\n$4\r\nPING\r\n$1\r\n1\r\n")


def test_words_may_be_made_when_they_are_written() -> None:
    made = []

    def words() -> tuple[str]:
        made.append(1)
        return ("PING",)

    late = Call(words, "a", NoFuture(), 0.0)
    assert (made, late.packed, late.octets) == ([], b"", 0)
    assert late.encode() == late.packed == b"*1\r\n$4\r\nPING\r\n"
    assert made == [1]


def test_other_tags_pass_what_is_held() -> None:
    backlog = Backlog()
    backlog.hold([call("a", 1)])
    backlog.add(call("a", 2))
    backlog.add(call("b", 3))
    assert shown(backlog) == [("b", b"3")]
    backlog.try_again()
    assert shown(backlog) == [("a", b"1"), ("b", b"3")]
    backlog.ready.clear()
    backlog.release("a")
    assert shown(backlog) == [("a", b"2")]
    assert not backlog.held


def test_what_is_refused_goes_before_what_is_asked() -> None:
    backlog = Backlog()
    for number in (3, 4):
        backlog.add(call("a", number))
    backlog.hold([call("a", 1), call("a", 2)])
    backlog.restore([call("a", 0)])
    assert shown(backlog) == [("a", b"%d" % number) for number in range(5)]


def test_expired_calls_leave_from_everywhere() -> None:
    backlog = Backlog()
    backlog.add(call("a", 1, deadline=1))
    backlog.add(call("a", 2, deadline=3))
    backlog.hold([call("b", 3, deadline=2)])
    assert backlog.next_deadline() == 1
    assert [expired.tag for expired in backlog.take_expired(2)] == ["a", "b"]
    assert backlog.next_deadline() == 3
    assert [left.tag for left in backlog.take()] == ["a"]
    assert backlog.next_deadline() == float("inf")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(100))
def test_order_by_tag_survives_refusals(strict: bool, seed: int) -> None:
    """
    An engine that refuses what it likes does the calls of a tag in order, where one of them is in a batch at
    most; otherwise, too, if it refuses all of a batch from some point on.
    """
    random = Random(seed)
    backlog = Backlog()
    done: dict[str | None, list[int]] = {}
    asked = 0
    while asked < 30 or backlog.ready or backlog.held:
        for _ in range(random.randrange(5) if asked < 30 else 0):
            backlog.add(call(random.choice("ab"), asked))
            asked += 1
        if random.randrange(2):
            backlog.try_again()
        batch: list[Call] = []
        while backlog.ready:
            if strict and backlog.ready[0].tag in {one.tag for one in batch}:
                break
            batch.append(backlog.ready.popleft())
        willing = True
        refused = []
        for one in batch:
            willing = asked >= 30 or (bool(random.randrange(4)) and (strict or willing))
            if willing:
                done.setdefault(one.tag, []).append(int(one.packed.split()[-1]))
                backlog.release(one.tag)
            else:
                refused.append(one)
        if refused:
            backlog.hold(refused)
        if random.randrange(10) == 0:
            backlog.restore([])
    assert sorted(number for numbers in done.values() for number in numbers) == list(range(asked))
    assert all(numbers == sorted(numbers) for numbers in done.values())


def test_what_comes_from_another_node_takes_its_place() -> None:
    a1, b2, a3, a4, a5, a6, b7 = (call(tag, place) for place, tag in enumerate("abaaaab", 1))
    backlog = Backlog()
    for waiting in (a3, b7, a5):
        backlog.add(waiting)
    backlog.merge([a1, b2, a4, a6])
    assert shown(backlog) == [("a", b"1"), ("a", b"3"), ("b", b"2"), ("b", b"7")] + [
        ("a", b"%d" % number) for number in (4, 5, 6)
    ]


def test_what_comes_from_another_node_is_held_with_its_tag() -> None:
    a1, a2, a3, b4 = (call(tag, place) for place, tag in enumerate("aaab", 1))
    backlog = Backlog()
    backlog.hold([a2])
    backlog.merge([a1, a3, b4])
    assert shown(backlog) == [("b", b"4")]
    backlog.release("a")
    assert shown(backlog) == [("a", b"1"), ("a", b"2"), ("a", b"3"), ("b", b"4")]


# -- what becomes of refused calls -------------------------------------------------------------------


def test_nothing_leaves_or_is_repeated_before_what_was_asked_earlier() -> None:
    script = Script("S", "return 1")
    first, second, third, other = (call(tag, place) for place, tag in enumerate("aaab", 1))
    third.script = script
    found = sort_out(
        [
            (first, "TRYAGAIN so"),
            (second, "ASK 1 other:1"),
            (third, "NOSCRIPT so"),
            (other, "MOVED 2 other:1"),
        ],
        waiting=(),
    )
    assert (found.held, found.at_once) == ([first, second, third], [])
    assert found.moved == [(other, "MOVED 2 other:1")]
    assert found.missing == {script.sha: script}


def test_nodes_that_do_not_agree_are_given_time() -> None:
    lost = call("a", 1)
    for turn in range(1, 2 * MAX_HOPS + 1):
        found = sort_out([(lost, "MOVED 1 other:1")], waiting=())
        assert bool(found.held) == (turn % MAX_HOPS == 0) != bool(found.moved)


@pytest.mark.parametrize(
    ("reply", "drops", "is_down"),
    [("READONLY it is", True, False), ("CLUSTERDOWN it is", False, True), ("OOM it is", False, False)],
)
def test_what_a_refusal_says_of_the_node(reply: str, drops: bool, is_down: bool) -> None:
    found = sort_out([(call("a", 1), reply)], waiting=())
    assert found.why and (bool(found.drops), found.is_down) == (drops, is_down)
