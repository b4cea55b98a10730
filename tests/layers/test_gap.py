"""Group messages between two instances of a stream: nothing lost, nothing doubled, in order."""

import pytest

from daphne_like.layers import gap
from daphne_like.layers.hub import Hub
from tests.layers.hub_members import Clock, Member

STREAM = "server.1"
OLD, NEW = "specific.old!1", "specific.new!1"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hub(clock):
    return Hub(clock=clock, expiry=60)


@pytest.fixture
def old(hub):
    """The member whose stream, in groups g and h, is handed over."""
    member = Member("old", hub)
    hub.group_add(member, "g", OLD, STREAM)
    hub.group_add(member, "h", OLD, STREAM)
    hub.group_add(member, "other", OLD)
    member.take()
    return member


@pytest.fixture
def new(hub):
    return Member("new", hub)


def kept(member):
    return [(call[3], call[2]) for call in member.take() if call[0] == "kept"]


def test_nothing_is_lost_or_doubled(hub, clock, old, new):
    hub.put_group("g", b"1")
    hub.stream_leaving(old, STREAM)
    assert [call[0] for call in old.take()] == ["group", "diverted"]
    hub.put_group("g", b"2")
    hub.put_group("h", b"3")
    # What the application discards on its way out is diverted all the same.
    hub.group_discard("g", OLD)
    hub.stream_held(old, STREAM, [("g", b"1", clock.now + 60)])
    hub.put_group("g", b"4")
    hub.group_add(new, "g", NEW, STREAM)
    hub.put_group("g", b"5")
    assert new.take() == [
        ("added", "g", NEW),
        ("kept", NEW, b"1", "g"),
        ("kept", NEW, b"2", "g"),
        ("kept", NEW, b"4", "g"),
        ("group", "g", b"5"),
    ]
    hub.group_add(new, "h", NEW, STREAM)
    assert kept(new) == [("h", b"3")]
    assert old.take() == []
    assert len(hub.groups.gaps) == 0
    assert (hub.groups.gaps.expired, hub.groups.gaps.overflowed) == (0, 0)


def test_other_memberships_of_the_old_member_stay(hub, old):
    hub.stream_leaving(old, STREAM)
    old.take()
    hub.put_group("other", b"m")
    assert old.messages() == [b"m"]


def test_new_instance_waits_for_what_the_old_one_held(hub, clock, old, new):
    """group_add() before the old member has handed over: what is older must not come later."""
    hub.stream_leaving(old, STREAM)
    hub.put_group("g", b"2")
    hub.group_add(new, "g", NEW, STREAM)
    hub.group_add(new, "g", NEW, STREAM)
    hub.put_group("g", b"3")
    assert new.take() == []
    hub.stream_held(old, STREAM, [("g", b"1", clock.now + 60)])
    assert [call[2] for call in new.take()] == [NEW, b"1", b"2", b"3"]


def test_new_instance_does_not_wait_for_ever(hub, clock, old, new):
    hub.stream_leaving(old, STREAM)
    hub.put_group("g", b"2")
    hub.group_add(new, "g", NEW, STREAM)
    clock.now += gap.PATIENCE
    hub.expire()
    assert kept(new) == [("g", b"2")]
    hub.stream_held(old, STREAM, [("g", b"1", clock.now + 60)])
    assert new.take() == []
    assert hub.groups.gaps.expired == 1


def test_new_instance_leaves_the_group_while_it_waits(hub, old, new):
    hub.stream_leaving(old, STREAM)
    hub.group_add(new, "g", NEW, STREAM)
    hub.group_discard("g", NEW)
    hub.put_group("g", b"m")
    hub.stream_held(old, STREAM, [])
    assert new.take() == []


def test_new_member_dies_while_it_waits(hub, clock, old, new):
    hub.stream_leaving(old, STREAM)
    hub.group_add(new, "g", NEW, STREAM)
    hub.put_group("g", b"m")
    hub.leave(new)
    hub.stream_held(old, STREAM, [])
    third = Member("third", hub)
    hub.group_add(third, "g", "specific.third!1", STREAM)
    assert kept(third) == [("g", b"m")]


@pytest.mark.parametrize("leaving", [True, False])
def test_old_member_dies(hub, old, new, leaving):
    """What it held is gone with it; what is sent from then on is kept."""
    if leaving:
        hub.stream_leaving(old, STREAM)
        hub.group_add(new, "h", NEW, STREAM)
    hub.leave(old)
    hub.put_group("g", b"m")
    hub.group_add(new, "g", NEW, STREAM)
    assert kept(new) == [("g", b"m")]


def test_memberships_without_a_label_open_no_gap(hub, old):
    hub.leave(old)
    assert set(hub.groups.gaps.groups) == {"g", "h"}


def test_a_gap_ends(hub, clock, old, new):
    hub.stream_leaving(old, STREAM)
    hub.put_group("g", b"m")
    clock.now += gap.MAX_AGE
    hub.expire()
    assert hub.groups.gaps.expired == 1
    hub.group_add(new, "g", NEW, STREAM)
    assert new.take() == [("added", "g", NEW)]


def test_a_gap_has_a_bound(hub, old, new):
    hub.stream_leaving(old, STREAM)
    for number in range(gap.MAX_MESSAGES + 5):
        hub.put_group("gh"[number % 2], b"%d" % number)
    hub.stream_held(old, STREAM, [("g", b"held", 1e9)])
    hub.group_add(new, "g", NEW, STREAM)
    hub.group_add(new, "h", NEW, STREAM)
    assert len(kept(new)) == gap.MAX_MESSAGES
    assert hub.groups.gaps.overflowed == 6


def test_session_that_ended_for_good_has_no_label_any_more(hub, old):
    hub.stream_held(old, STREAM, [])
    hub.leave(old)
    assert len(hub.groups.gaps) == 0


def test_handed_over_twice(hub, clock, old, new):
    """The second handoff comes before the first one's messages were received."""
    hub.stream_leaving(old, STREAM)
    hub.put_group("g", b"1")
    hub.stream_held(old, STREAM, [])
    hub.group_add(new, "g", NEW, STREAM)
    hub.put_group("g", b"2")
    hub.stream_leaving(new, STREAM)
    hub.put_group("g", b"3")
    hub.put_group("h", b"4")
    hub.stream_held(new, STREAM, [("g", b"1", clock.now + 60), ("g", b"2", clock.now + 60)])
    third = Member("third", hub)
    hub.group_add(third, "g", "specific.third!1", STREAM)
    hub.group_add(third, "h", "specific.third!1", STREAM)
    assert kept(third) == [("g", b"1"), ("g", b"2"), ("g", b"3"), ("h", b"4")]


def test_label_counts_only_for_own_channels(hub, old, new):
    hub.group_add(new, "g", OLD, "server.2")
    hub.leave(new)
    assert len(hub.groups.gaps) == 0
    hub.group_add(None, "g", OLD)
    hub.leave(old)
    assert "g" in hub.groups.gaps.groups


def test_flush_ends_gaps(hub, old, new):
    hub.stream_leaving(old, STREAM)
    hub.put_group("g", b"m")
    hub.group_add(new, "g", NEW, STREAM)
    hub.flush()
    hub.put_group("g", b"m")
    assert len(hub.groups.gaps) == 0
    assert new.take() == [("flushed",)]
