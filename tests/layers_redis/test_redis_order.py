"""Calls of one tag are done in the order in which they were asked, whatever is refused and wherever slots go."""

import asyncio
import random

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.redis.cluster import slot_of
from tests.layers_redis.pretended_cluster import pretended_cluster, push
from tests.layers_redis.redis_engines import until


async def test_refused_for_a_while_and_then_answered_slowly() -> None:
    """Attempts come one at a time, though their pauses are over while something is under way."""
    async with pretended_cluster(1) as (cluster, engine):
        (node,) = cluster.nodes
        node.refusal = "BUSY"
        pushed = [push(engine, "t", number) for number in range(5)]
        (lane,) = engine._lanes.values()
        await until(lambda: bool(lane._backlog.held))
        node.refusal = ""
        node.answering.clear()
        pushed.append(push(engine, "other", 0))
        await until(lambda: lane._retry_due)
        node.answering.set()
        await asyncio.gather(*pushed)
        assert cluster.done["t"] == [0, 1, 2, 3, 4]


async def test_slot_goes_and_comes_back() -> None:
    """What was refused by a node that the slot had left holds nothing there when it is back."""
    async with pretended_cluster(2, send_timeout=2.0) as (cluster, engine):
        here, there = cluster.nodes
        here.answering.clear()
        pushed = [push(engine, "t", 0)]
        await until(lambda: here.unanswered > 0)
        cluster.give("t", there)
        engine.topology.moved(slot_of("t"), there.address, here.address)
        pushed.append(push(engine, "t", 1))
        here.answering.set()
        await asyncio.gather(*pushed)
        cluster.give("t", here)
        await engine.topology.refresh()
        for number in range(2, 5):
            await push(engine, "t", number)
        assert cluster.done["t"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ends", ["the slot stays", "another key is still here"])
async def test_what_follows_a_call_that_asks_another_node(ends: str) -> None:
    async with pretended_cluster(2) as (cluster, engine):
        there = cluster.nodes[1]
        if ends != "the slot stays":
            await push(engine, "t", 0, "j")
        there.welcoming.clear()
        cluster.moving[slot_of("t")] = there
        pushed = [push(engine, "t", 1, "k")]
        await until(lambda: there.connections > 0)
        if ends == "the slot stays":
            del cluster.moving[slot_of("t")]
        pushed.append(push(engine, "t", 2, "k" if ends == "the slot stays" else "j"))
        await push(engine, "other", 0)  # there was time
        there.welcoming.set()
        await asyncio.gather(*pushed)
        assert cluster.done["t"][-2:] == [1, 2]


async def test_closed_while_a_slot_moves() -> None:
    """There is no new connection then, to a node that was none; who asked is told."""
    async with pretended_cluster(2) as (cluster, engine):
        here, there = cluster.nodes
        cluster.moving[slot_of("t")] = there
        here.answering.clear()
        pushed = push(engine, "t", 0)
        await until(lambda: here.unanswered > 0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)  # it has begun
        here.answering.set()
        await closing
        with pytest.raises(LayerUnavailable, match="closed"):
            await pushed
        assert there.connections == 0
        assert engine.pending == 0


async def test_time_is_up_for_what_has_moved_behind_younger_calls() -> None:
    async with pretended_cluster(2, send_timeout=1.0) as (cluster, engine):
        here, there = cluster.nodes
        there.welcoming.clear()
        here.refusal = "BUSY"
        loop = asyncio.get_running_loop()
        begun = loop.time()
        old = push(engine, "old", 0)
        await asyncio.sleep(0.5)
        cluster.give("young", there)
        young = push(engine, "young", 1)
        await asyncio.sleep(0.1)
        cluster.give("old", there)
        with pytest.raises(LayerUnavailable):
            await old
        assert loop.time() - begun < 1.4
        with pytest.raises(LayerUnavailable):
            await young


@pytest.mark.parametrize("seed", range(3))
async def test_slots_move_at_random(seed: int) -> None:
    """Whole, or with a while in which the slot is on its way, which may end with its staying."""
    chance = random.Random(seed)
    tags = [f"t{number}" for number in range(8)]
    async with pretended_cluster(4) as (cluster, engine):
        loop = asyncio.get_running_loop()
        end = loop.time() + 1.5

        async def move_slots() -> None:
            while loop.time() < end:
                tag = chance.choice(tags)
                target = chance.choice(cluster.nodes)
                if target is not cluster.owners[slot_of(tag)]:
                    if chance.random() < 0.5:
                        cluster.moving[slot_of(tag)] = target
                        await asyncio.sleep(chance.uniform(0, 0.03))
                    cluster.give(tag, target if chance.random() < 0.8 else cluster.owners[slot_of(tag)])
                await asyncio.sleep(chance.uniform(0, 0.03))

        async def ask() -> list[asyncio.Future[object]]:
            pushed = []
            while loop.time() < end:
                for _ in range(chance.randint(1, 10)):
                    pushed.append(push(engine, chance.choice(tags), len(pushed)))
                await asyncio.sleep(chance.uniform(0, 0.004))
            return pushed

        pushed, _ = await asyncio.gather(ask(), move_slots())
        await asyncio.gather(*pushed)
    done = sorted(number for numbers in cluster.done.values() for number in numbers)
    assert done == list(range(len(pushed)))
    assert all(numbers == sorted(numbers) for numbers in cluster.done.values())
