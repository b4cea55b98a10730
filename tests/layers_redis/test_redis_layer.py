"""The Redis layer as a process has it: homes, threads, forks, trouble with the engine, statistics, keys."""

import asyncio
import os
import threading
import time

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from daphne_like.errors import ChannelFull, ConfigurationError, LayerUnavailable
from daphne_like.layers.encryption import Encryption
from daphne_like.layers.redis import RedisChannelLayer
from tests.layers_redis.redis_layers import open_layers
from tests.layers_redis.redis_servers import redis_server, redis_url

__all__ = ["redis_url"]


def numbered(number):
    return {"type": "t", "number": number}


async def receive(layer, channel, timeout=5):
    async with asyncio.timeout(timeout):
        return (await layer.receive(channel))["number"]


async def until(condition, timeout=5):
    """Wait for what only time brings: another thread, another process, the engine."""
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


def seen_away(*layers):
    """That all of them have noticed that the engine is gone."""

    async def holds():
        return not any(layer._member.engine.connected for layer in layers)

    return holds


# -- homes -----------------------------------------------------------------------------------------


def test_one_loop_after_the_other(redis_url):
    """What asyncio.run() ends takes nothing along: the next loop is the next home."""
    layer = RedisChannelLayer([redis_url])
    channel = asyncio.run(layer.new_channel())

    async def wait_in_vain():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await layer.receive(channel)

    asyncio.run(wait_in_vain())
    other = RedisChannelLayer([redis_url])
    other.send_sync(channel, numbered(1))
    for number in range(2, 4):
        assert asyncio.run(receive(layer, channel)) == number - 1
        asyncio.run(layer.send(channel, numbered(number)))
    assert asyncio.run(receive(layer, channel)) == 3
    asyncio.run(layer.close())
    asyncio.run(other.close())


def test_sync_callers_leave_no_connection_behind(tmp_path):
    """async_to_sync() in threads: each has a loop for a moment, the layer has one home."""
    with redis_server(tmp_path) as server:
        layer = RedisChannelLayer([server.url], capacity=1000)

        def send_some(sender):
            for number in range(10):
                async_to_sync(layer.send)("shared", numbered([sender, number]))

        threads = [threading.Thread(target=send_some, args=(sender,)) for sender in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One to ask; to receive there is none yet.
        assert len(server.clients()) == 1
        got = [async_to_sync(layer.receive)("shared")["number"] for _ in range(40)]
        for sender in range(4):
            assert [number for by, number in got if by == sender] == list(range(10))
        async_to_sync(layer.close)()
        assert server.clients() == []


async def test_a_view_in_a_thread_uses_the_home_of_the_server(redis_url):
    async with open_layers(redis_url, 1) as (layer,):
        channel = await layer.new_channel()
        await sync_to_async(async_to_sync(layer.group_add))("g", channel)
        await sync_to_async(layer.group_send_sync)("g", numbered(1))
        await sync_to_async(layer.send_sync)(channel, numbered(2))
        assert [await receive(layer, channel) for _ in range(2)] == [1, 2]
        assert layer._thread is None
        with pytest.raises(RuntimeError, match="await the layer's"):
            layer.send_sync(channel, numbered(3))


def test_open_moves_the_home(redis_url):
    """Used from a script first, opened by a server's loop then."""
    layer = RedisChannelLayer([redis_url])
    layer.send_sync("shared", numbered(1))
    assert layer._thread is not None

    async def serve():
        channel = await layer.new_channel()
        await layer.open()
        assert layer._member.loop is asyncio.get_running_loop()
        await layer.send(channel, numbered(2))
        assert await receive(layer, channel) == 2
        assert await receive(layer, "shared") == 1
        await layer.close()

    asyncio.run(serve())


def test_a_receiver_in_another_loop_outlives_the_home(redis_url):
    """The loop that was the home ends; who waits elsewhere still gets its message."""
    layer = RedisChannelLayer([redis_url])
    channel = asyncio.run(layer.new_channel())
    got = []
    at_home, waiting = threading.Event(), threading.Event()

    async def live():
        await layer.open()
        at_home.set()
        await asyncio.to_thread(waiting.wait, 5)

    async def wait():
        reader = asyncio.ensure_future(receive(layer, channel))
        await asyncio.sleep(0)
        waiting.set()
        got.append(await reader)

    home = threading.Thread(target=asyncio.run, args=(live(),))
    home.start()
    assert at_home.wait(5)
    reader = threading.Thread(target=asyncio.run, args=(wait(),))
    reader.start()
    home.join(5)
    other = RedisChannelLayer([redis_url])
    other.send_sync(channel, numbered(7))
    reader.join(5)
    assert got == [7]
    asyncio.run(layer.close())
    asyncio.run(other.close())


async def test_close_pools_keeps_what_has_arrived(redis_url):
    async with open_layers(redis_url, 2) as (layer, other):
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.close_pools()
        await other.send(channel, numbered(1))
        await other.group_send("g", numbered(2))
        assert [await receive(layer, channel) for _ in range(2)] == [1, 2]


async def test_close_gives_back_what_nobody_has_taken(redis_url):
    async with open_layers(redis_url, 2) as (layer, other):
        waiting = [asyncio.ensure_future(other.receive("shared")) for _ in range(8)]
        # So that its reader asks for them.
        await other.send("warm", numbered(0))
        assert await receive(other, "warm") == 0
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        for number in range(5):
            await layer.send("shared", numbered(number))
        await other.close()
        assert [await receive(layer, "shared") for _ in range(5)] == list(range(5))


def test_a_forked_child_is_a_process_of_its_own(redis_url):
    layer = RedisChannelLayer([redis_url])
    channel = asyncio.run(layer.new_channel())
    layer.send_sync("warm", numbered(0))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            layer.send_sync(channel, numbered(1))
            mine = asyncio.run(layer.new_channel())
            os.write(writing, mine.encode())
        finally:
            os._exit(0)
    os.close(writing)
    theirs = os.read(reading, 200).decode()
    os.close(reading)
    os.waitpid(child, 0)
    assert theirs.partition("!")[0] != channel.partition("!")[0]
    layer.send_sync("after", numbered(2))
    assert asyncio.run(receive(layer, channel)) == 1
    asyncio.run(layer.close())


# -- the engine ------------------------------------------------------------------------------------


async def test_engine_back_empty(tmp_path):
    """Killed, and started again with nothing: readers and groups are there again by themselves."""
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 2) as (one, other):
            channel = await one.new_channel()
            await one.group_add("g", channel)
            reader = asyncio.ensure_future(receive(one, "shared", 20))
            server.kill()
            await until(seen_away(one, other))
            sending = asyncio.ensure_future(other.send(channel, numbered(1)))
            await asyncio.to_thread(server.start)
            begun = time.monotonic()
            await sending
            assert await receive(one, channel) == 1

            async def arrives():
                await other.group_send("g", numbered(2))
                return bool(one._mailbox._boxes[channel].messages)

            await until(arrives)
            assert time.monotonic() - begun < 2
            await other.send("shared", numbered(3))
            assert await reader == 3


