"""One clock for all that can be late."""

import pytest

from daphne_like.asgi.stream import NEVER
from daphne_like.net.deadlines import Deadlines, resolution_for
from daphne_like.settings import Settings


class Late:
    def __init__(self, deadline, then=lambda self: None):
        self.deadline = deadline
        self.then = then
        self.passed = []

    def deadline_passed(self, now):
        self.passed.append(now)
        self.deadline = NEVER
        self.then(self)


RESOLUTIONS = [  # settings -> seconds
    ({}, 1.0),  # the shortest default is 5 s
    ({"websocket_connect_timeout": 2.0}, 0.5),
    ({"http_timeout": 1}, 0.25),
    ({"http_timeout": 0}, 1.0),
    ({"ping_interval": 0, "ping_timeout": 0, "websocket_timeout": -1}, 1.0),
    ({"header_timeout": 0.1}, 0.025),
    ({"header_timeout": 0.001}, 0.02),
]


@pytest.mark.parametrize(("settings", "seconds"), RESOLUTIONS)
def test_resolution(settings, seconds):
    """A quarter of the shortest time, a second at most, and never a busy loop."""
    assert resolution_for(Settings(**settings)) == seconds


def test_late_things_act_once():
    deadlines = Deadlines(lambda now: None)
    early, late, never = Late(5), Late(10), Late(NEVER)
    for thing in (early, late, never, early):
        deadlines.watch(thing)
    for now in (4, 5, 9, 12, 20):
        deadlines.tick(now)
    assert (early.passed, late.passed, never.passed) == ([5], [12], [])


def test_thing_that_is_no_longer_watched_does_not_act():
    deadlines = Deadlines(lambda now: None)
    thing = Late(5)
    deadlines.watch(thing)
    deadlines.unwatch(thing)
    deadlines.unwatch(thing)
    deadlines.tick(10)
    assert thing.passed == []


def test_what_one_does_counts_for_the_next():
    """A stream that is late may end its connection, which was late in the same look."""
    deadlines = Deadlines(lambda now: None)
    things = [Late(5), Late(5)]
    things[0].then = lambda _: deadlines.unwatch(things[1])
    things[1].then = lambda _: deadlines.unwatch(things[0])
    for thing in things:
        deadlines.watch(thing)
    deadlines.tick(10)
    assert sorted(len(thing.passed) for thing in things) == [0, 1]


def test_thing_that_fails_keeps_no_other_from_its_deadline(caplog):
    def fail(_):
        raise RuntimeError("broken")

    deadlines = Deadlines(lambda now: None)
    things = [Late(5, fail) for _ in range(3)]
    for thing in things:
        deadlines.watch(thing)
    deadlines.tick(10)
    assert [thing.passed for thing in things] == [[10]] * 3
    assert len(caplog.records) == 3


def test_things_may_be_added_during_a_look():
    deadlines = Deadlines(lambda now: None)
    added = Late(5)
    deadlines.watch(Late(5, lambda _: deadlines.watch(added)))
    deadlines.tick(10)
    deadlines.tick(11)
    assert added.passed == [11]


def test_tick_tells_the_time_first():
    told = []
    deadlines = Deadlines(told.append)
    deadlines.watch(Late(1, lambda _: told.append("late")))
    deadlines.tick(3)
    assert told == [3, "late"]
