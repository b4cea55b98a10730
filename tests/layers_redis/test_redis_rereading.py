"""An engine that goes back in time gives nobody a message twice: real ones, started from an older snapshot."""

import asyncio
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daphne_like.layers.redis import RedisChannelLayer, rereading
from daphne_like.layers.redis.rereading import Rereading
from tests.layers_redis.redis_engines import until
from tests.layers_redis.redis_layers import open_layers
from tests.layers_redis.redis_mortal import mortal
from tests.layers_redis.redis_servers import RedisServer, redis_server

pytestmark = [pytest.mark.needs("redis-server")]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def go_back(engine: RedisServer, *layers: RedisChannelLayer) -> None:
    """To the last SAVE; *layers* have seen that it was away."""
    engine.kill()
    await until(lambda: not any(layer._member.engine.connected for layer in layers))
    await asyncio.to_thread(engine.start)
    assert (engine.folder / "dump.rdb").exists()


async def say(layer, channel, *names):
    for name in names:
        await layer.send(channel, {"type": name})


# -- real engines -----------------------------------------------------------------------------------


async def test_an_inbox_is_not_read_twice(engine):
    """Direct messages and a group's; what is sent afterwards comes, and counts are right."""
    prefix = f"t{uuid.uuid4().hex}"
    async with open_layers(engine.url, 1, prefix=prefix) as (sender,):
        with mortal(engine.url, prefix) as one:
            channel, _ = one.add("stream", "g")
            one.stop()
            # Taken by the command that is out.
            await say(sender, channel, "first")
            await say(sender, channel, "1", "2", "3")
            await sender.group_send("g", {"type": "4"})
            engine.cli("SAVE")
            one.go_on()
            assert [one.receive(channel) for _ in range(5)] == ["first", "1", "2", "3", "4"]
            await say(sender, channel, "5")
            assert one.receive(channel) == "5"
            await go_back(engine, sender)
            await say(sender, channel, "6")
            await sender.group_send("g", {"type": "7"})
            assert [one.receive(channel) for _ in range(2)] == ["6", "7"]
            prefix_of_it = channel[: channel.find("!") + 1]

            async def pending():
                return (await sender.statistics())[prefix_of_it]["messages_pending"]

            async with asyncio.timeout(10):
                while await pending():
                    await asyncio.sleep(0.01)


async def test_again_and_again_to_the_same_moment(engine):
    async with open_layers(engine.url, 2) as (one, sender):
        await say(sender, "work", "1", "2", "3")
        engine.cli("SAVE")
        assert [(await one.receive("work"))["type"] for _ in range(3)] == ["1", "2", "3"]
        for number in ("4", "5", "6"):
            await go_back(engine, one, sender)
            await say(sender, "work", number)
            assert (await one.receive("work"))["type"] == number


async def test_what_had_not_been_read_comes(engine, caplog):
    """Two were read since the snapshot, by this process; what is dropped is in the log, once."""
    async with open_layers(engine.url, 2) as (one, sender):
        await say(sender, "kept", "1", "2", "3", "4")
        engine.cli("SAVE")
        assert [(await one.receive("kept"))["type"] for _ in range(2)] == ["1", "2"]
        await go_back(engine, one, sender)
        assert [(await one.receive("kept"))["type"] for _ in range(2)] == ["3", "4"]
        found = lambda: [line for line in caplog.records if getattr(line, "list", "") == "kept.0"]  # noqa: E731
        await until(found)
        assert [(line.levelno, line.messages) for line in found()] == [(logging.WARNING, 2)]


async def test_a_connection_that_is_lost_says_nothing_of_the_engine(engine):
    """Equal messages, of which some were read before: it is the same engine."""
    async with open_layers(engine.url, 2, capacity=2000) as (one, sender):
        await asyncio.gather(*(sender.send("work", {"type": "same"}) for _ in range(600)))
        for _ in range(300):
            await one.receive("work")
        engine.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        async with asyncio.timeout(10):
            for _ in range(300):
                await one.receive("work")


async def test_another_process_cannot_know(engine):
    """As documented: of shared channels, what another one has read is there again."""
    async with open_layers(engine.url, 3) as (one, other, sender):
        await say(sender, "work", "1")
        engine.cli("SAVE")
        assert (await one.receive("work"))["type"] == "1"
        await go_back(engine, one, other, sender)
        assert (await other.receive("work"))["type"] == "1"


# -- one list ---------------------------------------------------------------------------------------


class Read:
    """A list that is read, as a test plays it."""

    def __init__(self, max_age=60.0):
        self.delivered = []
        self.dropped = []
        self.rereading = Rereading("l", max_age, self._deliver, self.dropped.extend)
        self.rereading.reader = self
        self.behind = 0

    def _deliver(self, key, elements):
        assert elements
        self.delivered += elements

    def read(self, *elements):
        self.rereading.deliver(b"key", list(elements))


async def test_only_the_loss_of_a_connection_makes_it_look():
    read = Read()
    read.read(b"a", b"b")
    read.read(b"a")
    assert read.delivered == [b"a", b"b", b"a"]
    read.behind = 1
    read.read(b"b", b"c")
    read.behind = 0
    read.read(b"b")
    assert read.delivered == [b"a", b"b", b"a", b"c", b"b"]
    assert (read.dropped, read.rereading.count) == ([b"b"], 1)


async def test_equal_elements_are_dropped_as_often_as_they_were_read():
    read = Read()
    read.read(b"a", b"a")
    read.behind = 1
    read.read(b"a", b"a")
    read.read(b"a", b"b")
    assert read.delivered == [b"a", b"a", b"a", b"b"]
    read.behind = 2
    read.read(b"a", b"a", b"a", b"a", b"c")
    assert read.delivered == [b"a", b"a", b"a", b"b", b"a", b"c"]


async def test_what_was_put_back_may_come_again():
    read = Read()
    read.read(b"a", b"b")
    read.rereading.returned(b"a")
    read.behind = 1
    read.read(b"a", b"b")
    assert read.delivered == [b"a", b"b", b"a"]
    # It has been read since it was put back.
    read.behind = 2
    read.read(b"a", b"b")
    assert read.delivered == [b"a", b"b", b"a"]


@pytest.mark.parametrize("limit", ["MAX_ELEMENTS", "MAX_OCTETS"])
async def test_what_is_kept_has_bounds(monkeypatch, limit):
    monkeypatch.setattr(rereading, limit, 100)
    read = Read()
    for number in range(60):
        read.read(b"%02d" % number, b"%02d" % (number + 60))
    kept = 50 if limit == "MAX_ELEMENTS" else 20
    read.behind = 1
    read.read(*(b"%02d" % number for number in range(60)))
    assert read.dropped == [b"%02d" % number for number in range(60 - kept, 60)]


async def test_what_is_older_than_messages_get_is_forgotten():
    read = Read(max_age=0)
    read.read(b"a")
    read.read(b"b")
    read.behind = 1
    read.read(b"a")
    assert read.delivered == [b"a", b"b", b"a"]
