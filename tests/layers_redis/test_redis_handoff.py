"""Group messages across a relay handoff, between processes that meet on Redis."""

import asyncio
import contextvars

import pytest

from daphne_like.layers.base import current_stream
from tests.layers_redis.redis_layers import open_layers
from tests.layers_redis.redis_servers import redis_url

__all__ = ["redis_url"]

STREAM = "server.7"


async def in_stream(stream, work):
    """Run *work* as the application of a relayed stream would."""
    context = contextvars.copy_context()
    context.run(current_stream.set, stream)
    return await asyncio.get_running_loop().create_task(work, context=context)


async def receive_all(layer, channel):
    await layer.send(channel, {"type": "end"})
    found = []
    while (name := (await layer.receive(channel))["type"]) != "end":
        found.append(name)
    return found


async def until_left(old, stream=STREAM):
    await old._member.handoffs.settle(stream)


@pytest.mark.parametrize("encryption", [None, ["a key"]])
@pytest.mark.parametrize("same_process", [True, False])
async def test_group_messages_of_a_handoff(redis_url, same_process, encryption):
    """Nothing is lost between two instances of a stream, and nothing comes twice."""
    async with open_layers(redis_url, 3, symmetric_encryption_keys=encryption) as (one, other, sender):
        next_one = one if same_process else other
        old, new = await one.new_channel(), await next_one.new_channel()
        await in_stream(STREAM, one.group_add("g", old))
        for name in ("received", "dropped", "waiting"):
            await sender.group_send("g", {"type": name})
        assert [(await one.receive(old))["type"] for _ in range(2)] == ["received", "dropped"]
        one.stream_leaving(STREAM)
        await sender.group_send("g", {"type": "gap"})
        await in_stream(STREAM, one.group_discard("g", old))
        one.stream_left(STREAM)
        await sender.group_send("g", {"type": "later"})
        await until_left(one)
        await in_stream(STREAM, next_one.group_add("g", new))
        await sender.group_send("g", {"type": "live"})
        got = []
        while got[-1:] != ["live"]:
            got.append((await next_one.receive(new))["type"])
        assert got == ["dropped", "waiting", "gap", "later", "live"]
        assert await receive_all(one, old) == []


async def test_discard_before_leaving_is_a_discard(redis_url):
    async with open_layers(redis_url) as (one, other):
        old, new = await one.new_channel(), await other.new_channel()
        await in_stream(STREAM, one.group_add("g", old))
        await one.group_discard("g", old)
        await until_read(one)
        one.stream_leaving(STREAM)
        await other.group_send("g", {"type": "not.for.it"})
        one.stream_left(STREAM)
        await in_stream(STREAM, other.group_add("g", new))
        assert await receive_all(other, new) == []


async def until_read(layer):
    """What was put into its inbox before has come out of it."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "fence"})
    await layer.receive(channel)


async def test_nothing_is_lost_or_doubled_while_messages_pour_in(redis_url):
    """Numbered messages of a sender that never stops, over twenty handoffs between two processes."""
    async with open_layers(redis_url, 3, capacity=10_000) as (one, other, sender):
        sent = 0
        pouring = True

        async def pour():
            nonlocal sent
            while pouring:
                await sender.group_send("g", {"type": "t", "number": sent})
                sent += 1
                await asyncio.sleep(0.0005)

        got = []
        here, there = one, other
        channel = await here.new_channel()
        await in_stream(STREAM, here.group_add("g", channel))
        task = asyncio.ensure_future(pour())
        for _ in range(20):
            for _ in range(5):
                got.append((await here.receive(channel))["number"])
            # Another receive() says that the last one was dealt with.
            waiting = asyncio.ensure_future(here.receive(channel))
            got.append((await waiting)["number"])
            here.stream_leaving(STREAM)
            # What the consumer had been given last is the next instance's, too.
            del got[-1]
            here.stream_left(STREAM)
            await until_left(here)
            here, there = there, here
            channel = await here.new_channel()
            await in_stream(STREAM, here.group_add("g", channel))
        pouring = False
        await task
        while len(got) < sent:
            got.append((await asyncio.wait_for(here.receive(channel), 5))["number"])
        assert got == list(range(sent))
