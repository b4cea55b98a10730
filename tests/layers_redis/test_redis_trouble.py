"""
What an engine in trouble costs: real ones, two processes that speak all the time (redis_traffic.py), and counts.

Each test prints what was sent, lost and told, and how long it took until messages of all kinds came again:
`pytest -s` shows it.

Whatever happens: nothing comes twice, nothing comes out of order, and what a sender was told had not been sent
does not come.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers_redis.redis_servers import RedisServer, redis_server
from tests.layers_redis.redis_traffic import KINDS, Outcome, Sent, Traffic

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.time_limit(90)]

# Seconds within which messages of all kinds come again: one is the promise, and a third of one is usual; this
# machine may be running other tests, too.
BACK_WITHIN = 2.0
# What had been answered so shortly before the engine went may have been in it.
IN_IT = 0.2


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def judged(title: str, outcome: Outcome, back: float, wanted: float = BACK_WITHIN) -> Outcome:
    """What must hold whatever happened. *back*: when the engine was there again."""
    took = outcome.back_after(back)
    print("\n" + outcome.describe(title, took))
    assert outcome.doubled() == []
    assert outcome.came_all_the_same() == []
    assert outcome.out_of_order() == []
    assert max(took.values()) < wanted
    return outcome


def test_engine_killed_for_three_seconds_and_back_empty(engine: RedisServer) -> None:
    """Lost is only what it held: what was sent meanwhile waits, and groups are there before it is sent."""
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        engine.kill()
        killed = time.monotonic()
        time.sleep(3)  # that long it is away
        engine.start()
        back = time.monotonic()
        traffic.wait_until_flowing(back)
        outcome = judged("killed for 3 s and back empty", traffic.finish(), back)

    assert [
        (sent.kind, sent.number) for sent in outcome.lost() if not killed - IN_IT < sent.ended < killed
    ] == []
    # What was under way when it died, and nothing else; all the rest waited.
    assert all(killed - IN_IT < sent.begun < killed + IN_IT for sent in outcome.unknown())
    assert outcome.refused() == []


def test_engine_killed_again_and_again(engine: RedisServer) -> None:
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        kills = []
        for _ in range(3):
            engine.kill()
            kills.append(time.monotonic())
            engine.start()
            back = time.monotonic()
            traffic.wait_until_flowing(back)
        outcome = judged("killed three times", traffic.finish(), back)

    def in_it(sent: Sent) -> bool:
        return any(killed - IN_IT < sent.ended < killed for killed in kills)

    assert [(sent.kind, sent.number) for sent in outcome.lost() if not in_it(sent)] == []
    assert outcome.refused() == []


def test_pause_of_three_seconds_raises_nothing(engine: RedisServer) -> None:
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        back = paused(engine, 3)
        traffic.wait_until_flowing(back)
        outcome = judged("CLIENT PAUSE of 3 s", traffic.finish(), back)

    assert outcome.lost() == []
    assert outcome.refused() == outcome.unknown() == []
    assert outcome.longest_wait() < 4


def test_pause_of_ten_seconds(engine: RedisServer) -> None:
    """As long as send_timeout: what was under way when it began may be told that nobody knows."""
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        began = time.monotonic()
        back = paused(engine, 10)
        traffic.wait_until_flowing(back)
        outcome = judged("CLIENT PAUSE of 10 s", traffic.finish(), back)

    assert outcome.lost() == []
    assert all(sent.begun < began + 0.5 for sent in [*outcome.refused(), *outcome.unknown()])


def test_out_of_reach_for_longer_than_send_timeout(engine: RedisServer) -> None:
    """A machine that stands still: connections stay, and nobody answers."""
    with Traffic(engine.url, send_timeout=2) as traffic:
        traffic.wait_until_flowing()
        engine.pause()
        began = time.monotonic()
        time.sleep(5)  # that long it stands still
        engine.resume()
        back = time.monotonic()
        traffic.wait_until_flowing(back)
        outcome = judged("standing still for 5 s, send_timeout 2 s", traffic.finish(), back)

    assert outcome.lost() == []
    assert outcome.refused() != []
    for sent in [*outcome.refused(), *outcome.unknown()]:
        assert "LayerUnavailable" in sent.error or "ReplyLost" in sent.error
        assert sent.ended - sent.begun < 3
        assert began - IN_IT < sent.begun < back


def test_memory_is_full_for_three_seconds(engine: RedisServer) -> None:
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        fill(engine)
        time.sleep(3)  # that long it is full
        empty(engine)
        back = time.monotonic()
        traffic.wait_until_flowing(back)
        outcome = judged("out of memory for 3 s", traffic.finish(), back)

    assert outcome.lost() == []
    assert outcome.refused() == outcome.unknown() == []


def test_memory_is_full_for_longer_than_send_timeout(engine: RedisServer) -> None:
    with Traffic(engine.url, send_timeout=2) as traffic:
        traffic.wait_until_flowing()
        fill(engine)
        full = time.monotonic()
        time.sleep(5)  # that long it is full
        empty(engine)
        back = time.monotonic()
        traffic.wait_until_flowing(back)
        outcome = judged("out of memory for 5 s, send_timeout 2 s", traffic.finish(), back)

    assert outcome.lost() == []
    assert outcome.unknown() == []
    assert outcome.refused() != []
    for sent in outcome.refused():
        assert "out of memory" in sent.error
        assert full - IN_IT < sent.begun < back


def test_everything_is_flushed_by_somebody(engine: RedisServer) -> None:
    """FLUSHALL: nobody tells; memberships come back with their renewal."""
    with Traffic(engine.url) as traffic:
        traffic.wait_until_flowing()
        engine.cli("FLUSHALL")
        flushed = time.monotonic()
        traffic.wait_until_flowing(flushed)
        outcome = judged("FLUSHALL", traffic.finish(), flushed, wanted=6.0)

    took = outcome.back_after(flushed)
    assert all(took[kind] < BACK_WITHIN for kind in KINDS if kind != "group")
    assert outcome.refused() == outcome.unknown() == []


# -- trouble -----------------------------------------------------------------------------------------


def paused(engine: RedisServer, seconds: float) -> float:
    """CLIENT PAUSE; returns when it is over, and the moment of that."""
    engine.cli("CLIENT", "PAUSE", int(seconds * 1000))
    # Answered when the pause is over.
    engine.cli("PING")
    return time.monotonic()


def fill(engine: RedisServer) -> None:
    """Reach `maxmemory`, with an engine that drops nothing for new things."""
    engine.cli("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")


def empty(engine: RedisServer) -> None:
    engine.cli("CONFIG", "SET", "maxmemory", "0")
