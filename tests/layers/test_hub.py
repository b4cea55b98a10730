"""The hub: shared channels, counts of members' own channels, groups, offers and posts. No loop, no time."""

import pytest

from daphne_like.errors import LayerError
from daphne_like.layers.hub import Hub
from tests.layers.hub_members import Clock, Member


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hub(clock):
    return Hub(clock=clock, expiry=60, group_expiry=100, capacity=3, channel_capacity={"small": 1, "x.*!": 2})


def take_all(hub, channel):
    found = []
    while (payload := hub.take(channel)) is not None:
        found.append(payload)
    return found


# Shared channels.


def test_shared_channel_is_first_in_first_out(hub):
    assert [hub.put("c", b"1"), hub.put("c", b"2"), hub.put("c", b"3")] == [True] * 3
    assert take_all(hub, "c") == [b"1", b"2", b"3"]


def test_full_channel_refuses(hub):
    assert hub.put("small", b"1")
    assert not hub.put("small", b"2")
    assert hub.take("small") == b"1"
    assert hub.put("small", b"3")


def test_waiting_member_gets_the_message_at_once(hub):
    a = Member("a", hub)
    hub.want(a, "c", 1)
    hub.put("c", b"1")
    hub.put("c", b"2")
    assert a.take() == [("deliver", "c", b"1", False)]
    hub.want(a, "c", 1)
    assert a.messages() == [b"2"]


def test_members_that_wait_take_turns(hub):
    a, b = Member("a", hub), Member("b", hub)
    hub.want(a, "c", 2)
    hub.want(b, "c", 2)
    for payload in (b"1", b"2", b"3", b"4"):
        hub.put("c", payload)
    assert (a.messages(), b.messages()) == ([b"1", b"3"], [b"2", b"4"])


def test_who_does_not_want_any_more_gets_nothing(hub):
    a = Member("a", hub)
    hub.want(a, "c", 2)
    hub.unwant(a, "c", 1)
    hub.unwant(a, "other", 1)
    hub.put("c", b"1")
    hub.put("c", b"2")
    assert a.messages() == [b"1"]
    hub.want(a, "d", 1)
    hub.unwant(a, "d", 5)
    hub.put("d", b"1")
    assert a.messages() == []


def test_what_comes_back_is_first_again(hub, clock):
    a = Member("a", hub)
    hub.put("c", b"3")
    hub.put_back("c", b"2", clock.now + 60)
    hub.put_back("c", b"1", clock.now + 60)
    hub.put_back("c", b"old", clock.now)
    assert take_all(hub, "c") == [b"1", b"2", b"3"]
    hub.want(a, "c", 1)
    hub.put_back("c", b"4", clock.now + 60)
    assert a.messages() == [b"4"]


def test_what_comes_back_may_overfill(hub, clock):
    hub.put("small", b"2")
    hub.put_back("small", b"1", clock.now + 60)
    assert take_all(hub, "small") == [b"1", b"2"]


def test_messages_grow_too_old(hub, clock):
    hub.put("c", b"old")
    clock.now += 59
    hub.put("c", b"young")
    clock.now += 1
    assert take_all(hub, "c") == [b"young"]
    assert hub.expired == 1


def test_messages_grow_too_old_for_one_who_comes_late(hub, clock):
    a = Member("a", hub)
    hub.put("c", b"old")
    clock.now += 60
    hub.put("c", b"young")
    hub.want(a, "c", 1)
    assert a.messages() == [b"young"]


def test_old_messages_do_not_fill_a_channel(hub, clock):
    hub.put("small", b"old")
    clock.now += 60
    assert hub.put("small", b"young")


def test_idle_channels_are_forgotten(hub, clock):
    hub.put("c", b"1")
    clock.now += 61
    hub.expire()
    assert "c" in hub.statistics()
    clock.now += 3601
    hub.expire()
    assert hub.statistics() == {}


# Members' own channels.


def test_own_channel_goes_to_its_member(hub):
    a, b = Member("a", hub), Member("b", hub)
    hub.put("specific.b!1", b"m")
    assert (a.take(), b.take()) == ([], [("deliver", "specific.b!1", b"m", True)])


def test_capacity_counts_the_part_up_to_the_mark(hub):
    a = Member("a", hub)
    assert [hub.put(f"specific.a!{n}", b"") for n in range(4)] == [True, True, True, False]
    assert hub.put("other.a!1", b"")
    hub.taken(a, {"specific.a!": 2})
    assert [hub.put("specific.a!1", b"") for _ in range(3)] == [True, True, False]


def test_capacity_by_pattern_of_own_channels(hub):
    Member("a", hub)
    assert [hub.put("x.a!1", b"") for _ in range(3)] == [True, True, False]


