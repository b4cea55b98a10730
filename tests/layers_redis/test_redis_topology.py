"""Which engine has which key: one, several, one that sentinels know, and a cluster whose slots move."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.redis import asking
from daphne_like.layers.redis.cluster import read_layout, slot_of
from daphne_like.layers.redis.connection import connect
from daphne_like.layers.redis.hosts import Host, parse
from daphne_like.layers.redis.topology import Topology, topology_of
from tests.end_to_end.processes import free_port
from tests.layers_redis.redis_clusters import (
    RedisCluster,
    engine,
    redis_cluster,
    sentinel_site,
    shard_of,
)

pytestmark = pytest.mark.needs("redis-server")

WAIT = 10.0


@contextlib.asynccontextmanager
async def topology(*hosts: object) -> AsyncIterator[Topology]:
    made = topology_of(parse(hosts))
    try:
        yield made
    finally:
        await made.close()


async def asked(host: Host, *words: object) -> object:
    """The reply of *host* to one command."""
    connection, (reply,), _ = await connect(host, [words])
    connection.abort("asked")
    return reply


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():
            await asyncio.sleep(0.02)


# -- fixed addresses ---------------------------------------------------------------------------------


async def test_one_engine_has_everything() -> None:
    async with topology("redis://user:word@cache/2") as one:
        assert one.nodes() == ("cache:6379",)
        assert one.node_of("a") == one.node_of("b") == "cache:6379"
        assert one.parts == 1
        assert one.name == "redis:cache:6379"


async def test_shards_are_those_of_channels_redis() -> None:
    async with topology("redis://a", "redis://b", "redis://c") as shards:
        nodes = ["a:6379", "b:6379", "c:6379"]
        assert shards.nodes() == tuple(nodes)
        assert shards.parts == 3
        for tag in map(str, range(1000)):
            assert shards.node_of(tag) == nodes[shard_of(tag, 3)]


async def test_same_engine_twice_has_two_shares() -> None:
    async with topology("redis://a", "redis://b", "redis://a") as shards:
        assert shards.nodes() == ("a:6379", "b:6379")
        assert shards.parts == 3
        assert {tag: shards.node_of(tag) for tag in "abcdefghij"} == {
            tag: ["a:6379", "b:6379", "a:6379"][shard_of(tag, 3)] for tag in "abcdefghij"
        }


async def test_a_cluster_that_is_not_called_one_says_so() -> None:
    async with topology("redis://a") as one:
        with pytest.raises(LayerUnavailable, match=r"redis\+cluster"):
            one.moved(1, "b:6379", "a:6379")


# -- being let in ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "alice:secret@", ":word@"])
async def test_password(words: str) -> None:
    with engine("--user", "alice", "on", ">secret", "~*", "+@all") as server:
        if words.startswith(":"):
            server.cli("CONFIG", "SET", "requirepass", "word")
        (host,) = parse([f"redis://{words}{server.address}/3"])
        assert isinstance(host, Host)
        who = (await asked(host, "ACL", "WHOAMI"), await asked(host, "CLIENT", "INFO"))
    assert who[0] == (b"alice" if words.startswith("alice") else b"default")
    assert isinstance(who[1], bytes) and b" db=3 " in who[1]


async def test_wrong_password_is_a_reason_without_the_password() -> None:
    with engine("--requirepass", "word") as server:
        (host,) = parse([f"redis://:SECRET@{server.address}"])
        assert isinstance(host, Host)
        with pytest.raises(LayerUnavailable, match=r"(?i)invalid|wrongpass") as caught:
            await asked(host, "PING")
    assert "SECRET" not in str(caught.value)


async def test_unix_socket() -> None:
    with engine() as server:
        (host,) = parse([f"unix://{server.path}?db=2"])
        assert isinstance(host, Host)
        assert await asked(host, "PING") == b"PONG"


async def test_tls() -> None:
    with engine(tls=True) as server:
        assert server.certificate is not None
        (host,) = parse([f"rediss://{server.address}?ssl_ca_certs={server.certificate.chain}"])
        (stranger,) = parse([f"rediss://{server.address}"])
        assert isinstance(host, Host) and isinstance(stranger, Host)
        with pytest.raises(LayerUnavailable, match=r"(?i)certificate"):
            await asked(stranger, "PING")
        (careless,) = parse([f"rediss://{server.address}?ssl_cert_reqs=none"])
        assert isinstance(careless, Host)
        assert await asked(host, "PING") == b"PONG"
        assert await asked(careless, "PING") == b"PONG"


# -- sentinels ---------------------------------------------------------------------------------------


async def test_sentinels_name_the_master_and_after_a_failover_the_next() -> None:
    with sentinel_site() as site:
        first, second = site.engines
        async with topology(site.url) as one:
            (node,) = one.nodes()
            assert node == f"site of {','.join(sentinel.address for sentinel in site.sentinels)}"
            host = await one.host(node)
            assert host == Host(("127.0.0.1", first.port), master_only=True)

            first.kill()
            await until_promoted(one, node, second.port)
            assert (await asked(await one.host(node), "ROLE"))[0] == b"master"  # type: ignore[index]


async def until_promoted(one: Topology, node: str, port: int) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            # Nobody is, while they agree on whom to take.
            with contextlib.suppress(LayerUnavailable):
                if (await one.host(node)).address == ("127.0.0.1", port):
                    return
            await asyncio.sleep(0.05)


async def test_who_is_connected_hears_of_another_master() -> None:
    """A master that was paused goes on taking writes when it wakes up, and loses them."""
    with sentinel_site() as site:
        first, second = site.engines
        async with topology(site.url) as one:
            moved = asyncio.Event()
            one.relocated = lambda _: moved.set()
            (node,) = one.nodes()
            await one.host(node)

            first.pause()
            async with asyncio.timeout(WAIT):
                await moved.wait()
            assert (await one.host(node)).address == ("127.0.0.1", second.port)


async def test_a_sentinel_that_missed_the_failover_is_not_believed() -> None:
    with sentinel_site() as site:
        first, second = site.engines
        async with topology(site.url) as one:
            (node,) = one.nodes()
            site.sentinels[0].pause()
            first.kill()
            await until_promoted(one, node, second.port)
            # As it was, and it does not know yet.
            first.start()
            site.sentinels[0].resume()

            assert (await one.host(node)).address == ("127.0.0.1", second.port)


async def test_sentinels_with_password_and_none_there() -> None:
    with sentinel_site(sentinels=1) as site:
        (sentinel,) = site.sentinels
        sentinel.cli("ACL", "SETUSER", "default", ">word")
        for user in ("?sentinel_password=word", ""):
            async with topology(site.url + user) as one:
                (node,) = one.nodes()
                if user:
                    assert (await one.host(node)).address == ("127.0.0.1", site.engines[0].port)
                else:
                    with pytest.raises(LayerUnavailable, match="NOAUTH"):
                        await one.host(node)
        sentinel.kill()
        async with topology(site.url) as one:
            with pytest.raises(LayerUnavailable, match=sentinel.address):
                await one.host(one.nodes()[0])


async def test_name_that_the_sentinels_do_not_know() -> None:
    with sentinel_site(sentinels=1) as site:
        async with topology(site.url + "s") as one:
            with pytest.raises(LayerUnavailable, match="No such master"):
                await one.host(one.nodes()[0])


# -- cluster -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[RedisCluster]:
    """For tests that leave it as it was."""
    with redis_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("tag", ["", "foo", "http.request.3", "ünicode", "a" * 90])
def test_slot_is_that_of_the_keys(shared_cluster: RedisCluster, tag: str) -> None:
    # An empty tag is none: the engine takes the whole key then.
    assert slot_of(tag or "{}") == shared_cluster.slot_of(tag)


def test_what_a_node_may_call_itself() -> None:
    """Nothing, before it has met another, or where it may say no address; a question mark for no host name."""
    reply = [
        [0, 1, [b"", 7001, b"id", []], [b"10.0.0.4", 7004, b"id", [b"hostname", b"x"]]],
        [2, 2, [None, 7002, b"id"]],
        [4, 16383, [b"2001:db8::1", 7003, b"id"], [b"?", 7005, b"id"]],
    ]

    layout = read_layout(reply, "10.0.0.9")

    assert layout.slots[:5] == ["10.0.0.9:7001"] * 2 + ["10.0.0.9:7002", None, "[2001:db8::1]:7003"]
    assert layout.slots[16383] == "[2001:db8::1]:7003" and len(layout.slots) == 16384
    assert layout.nodes == ("10.0.0.9:7001", "10.0.0.9:7002", "[2001:db8::1]:7003")
    assert layout.addresses["10.0.0.4:7004"] == ("10.0.0.4", 7004)
    assert layout.addresses["10.0.0.9:7005"] == ("10.0.0.9", 7005)
    assert layout.addresses["[2001:db8::1]:7003"] == ("2001:db8::1", 7003)


async def test_every_tag_is_where_the_cluster_has_it(shared_cluster: RedisCluster) -> None:
    async with topology(shared_cluster.url) as cluster:
        assert cluster.nodes() == ()
        assert cluster.node_of("a") is None

        await cluster.refresh()

        assert set(cluster.nodes()) == {member.address for member in shared_cluster.members[:3]}
        for tag in map(str, range(50)):
            assert cluster.node_of(tag) == shared_cluster.master_of(tag).address
        for node in cluster.nodes():
            reply = await asked(await cluster.host(node), "CLUSTER", "MYID")
            assert reply in [member.id.encode() for member in shared_cluster.members[:3]]


async def test_any_node_is_enough_to_begin_with(shared_cluster: RedisCluster) -> None:
    replica = shared_cluster.members[5].address
    async with topology(f"redis+cluster://127.0.0.1:{free_port()},{replica}") as cluster:
        await cluster.refresh()
        assert len(cluster.nodes()) == 3


async def test_questions_at_the_same_time_are_one(shared_cluster: RedisCluster) -> None:
    async with topology(shared_cluster.url) as cluster:
        before = questions(shared_cluster)
        await asyncio.gather(*(cluster.refresh() for _ in range(50)))
        assert 1 <= questions(shared_cluster) - before <= 3
        # And one after the other they are few.
        before = questions(shared_cluster)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(4):
            await cluster.refresh()
        assert loop.time() - begun > 0.3


def questions(cluster: RedisCluster) -> int:
    return sum(
        int(member.cli("INFO", "commandstats").get("cmdstat_cluster|slots", {"calls": 0})["calls"])
        for member in cluster.members
    )


async def test_who_is_cancelled_leaves_the_others_their_answer(shared_cluster: RedisCluster) -> None:
    async with topology(shared_cluster.url) as cluster:
        first, second = (asyncio.create_task(cluster.refresh()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert len(cluster.nodes()) == 3
        assert first.cancelled()


async def test_moved_counts_at_once_and_for_its_slot(shared_cluster: RedisCluster) -> None:
    async with topology(shared_cluster.url) as cluster:
        await cluster.refresh()
        changes = itertools.count()
        cluster.changed = lambda: next(changes)
        first, other = (member.address for member in shared_cluster.members[1::-1])
        tag = shared_cluster.tag_of(shared_cluster.members[1])
        slot = slot_of(tag)

        assert cluster.moved(slot, other, first) == other

        assert cluster.node_of(tag) == other
        assert next(changes) == 1
        # It was not so: the cluster itself is asked meanwhile, and knows better.
        await cluster.refresh()
        assert cluster.node_of(tag) == first


async def test_address_without_a_host_is_that_of_who_said_it(shared_cluster: RedisCluster) -> None:
    async with topology(shared_cluster.url) as cluster:
        await cluster.refresh()
        assert cluster.asked(":7000", cluster.nodes()[0]) == "127.0.0.1:7000"
        assert (await cluster.host("127.0.0.1:7000")).address == ("127.0.0.1", 7000)
        assert cluster.asked("2001:db8::1:7000", cluster.nodes()[0]) == "[2001:db8::1]:7000"
        assert (await cluster.host("[2001:db8::1]:7000")).address == ("2001:db8::1", 7000)


async def test_node_that_an_ask_names_counts_for_a_while(shared_cluster: RedisCluster) -> None:
    """A slot is on its way to it: it may have keys, and none of its own slots yet."""
    async with topology(shared_cluster.url) as cluster:
        await cluster.refresh()
        changes = itertools.count()
        cluster.changed = lambda: next(changes)

        new = cluster.asked("127.0.0.1:7000", cluster.nodes()[0])

        assert new in cluster.nodes()
        await cluster.refresh()
        assert new in cluster.nodes()
        assert (await cluster.host(new)).address == ("127.0.0.1", 7000)
        assert next(changes) == 1


async def test_paused_node_holds_nobody_up(shared_cluster: RedisCluster) -> None:
    paused = shared_cluster.members[4]
    async with topology(shared_cluster.url) as cluster:
        paused.pause()
        try:
            async with asyncio.timeout(3 * asking.GRACE + 3 * 0.2):
                for _ in range(3):
                    await cluster.refresh()
        finally:
            paused.resume()
    shared_cluster.wait()


async def test_nobody_there_is_a_reason() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with topology(f"redis+cluster://{address}") as cluster:
        with pytest.raises(LayerUnavailable, match=address):
            await cluster.refresh()


async def test_an_engine_alone_is_no_cluster() -> None:
    with engine() as server:
        async with topology(f"redis+cluster://{server.address}") as cluster:
            with pytest.raises(LayerUnavailable, match="cluster support disabled"):
                await cluster.refresh()


async def test_replica_takes_the_place_of_a_node_that_died() -> None:
    with redis_cluster() as real:
        tag = "site"
        victim = real.master_of(tag)
        heir = real.replica_of(victim)
        async with topology(real.url) as cluster:
            await cluster.refresh()
            assert cluster.node_of(tag) == victim.address
            changes = itertools.count()
            cluster.changed = lambda: next(changes)

            victim.kill()
            async with asyncio.timeout(WAIT):
                while cluster.node_of(tag) != heir.address:
                    with contextlib.suppress(LayerUnavailable):
                        await cluster.refresh()

            assert next(changes) == 1
            assert victim.address not in cluster.nodes()
            with pytest.raises(LayerUnavailable, match="no node"):
                await cluster.host("127.0.0.1:1")


async def test_cluster_with_tls_and_password() -> None:
    with redis_cluster("--requirepass", "word", "--masterauth", "word", tls=True) as real:
        certificate = real.members[0].certificate
        assert certificate is not None
        url = f"rediss+cluster://:word@{real.members[0].address}?ssl_ca_certs={certificate.chain}"
        async with topology(url) as cluster:
            await cluster.refresh()
            assert set(cluster.nodes()) == {member.address for member in real.members[:3]}
            for node in cluster.nodes():
                assert await asked(await cluster.host(node), "PING") == b"PONG"
