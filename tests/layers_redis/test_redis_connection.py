"""Taking over what redis-py has connected."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio.connection as redis_py

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.redis.clock import EngineClock
from daphne_like.layers.redis.connection import Refused, connect, pack
from daphne_like.layers.redis.hosts import Host, parse
from tests.layers_redis.redis_engines import until
from tests.layers_redis.redis_servers import RedisServer, redis_server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def host_of(url: str) -> Host:
    [host] = parse([url])
    assert isinstance(host, Host)
    return host


async def test_what_redis_py_keeps_private() -> None:
    """This is what the take-over stands on."""
    made = redis_py.Connection(host="127.0.0.1", port=1, protocol=2)
    assert made._writer is None
    assert made._reader is None


@pytest.mark.parametrize("unix", [False, True])
async def test_replies_come_as_they_are_read(redis: RedisServer, unix: bool) -> None:
    host = host_of(f"unix://{redis.path}" if unix else redis.url)
    connection, replies, _ = await connect(host, [("PING",), ("NONSENSE",)])
    assert replies[0] == b"PONG"
    assert isinstance(replies[1], Refused)
    assert replies[1].code == "ERR"
    come: list[Any] = []
    lost: list[str] = []
    connection.tell(come.extend, lost.append)
    connection.write(pack(("ECHO", b"x" * 300_000)) + pack(("LRANGE", "none", 0, -1)) + pack(("GET", "none")))
    await until(lambda: len(come) == 3)
    assert come == [b"x" * 300_000, [], None]
    connection.write(pack(("QUIT",)))
    await until(lambda: bool(lost))
    assert come[3:] == [b"OK"]
    assert lost == ["the engine hung up"]


async def test_nobody_is_told_after_the_end(redis: RedisServer) -> None:
    connection, _, _ = await connect(host_of(redis.url), [("PING",)])
    lost: list[str] = []
    connection.tell(lambda replies: None, lost.append)
    connection.abort("tired of it")
    connection.abort("twice")
    await until(lambda: bool(lost))
    assert lost == ["tired of it"]
    connection, _, _ = await connect(host_of(redis.url), [("PING",)])
    connection.tell(lambda replies: None, lost.append)
    connection.end("said to nobody")
    await until(lambda: redis.clients() == [])
    assert lost == ["tired of it"]


async def test_nobody_listens() -> None:
    with pytest.raises(LayerUnavailable, match=r"127\.0\.0\.1:1"):
        await connect(host_of("redis://127.0.0.1:1"), [])


@pytest.mark.parametrize(
    ("says", "then", "reason"),
    [
        (b"", b"", "nobody has answered"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", "Protocol error"),
        (b"+OK\r\n+OK\r\n", b"\0\0\0\0", "not Redis' protocol"),
        (None, b"", "onnection (closed|lost)|reset"),
    ],
)
async def test_what_answers_is_no_redis(
    monkeypatch: pytest.MonkeyPatch, says: bytes | None, then: bytes, reason: str
) -> None:
    monkeypatch.setattr("daphne_like.layers.redis.connection.HELLO_TIMEOUT", 0.2)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if says is not None:
                writer.write(says)
                while await reader.read(1000):
                    writer.write(then)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LayerUnavailable, match=reason):
            await connect(host_of(f"redis://127.0.0.1:{port}"), [("PING",)] * 5)


async def test_cancelled_while_it_connects(redis: RedisServer) -> None:
    """Wherever that may be, it is cancelled and nothing is left open."""
    for turns in range(100):
        connecting = asyncio.ensure_future(connect(host_of(redis.url), [("PING",)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not connecting.cancel():
            (await connecting)[0].end("connected")
            break
        with pytest.raises(asyncio.CancelledError):
            await connecting
    else:
        pytest.fail("never connected")
    await until(lambda: redis.clients() == [])


# -- the engine's clock ------------------------------------------------------------------------------


def said(at: float) -> list[bytes]:
    return [b"%d" % int(at), b"%d" % round(at % 1 * 1e6)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("daphne_like.layers.redis.clock.time.monotonic", lambda: now[0])
    return now


def test_the_middle_of_question_and_answer_counts(now: list[float]) -> None:
    clock = EngineClock()
    clock.read(said(5000.5), asked_at=100.0, answered_at=101.0)
    now[0] = 103.0
    assert clock.now() == pytest.approx(5003.0)


def test_a_worse_reading_does_not_replace_a_better_one(now: list[float]) -> None:
    clock = EngineClock()
    clock.read(said(5000.0), asked_at=100.0, answered_at=100.001)
    clock.read(said(5001.4), asked_at=101.0, answered_at=102.0)
    now[0] = 102.0
    assert clock.now() == pytest.approx(5002.0, abs=0.01)


def test_but_it_does_after_a_while(now: list[float]) -> None:
    clock = EngineClock()
    clock.read(said(5000.0), asked_at=100.0, answered_at=100.001)
    clock.read(said(5100.01), asked_at=200.0, answered_at=200.01)
    now[0] = 200.005
    assert clock.now() == pytest.approx(5100.01)


def test_a_clock_that_was_set_counts_at_once(now: list[float]) -> None:
    clock = EngineClock()
    clock.read(said(5000.0), asked_at=100.0, answered_at=100.001)
    clock.read(said(4000.0), asked_at=101.0, answered_at=101.1)
    now[0] = 101.05
    assert clock.now() == pytest.approx(4000.0)
