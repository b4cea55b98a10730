"""
`scripts/bench layers`: the layer on Redis beside channels_redis, on the same engine.

Every measurement has a fresh redis-server on loopback, and all its processes (the engine, the two or three that
use the layer, or server, worker and load generator) may use both cores. What the rows mean:
docs/reference/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import bench_load
import bench_servers
from bench_comparison import CORES, Comparison
from bench_pairs import (
    FLIGHT,
    MEMBER_PROCESSES,
    MEMBERS,
    engine,
    measure_alone,
    measure_group,
    measure_pair,
    require_redis,
)
from bench_relay import measure_hello as measure_hello_in_process
from bench_relay import sampled
from bench_rows import Sample, check_hello
from bench_servers import OURS, SERVERS, RunningServer, Server

RELAYED = "relayed"
RELAYED_CORE = "relayed-redis-core"

# The newest redis-py gives up reading after five seconds, as long as channels_redis waits for a message.
LAYER_URLS = {
    RELAYED: "redis://127.0.0.1:{engine}/0",
    RELAYED_CORE: "channels_redis.core.RedisChannelLayer?capacity=1000&hosts="
    "[%7B%22address%22:%22redis://127.0.0.1:{engine}%22,%22socket_timeout%22:30%7D]",
}
LAYERS = ("ours-redis", "redis-core", "redis-pubsub")


@contextlib.contextmanager
def relayed(name: str) -> Iterator[RunningServer]:
    """A server and one worker that meet on a fresh engine."""
    os.sched_setaffinity(0, CORES)
    with engine() as port:
        url = LAYER_URLS[name].format(engine=port)
        words = f"-m daphne_like -v 0 --workers 1 --layer {url} -b 127.0.0.1 -p {{port}} {{application}}"
        with bench_servers.running(Server(name, words, SERVERS[OURS].modules), *CORES) as server:
            yield server


def measure_hello(name: str, seconds: int) -> Sample:
    if name not in LAYER_URLS:
        return measure_hello_in_process(name, seconds)
    with relayed(name) as server:
        wire_size = check_hello(server.port)
        bench_load.wrk(server.port, "/", wire_size, 1)
        return sampled(server, lambda: bench_load.wrk(server.port, "/", wire_size, seconds))


ROWS = {
    row.key: row
    for row in (
        Comparison(
            "pair",
            f"send + receive round trips between two processes, {FLIGHT} in flight, 600 B",
            "round trips/s",
            LAYERS,
            (("redis-core", 30),),
            ("redis-core", 70),
            measure_pair,
        ),
        Comparison(
            "latency",
            "the same at concurrency 1, median",
            "us",
            LAYERS,
            # 250 us where pub/sub takes 270, and 150: what a wake-up takes differs from machine to machine.
            (("redis-pubsub", 0.92),),
            ("redis-pubsub", 0.55),
            measure_alone,
            smaller=True,
        ),
        Comparison(
            "group",
            f"group_send to {MEMBER_PROCESSES * MEMBERS} members on {MEMBER_PROCESSES} processes, "
            f"{FLIGHT} under way",
            "deliveries/s",
            LAYERS,
            (("redis-core", 20),),
            ("redis-core", 100),
            measure_group,
        ),
        Comparison(
            "hello",
            "hello through server + redis + 1 worker",
            "requests/s",
            (RELAYED, "uvicorn", RELAYED_CORE),
            (("uvicorn", 0.2),),
            ("uvicorn", 0.4),
            measure_hello,
            needs_wrk=True,
        ),
    )
}


def prepare() -> None:
    """What all rows need beside the servers. Raises CannotRun."""
    require_redis()
