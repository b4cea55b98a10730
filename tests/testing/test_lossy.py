"""The layer that loses: its faults are those it was told, counted, and the same for the same seed."""

import asyncio

import pytest

from daphne_like.layers.base import ChannelFull
from daphne_like.layers.memory import MemoryChannelLayer
from daphne_like.testing.lossy import LossyLayer
from tests.layers.port_users import User, open_ports


async def pass_through(**faults):
    """The numbers that arrive of a hundred sent."""
    layer = LossyLayer(MemoryChannelLayer(capacity=1000), seed=3, delay_seconds=0.001, **faults)
    refused = 0
    for number in range(100):
        try:
            await layer.send("c", {"type": "t", "number": number})
        except ChannelFull:
            refused += 1
    assert refused == layer.refused
    count = 100 - layer.dropped - refused + layer.doubled
    numbers = [(await layer.receive("c"))["number"] for _ in range(count)]
    await layer.close()
    return layer, numbers


async def test_without_faults_all_arrives():
    _, numbers = await pass_through()
    assert numbers == list(range(100))


async def test_drop():
    layer, numbers = await pass_through(drop=0.2)
    assert 5 < layer.dropped < 50
    assert numbers == sorted(numbers)


async def test_double():
    layer, numbers = await pass_through(double=0.2)
    assert layer.doubled > 5
    assert len(set(numbers)) == 100


async def test_delay():
    layer, numbers = await pass_through(delay=0.2)
    assert layer.delayed > 5
    assert sorted(numbers) == list(range(100)) != numbers


async def test_full():
    layer, numbers = await pass_through(full=0.2)
    assert layer.refused > 5
    assert numbers == sorted(numbers)


async def test_same_seed_same_faults():
    assert (await pass_through(drop=0.2))[1] == (await pass_through(drop=0.2))[1]


def test_shares_are_of_one_whole():
    with pytest.raises(ValueError):
        LossyLayer(MemoryChannelLayer(), drop=0.6, full=0.6)


async def test_delayed_messages_end_with_the_layer():
    layer = LossyLayer(MemoryChannelLayer(), delay=1, delay_seconds=3600)
    await layer.send("c", {"type": "t"})
    await layer.group_send("g", {"type": "t"})
    await layer.close()
    assert layer._later == set()


async def test_port_without_faults():
    layer = LossyLayer(MemoryChannelLayer())
    async with open_ports(layer) as ((a, user), (b, at_b)):
        assert a.knows_claims
        b.serve("c", 1)
        assert a.offer("c", 1, [1], 0) == b.address
        a.post(b.address, [1])
        a.flush()
        assert {call[0] for call in await at_b.until(2)} == {"offer", "envelopes"}
        assert user.told == []


async def test_port_drops_and_refuses():
    layer = LossyLayer(MemoryChannelLayer(), drop=0.5, seed=1)
    async with open_ports(layer) as ((a, _), (b, at_b)):
        for number in range(100):
            a.post(b.address, [1, number])
        arrived = 0
        while arrived < 100 - layer.dropped:
            ((_, _, batch),) = await at_b.until(1)
            arrived += len(batch)
        assert arrived == 100 - layer.dropped
    layer = LossyLayer(MemoryChannelLayer(), full=1)
    async with open_ports(layer, 1) as ((port, user),):
        port.offer("c", 1, {}, 0)
        port.withdraw("c", 1)
        assert await user.until(1) == [("refused", 1)]


async def test_port_delays():
    layer = LossyLayer(MemoryChannelLayer(), delay=1, delay_seconds=0.001)
    async with open_ports(layer) as ((a, user), (b, at_b)):
        b.serve("c", 1)
        a.post(b.address, [1])
        a.offer("c", 1, {}, 0)
        assert len(await at_b.until(2)) == 2
        await user.until(1)
    port = LossyLayer(MemoryChannelLayer(), delay=1, delay_seconds=3600).port()
    await port.open(User())
    port.post("nobody", [1])
    await port.close()
    assert len(asyncio.all_tasks()) == 1
