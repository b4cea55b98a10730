"""
What an engine does with a Redis that is killed, stopped, full, loading, a replica, or forgets.

Of everything that is asked, either it is done once, or it fails and says so: ReplyLost where it may have been
done, LayerUnavailable where it was not.
"""

import asyncio
import logging
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

SAID = "daphne_like.layers"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def push(engine: Engine, *words: str, tag: str = "a") -> "asyncio.Future[int]":
    return engine.run(PUSH, tag, [f"list:{{{tag}}}"], words)


def elements(redis: RedisServer, key: str = "list:{a}") -> list[bytes]:
    found: list[bytes] = redis.cli("LRANGE", key, 0, -1)
    return found


# -- the connection is lost ------------------------------------------------------------------------


async def test_lost_reply_is_unknown_and_never_sent_again(redis: RedisServer) -> None:
    told = Told()
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url, told=told) as engine:
        proxy.hold()
        sent = [push(engine, "sent 1"), push(engine, "sent 2")]
        await proxy.held()
        waiting = push(engine, "waiting")
        proxy.cut()
        for future in sent:
            with pytest.raises(ReplyLost, match="nobody knows whether it was done"):
                await future
        assert await waiting == 3
        assert elements(redis) == [b"sent 1", b"sent 2", b"waiting"]
        assert (told.back, len(told.lost)) == (2, 1)


async def test_killed_and_back_empty(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, SAID)
    told = Told()
    async with engine_on(redis.url, told=told) as engine:
        registered = []
        told.say = lambda: registered.append(push(engine, "registration"))
        redis.kill()
        await until(lambda: not engine.connected)
        waiting = [push(engine, f"waiting {number}") for number in range(3)]
        assert not engine.reaches("a")
        await until(lambda: any(record.msg == "layer out of reach" for record in caplog.records))
        redis.start()
        began = time.monotonic()
        await asyncio.gather(*waiting)
        assert time.monotonic() - began < 1
        assert await registered[0] == 1
        assert elements(redis)[1:] == [b"waiting %d" % number for number in range(3)]
        assert engine.connected
        said = [record.msg for record in caplog.records]
        assert said == ["layer lost", "layer out of reach", "layer joined"]


async def test_client_kill_costs_what_was_under_way(redis: RedisServer) -> None:
    """And nothing else, though a whole stream of calls goes on."""
    async with engine_on(redis.url) as engine:
        outcomes: list[bool | None] = []

        async def push_all(name: int) -> None:
            for number in range(200):
                try:
                    await push(engine, f"{name} {number}")
                except ReplyLost:
                    outcomes.append(None)
                else:
                    outcomes.append(True)

        pushing = [asyncio.ensure_future(push_all(name)) for name in range(20)]
        for wanted in range(500, 3000, 500):
            await until(lambda wanted=wanted: len(outcomes) >= wanted)  # type: ignore[misc]
            redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.gather(*pushing)
        found = elements(redis)
        assert len(found) == len(set(found))
        assert outcomes.count(None) <= 5 * 20
        assert outcomes.count(True) <= len(found) <= len(outcomes)


async def test_registrations_go_first(redis: RedisServer) -> None:
    told = Told()
    async with engine_on(redis.url, told=told, max_pending=1_000, ready=False) as engine:
        # More than may wait.
        told.say = lambda: [push(engine, "x" * 100) for _ in range(100)] and None
        assert await push(engine, "waiting") == 101


async def test_wrong_password_some_day(redis: RedisServer) -> None:
    """NOAUTH after the engine was told to want a password: what was asked waits for one that is let in."""
    async with engine_on(redis.url) as engine:
        redis.cli("CONFIG", "SET", "requirepass", "s3cret")
        for client in redis.clients():
            redis.cli("CLIENT", "KILL", "ID", client["id"])
        await until(lambda: not engine.connected)
        waiting = push(engine, "x")
        await until(lambda: engine.trouble == "wants a password")
        redis.cli("CONFIG", "SET", "requirepass", "")
        assert await waiting == 1


