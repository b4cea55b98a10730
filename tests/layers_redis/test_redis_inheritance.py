"""Group messages between the death of a stream's process, with kill -9, and its next instance elsewhere."""

import asyncio
import contextlib
import os
import signal
import uuid

import pytest

from daphne_like.layers.redis.wills import Wills, read_will
from tests.end_to_end.processes import serving
from tests.faults.application import GROUP
from tests.layers_redis.redis_engines import until
from tests.layers_redis.redis_layers import open_layers
from tests.layers_redis.redis_mortal import mortal
from tests.layers_redis.redis_servers import redis_server, redis_url
from tests.layers_redis.test_redis_handoff import in_stream

__all__ = ["redis_url"]

pytestmark = [pytest.mark.needs("redis-server")]

STREAM = "server.7"


@contextlib.asynccontextmanager
async def heirs_of_a_mortal(url, heirs=1, keys=()):
    """(the process, a layer that sends, layers that inherit, ...)."""
    options = {"prefix": f"t{uuid.uuid4().hex}", "capacity": 10_000, "symmetric_encryption_keys": keys}
    async with open_layers(url, 1 + heirs, **options) as layers:
        with mortal(url, options["prefix"], *keys) as one:
            yield one, *layers


async def say(layer, group, *names):
    for name in names:
        await layer.group_send(group, {"type": name})


async def received(layer, channel, count):
    async with asyncio.timeout(10):
        return [(await layer.receive(channel))["type"] for _ in range(count)]


async def inherit(layer, stream, will, *groups):
    """The stream's next instance, which adds itself to the groups."""
    layer.stream_inherited(stream, will)
    channel = await layer.new_channel()
    for group in groups:
        await in_stream(stream, layer.group_add(group, channel))
    return channel


async def test_what_was_said_since_the_death_comes_to_the_next_instance(redis_url):
    """In order, once, before what is said from then on; and nothing of what the dead one had received."""
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        old, will = one.add(STREAM, "g")
        await say(sender, "g", "before")
        assert one.receive(old) == "before"
        one.kill()
        await say(sender, "g", *map(str, range(500)))
        new = await inherit(heir, STREAM, will, "g")
        await say(sender, "g", "live")
        assert await received(heir, new, 501) == [*map(str, range(500)), "live"]


async def test_nothing_is_doubled_or_lost_while_messages_pour_in(redis_url):
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        _, will = one.add(STREAM, "g")
        one.kill()
        sent = 0
        pouring = True

        async def pour():
            nonlocal sent
            while pouring:
                await say(sender, "g", str(sent))
                sent += 1

        pourer = asyncio.ensure_future(pour())
        while sent < 100:
            await asyncio.sleep(0)
        new = await inherit(heir, STREAM, will, "g")
        got = await received(heir, new, 600)
        pouring = False
        await pourer
        got += await received(heir, new, sent - len(got))
        assert got == list(map(str, range(sent)))


async def test_streams_of_one_process_go_to_several(redis_url):
    """Each gets what its groups were told, whoever has looked there before."""
    async with heirs_of_a_mortal(redis_url, heirs=2) as (one, sender, *heirs):
        streams = [f"server.{number}" for number in range(6)]
        wills = [one.add(stream, f"g{number % 3}")[1] for number, stream in enumerate(streams)]
        one.kill()
        for group in range(3):
            await say(sender, f"g{group}", f"a{group}", f"b{group}")
        for number, stream in enumerate(streams):
            heir, group = heirs[number % 2], number % 3
            new = await inherit(heir, stream, wills[number], f"g{group}")
            assert await received(heir, new, 2) == [f"a{group}", f"b{group}"]


async def test_a_group_that_it_was_not_in_gives_nothing(redis_url):
    """Another stream of the same process was; a message before a group_add() does not arrive."""
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        _, will = one.add(STREAM, "g")
        one.add("server.8", "h")
        one.kill()
        await say(sender, "h", "not.for.it")
        await say(sender, "g", "for.it")
        new = await inherit(heir, STREAM, will, "h", "g")
        await say(sender, "h", "live")
        assert sorted(await received(heir, new, 2)) == ["for.it", "live"]


async def test_a_group_that_it_has_left_gives_nothing(redis_url):
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        old, _ = one.add(STREAM, "g")
        one.add(STREAM, "h")
        will = one.discard(STREAM, "g", old)
        assert list(will) == ["h"]
        one.kill()
        await say(sender, "g", "not.for.it")
        await say(sender, "h", "for.it")
        new = await inherit(heir, STREAM, will, "g", "h")
        assert await received(heir, new, 1) == ["for.it"]


async def test_a_mark_that_nobody_has_read_counts(redis_url):
    """Somebody else has taken the channel out of the group while its process stood still, and then died."""
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        old, will = one.add(STREAM, "g")
        one.stop()
        # Comes along with what was asked for before.
        await sender.send(old, {"type": "lost.with.it"})
        await say(sender, "g", "for.it")
        await sender.group_discard("g", old)
        await say(sender, "g", "not.for.it")
        one.kill()
        new = await inherit(heir, STREAM, will, "g")
        await say(sender, "g", "live")
        assert await received(heir, new, 2) == ["for.it", "live"]


