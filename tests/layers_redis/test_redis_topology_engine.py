"""
An engine on real arrangements of Redis, while things happen to them: a cluster's node dies or freezes, a slot
moves, sentinels choose another master, one of several engines is gone.

Each tag has numbers sent to its list, one each 10 ms, without waiting for the answer to the one before; and a
reader that takes them. A script of two keys does it, as in the layer.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.redis.engine import Engine, ReplyLost
from daphne_like.layers.redis.reader import Reader
from daphne_like.layers.redis.scripts import ADMIT_INBOX
from tests.layers_redis.redis_clusters import Member, RedisCluster, engine, redis_cluster, sentinel_site
from tests.layers_redis.redis_engines import Told, engine_on, until

pytestmark = pytest.mark.needs("redis-server")

INTERVAL = 0.01
# Numbers from now on that show that all is as before.
FLOWING = 20


class Flow:
    """
    Numbers to the list of one tag, and what became of them.

    Attributes:
        sender, receiver: engines.
        acknowledged, unknown, refused: numbers.
        read: what came, in order.
    """

    def __init__(self, sender: Engine, receiver: Engine, tag: str) -> None:
        self.tag = tag
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []
        self.refused: dict[int, str] = {}
        self.read: list[int] = []
        self.sent = 0
        self.longest_wait = 0.0
        self.sender = sender
        self.receiver = receiver
        self._keys = [f"in:{{{tag}}}", f"n:{{{tag}}}"]
        self._waiting: set[asyncio.Task[None]] = set()
        self.reader: Reader = receiver.reader(tag, self._keys[:1], lambda: 50, self._deliver)
        self._sending = asyncio.create_task(self._send_all())

    def _deliver(self, key: bytes, elements: list[bytes]) -> None:
        assert key.decode() == self._keys[0]
        self.read += [int(element[9:]) for element in elements]

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            task = asyncio.create_task(self._send(self.sent))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            self.sent += 1
            due += INTERVAL
            await asyncio.sleep(due - loop.time())

    async def _send(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            given = [b"8 octetsM%d" % number], ["1", 1, "counter", 1000000, 60000, 1]
            await self.sender.push(self.tag, self._keys, ADMIT_INBOX, lambda: given)
        except ReplyLost:
            self.unknown.append(number)
        except LayerUnavailable as error:
            self.refused[number] = str(error)
        else:
            self.acknowledged.append(number)
            self.longest_wait = max(self.longest_wait, loop.time() - begun)

    async def flowing(self) -> None:
        """Until numbers arrive that are sent from now on."""
        wanted = self.sent + FLOWING
        await until(lambda: self.read[-1:] > [wanted])

    async def end(self) -> None:
        """Send no more, and wait for what was sent."""
        self._sending.cancel()
        await asyncio.wait([self._sending])
        if self._waiting:
            await asyncio.wait(self._waiting)
        with contextlib.suppress(TimeoutError):
            await until(lambda: set(self.acknowledged) <= set(self.read), 3)
        await self.reader.stop()

    @property
    def lost(self) -> list[int]:
        return sorted(set(self.acknowledged) - set(self.read))

    def check(self, *, lost: int = 0, unknown: int = 0) -> None:
        """All that was acknowledged came, once and in order, but for so many."""
        assert self.refused == {}
        assert len(self.lost) <= lost
        assert len(self.unknown) <= unknown
        assert [number for number, count in Counter(self.read).items() if count > 1] == []
        assert self.read == sorted(self.read)


@contextlib.asynccontextmanager
async def flows(url: str, tags: Sequence[str], *, told: Told | None = None) -> AsyncIterator[list[Flow]]:
    """One for each of *tags*, between two engines."""
    async with (
        engine_on(url, scripts=[ADMIT_INBOX], told=told) as sender,
        engine_on(url, scripts=[ADMIT_INBOX]) as receiver,
    ):
        made = [Flow(sender, receiver, tag) for tag in tags]
        try:
            for flow in made:
                await flow.flowing()
            yield made
        finally:
            await asyncio.gather(*(flow.end() for flow in made))


def tags_of(cluster: RedisCluster) -> list[str]:
    """One of each master."""
    return [cluster.tag_of(member) for member in cluster.members[:3]]


async def test_each_call_finds_its_node() -> None:
    with redis_cluster() as cluster:
        async with engine_on(cluster.url) as engine:
            for tag in map(str, range(100)):
                assert await engine.command(tag, "INCR", f"{{{tag}}}") == 1
                assert engine.reaches(tag)
                assert engine.time(tag) > 1.7e9
            for tag in map(str, range(0, 100, 10)):
                assert cluster.master_of(tag).cli("GET", f"{{{tag}}}") == b"1"
            sizes = [await engine.node_command(node, "DBSIZE") for node in engine.nodes()]
            assert sum(sizes) == 100 and 0 not in sizes


async def test_node_of_a_cluster_dies() -> None:
    """
    Its tags are back when a replica has taken over.

    The others wait a second of that, as the whole cluster is down while some slots are nobody's.
    """
    with redis_cluster() as cluster:
        told = Told()
        async with flows(cluster.url, tags_of(cluster), told=told) as running:
            assert told.back == 3
            loop = asyncio.get_running_loop()
            cluster.members[0].kill()
            begun = loop.time()
            # The cluster itself takes two seconds: NODE_TIMEOUT, and the vote.
            await until(lambda: cluster.members[3].role() == "master")
            promoted = loop.time()
            await running[0].flowing()
            back = loop.time() - promoted
            for flow in running[1:]:
                await flow.flowing()
            print(f"promoted after {promoted - begun:.2f} s, flowing {back:.2f} s after that")
        dead, *others = running
        for flow in others:
            flow.check()
            assert flow.longest_wait < 2.5
        # What it had confirmed and not passed on to its replica; what was on the wire.
        dead.check(lost=10, unknown=10)
        assert back < 3
        assert len(told.lost) == 1


async def test_node_of_a_cluster_freezes() -> None:
    """It does not hang up, and does not answer. In a cluster that is told so, the others never notice."""
    with redis_cluster("--cluster-require-full-coverage", "no") as cluster:
        async with flows(cluster.url, tags_of(cluster)) as running:
            loop = asyncio.get_running_loop()
            cluster.members[0].pause()
            await until(lambda: cluster.members[3].role() == "master")
            promoted = loop.time()
            await running[0].flowing()
            back = loop.time() - promoted
            print(f"flowing {back:.2f} s after the promotion")
            cluster.members[0].resume()
            await until(lambda: cluster.members[0].role() == "slave")
            for flow in running:
                await flow.flowing()
        frozen, *others = running
        for flow in others:
            flow.check()
            assert flow.longest_wait < 1
        frozen.check(lost=10, unknown=10)
        assert back < 3


async def test_slot_moves_while_it_is_used() -> None:
    """As in a reshard: nothing is lost, doubled or out of order."""
    with redis_cluster() as cluster:
        source, target, other = cluster.members[:3]
        tag = cluster.tag_of(source)
        async with flows(cluster.url, [tag, cluster.tag_of(target), cluster.tag_of(other)]) as running:
            for begin, end in itertools.pairwise([source, target, other, source]):
                await asyncio.to_thread(cluster.migrate, cluster.slot_of(tag), begin, end)
                await running[0].flowing()
        for flow in running:
            flow.check()
            print(f"longest wait {flow.longest_wait:.2f} s")
            assert flow.longest_wait < 1


async def test_slot_is_on_its_way_for_a_while() -> None:
    """Between two nodes, a key is at either of them; what is asked of two keys at once has to wait."""
    with redis_cluster() as cluster:
        source, target = cluster.members[:2]
        tag = cluster.tag_of(source)
        async with flows(cluster.url, [tag]) as (flow,):
            await migrate_slowly(cluster, tag, source, target)
            await flow.flowing()
        flow.check()
        assert flow.longest_wait < 2.5


async def migrate_slowly(cluster: RedisCluster, tag: str, source: Member, target: Member) -> None:
    """With a second in which the slot is neither here nor there."""
    loop = asyncio.get_running_loop()

    def between() -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1), loop).result()

    await asyncio.to_thread(cluster.migrate, cluster.slot_of(tag), source, target, between)


async def test_nodes_come_and_go() -> None:
    """A master that has no slots is none; but one may be on its way to it."""
    # As it is new, or was told to wait for slots. By itself it would become a replica.
    with redis_cluster("--cluster-allow-replica-migration", "no") as cluster:
        source, target = cluster.members[:2]
        async with flows(cluster.url, tags_of(cluster)) as running:
            tag = running[0].tag
            await asyncio.to_thread(give_all, cluster, source, target, cluster.slot_of(tag))
            topologies = [running[0].sender.topology, running[0].receiver.topology]
            for topology in topologies:
                await topology.refresh()
                await until(lambda topology=topology: source.address not in topology.nodes())  # type: ignore[misc]
            for flow in running:
                await flow.flowing()

            await migrate_slowly(cluster, tag, target, source)
            for flow in running:
                await flow.flowing()
        for flow in running:
            flow.check()
            assert flow.longest_wait < 2.5


async def test_node_that_a_slot_is_on_its_way_to_was_none_before() -> None:
    """It becomes one while calls are sent there: those that wait for another node do not overtake them."""
    with redis_cluster("--cluster-allow-replica-migration", "no") as cluster:
        source, target = cluster.members[:2]
        tag = cluster.tag_of(source)
        slot = cluster.slot_of(tag)
        give_all(cluster, source, target, slot)
        async with engine_on(cluster.url, scripts=[ADMIT_INBOX]) as sender:
            await sender.topology.refresh()
            await until(lambda: source.address not in sender.topology.nodes())
            source.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", target.id)
            target.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", source.id)
            keys = [f"in:{{{tag}}}", f"n:{{{tag}}}"]

            def push(number: int) -> "asyncio.Future[object]":
                given = [b"%d" % number], ["1", 1, "counter", 1000000, 60000, 1]
                return sender.push(tag, keys, ADMIT_INBOX, lambda: given)

            pushed = [push(number) for number in range(5)]
            await asyncio.sleep(0)  # they have left
            pushed += [push(number) for number in range(5, 10)]
            await until(lambda: source.address in sender.topology.nodes())
            for member in (source, target, cluster.members[2]):
                member.cli("CLUSTER", "SETSLOT", slot, "NODE", source.id)
            await asyncio.gather(*pushed)
        assert source.cli("LRANGE", keys[0], 0, -1) == [b"%d" % number for number in range(10)]


def give_all(cluster: RedisCluster, source: Member, target: Member, used: int) -> None:
    """All slots that *source* begins with, of which only one is in use."""
    assert source.slots is not None
    first, last = source.slots
    for slot in range(first, last + 1):
        if slot != used:
            for member in (target, source, cluster.members[2]):
                member.cli("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    cluster.migrate(used, source, target)


async def test_sentinels_choose_another_master() -> None:
    with sentinel_site() as site:
        told = Told()
        async with flows(site.url, ["a", "b"], told=told) as running:
            loop = asyncio.get_running_loop()
            site.engines[0].kill()
            await until(lambda: site.engines[1].role() == "master")
            promoted = loop.time()
            for flow in running:
                await flow.flowing()
            back = loop.time() - promoted
            print(f"flowing {back:.2f} s after the promotion")
        for flow in running:
            flow.check(lost=10, unknown=10)
        assert back < 3
        assert (told.back, len(told.lost)) == (2, 1)


async def test_master_freezes_and_comes_back_as_one() -> None:
    """What it takes after the sentinels have chosen another is lost, so nobody may give it anything."""
    with sentinel_site() as site:
        async with flows(site.url, ["a", "b"]) as running:
            loop = asyncio.get_running_loop()
            site.engines[0].pause()
            await until(lambda: site.engines[1].role() == "master")
            promoted = loop.time()
            for flow in running:
                await flow.flowing()
            back = loop.time() - promoted
            print(f"flowing {back:.2f} s after the promotion")
            site.engines[0].resume()
            assert site.engines[0].role() == "master"
            for flow in running:
                await flow.flowing()
        for flow in running:
            flow.check(lost=10, unknown=10)
        assert back < 3


async def test_failover_that_was_asked_for() -> None:
    """The old master takes writes for ten seconds yet, and loses them: it is left at once."""
    with sentinel_site() as site:
        told = Told()
        async with flows(site.url, ["a", "b"], told=told) as running:
            site.sentinels[0].cli("SENTINEL", "FAILOVER", site.NAME)
            await until(lambda: told.back == 2)
            assert site.engines[0].role() == "master"
            for flow in running:
                await flow.flowing()
        for flow in running:
            print("lost", flow.lost, "unknown", len(flow.unknown), f"longest wait {flow.longest_wait:.2f} s")
            flow.check(lost=10, unknown=10)


async def test_one_shard_is_gone() -> None:
    with engine() as first, engine() as second:
        hosts = [first.url, second.url]
        told = Told()
        async with (
            engine_on(*hosts, scripts=[ADMIT_INBOX], told=told) as sender,
            engine_on(*hosts, scripts=[ADMIT_INBOX]) as receiver,
        ):
            tags = [
                next(tag for tag in map(str, range(100)) if sender.topology.node_of(tag) == server.address)
                for server in (first, second)
            ]
            running = [Flow(sender, receiver, tag) for tag in tags]
            for flow in running:
                await flow.flowing()
            first.kill()
            await until(lambda: len(told.lost) == 1)
            assert [sender.reaches(tag) for tag in tags] == [False, True]
            assert not sender.connected
            await running[1].flowing()
            first.start()
            await running[0].flowing()
            assert sender.connected
            for flow in running:
                await flow.end()
        running[0].check(lost=20, unknown=10)
        running[1].check()
        assert running[1].longest_wait < 1


async def test_tls_and_a_user_who_may_do_no_more_than_necessary() -> None:
    words = ["on", ">secret", "~in:*", "~n:*", "+@all", "-@admin", "-@dangerous"]
    with engine("--user", "site", *words, tls=True) as server:
        assert server.certificate is not None
        url = f"rediss://site:secret@{server.address}?ssl_ca_certs={server.certificate.chain}"
        async with flows(url, ["a"]) as (flow,):
            await flow.flowing()
        flow.check()


async def test_cluster_with_tls_and_password() -> None:
    with redis_cluster("--requirepass", "word", "--masterauth", "word", tls=True) as cluster:
        certificate = cluster.members[0].certificate
        assert certificate is not None
        url = cluster.url.replace("://", "://:word@") + f"?ssl_ca_certs={certificate.chain}"
        async with flows(url, tags_of(cluster)) as running:
            for flow in running:
                await flow.flowing()
        for flow in running:
            flow.check()


async def test_unix_socket() -> None:
    with engine() as server:
        async with flows(f"unix://{server.path}?db=3", ["a"]) as (flow,):
            await flow.flowing()
        flow.check()