# -- no answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_pause_that_is_short_enough_raises_nothing(redis: RedisServer, how: str) -> None:
    async with engine_on(redis.url, send_timeout=5) as engine:
        pause(redis, how, 0.4)
        pushes = [push(engine, "under way")]
        await asyncio.sleep(0.1)  # some of the pause
        pushes += [push(engine, "waiting") for _ in range(100)]
        await asyncio.sleep(0.1)  # and some more
        assert not any(future.done() for future in pushes)
        assert await asyncio.gather(*pushes) == list(range(1, 102))


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_pause_that_is_too_long(redis: RedisServer, how: str) -> None:
    told = Told()
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url, told=told, send_timeout=0.5) as engine:
        pause(redis, how, 1)
        proxy.requests.clear()
        began = time.monotonic()
        under_way = push(engine, "under way")
        await until(lambda: proxy.requests)
        later = time.monotonic()
        waiting = push(engine, "waiting")
        with pytest.raises(ReplyLost, match=r"no answer in 0\.5 s"):
            await under_way
        assert 0.49 <= time.monotonic() - began < 0.9
        # A moment later than the call's own time is that of the connection up, on which it was written.
        await until(lambda: told.lost == ["no answer in 0.5 s"])
        with pytest.raises(LayerUnavailable, match=r"not done in 0\.5 s: no answer in 0\.5 s") as raised:
            await waiting
        assert not isinstance(raised.value, ReplyLost)
        assert 0.49 <= time.monotonic() - later < 0.9
        await until(lambda: told.back == 2)
        await push(engine, "later")
        assert elements(redis)[-1] == b"later"
        assert b"waiting" not in elements(redis)


def pause(redis: RedisServer, how: str, seconds: float) -> None:
    if how == "stopped":
        redis.pause()
        asyncio.get_running_loop().call_later(seconds, redis.resume)
    else:
        redis.cli("CLIENT", "PAUSE", int(seconds * 1000), "ALL")


async def test_old_call_does_not_cost_a_good_connection(redis: RedisServer) -> None:
    """Its own time is up while it is being done; the connection's is not."""
    told = Told()
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url, told=told, send_timeout=1) as engine:
        proxy.hold()
        first = push(engine, "first")
        await proxy.held()
        second = push(engine, "second")
        await asyncio.sleep(0.9)
        proxy.let_go()
        assert await first == 1
        proxy.hold()
        with pytest.raises(ReplyLost):
            await second
        third = push(engine, "third")
        await asyncio.sleep(0.1)
        proxy.let_go()
        assert await third == 3
        assert told.lost == []


# -- it refuses, for now ---------------------------------------------------------------------------