def test_more_taken_than_given_counts_as_all(hub):
    a = Member("a", hub)
    hub.put("specific.a!1", b"")
    hub.taken(a, {"specific.a!": 5, "unknown.a!": 1})
    assert [hub.put("specific.a!1", b"") for _ in range(4)] == [True, True, True, False]


def test_messages_for_a_member_that_is_not_here_wait(hub, clock):
    hub.put("specific.a!1", b"old")
    clock.now += 30
    hub.put("specific.a!2", b"young")
    hub.put("specific.a!1", b"younger")
    assert not hub.put("specific.a!3", b"full")
    clock.now += 30
    a = Member("a", hub)
    assert a.take() == [
        ("deliver", "specific.a!2", b"young", True),
        ("deliver", "specific.a!1", b"younger", True),
    ]


def test_nobody_ever_comes(hub, clock):
    hub.put("specific.nobody!1", b"")
    clock.now += 60
    hub.expire()
    assert hub.statistics() == {}


def test_a_name_is_used_once(hub):
    a = Member("a", hub)
    with pytest.raises(LayerError):
        Member("a", hub)
    hub.leave(a)
    Member("a", hub)


def test_who_left_is_gone_for_all(hub):
    a, b, c = Member("a", hub), Member("b", hub), Member("c", hub)
    hub.want(a, "c", 1)
    hub.serve(a, "s", 1)
    hub.group_add(a, "g", "specific.a!1")
    hub.put("specific.a!1", b"")
    hub.leave(a)
    hub.leave(a)
    a.take()
    assert (a.gone, b.gone, c.gone) == ([], ["a"], ["a"])
    hub.put("c", b"1")
    hub.put_group("g", b"2")
    hub.put("specific.a!1", b"3")
    assert hub.offer(b, "s", 1, b"4", 0) == ""
    assert not hub.post("b", "a", b"5")
    assert a.take() == []
    assert hub.take("c") == b"1"


# Groups.


def test_a_member_gets_a_group_message_once(hub):
    a, b = Member("a", hub), Member("b", hub)
    for channel in ("specific.a!1", "specific.a!2", "specific.b!1"):
        hub.group_add(None, "g", channel)
    a.take(), b.take()
    hub.put_group("g", b"m")
    hub.put_group("other", b"m")
    assert a.take() == b.take() == [("group", "g", b"m")]


def test_owner_is_told_of_memberships(hub):
    a = Member("a", hub)
    hub.group_add(a, "g", "specific.a!1")
    hub.group_add(None, "g", "specific.a!1")
    hub.group_discard("g", "specific.a!1")
    hub.group_discard("g", "specific.a!1")
    hub.group_discard("none", "specific.a!1")
    assert a.take() == [
        ("added", "g", "specific.a!1"),
        ("added", "g", "specific.a!1"),
        ("discarded", "g", "specific.a!1"),
    ]
    hub.put_group("g", b"m")
    assert a.take() == []


def test_the_last_channel_keeps_the_member_in(hub):
    a = Member("a", hub)
    hub.group_add(a, "g", "specific.a!1")
    hub.group_add(a, "g", "specific.a!2")
    hub.group_discard("g", "specific.a!1")
    a.take()
    hub.put_group("g", b"m")
    assert a.messages() == [b"m"]


def test_shared_channels_in_a_group(hub):
    hub.group_add(None, "g", "c")
    hub.group_add(None, "g", "small")
    for payload in (b"1", b"2"):
        hub.put_group("g", payload)
    assert take_all(hub, "c") == [b"1", b"2"]
    assert take_all(hub, "small") == [b"1"]
    assert hub.groups.dropped == 1
    hub.group_discard("g", "c")
    hub.put_group("g", b"3")
    assert take_all(hub, "c") == []


def test_membership_of_one_who_comes_later(hub):
    """A channel of nobody who is here is in the group by itself until its member says so."""
    hub.group_add(None, "g", "specific.a!1")
    a = Member("a", hub)
    hub.put_group("g", b"1")
    hub.group_add(a, "g", "specific.a!1")
    hub.put_group("g", b"2")
    assert a.take() == [
        ("deliver", "specific.a!1", b"1", True),
        ("added", "g", "specific.a!1"),
        ("group", "g", b"2"),
    ]


def test_memberships_grow_too_old(hub, clock):
    a = Member("a", hub)
    hub.group_add(a, "g", "specific.a!1")
    hub.group_add(None, "g", "c")
    clock.now += 50
    hub.group_add(a, "g", "specific.a!1")
    clock.now += 50
    hub.put_group("g", b"1")
    assert hub.take("c") is None
    assert a.messages() == [b"1"]
    clock.now += 50
    hub.put_group("g", b"2")
    assert a.take() == [("discarded", "g", "specific.a!1")]


