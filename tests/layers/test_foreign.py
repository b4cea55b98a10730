"""Third-party layers: their errors are ours, the rest is theirs."""

import asyncio
import contextlib
import os
import signal
import subprocess

import pytest

from daphne_like import errors
from daphne_like.errors import LayerUnavailable
from daphne_like.layers.base import ChannelFull, MessageTooLarge
from daphne_like.layers.foreign import ForeignLayer
from daphne_like.layers.memory import MemoryChannelLayer

channels_layers = pytest.importorskip("channels.layers")
channels_exceptions = pytest.importorskip("channels.exceptions")


class Broken:
    """Raises, in every method."""

    def __init__(self, error):
        self.error = error

    async def send(self, *_):
        raise self.error

    receive = new_channel = group_add = group_discard = group_send = flush = close = send


class Timeout(Exception):
    """Some library's, known by the name of a base."""


class RedisConnectionError(type("ConnectionError", (Exception,), {})):
    pass


TRANSLATED = [
    (channels_exceptions.ChannelFull("c"), ChannelFull),
    (errors.ChannelFull("c"), ChannelFull),
    (channels_exceptions.MessageTooLarge("m"), MessageTooLarge),
    (ConnectionRefusedError("no"), LayerUnavailable),
    (TimeoutError(), LayerUnavailable),
    (EOFError(), LayerUnavailable),
    (RedisConnectionError("gone"), LayerUnavailable),
    (LayerUnavailable("already"), LayerUnavailable),
]

CALLS = [
    ("send", "c", {}),
    ("receive", "c"),
    ("new_channel",),
    ("group_add", "g", "c"),
    ("group_discard", "g", "c"),
    ("group_send", "g", {}),
    ("flush",),
    ("close",),
]


@pytest.mark.parametrize(("theirs", "ours"), TRANSLATED)
@pytest.mark.parametrize("call", CALLS)
async def test_errors_are_translated(theirs, ours, call):
    name, *arguments = call
    with pytest.raises(ours) as raised:
        await getattr(ForeignLayer(Broken(theirs)), name)(*arguments)
    assert raised.value is theirs or raised.value.__cause__ is theirs


@pytest.mark.parametrize("theirs", [TypeError("name"), ValueError("no"), RuntimeError("a bug"), Timeout()])
async def test_mistakes_and_bugs_are_left_alone(theirs):
    with pytest.raises(type(theirs)) as raised:
        await ForeignLayer(Broken(theirs)).send("c", {})
    assert raised.value is theirs


async def test_channels_own_layer():
    layer = ForeignLayer(channels_layers.InMemoryChannelLayer(capacity=1, expiry=7))
    assert (layer.capacity, layer.expiry, layer.group_expiry) == (1, 7, 86400)
    assert {"groups", "flush"} <= set(layer.extensions)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "t"})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "more"})
    with pytest.raises(channels_exceptions.ChannelFull):
        await layer.send(channel, {"type": "more"})
    assert await layer.receive(channel) == {"type": "t"}
    await layer.group_discard("g", channel)
    await layer.flush()
    await layer.close()


async def test_a_cancelled_receive_is_cancelled():
    layer = ForeignLayer(MemoryChannelLayer())
    task = asyncio.ensure_future(layer.receive("c"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await layer.send("c", {"type": "t"})
    assert await layer.receive("c") == {"type": "t"}


def test_what_else_it_has_is_there():
    layer = ForeignLayer(channels_layers.InMemoryChannelLayer())
    assert layer.channels is layer.layer.channels
    with pytest.raises(AttributeError):
        _ = layer.no_such_thing


def test_it_has_no_port():
    with pytest.raises(NotImplementedError):
        ForeignLayer(channels_layers.InMemoryChannelLayer()).port()


async def test_closing_by_whichever_name():
    closed = []

    class Pools:
        async def close_pools(self):
            closed.append("pools")

    class Nothing:
        pass

    await ForeignLayer(Pools()).close()
    await ForeignLayer(Nothing()).close()
    assert closed == ["pools"]


@contextlib.contextmanager
def redis_server(folder):
    path = str(folder / "redis.sock")
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "ready to accept connections" in line.lower() and os.path.exists(path):
                break
        yield process, f"unix://{path}"
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("name", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
async def test_channels_redis(tmp_path, name):
    pytest.importorskip("channels_redis")
    from daphne_like.layers.loading import forget_layers, open_layer

    with redis_server(tmp_path) as (process, url):
        layer = open_layer(f'channels_redis.{name}?hosts=["{url}"]&capacity=2')
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", {"type": "t"})
        assert (await layer.receive(channel))["type"] == "t"
        if name.startswith("core"):
            for _ in range(2):
                await layer.send("full", {"type": "t"})
            with pytest.raises(ChannelFull):
                await layer.send("full", {"type": "t"})
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(LayerUnavailable):
                await layer.send("c", {"type": "t"})
        else:
            await layer.flush()  # the one way in which it ends its task
        await layer.close()
    forget_layers()
