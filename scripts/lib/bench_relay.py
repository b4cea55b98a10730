"""
`scripts/bench relay`: what the relay and the channel layers cost.

Each row compares some contestants, which take turns, each started afresh for every measurement. The relayed
server is one process with the sockets and one worker, and may use both cores, as may the load generator beside
it; servers that do the same work in one process are pinned to a core, the generator to the other, as in the
main table. What the rows mean: docs/reference/benchmarks.md.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import bench_app
import bench_client
import bench_load
import bench_servers
from bench_client import WrongAnswer
from bench_comparison import CORES, Comparison
from bench_pairs import FLIGHT, measure_memory_layer, measure_pair, require_redis
from bench_rows import SHORT_TEXT, Sample, check_hello, check_short_text, settled_memory
from bench_servers import OURS, SERVERS, RunningServer, Server

RELAYED = "relayed"
SOCKETS = 100
MIB = 1 << 20

RELAYED_SERVER = Server(
    RELAYED,
    "-m daphne_like -v 0 --workers 1 -b 127.0.0.1 -p {port} {application}",
    SERVERS[OURS].modules,
)


def started(name: str) -> AbstractContextManager[RunningServer]:
    """The server *name*, running: the relayed one and its generator on both cores, others on one each."""
    if name == RELAYED:
        os.sched_setaffinity(0, CORES)
        return bench_servers.running(RELAYED_SERVER, *CORES)
    os.sched_setaffinity(0, CORES[1:])
    return bench_servers.running(SERVERS[name], CORES[0])


def measure_hello(name: str, seconds: int) -> Sample:
    with started(name) as server:
        wire_size = check_hello(server.port)
        bench_load.wrk(server.port, "/", wire_size, 1)
        return sampled(server, lambda: bench_load.wrk(server.port, "/", wire_size, seconds))


def measure_echo(name: str, seconds: int) -> Sample:
    with started(name) as server:
        wire_size = check_short_text(server.port)
        drive = bench_load.websocket_echo
        drive(server.port, SHORT_TEXT, wire_size, 1, SOCKETS)
        return sampled(server, lambda: drive(server.port, SHORT_TEXT, wire_size, seconds, SOCKETS))


def sampled(server: RunningServer, drive: Callable[[], bench_load.Load]) -> Sample:
    cpu, begun = server.cpu_seconds(), time.perf_counter()
    load = drive()
    share = (server.cpu_seconds() - cpu) / (time.perf_counter() - begun)
    server.check_alive()
    return Sample(load.rate, share, load.cpu, load.errors)


def measure_latency(name: str, seconds: int) -> Sample:
    """Microseconds for one request after another on one connection: the median."""
    with started(name) as server:
        wire_size = check_hello(server.port)
        request = bench_client.request_bytes("GET", "/")
        times = []
        with bench_client.Connection(server.port) as connection:
            end = time.perf_counter() + seconds + 0.5
            while (begun := time.perf_counter()) < end:
                connection.socket.sendall(request)
                missing = wire_size
                while missing > 0:
                    received = len(connection.socket.recv(65536))
                    if not received:
                        raise WrongAnswer("connection closed")
                    missing -= received
                times.append(time.perf_counter() - begun)
        return Sample(statistics.median(times[len(times) // 10 :]) * 1e6)


def measure_stream(name: str, seconds: int) -> Sample:
    """Most that resident memory of all processes grew by, while 1 GiB went down and 1 GiB up."""
    with started(name) as server:
        for _ in range(3):
            download(server.port, "/large", len(bench_app.LARGE))
            upload(server.port, 4 * MIB)
        before = settled_memory(server)
        peak = before
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, server.resident_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            download(server.port, "/gigabyte", bench_app.GIGABYTE)
            upload(server.port, bench_app.GIGABYTE)
        finally:
            done.set()
            watcher.join()
        server.check_alive()
        return Sample(max(0, peak - before) / MIB)


def download(port: int, path: str, size: int) -> None:
    with bench_client.Connection(port) as connection:
        connection.send(bench_client.request_bytes("GET", path))
        connection.take_until(b"\r\n\r\n")
        received = len(connection.buffer)
        buffer = bytearray(1 << 18)
        while received < size:
            count = connection.socket.recv_into(buffer)
            if not count:
                raise WrongAnswer(f"connection closed after {received} of {size} bytes")
            received += count
        if received != size:
            raise WrongAnswer(f"{received} bytes instead of {size}")


def upload(port: int, size: int) -> None:
    with bench_client.Connection(port) as connection:
        connection.socket.settimeout(60)
        connection.send(b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        piece = bytes(MIB)
        for _ in range(size // MIB):
            connection.send(piece)
        body = connection.response().body
        if body != b"%d" % size:
            raise WrongAnswer(f"the application counted {body!r} of {size} bytes")


ROWS = {
    row.key: row
    for row in (
        Comparison(
            "hello",
            "hello through server + 1 worker over ipc",
            "requests/s",
            (RELAYED, "uvicorn", "daphne"),
            (("uvicorn", 0.4), ("daphne", 2.5)),
            ("uvicorn", 0.7),
            measure_hello,
            needs_wrk=True,
        ),
        Comparison(
            "latency",
            "added latency at concurrency 1, median",
            "us",
            (RELAYED, OURS),
            (("", 300),),
            ("", 150),
            measure_latency,
            difference=True,
        ),
        Comparison(
            "ws-64",
            f"WebSocket echo 64 B relayed, {SOCKETS} sockets",
            "messages/s",
            (RELAYED, "uvicorn"),
            (("uvicorn", 0.35),),
            ("uvicorn", 0.6),
            measure_echo,
        ),
        Comparison(
            "memory",
            "layer send + receive, memory",
            "pairs/s",
            ("ours-memory", "channels-memory"),
            (("channels-memory", 2),),
            ("channels-memory", 5),
            measure_memory_layer,
        ),
        Comparison(
            "ipc",
            f"layer round trips across processes, {FLIGHT} in flight",
            "round trips/s",
            ("ours-ipc", "redis-core", "redis-pubsub"),
            (("redis-core", 40),),
            ("redis-core", 80),
            measure_pair,
        ),
        Comparison(
            "stream",
            "1 GiB down and up: growth of memory",
            "MiB",
            (RELAYED,),
            (("", 32),),
            ("", 8),
            measure_stream,
            once=True,
        ),
    )
}


def prepare(keys: list[str]) -> None:
    """What the rows need beside the servers. Raises CannotRun."""
    if "ipc" in keys:
        require_redis()
