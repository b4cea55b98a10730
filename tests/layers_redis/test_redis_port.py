"""The relay's door to a layer on Redis, on a real server that is killed, emptied and paused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.encryption import Encryption
from daphne_like.layers.redis import doubts, offering, port, presence
from daphne_like.layers.redis.hosts import parse
from daphne_like.layers.redis.port import RedisPort
from daphne_like.layers.redis.topology import topology_of
from tests.layers.port_users import User
from tests.layers_redis.redis_servers import RedisServer, redis_server

WITHIN = 20.0


@pytest.fixture
def server(tmp_path):
    with redis_server(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def joined(server: RedisServer, **options) -> AsyncIterator[tuple[RedisPort, User]]:
    made, user = RedisPort(lambda: topology_of(parse([server.url])), **options), User()
    await made.open(user)
    try:
        yield made, user
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def two(server: RedisServer, **options):
    """A server's port and a worker's, which have met."""
    async with joined(server, **options) as (near, near_user), joined(server, **options) as (far, far_user):
        far.serve("c", 1)
        near.offer("c", 1, ["hello"], 0)
        assert await told(far_user) == ("offer", "c", near.address, 1, ["hello"])
        assert await told(near_user) == ("claimed", 1, far.address)
        yield near, near_user, far, far_user


async def told(user):
    async with asyncio.timeout(WITHIN):
        (call,) = await user.until(1)
    return call


async def envelopes(user, sender, count):
    """The next *count* envelopes, which all are of *sender*."""
    found = []
    while len(found) < count:
        kind, by, batch = await told(user)
        assert (kind, by) == ("envelopes", sender)
        found += batch
    return found


async def until(holds):
    async with asyncio.timeout(WITHIN):
        while not holds():
            await asyncio.sleep(0.01)  # others' state, of which nobody tells


async def test_an_offer_a_claim_and_envelopes_both_ways(server):
    async with two(server) as (near, near_user, far, far_user):
        for number in range(100):
            near.post(far.address, [1, number])
            far.post(near.address, [2, number])
        assert await envelopes(far_user, near.address, 100) == [[1, number] for number in range(100)]
        assert await envelopes(near_user, far.address, 100) == [[2, number] for number in range(100)]


async def test_what_is_posted_is_as_it_was_then(server):
    async with two(server) as (near, _, far, far_user):
        items = ["a", b"b", 1.5, None]
        near.post(far.address, [1, items])
        items.append("later")
        assert await envelopes(far_user, near.address, 1) == [[1, ["a", b"b", 1.5, None]]]


async def test_what_is_posted_to_oneself_comes_behind_the_offers(server):
    async with joined(server) as (near, user):
        near.post(near.address, [7])
        assert await told(user) == ("envelopes", near.address, [[7]])


async def test_offers_wait_for_places_and_each_goes_to_one(server):
    async with joined(server) as (near, near_user), joined(server) as (far, far_user):
        for ref in range(20):
            near.offer("c", ref, [ref], 0)
        far.serve("c", 3)
        offers = await far_user.until(3)
        assert [call[3] for call in offers] == [0, 1, 2]
        await near_user.until(3)
        async with joined(server) as (_other, other_user):
            _other.serve("c", 100)
            assert [call[3] for call in await other_user.until(17)] == list(range(3, 20))
        assert far_user.told == []


async def test_places_that_are_taken_back_take_nothing_more(server):
    async with joined(server) as (near, _), joined(server) as (far, far_user):
        far.serve("c", 5)
        far.serve("c", -5)
        near.offer("c", 1, ["x"], 0)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 1)
        assert far_user.told == []
        far.serve("c", 1)
        assert (await told(far_user))[3] == 1


async def test_who_leaves_gives_back_what_it_had_not_begun(server):
    async with joined(server) as (near, _), joined(server) as (far, far_user):
        far.serve("c", 1)
        await far.close()
        near.offer("c", 1, ["x"], 0)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 1)
        assert far_user.told == []


async def test_a_full_list_refuses(server):
    async with joined(server) as (near, user):
        for ref in range(5):
            near.offer("c", ref, ["x"], 3)
        assert await user.until(2) == [("refused", 3), ("refused", 4)]


async def test_what_is_withdrawn_nobody_gets(server):
    async with joined(server) as (near, _), joined(server) as (far, far_user):
        near.offer("c", 1, ["x"], 0)
        near.offer("c", 2, ["y"], 0)
        near.withdraw("c", 1)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 1)
        far.serve("c", 2)
        assert (await told(far_user))[3:] == (2, ["y"])


async def test_an_offer_that_went_down_with_a_worker_is_found(server, monkeypatch):
    monkeypatch.setattr(offering, "UNCLAIMED", 1.0)
    async with joined(server) as (near, user):
        near.offer("c", 1, ["x"], 0)
        near.offer("c", 2, ["y"], 0)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 2)
        server.cli("LPOP", "asgi:offers:{c.0}")
        async with asyncio.timeout(WITHIN):
            assert await user.until(2) == [("claimed", 1, "unknown"), ("gone", "unknown")]
        # The other one waits, however long.
        assert user.told == []


async def test_offers_of_the_dead_are_dropped(server, monkeypatch):
    monkeypatch.setattr(doubts, "PATIENCE", 0.2)
    async with joined(server) as (near, _), joined(server) as (far, far_user):
        near.offer("c", 1, ["x"], 0)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 1)
        server.cli("SET", f"asgi:port:{{{near.address}}}", "0", "PX", 10_000)
        await near._presence._inbox.stop()
        far.serve("c", 1)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 0)
        async with joined(server) as (other, _):
            other.offer("c", 7, ["z"], 0)
            assert await told(far_user) == ("offer", "c", other.address, 7, ["z"])


async def test_a_goodbye_comes_behind_all_else(server):
    async with two(server) as (near, near_user, far, _):
        address = far.address
        far.post(near.address, [1])
        await far.close()
        assert await near_user.until(2) == [("envelopes", address, [[1]]), ("gone", address)]
        assert server.cli("KEYS", f"*{address}*") == []


async def test_somebody_without_a_lease_is_gone(server, monkeypatch):
    monkeypatch.setattr(presence, "SETTLE", 0.0)
    monkeypatch.setattr(presence, "LEASE", 2)
    async with two(server) as (_, near_user, far, _):
        address = far.address
        stand_still(far)
        assert await told(near_user) == ("gone", address)


def stand_still(stopped: RedisPort) -> None:
    """As if its process were stopped: it says nothing more, not even that it lives."""
    (task,) = stopped._tasks
    task.cancel()


async def test_whoever_was_taken_for_dead_comes_back_as_somebody_else(server, monkeypatch):
    monkeypatch.setattr(presence, "SETTLE", 0.0)
    monkeypatch.setattr(presence, "LEASE", 2)
    async with two(server) as (near, near_user, far, far_user):
        address = far.address
        stand_still(far)
        assert await told(near_user) == ("gone", address)
        far.post(near.address, [1])
        async with asyncio.timeout(WITHIN):
            assert await far_user.until(2) == [("lost",), ("regained",)]
        assert far.address not in ("", address)
        assert near_user.told == []
        far.serve("c", 1)
        near.offer("c", 2, ["again"], 0)
        assert await told(far_user) == ("offer", "c", near.address, 2, ["again"])
        assert await told(near_user) == ("claimed", 2, far.address)


async def test_a_supervisor_knows_of_a_death_at_once_and_others_soon(server):
    async with two(server) as (near, near_user, far, _), joined(server) as (third, third_user):
        far.serve("c", 1)
        third.offer("c", 1, ["x"], 0)
        assert await told(third_user) == ("claimed", 1, far.address)
        address = far.address
        far.post(near.address, [1])
        await until(lambda: near_user.told)
        stand_still(far)
        near.member_ended(address)
        assert await near_user.until(2) == [("envelopes", address, [[1]]), ("gone", address)]
        assert await told(third_user) == ("gone", address)


async def test_killed_and_back_empty_loses_nothing_and_takes_nobody_for_dead(server):
    async with two(server) as (near, near_user, far, far_user):
        for number in range(50):
            near.post(far.address, [number])
        server.kill()
        assert (await last_of(near_user)) == ("stalled",)
        for number in range(50, 100):
            near.post(far.address, [number])
        far.post(near.address, ["back"])
        server.start()
        assert sorted(await near_user.until(2)) == [("envelopes", far.address, [["back"]]), ("resumed",)]
        found = []
        while len(found) < 100:
            call = await told(far_user)
            found += call[2] if call[0] == "envelopes" else []
        assert found == [[number] for number in range(100)]
        far.serve("c", 1)
        near.offer("c", 2, ["x"], 0)
        while (call := await told(far_user))[0] != "offer":
            assert call in [("stalled",), ("resumed",)]


async def last_of(user):
    """What it is told of the layer, after what was on its way."""
    while (call := await told(user))[0] == "envelopes":
        pass
    return call


@pytest.mark.parametrize(
    "trouble",
    [
        ("FLUSHALL",),
        ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        ("CLIENT", "PAUSE", "1500", "ALL"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
async def test_trouble_under_way_loses_and_doubles_nothing(server, trouble):
    async with two(server) as (near, near_user, far, far_user):
        for number in range(300):
            near.post(far.address, [number])
            far.post(near.address, [number])
            if number in (100, 200):
                server.cli(*trouble)
            await asyncio.sleep(0.005)  # the pace
        wanted = [[number] for number in range(300)]
        assert await envelopes(far_user, near.address, 300) == wanted
        assert await envelopes(near_user, far.address, 300) == wanted


async def test_notes_that_a_port_has_not_read_are_kept_for_a_while_only(server):
    async with two(server) as (near, _, far, _):
        await far._presence._inbox.stop()
        near.post(far.address, [1])
        key = f"asgi:post:{{{far.address}}}"
        await until(lambda: server.cli("LLEN", key))
        assert 0 < server.cli("PTTL", key) <= presence.NOTE_LIFETIME


async def test_everything_is_sealed_where_there_are_keys(server):
    options = {"encryption": Encryption(["secret"])}
    async with joined(server, **options) as (near, near_user), joined(server, **options) as (far, far_user):
        near.offer("c", 1, ["confidential"], 0)
        await until(lambda: server.cli("LLEN", "asgi:offers:{c.0}") == 1)
        assert b"confidential" not in server.cli("LINDEX", "asgi:offers:{c.0}", 0)
        far.serve("c", 1)
        assert (await told(far_user))[4] == ["confidential"]
        await told(near_user)
        await far._presence._inbox.stop()
        near.post(far.address, ["confidential"])
        key = f"asgi:post:{{{far.address}}}"
        await until(lambda: server.cli("LLEN", key))
        assert b"confidential" not in server.cli("LINDEX", key, 0)


async def test_an_engine_out_of_reach(server):
    server.kill()
    made = RedisPort(lambda: topology_of(parse([server.url])), send_timeout=0.2)
    with pytest.raises(LayerUnavailable, match="no way to the layer"):
        await made.open(User())
    server.start()
    await made.open(User())
    await made.close()


async def test_it_closes_in_time_while_the_engine_is_paused(server, monkeypatch):
    monkeypatch.setattr(port, "FAREWELL", 0.2)
    made = RedisPort(lambda: topology_of(parse([server.url])))
    await made.open(User())
    made.serve("c", 5)
    server.pause()
    try:
        async with asyncio.timeout(10):
            await made.close()
    finally:
        server.resume()