def test_memberships_grow_too_old_unused(hub, clock):
    a = Member("a", hub)
    hub.group_add(a, "g", "specific.a!1")
    clock.now += 100
    hub.expire()
    assert a.take()[-1] == ("discarded", "g", "specific.a!1")


def test_flush(hub):
    a = Member("a", hub)
    hub.want(a, "wanted", 1)
    hub.put("c", b"1")
    hub.put("specific.a!1", b"2")
    hub.group_add(a, "g", "specific.a!1")
    hub.group_add(None, "g", "c")
    a.take()
    hub.flush()
    assert a.take() == [("flushed",)]
    hub.put_group("g", b"m")
    assert take_all(hub, "c") == []
    assert [hub.put("specific.a!1", b"") for _ in range(4)] == [True, True, True, False]
    hub.put("wanted", b"3")
    assert a.messages()[-1] == b"3"


# Posts and offers.


def test_posts(hub):
    a, b = Member("a", hub), Member("b", hub)
    assert hub.post("a", "b", b"m")
    assert not hub.post("a", "nobody", b"m")
    assert (a.take(), b.take()) == ([], [("post", "a", b"m")])


def test_offer_goes_to_the_most_free_places(hub):
    server, a, b = Member("s", hub), Member("a", hub), Member("b", hub)
    hub.serve(a, "c", 1)
    hub.serve(b, "c", 3)
    assert [hub.offer(server, "c", ref, b"open", 1) for ref in range(4)] == ["b", "b", "a", "b"]
    assert server.take() == []
    assert a.take() == [("offer", "c", "s", 2, b"open")]


def test_equals_take_turns(hub):
    server, a, b = Member("s", hub), Member("a", hub), Member("b", hub)
    hub.serve(a, "c", 5)
    hub.serve(b, "c", 5)
    for ref in range(6):
        chosen = hub.offer(server, "c", ref, b"", 0)
        assert chosen == "ab"[ref % 2]
        hub.serve(a if chosen == "a" else b, "c", 1)


def test_offers_wait_up_to_their_limit(hub):
    server, a = Member("s", hub), Member("a", hub)
    assert [hub.offer(server, "c", ref, b"%d" % ref, 2) for ref in range(3)] == ["", "", None]
    assert hub.offer(server, "c", 3, b"3", 0) == ""
    hub.withdraw(server, "c", 1)
    hub.withdraw(server, "c", 99)
    hub.withdraw(server, "none", 1)
    hub.serve(a, "c", 1)
    assert a.take() == [("offer", "c", "s", 0, b"0")]
    assert server.take() == [("claimed", 0, "a")]
    hub.serve(a, "c", 2)
    assert a.take() == [("offer", "c", "s", 3, b"3")]
    assert hub.statistics()["c"]["channel_full_count"] == 1


def test_places_are_taken_back(hub):
    server, a = Member("s", hub), Member("a", hub)
    hub.serve(a, "c", 3)
    hub.serve(a, "c", -2)
    for ref in range(2):
        hub.offer(server, "c", ref, b"", 0)
    assert [call[3] for call in a.take()] == [0]
    hub.serve(a, "c", -5)
    assert a.take() == []


def test_offers_of_one_who_left_are_gone(hub):
    server, other, a = Member("s", hub), Member("t", hub), Member("a", hub)
    hub.offer(server, "c", 1, b"", 0)
    hub.offer(other, "c", 1, b"", 0)
    hub.leave(server)
    hub.serve(a, "c", 5)
    assert a.take() == [("offer", "c", "t", 1, b"")]


def test_suspended_member_gets_no_offers(hub):
    server, a, b = Member("s", hub), Member("a", hub), Member("b", hub)
    hub.serve(a, "c", 5)
    hub.serve(b, "c", 1)
    hub.suspend("a")
    hub.suspend("unknown")
    hub.offer(server, "c", 1, b"", 0)
    hub.offer(server, "c", 2, b"", 0)
    hub.serve(a, "c", 1)
    assert (a.take(), [call[3] for call in b.take()]) == ([], [1])
    hub.resume("unknown")
    hub.resume("a")
    assert [call[3] for call in a.take()] == [2]
    hub.suspend("a")
    hub.leave(a)
    again = Member("a", hub)
    hub.serve(again, "c", 1)
    hub.offer(server, "c", 3, b"", 0)
    assert [call[3] for call in again.take()] == [3]


# Figures.


def test_statistics(hub, clock):
    a = Member("a", hub)
    hub.put("small", b"1")
    clock.now += 5
    hub.put("small", b"2")
    hub.put("specific.a!1", b"3")
    hub.serve(a, "served", 1)
    found = hub.statistics()
    assert found["small"] == {
        "messages_count": 1,
        "messages_pending": 1,
        "messages_max_age": 5,
        "channel_full_count": 1,
    }
    assert found["specific.a!"]["messages_pending"] == 1
    assert found["served"]["messages_pending"] == 0