async def test_engine_away_for_long(tmp_path):
    """A send waits for send_timeout, and says then that it was not sent."""
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 1, send_timeout=0.5) as (layer,):
            channel = await layer.new_channel()
            server.kill()
            begun = time.monotonic()
            with pytest.raises(LayerUnavailable):
                await layer.send("shared", numbered(1))
            with pytest.raises(LayerUnavailable):
                await layer.group_add("g", channel)
            assert time.monotonic() - begun < 3
            # A consumer's disconnect needs no engine.
            await layer.group_discard("g", channel)
            server.start()
            await layer.send(channel, numbered(2))
            assert await receive(layer, channel) == 2


async def test_engine_paused(tmp_path):
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 2) as (one, other):
            channel = await one.new_channel()
            await one.group_add("g", channel)
            server.pause()
            sending = [asyncio.ensure_future(other.group_send("g", numbered(n))) for n in range(5)]
            await asyncio.sleep(1)  # that long it is paused
            assert not any(each.done() for each in sending)
            server.resume()
            await asyncio.gather(*sending)
            assert [await receive(one, channel) for _ in range(5)] == list(range(5))


async def test_capacity_is_right_after_a_reader_lost_its_connection(tmp_path):
    """What was on the wire is lost; what it had counted is not counted for ever."""
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 2, capacity=5) as (one, other):
            channel = await one.new_channel()
            for _ in range(4):
                await other.send(channel, numbered(1))
                await receive(one, channel)
            for client in server.clients():
                if "blmpop" in client["cmd"]:
                    server.cli("CLIENT", "KILL", "ID", client["id"])
            for number in range(5):
                await other.send(channel, numbered(number))
            with pytest.raises(ChannelFull):
                await other.send(channel, numbered(5))
            assert [await receive(one, channel) for _ in range(5)] == list(range(5))


async def test_leases_end_with_their_process(tmp_path):
    """No group keeps a process that is gone, and no key is for ever."""
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 2, prefix="t") as (one, other):
            channel = await one.new_channel()
            await one.group_add("g", channel)
            await other.send("shared", numbered(1))
            await other.group_send("g", numbered(1))
            keys = server.cli("KEYS", "t:*")
            assert keys
            assert all(0 < server.cli("PTTL", key) <= 75_000 for key in keys)
            await one.close()
            assert server.cli("ZRANGE", "t:gr:{g}", 0, -1) == []
            assert not [key for key in server.cli("KEYS", "t:*") if one.client_prefix.encode() in key]


# -- statistics, keys, words -----------------------------------------------------------------------


