"""What an engine does with a Redis that is well."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daphne_like.errors import LayerError, LayerUnavailable
from daphne_like.layers.redis.engine import Engine, ReplyLost
from daphne_like.layers.redis.scripts import Script
from tests.layers_redis.redis_engines import PUSH, Told, engine_on, until
from tests.layers_redis.redis_proxy import proxy_to
from tests.layers_redis.redis_servers import RedisServer, redis_server

SLEEP = Script("SLEEP", "local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i end return n")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def elements(redis: RedisServer, key: str = "list:{a}") -> list[bytes]:
    found: list[bytes] = redis.cli("LRANGE", key, 0, -1)
    return found


async def test_replies_are_those_of_redis(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        assert await engine.run(PUSH, "a", ["list:{a}"], [b"\0\xff", "text", 3, 4.5]) == 4
        assert await engine.command("a", "LRANGE", "list:{a}", 0, -1) == [b"\0\xff", b"text", b"3", b"4.5"]
        assert await engine.command("a", "GET", "{a}") is None
        assert await engine.command("a", "SET", "{a}", b"") == b"OK"
        assert await engine.node_command(engine.nodes()[0], "DBSIZE") == 2
        assert engine.connected
        assert engine.reaches("a")


async def test_unix_socket_database_and_password(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret", tcp=False) as redis:
        redis.client_options = {"password": "s3cret", "db": 2}
        async with engine_on(f"unix://:s3cret@{redis.path}?db=2") as engine:
            await engine.command("a", "SET", "{a}", 1)
        assert redis.cli("GET", "{a}") == b"1"


async def test_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cret") as redis:
        host = redis.url.replace("//", "//:wr0ng@")
        async with engine_on(host, ready=False, send_timeout=0.3) as engine:
            with pytest.raises(
                LayerUnavailable, match=r"no way to the layer in 0\.3 s: .*password"
            ) as raised:
                await engine.ready()
            assert "wr0ng" not in str(raised.value)


async def test_nobody_there(tmp_path: Path) -> None:
    async with engine_on(f"unix://{tmp_path}/none.sock", ready=False, send_timeout=0.2) as engine:
        began = time.monotonic()
        with pytest.raises(LayerUnavailable, match=r"not done in 0\.2 s: .*No such file") as raised:
            await engine.command("a", "PING")
        assert not isinstance(raised.value, ReplyLost)
        assert time.monotonic() - began < 2
        assert not engine.connected
        assert not engine.reaches("a")


async def test_what_redis_will_never_do_is_an_error(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        await engine.command("a", "SET", "list:{a}", 1)
        refused = engine.run(PUSH, "a", ["list:{a}"], ["x"])
        after = engine.command("a", "GET", "list:{a}")
        with pytest.raises(LayerError, match="the engine refused: WRONGTYPE") as raised:
            await refused
        assert not isinstance(raised.value, LayerUnavailable)
        assert await after == b"1"


# -- batches ---------------------------------------------------------------------------------------


async def test_a_turn_is_one_write_and_so_is_what_comes_meanwhile(redis: RedisServer) -> None:
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url) as engine:
        proxy.requests.clear()
        proxy.hold()
        first = [engine.run(PUSH, "a", ["list:{a}"], [f"first {number}"]) for number in range(20)]
        await proxy.held()
        assert len(proxy.requests) == 1
        second = []
        for number in range(20):
            second.append(engine.run(PUSH, "a", ["list:{a}"], [f"second {number}"]))
            await asyncio.sleep(0)
        assert len(proxy.requests) == 1
        assert not any(future.done() for future in first)
        proxy.let_go()
        assert await asyncio.gather(*first, *second) == list(range(1, 41))
        assert len(proxy.requests) == 2
        assert elements(redis)[20:] == [b"second %d" % number for number in range(20)]


async def test_arguments_may_grow_until_they_are_written(redis: RedisServer) -> None:
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url) as engine:
        proxy.hold()
        before = engine.run(PUSH, "a", ["list:{a}"], ["before"])
        await proxy.held()
        words = ["one"]
        asked = []

        def args() -> list[str]:
            asked.append(list(words))
            return words

        growing = engine.run(PUSH, "a", ["list:{a}"], args)
        await asyncio.sleep(0)
        words.append("two")
        assert asked == []
        proxy.let_go()
        assert [await before, await growing] == [1, 3]
        assert asked == [["one", "two"]]


async def test_cancelled_before_it_is_written_it_is_not_done(redis: RedisServer) -> None:
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url) as engine:
        proxy.hold()
        before = engine.run(PUSH, "a", ["list:{a}"], ["before"])
        await proxy.held()
        cancelled = engine.run(PUSH, "a", ["list:{a}"], ["cancelled"])
        after = engine.run(PUSH, "a", ["list:{a}"], ["after"])
        cancelled.cancel()
        before.cancel()
        proxy.let_go()
        assert await after == 2
        assert elements(redis) == [b"before", b"after"]


async def test_what_waits_is_bounded(redis: RedisServer) -> None:
    told = Told()
    async with engine_on(redis.url, told=told, max_pending=100_000) as engine:
        redis.pause()
        taken = [engine.run(PUSH, "a", ["list:{a}"], [b"x" * 10_000]) for _ in range(9)]
        with pytest.raises(LayerUnavailable, match="more than 100000 octets wait already"):
            await engine.run(PUSH, "a", ["list:{a}"], [b"x" * 10_000])
        with pytest.raises(LayerUnavailable, match="more than 100000 octets wait already"):
            engine.reserve(10_000)
        engine.reserve(8_000)
        with pytest.raises(LayerUnavailable):
            await engine.run(PUSH, "a", ["list:{a}"], [b"x" * 2_000])
        engine.release(8_000)
        redis.resume()
        assert await asyncio.gather(*taken) == list(range(1, 10))
        assert engine.pending == 0
        assert await engine.run(PUSH, "a", ["list:{a}"], [b"x" * 10_000]) == 10


async def test_a_failure_nobody_awaits_is_nobodys(redis: RedisServer) -> None:
    """The test would fail for what asyncio says of exceptions never retrieved."""
    async with engine_on(redis.url) as engine:
        engine.command("a", "NONSENSE")
        await engine.command("a", "PING")


# -- scripts ---------------------------------------------------------------------------------------


async def test_scripts_are_loaded_at_connect_and_when_missed(redis: RedisServer) -> None:
    async with engine_on(redis.url, scripts=[PUSH]) as engine:
        assert redis.cli("SCRIPT", "EXISTS", PUSH.sha, SLEEP.sha) == [True, False]
        assert await engine.run(SLEEP, "a", [], [10]) == 55
        redis.cli("SCRIPT", "FLUSH")
        calls = [engine.run(PUSH, "a", ["list:{a}"], [number]) for number in range(50)]
        calls.insert(10, engine.run(SLEEP, "a", [], [10]))
        await asyncio.gather(*calls)
        assert elements(redis) == [b"%d" % number for number in range(50)]
        assert redis.cli("SCRIPT", "EXISTS", PUSH.sha, SLEEP.sha) == [True, True]


# -- time ------------------------------------------------------------------------------------------


async def test_time_is_the_engines(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        for _ in range(5):
            before = engine.time("a")
            seconds, microseconds = await engine.command("a", "TIME")
            assert before - 0.005 <= int(seconds) + int(microseconds) / 1e6 <= engine.time() + 0.005


# -- the end ---------------------------------------------------------------------------------------


async def test_close_lets_be_done_what_was_asked(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        calls = [engine.run(PUSH, "a", ["list:{a}"], [b"x" * 10_000]) for _ in range(1000)]
        await engine.close()
        assert await asyncio.gather(*calls) == list(range(1, 1001))
        with pytest.raises(LayerUnavailable, match="the layer was closed"):
            await engine.command("a", "PING")
    await until(lambda: redis.clients() == [])


async def test_close_of_an_engine_nobody_answers(tmp_path: Path) -> None:
    async with engine_on(f"unix://{tmp_path}/none.sock", ready=False) as engine:
        waiting = engine.command("a", "PING")
        ready = asyncio.ensure_future(engine.ready())
        await asyncio.sleep(0)
        await engine.close()
        for future in (waiting, ready):
            with pytest.raises(LayerUnavailable, match="the layer was closed"):
                await future


async def test_works_on_when_all_tasks_are_cancelled(redis: RedisServer) -> None:
    """As asyncio.run() does in the end: whoever cleans up then still has a layer."""
    before = asyncio.all_tasks()
    async with engine_on(redis.url) as engine:
        for task in asyncio.all_tasks() - before:
            task.cancel()
        assert await engine.run(PUSH, "a", ["list:{a}"], ["x"]) == 1


async def test_child_of_a_fork_lets_go(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        child = os.fork()
        if not child:
            try:
                engine.abandon()
            finally:
                os._exit(0 if engine.closed else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert await engine.command("a", "PING") == b"PONG"


def test_loop_that_ended_without_a_word(redis: RedisServer) -> None:
    """Its connections end with abandon(), from another thread or none."""
    loop = asyncio.new_event_loop()
    manager = engine_on(redis.url)
    engine = loop.run_until_complete(manager.__aenter__())
    loop.run_until_complete(read(engine))
    assert len(redis.clients()) == 2
    engine.abandon()
    deadline = time.monotonic() + 20
    while redis.clients():
        assert time.monotonic() < deadline
    loop.run_until_complete(manager.__aexit__(None, None, None))
    loop.close()


async def read(engine: Engine) -> None:
    delivered = asyncio.Event()
    engine.reader("a", ["list:{a}"], lambda: 1, lambda key, elements: delivered.set())
    await engine.run(PUSH, "a", ["list:{a}"], ["x"])
    await delivered.wait()
