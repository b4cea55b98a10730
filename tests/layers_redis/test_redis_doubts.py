"""Offers that a worker may have been given before, and workers that are stuck: on a real server."""

import pytest

from daphne_like.layers.redis import doubts, offering, port, presence
from tests.layers_redis.redis_servers import redis_server
from tests.layers_redis.test_redis_port import joined, stand_still, told, two, until

pytestmark = [pytest.mark.needs("redis-server")]


@pytest.fixture
def server(tmp_path):
    with redis_server(tmp_path) as server:
        yield server


def waiting(server):
    return server.cli("LLEN", "asgi:offers:{c.0}")


async def go_back(server, near_user, far_user):
    """To the last SAVE; both ports have seen that it was away, and that it is there again."""
    server.kill()
    assert await told(near_user) == await told(far_user) == ("stalled",)
    server.start()
    assert await told(near_user) == await told(far_user) == ("resumed",)


async def test_an_engine_that_goes_back_has_nothing_done_twice(server):
    """What was taken, and claimed, after the snapshot is there again, and taken by nobody."""
    async with two(server) as (near, near_user, far, far_user):
        near.offer("c", 2, ["done"], 0)
        await until(lambda: waiting(server) == 1)
        server.cli("SAVE")
        far.serve("c", 1)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["done"])
        assert await told(near_user) == ("claimed", 2, far.address)
        await go_back(server, near_user, far_user)
        far.serve("c", 1)
        await until(lambda: far._doubts)
        near.offer("c", 3, ["new"], 0)
        far.serve("c", 1)
        assert await told(far_user) == ("offer", "c", near.address, 3, ["new"])
        assert await told(near_user) == ("claimed", 3, far.address)


async def test_what_nobody_had_taken_is_taken_then(server):
    async with two(server) as (near, near_user, far, far_user):
        near.offer("c", 2, ["waits"], 0)
        await until(lambda: waiting(server) == 1)
        server.cli("SAVE")
        await go_back(server, near_user, far_user)
        far.serve("c", 1)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["waits"])
        assert await told(near_user) == ("claimed", 2, far.address)


async def test_who_comes_later_asks_for_what_was_there_before(server):
    """A worker that is new cannot know what others have done before the engine went back."""
    async with two(server) as (near, near_user, far, far_user):
        near.offer("c", 2, ["done"], 0)
        await until(lambda: waiting(server) == 1)
        server.cli("SAVE")
        far.serve("c", 1)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["done"])
        assert await told(near_user) == ("claimed", 2, far.address)
        await go_back(server, near_user, far_user)
        async with joined(server) as (third, third_user):
            third.serve("c", 2)
            await until(lambda: third._doubts)
            near.offer("c", 3, ["new"], 0)
            assert await told(third_user) == ("offer", "c", near.address, 3, ["new"])


async def test_the_place_of_an_offer_that_nobody_means_is_free_again(server, monkeypatch, caplog):
    monkeypatch.setattr(doubts, "PATIENCE", 0.5)
    monkeypatch.setattr(offering, "UNCLAIMED", 0.1)
    async with two(server) as (near, near_user, far, far_user):
        far._serving["c"]._readers[0].behind = 1
        near.offer("c", 2, ["withdrawn"], 0)
        near.withdraw("c", 2)
        near.offer("c", 3, ["taken"], 0)
        # As if it had been claimed already.
        near._offering.claimed(3)
        far.serve("c", 1)
        await until(lambda: far._doubts)
        await until(lambda: not far._doubts)
        assert "dropped offers that had been taken before" in caplog.text
        near.offer("c", 4, ["new"], 0)
        assert await told(far_user) == ("offer", "c", near.address, 4, ["new"])
        assert await told(near_user) == ("claimed", 4, far.address)


async def test_who_stood_still_asks_before_it_takes_what_came_long_ago(server):
    async with two(server) as (near, near_user, far, far_user):
        (reader,) = far._serving["c"]._readers
        far.serve("c", 1)
        reader._asked_at -= 10
        asked = []
        ask = far._doubts._ask
        far._doubts._ask = lambda *offer: (asked.append(offer), ask(*offer))
        near.offer("c", 2, ["late"], 0)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["late"])
        assert asked == [(near.address.encode(), 2)]
        assert await told(near_user) == ("claimed", 2, far.address)


async def test_one_of_two_that_ask_is_granted_it():
    found = offering.Offering.__new__(offering.Offering)
    found._offers = {7: offering._Offer("c.0", 0.0)}
    found._loop = type("Loop", (), {"time": lambda self: 0.0})()
    assert [found.grant(7, who) for who in ("a", "b", "a")] == [True, False, True]
    assert not found.grant(8, "a")


# -- stuck, and alive -------------------------------------------------------------------------------


async def test_a_stuck_worker_that_somebody_vouches_for_is_not_taken_for_dead(server, monkeypatch):
    monkeypatch.setattr(presence, "SETTLE", 0.0)
    monkeypatch.setattr(presence, "LEASE", 2)
    async with two(server) as (near, near_user, far, _):
        address = far.address
        near.member_suspended(address, True)
        stand_still(far)
        lease = f"asgi:port:{{{address}}}"
        for _ in range(presence.LOOKS + 1):
            server.cli("PEXPIRE", lease, 1500)
            await until(lambda: server.cli("PTTL", lease) > 1500)
        assert near_user.told == []
        near.member_suspended(address, False)
        assert await told(near_user) == ("gone", address)


async def test_who_is_known_to_be_dead_stays_dead(server):
    """Whoever vouches for it."""
    async with two(server) as (near, near_user, far, _):
        address = far.address
        stand_still(far)
        near.member_suspended(address, True)
        near.member_ended(address)
        assert await told(near_user) == ("gone", address)
        near.member_suspended(address, True)
        assert server.cli("GET", f"asgi:port:{{{address}}}") == b"0"


async def test_who_is_suspended_takes_no_offers(server, monkeypatch):
    monkeypatch.setattr(port, "HOLD_FOR", 60.0)
    async with two(server) as (near, _, far, far_user):
        near.member_suspended(far.address, True)
        await until(lambda: far._holding)
        far.serve("c", 2)
        near.offer("c", 2, ["waits"], 0)
        await until(lambda: waiting(server) == 1)
        # An answer that came after anything it could have asked for.
        await far._engine.command("c.0", "PING")
        assert waiting(server) == 1
        near.member_suspended(far.address, False)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["waits"])


async def test_a_suspension_that_nobody_ends_does(server, monkeypatch):
    monkeypatch.setattr(port, "HOLD_FOR", 0.2)
    async with two(server) as (near, _, far, far_user):
        far.hold_asked(True)
        far.serve("c", 1)
        near.offer("c", 2, ["waits"], 0)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["waits"])


async def test_who_stood_still_and_has_its_lease_goes_on(server, monkeypatch):
    monkeypatch.setattr(port, "STOOD_STILL", 0.0)
    async with two(server) as (_, _, far, far_user):
        address = far.address
        lease = f"asgi:port:{{{address}}}"
        server.cli("PEXPIRE", lease, 5000)
        await until(lambda: server.cli("PTTL", lease) > 5000)
        assert (far.address, far_user.told) == (address, [])
        server.cli("SET", lease, "0")
        assert await far_user.until(2) == [("lost",), ("regained",)]
        assert far.address != address