async def test_statistics(redis_url):
    async with open_layers(redis_url, 2, capacity=2) as (one, other):
        channel = await one.new_channel()
        for each in ("shared", channel):
            await other.send(each, numbered(1))
            await other.send(each, numbered(2))
            with pytest.raises(ChannelFull):
                await other.send(each, numbered(3))
        assert await receive(one, "shared") == 1
        found = await one.statistics()
        prefix = channel[: channel.find("!") + 1]
        age = found["shared"].pop("messages_max_age")
        assert 0 <= age < 5
        assert found["shared"] == {"messages_count": 2, "messages_pending": 1, "channel_full_count": 1}
        assert found[prefix]["messages_pending"] == 2
        assert found[prefix]["channel_full_count"] == 1


async def test_key_rotation(redis_url):
    """The first key writes, all read."""
    async with open_layers(redis_url, 1, prefix="t", symmetric_encryption_keys=["old"]) as (old,):
        async with open_layers(redis_url, 1, prefix="t", symmetric_encryption_keys=["new", "old"]) as (new,):
            async with open_layers(redis_url, 1, prefix="t", symmetric_encryption_keys=["new"]) as (late,):
                await old.send("a", numbered(1))
                assert await receive(new, "a") == 1
                await new.send("a", numbered(2))
                assert await receive(late, "a") == 2


async def test_what_cannot_be_read_is_lost_and_told(redis_url, caplog):
    async with open_layers(redis_url, 1, prefix="t", symmetric_encryption_keys=["a"]) as (one,):
        async with open_layers(redis_url, 1, prefix="t", symmetric_encryption_keys=["b"]) as (other,):
            channel = await one.new_channel()
            waiting = asyncio.ensure_future(receive(one, channel, 10))
            await other.send(channel, numbered(1))

            async def told():
                return any(getattr(record, "undecipherable", 0) == 1 for record in caplog.records)

            await until(told)
            assert (await one.statistics())[channel[: channel.find("!") + 1]]["messages_pending"] == 0
            await one.send(channel, numbered(2))
            assert await waiting == 2


def test_messages_are_not_to_be_read_in_the_engine(tmp_path):
    with redis_server(tmp_path) as server:
        layer = RedisChannelLayer([server.url], symmetric_encryption_keys=["k"])
        layer.send_sync("shared", {"type": "t", "secret": "swordfish"})
        (element,) = server.cli("LRANGE", "asgi:ch:{shared.0}", 0, -1)
        assert b"swordfish" not in element
        asyncio.run(layer.close())


@pytest.mark.parametrize("keys", ["one", [""], [3], b"one"])
def test_keys_that_are_none(keys):
    with pytest.raises(ConfigurationError, match="symmetric_encryption_keys should be"):
        Encryption(keys)


@pytest.mark.parametrize("prefix", ["", "a{b}", None])
def test_prefixes_that_cannot_be(prefix):
    with pytest.raises(ConfigurationError, match="should be text without braces"):
        RedisChannelLayer(prefix=prefix)


def test_making_one_connects_nowhere():
    layer = RedisChannelLayer(["redis://127.0.0.1:1"])
    assert (layer.expiry, layer.group_expiry, layer.capacity, layer.prefix) == (60, 86400, 100, "asgi")


# -- what fresh eyes have found --------------------------------------------------------------------


async def test_a_message_that_finds_the_layer_full_harms_no_other(redis_url):
    async with open_layers(redis_url, 1) as (layer,):
        await layer.send("warm", numbered(0))
        layer._member.engine.max_pending = 20_000
        big = {"type": "t", "text": "x" * 15_000}
        async with asyncio.timeout(2):
            results = await asyncio.gather(
                layer.send("one", big),
                layer.send("two", big),
                layer.send("three", numbered(3)),
                return_exceptions=True,
            )
        assert [type(result) for result in results] == [type(None), LayerUnavailable, type(None)]
        assert await receive(layer, "three") == 3


async def test_what_a_process_has_taken_does_not_count_against_its_own_next(redis_url):
    async with open_layers(redis_url, 1, capacity=1) as (layer,):
        channel = await layer.new_channel()
        for number in range(20):
            await layer.send(channel, numbered(number))
            assert await receive(layer, channel) == number


async def test_counts_that_begin_anew_have_an_end(tmp_path):
    """Their keeper has been told a moment before, of a key that was deleted meanwhile."""
    with redis_server(tmp_path) as server:
        async with open_layers(server.url, 2) as (one, other):
            channel = await other.new_channel()
            await other.group_add("g", channel)
            await one.send(channel, numbered(1))
            for key in server.cli("KEYS", "asgi:n:*"):
                server.cli("DEL", key)
            await one.send(channel, numbered(2))
            await one.send("shared", numbered(1))
            for key in server.cli("KEYS", "asgi:st:*"):
                server.cli("DEL", key)
            await one.send("shared", numbered(2))
            keys = server.cli("KEYS", "asgi:*")
            assert [key for key in keys if server.cli("PTTL", key) < 0] == []
