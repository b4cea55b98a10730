"""A reader delivers what Redis pops, no more than it is told to, and loses nothing when it stops."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daphne_like.layers.redis.engine import Engine
from daphne_like.layers.redis.reader import Reader
from tests.layers_redis.redis_engines import PUSH, engine_on, until
from tests.layers_redis.redis_proxy import proxy_to
from tests.layers_redis.redis_servers import RedisServer, redis_server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


class Box:
    """
    Where a reader delivers to.

    Attributes:
        places: how many elements it wants yet.
    """

    def __init__(self, engine: Engine, *keys: str, places: int = 10**9, at_once: int = 100) -> None:
        self.places = places
        self.delivered: list[tuple[bytes, bytes]] = []
        self.deliveries: list[int] = []
        self.back = 0
        self._at_once = at_once
        self.reader: Reader = engine.reader(
            "a", keys or ["list:{a}"], self.count, self.deliver, self.come_back
        )

    def count(self) -> int:
        return min(self.places, self._at_once)

    def deliver(self, key: bytes, elements: list[bytes]) -> None:
        assert 0 < len(elements) <= self.count()
        self.places -= len(elements)
        self.deliveries.append(len(elements))
        self.delivered += ((key, element) for element in elements)

    def come_back(self) -> None:
        self.back += 1

    @property
    def elements(self) -> list[bytes]:
        return [element for _, element in self.delivered]

    async def has(self, count: int) -> None:
        await until(lambda: len(self.delivered) >= count)


def push(engine: Engine, *words: object, key: str = "list:{a}") -> "asyncio.Future[int]":
    return engine.run(PUSH, "a", [key], words)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_many_at_once_in_order(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        await push(engine, *range(250))
        box = Box(engine)
        await box.has(250)
        assert box.elements == numbers(250)
        assert box.deliveries == [100, 100, 50]
        await push(engine, 250)
        await box.has(251)


async def test_the_first_key_that_has_something(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        await push(engine, "b1", "b2", key="b:{a}")
        await push(engine, "a1", key="a:{a}")
        box = Box(engine, "a:{a}", "b:{a}")
        await box.has(3)
        assert box.delivered == [(b"a:{a}", b"a1"), (b"b:{a}", b"b1"), (b"b:{a}", b"b2")]


async def test_no_more_than_there_are_places(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        await push(engine, *range(10))
        box = Box(engine, places=3)
        await box.has(3)
        # An answer that comes after it says that the reader asks for nothing.
        await engine.command("a", "PING")
        box.reader.wake()
        assert await engine.command("a", "LLEN", "list:{a}") == 7
        box.places = 2
        box.reader.wake()
        await box.has(5)
        assert await engine.command("a", "LLEN", "list:{a}") == 5


async def test_places_may_come_within_a_delivery(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine, places=1)
        deliver = box.deliver

        def deliver_and_wake(key: bytes, elements: list[bytes]) -> None:
            deliver(key, elements)
            box.places = 1
            box.reader.wake()

        await box.reader.stop()
        box.reader = engine.reader("a", ["list:{a}"], box.count, deliver_and_wake)
        await push(engine, *range(100))
        await box.has(100)
        assert box.elements == numbers(100)


@pytest.mark.parametrize("seed", range(5))
async def test_stopping_loses_nothing(redis: RedisServer, seed: int) -> None:
    """Readers come and go while somebody pushes: what they delivered and what is left is all, once, in order."""
    chance = random.Random(seed)
    async with engine_on(redis.url) as engine:
        delivered: list[bytes] = []
        pushed = 0
        done = False

        async def go_on_pushing() -> None:
            nonlocal pushed
            while not done:
                await push(engine, *range(pushed, pushed + 10))
                pushed += 10

        pushing = asyncio.ensure_future(go_on_pushing())
        for _ in range(50):
            box = Box(engine, at_once=chance.choice([1, 5, 100]))
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            if chance.randrange(2):
                await box.has(1)
            await box.reader.stop()
            delivered += box.elements
        done = True
        await pushing
        left = redis.cli("LRANGE", "list:{a}", 0, -1)
        assert delivered + left == numbers(pushed)


async def test_stop_of_an_idle_reader_takes_no_time(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        await until(lambda: any("b" in client["flags"] for client in redis.clients()))
        began = time.monotonic()
        await asyncio.gather(box.reader.stop(), box.reader.stop())
        assert time.monotonic() - began < 1
        await until(lambda: len(redis.clients()) == 1)
        # Once more says nothing.
        await box.reader.stop()


async def test_stop_of_a_reader_that_asks_for_nothing(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine, places=0)
        await until(lambda: len(redis.clients()) == 2)
        await asyncio.gather(box.reader.stop(), box.reader.stop())
        await box.reader.stop()


async def test_stop_where_unblocking_is_forbidden(redis: RedisServer) -> None:
    """The block ends by itself after two seconds."""
    redis.cli("ACL", "SETUSER", "poor", "on", ">s3cret", "~*", "+@all", "-client|unblock")
    async with engine_on(redis.url.replace("//", "//poor:s3cret@")) as engine:
        box = Box(engine)
        await until(lambda: any("b" in client["flags"] for client in redis.clients()))
        began = time.monotonic()
        await box.reader.stop()
        assert time.monotonic() - began < 2.9


async def test_an_answer_that_is_late_is_looked_for_once_more(redis: RedisServer) -> None:
    """A process that stood still finds it in its socket, and lost is only what nobody answers."""
    async with engine_on(redis.url, send_timeout=0.5) as engine:
        box = Box(engine)
        await until(lambda: box.reader._asked)
        box.reader._asked_at -= 100
        box.reader._look_after()
        await push(engine, "late")
        await box.has(1)
        await until(lambda: box.reader._asked)
        box.reader._asked_at -= 100
        box.reader._look_after()
        box.reader._look_after()
        await until(lambda: box.back == 1)


async def test_stop_while_nobody_is_there(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        redis.kill()
        box = Box(engine)
        await asyncio.sleep(0)
        await box.reader.stop()
        assert box.delivered == []


async def test_stop_waits_for_what_is_on_its_way(redis: RedisServer) -> None:
    async with proxy_to(redis.path) as proxy, engine_on(redis.url) as engine, engine_on(proxy.url) as through:
        box = Box(through)
        await push(engine, 0)
        await box.has(1)
        proxy.hold()
        await push(engine, 1)
        await proxy.held()
        stopping = asyncio.ensure_future(box.reader.stop())
        for _ in range(5):
            await asyncio.sleep(0)
        proxy.let_go()
        await stopping
        assert box.elements == numbers(2)


async def test_killed_and_back_empty(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        await push(engine, 0)
        await box.has(1)
        redis.kill()
        await until(lambda: not engine.connected)
        redis.start()
        began = time.monotonic()
        await push(engine, 1)
        await box.has(2)
        assert time.monotonic() - began < 1
        assert (box.elements, box.back) == (numbers(2), 1)


async def test_its_connection_is_killed(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        for number in range(5):
            await push(engine, number)
            await box.has(number + 1)
            [reader] = [client for client in redis.clients() if client["cmd"] == "blmpop"]
            redis.cli("CLIENT", "KILL", "ID", reader["id"])
            expected = number + 1
            await until(lambda expected=expected: box.back == expected)  # type: ignore[misc]
        assert box.elements == numbers(5)


async def test_becomes_a_replica_for_a_while(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        await push(engine, 0)
        await box.has(1)
        redis.cli("REPLICAOF", "127.0.0.1", 1)
        pushed = push(engine, 1)
        await until(lambda: not engine.connected)
        redis.cli("REPLICAOF", "NO", "ONE")
        assert await pushed == 1
        await box.has(2)


async def test_does_not_answer_at_all(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daphne_like.layers.redis.reader.BLOCK", 0.1)
    async with engine_on(redis.url, send_timeout=0.3) as engine:
        box = Box(engine)
        await until(lambda: any("b" in client["flags"] for client in redis.clients()))
        redis.pause()
        await until(lambda: not engine.connected)
        asyncio.get_running_loop().call_later(1, redis.resume)
        await until(lambda: box.back == 1)
        await engine.ready()
        await push(engine, 0)
        await box.has(1)


async def test_what_it_may_not_read_is_said_once(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.cli("SET", "list:{a}", "no list")
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        await until(lambda: box.back > 3)
        said = [record for record in caplog.records if record.msg == "cannot read from layer"]
        assert len(said) == 1
        assert "WRONGTYPE" in vars(said[0])["reason"]
        redis.cli("DEL", "list:{a}")
        await push(engine, 0)
        await box.has(1)


async def test_cancelled_by_a_stranger_it_still_stops_without_a_loss(redis: RedisServer) -> None:
    before = asyncio.all_tasks()
    async with engine_on(redis.url) as engine:
        box = Box(engine)
        await push(engine, 0)
        await box.has(1)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        pushed = push(engine, 1)
        await box.reader.stop()
        await pushed
        assert box.elements + redis.cli("LRANGE", "list:{a}", 0, -1) == numbers(2)


async def test_an_error_of_its_user_ends_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(redis.url) as engine:
        box = Box(engine, places=10, at_once=1)
        deliver = box.deliver

        def fail_once(key: bytes, elements: list[bytes]) -> None:
            deliver(key, elements)
            if len(box.delivered) == 1:
                raise ZeroDivisionError

        await box.reader.stop()
        box.reader = engine.reader("a", ["list:{a}"], box.count, fail_once)
        await push(engine, 0, 1)
        await box.has(2)
        assert [record.msg for record in caplog.records] == ["error in a user of the engine"]