async def test_more_than_one_stream_may_keep(redis_url, caplog):
    """1000 messages: what is beyond is counted. A second stream has a count of its own."""
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        wills = {stream: one.add(stream, "g")[1] for stream in ("server.1", "server.2")}
        one.kill()
        await asyncio.gather(*(sender.group_send("g", {"type": "t"}) for _ in range(1010)))
        for stream, will in wills.items():
            new = await inherit(heir, stream, will, "g")
            assert len(await received(heir, new, 1000)) == 1000
            await say(sender, "g", "live")
            assert await received(heir, new, 1) == ["live"]
        heir._member._tell_losses()
        lost = [record for record in caplog.records if record.message == "group messages lost"]
        # The second one's: 10, and the word to the first.
        assert sum(record.gap_full for record in lost) == 10 + 11


async def test_encrypted_messages(redis_url):
    async with heirs_of_a_mortal(redis_url, keys=["a key"]) as (one, sender, heir):
        _, will = one.add(STREAM, "g")
        one.kill()
        await say(sender, "g", "sealed")
        new = await inherit(heir, STREAM, will, "g")
        assert await received(heir, new, 1) == ["sealed"]


async def test_flush_forgets_it(redis_url):
    async with heirs_of_a_mortal(redis_url) as (one, sender, heir):
        _, will = one.add(STREAM, "g")
        one.kill()
        await say(sender, "g", "flushed")
        await heir.flush()
        new = await inherit(heir, STREAM, will, "g")
        await say(sender, "g", "live")
        assert await received(heir, new, 1) == ["live"]


# -- with server and workers ------------------------------------------------------------------------

SITE = "tests.faults.application:application"
SOCKETS = 8


class Listener:
    """A WebSocket that is in the group, and the numbers that it heard."""

    def __init__(self, connection):
        self.connection = connection
        self.heard = []
        self.task = asyncio.ensure_future(self._listen())

    async def _listen(self):
        async for text in self.connection:
            self.heard.append(int(text[1:]))

    async def close(self):
        self.task.cancel()
        await asyncio.wait([self.task])


@contextlib.asynccontextmanager
async def listeners_on(port):
    client = pytest.importorskip("websockets.asyncio.client")
    async with contextlib.AsyncExitStack() as stack:
        listeners = []
        for _ in range(SOCKETS):
            connection = client.connect(f"ws://127.0.0.1:{port}/echo", compression=None, ping_interval=None)
            listeners.append(Listener(await stack.enter_async_context(connection)))
        try:
            yield listeners
        finally:
            for listener in listeners:
                await listener.close()


@contextlib.contextmanager
def worker_of(url, exit_code=0):
    """A worker that nobody supervises."""
    ready = lambda process: process.stderr.wait_for("worker ready")  # noqa: E731
    with serving("worker", SITE, "--layer", url, ready=ready, exit_code=exit_code) as process:
        yield process


class Publisher:
    """Speaks to the group, a number each time."""

    def __init__(self, layer):
        self._layer = layer
        self.sent = 0

    async def speak_until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                self.sent += 1
                await self._layer.group_send(GROUP, {"type": "news", "number": self.sent})
                await asyncio.sleep(0.005)  # the pace


@pytest.mark.time_limit(60)
async def test_a_killed_worker_that_nobody_supervises(tmp_path):
    """
    Until others see that its lease has ended, what its sockets' group is told waits for them.

    Lost is what was on its way into the dying process: a moment of it.
    """
    with (
        redis_server(tmp_path / "redis") as engine,
        serving("-p", "0", "--layer", engine.url) as server,
        worker_of(engine.url, exit_code=-signal.SIGKILL) as dying,
        worker_of(engine.url),
    ):
        async with (
            listeners_on(server.port) as listeners,
            open_layers(engine.url, 1, prefix="asgi") as (layer,),
        ):
            publisher = Publisher(layer)
            await publisher.speak_until(lambda: all(listener.heard for listener in listeners))
            killed_at = publisher.sent
            os.kill(dying.process.pid, signal.SIGKILL)
            await publisher.speak_until(lambda: dying.process.poll() is not None)
            dead_at = publisher.sent
            await publisher.speak_until(lambda: publisher.sent >= dead_at + 200)
            # As if the 15 s of its lease were over.
            address = dying.stderr.wait_for("address=(\\w+)")[1]
            engine.cli("SET", f"asgi:port:{{{address}}}", "0", "PX", 15_000)
            await publisher.speak_until(lambda: all(one.heard[-1] > dead_at + 200 for one in listeners))
            await until(lambda: all(one.heard[-1] == publisher.sent for one in listeners))
            for listener in listeners:
                assert listener.heard == sorted(set(listener.heard))
                lost = set(range(listener.heard[0], publisher.sent)) - set(listener.heard)
                assert all(killed_at - 3 <= number <= dead_at + 3 for number in lost), (
                    killed_at,
                    dead_at,
                    lost,
                )
            assert "worker lost" in server.stderr.text


# -- what the server is told ------------------------------------------------------------------------


def test_a_will_says_each_change_once():
    wills, said = Wills(), []
    for group, channel in [("g", "a!1"), ("g", "a!1"), ("g", "a!2"), ("h", "a!1")]:
        wills.added("s", group, channel, lambda *change: said.append(change))
    wills.discarded("g", "a!1")
    wills.discarded("g", "a!1")
    wills.discarded("g", "a!2")
    wills.discarded("g", "of.nobody!1")
    assert said == [("g", "a!1"), ("g", "a!1 a!2"), ("h", "a!1"), ("g", "a!2"), ("g", None)]
    wills.over("s")
    wills.discarded("h", "a!1")
    assert len(said) == 5


def test_a_will_names_who_died():
    will = {"g": "p.one!1 p.one!2", "h": ""}
    assert list(read_will(will)) == [("one", "g", ["p.one!1", "p.one!2"])]