async def test_out_of_memory_is_waited_for(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        redis.cli("CONFIG", "SET", "maxmemory", 1)
        pushes = [push(engine, f"{number}") for number in range(10)]
        # What is refused holds nothing up but its own tag.
        assert await engine.command("b", "GET", "{b}") is None
        pushes += [push(engine, f"{number}") for number in range(10, 20)]
        assert not any(future.done() for future in pushes)
        redis.cli("CONFIG", "SET", "maxmemory", 0)
        await asyncio.gather(*pushes)
        assert elements(redis) == [b"%d" % number for number in range(20)]


async def test_out_of_memory_for_too_long(redis: RedisServer) -> None:
    async with engine_on(redis.url, send_timeout=0.3) as engine:
        redis.cli("CONFIG", "SET", "maxmemory", 1)
        pushes = [push(engine, "x") for _ in range(10)]
        began = time.monotonic()
        for future in pushes:
            with pytest.raises(LayerUnavailable, match=r"not done in 0\.3 s: out of memory") as raised:
                await future
            assert not isinstance(raised.value, ReplyLost)
        assert time.monotonic() - began < 1
        redis.cli("CONFIG", "SET", "maxmemory", 0)
        assert await push(engine, "y") == 1


async def test_out_of_memory_says_so_to_what_was_just_tried_again(redis: RedisServer) -> None:
    """Its time is up while it is being asked once more: the answer says that it was not done."""
    async with proxy_to(redis.path) as proxy, engine_on(proxy.url, send_timeout=1) as engine:
        redis.cli("CONFIG", "SET", "maxmemory", 1)
        began = time.monotonic()
        refused = push(engine, "x")
        await asyncio.sleep(0.65)
        proxy.hold()
        await proxy.held()
        await asyncio.sleep(1.05 - (time.monotonic() - began))
        assert not refused.done()
        proxy.let_go()
        with pytest.raises(LayerUnavailable, match=r"not done in 1 s: out of memory") as raised:
            await refused
        assert not isinstance(raised.value, ReplyLost)


async def test_connecting_to_what_is_out_of_memory(redis: RedisServer) -> None:
    redis.cli("CONFIG", "SET", "maxmemory", 1)
    async with engine_on(redis.url) as engine:
        waiting = push(engine, "x")
        assert await engine.command("a", "PING", "a") == b"a"
        redis.cli("CONFIG", "SET", "maxmemory", 0)
        assert await waiting == 1


async def test_replica_takes_no_writes(redis: RedisServer) -> None:
    """It was a master: whoever is one now is looked for until there is one."""
    told = Told()
    async with engine_on(redis.url, told=told) as engine:
        redis.cli("REPLICAOF", "127.0.0.1", 1)
        pushes = [push(engine, f"{number}") for number in range(10)]
        await until(lambda: told.lost != [])
        assert told.lost == ["a replica, which takes no writes"]
        await until(lambda: engine.trouble == "a replica, which takes no writes")
        redis.cli("REPLICAOF", "NO", "ONE")
        assert await asyncio.gather(*pushes) == list(range(1, 11))
        assert elements(redis) == [b"%d" % number for number in range(10)]


async def test_loading_its_data(tmp_path: Path) -> None:
    """
    It lets itself be connected to, and refuses.

    key-load-delay is in microseconds for each key; it looks at its sockets each so many octets.
    """
    slowly = ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]
    with redis_server(tmp_path, *slowly) as redis:
        for number in range(100):
            redis.cli("SET", number, "x" * 1000, "EX", 1000)
        async with engine_on(redis.url) as engine:
            redis.cli("CONFIG", "SET", "rdbcompression", "no")
            redis.cli("SAVE")
            redis.kill()
            await until(lambda: not engine.connected)
            redis.start()
            waiting = push(engine, "x")
            await until(lambda: engine.trouble == "loading its data")
            assert await waiting == 1
            assert redis.cli("DBSIZE") == 101


async def test_busy_with_a_script(redis: RedisServer) -> None:
    forever = Script("FOREVER", "while true do end")
    redis.cli("CONFIG", "SET", "busy-reply-threshold", 10)
    async with engine_on(redis.url) as engine, engine_on(redis.url) as other:
        stuck = other.run(forever, "a", [], [])
        await until(lambda: is_busy(redis))
        waiting = push(engine, "x")
        redis.cli("SCRIPT", "KILL")
        assert await waiting == 1
        with pytest.raises(LayerError, match="killed"):
            await stuck


def is_busy(redis: RedisServer) -> bool:
    try:
        redis.cli("PING")
    except Exception as error:
        return "BUSY" in str(error) or "busy" in str(error)
    return False


async def test_scripts_forgotten_under_load_keep_the_order(redis: RedisServer) -> None:
    async with engine_on(redis.url) as engine:
        pushes: list[asyncio.Future[int]] = []
        for burst in range(20):
            pushes += [push(engine, f"{burst * 50 + number}") for number in range(50)]
            redis.cli("SCRIPT", "FLUSH")
            await asyncio.sleep(0)
        await asyncio.gather(*pushes)
        assert elements(redis) == [b"%d" % number for number in range(1000)]


async def test_user_that_may_not_run_scripts(redis: RedisServer) -> None:
    redis.cli("ACL", "SETUSER", "poor", "on", ">s3cret", "~*", "+@all", "-@scripting")
    host = redis.url.replace("//", "//poor:s3cret@")
    async with engine_on(host, ready=False, send_timeout=0.3) as engine:
        with pytest.raises(LayerUnavailable, match="NOPERM"):
            await engine.ready()


async def test_an_error_of_its_user_ends_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()

    def fail() -> None:
        push(engine, "registration")
        raise ZeroDivisionError

    async with engine_on(redis.url, told=told) as engine:
        told.say = fail
        redis.restart()
        await until(lambda: told.back == 2)
        assert await push(engine, "x") == 2
        assert "error in a user of the engine" in [record.msg for record in caplog.records]
