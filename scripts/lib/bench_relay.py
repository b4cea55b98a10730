"""
`scripts/bench relay`: what the relay and the channel layers cost.

Each row compares some contestants, which take turns, each started afresh for every measurement. The relayed
server is one process with the sockets and one worker, and may use both cores, as may the load generator beside
it; servers that do the same work in one process are pinned to a core, the generator to the other, as in the
main table. What the rows mean: docs/reference/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import bench_app
import bench_client
import bench_load
import bench_servers
import bench_table
from bench_client import WrongAnswer
from bench_rows import SHORT_TEXT, Sample, check_hello, check_short_text, settled_memory
from bench_servers import LIB, OURS, ROOT, SERVERS, RunningServer, Server, ServerFailed
from bench_setup import CannotRun, say

RELAYED = "relayed"
SOCKETS = 100
FLIGHT = 64
MIB = 1 << 20

RELAYED_SERVER = Server(
    RELAYED,
    "-m daphne_like -v 0 --workers 1 -b 127.0.0.1 -p {port} {application}",
    SERVERS[OURS].modules,
)

# The layers' packages, as servers have theirs: for the installation that is missing one.
LAYERS = (Server("channels", "", ("channels",)), Server("channels_redis", "", ("channels_redis",)))


@dataclass(frozen=True)
class Comparison:
    """
    A row.

    Args:
        contestants: names, ours first; each is measured by `measure(name, seconds)`.
        must, aim: (contestant, ratio of ours to it), or ("", bound) for a figure that may not be exceeded.
        difference: the figure judged is ours minus the second's, not a ratio.
    """

    key: str
    title: str
    unit: str
    contestants: tuple[str, ...]
    must: tuple[tuple[str, float], ...]
    aim: tuple[str, float]
    measure: Callable[[str, int], Sample]
    difference: bool = False


def started(name: str) -> AbstractContextManager[RunningServer]:
    """The server *name*, running: the relayed one and its generator on both cores, others on one each."""
    if name == RELAYED:
        os.sched_setaffinity(0, CORES)
        return bench_servers.running(RELAYED_SERVER, *CORES)
    os.sched_setaffinity(0, CORES[1:])
    return bench_servers.running(SERVERS[name], CORES[0])


# The server's, and the generator's: set by run().
CORES: list[int] = []


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


def pair(*words: str, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIB), str(ROOT)])}
    return subprocess.Popen(
        [sys.executable, str(LIB / "layer_pair.py"), *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        **more,
    )


def said(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate(timeout=60)
    if process.returncode or not out.strip():
        raise ServerFailed(f"layer_pair.py ended with status {process.returncode}")
    return json.loads(out.strip().splitlines()[-1])


def measure_memory_layer(name: str, seconds: int) -> Sample:
    os.sched_setaffinity(0, CORES[1:])
    return Sample(said(pair("memory", name, str(seconds)))["rate"])


def measure_pair(name: str, seconds: int) -> Sample:
    """Round trips a second between two processes, FLIGHT at a time."""
    os.sched_setaffinity(0, CORES)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        engine = None
        if name == "ours-ipc":
            url = f"ipc:{folder}/layer.sock?capacity=1000"
        else:
            port = bench_servers.free_port()
            url = f"redis://127.0.0.1:{port}/0"
            engine = start_redis(port, folder)
        try:
            echo = pair("echo", name, url, stdin=subprocess.PIPE)
            try:
                assert echo.stdout is not None and echo.stdin is not None
                if echo.stdout.readline().strip() != "ready":
                    raise ServerFailed(f"the echo over {name} did not start")
                found = said(pair("drive", name, url, str(seconds), str(FLIGHT)))
                echo.stdin.close()
                echo.wait(10)
            finally:
                echo.kill()
                echo.wait()
                echo.stdout.close()
        finally:
            if engine is not None:
                engine.terminate()
                engine.wait(10)
        return Sample(found["rate"])


def start_redis(port: int, folder: str) -> subprocess.Popen[bytes]:
    if shutil.which("redis-server") is None:
        raise ServerFailed("redis-server is not installed: `apt-get install redis-server`")
    engine = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return engine
        except OSError:
            if time.monotonic() > deadline:
                engine.kill()
                raise ServerFailed("redis-server accepts nothing") from None
            time.sleep(0.02)  # nothing can be waited for


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
        ),
    )
}

Cells = Mapping[str, bench_table.Cell]


def run(keys: list[str], rounds: int, seconds: int, cores: tuple[int, int]) -> int:
    """Measure and print; 0 where every row reached what it must, 1 otherwise."""
    CORES[:] = cores
    results: dict[str, dict[str, bench_table.Cell]] = {}
    for key in keys:
        row = ROWS[key]
        cells = results[key] = {name: bench_table.Cell() for name in row.contestants}
        for number in range(1, (rounds if key != "stream" else 1) + 1):
            for name in row.contestants:
                sample = measured(row, name, seconds)
                cells[name].samples.append(sample)
                say(
                    f"{key} {number}/{rounds} {name}: "
                    + ("; ".join(sample.errors) or f"{sample.value:,.0f} {row.unit}")
                )
    lines = [["work", "ours", "compared with", "must reach", "aim", "verdict"]]
    verdicts = []
    for key, cells in results.items():
        line = judged(ROWS[key], cells)
        verdicts.append(line[-1])
        lines.append(line)
    print("\n".join(bench_table.markdown(lines)))
    for key, cells in results.items():
        for name, cell in cells.items():
            for error in dict.fromkeys(cell.errors):
                print(f"warning: {key}: {name}: {error}")
            if cell.samples and len(cell.samples) > 1:
                say(f"spread {key} {name}: ±{cell.spread():.0%}")
    return 0 if all(each in (bench_table.AIM, bench_table.REACHED) for each in verdicts) else 1


def measured(row: Comparison, name: str, seconds: int) -> Sample:
    try:
        return row.measure(name, seconds)
    except (ServerFailed, WrongAnswer, OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Sample(0.0, errors=(f"{type(error).__name__}: {error}",))


def judged(row: Comparison, cells: Cells) -> list[str]:
    """One line of the table."""
    ours = cells[row.contestants[0]].median
    compared = []
    for name in row.contestants[1:]:
        theirs = cells[name].median
        words = "errors" if theirs is None else f"{theirs:,.0f}"
        if ours is not None and theirs:
            words += f" ({ours - theirs:+,.0f})" if row.difference else f" ({ours / theirs:.2f} x)"
        compared.append(f"{name} {words}")
    shown = "errors" if ours is None else f"{ours:,.0f} {row.unit}"
    return [
        row.title,
        shown,
        ", ".join(compared),
        " and ".join(demand_words(row, demand) for demand in row.must),
        demand_words(row, row.aim),
        verdict(row, cells),
    ]


def demand_words(row: Comparison, demand: tuple[str, float]) -> str:
    name, bound = demand
    return f">= {bound:g} x {name}" if name else f"<= {bound:g} {row.unit}"


def verdict(row: Comparison, cells: Cells) -> str:
    answers = [meets(row, demand, cells) for demand in row.must]
    if cells[row.contestants[0]].errors or False in answers:
        return bench_table.MISSED
    if None in answers:
        return bench_table.NOT_JUDGED
    return bench_table.AIM if meets(row, row.aim, cells) else bench_table.REACHED


def meets(row: Comparison, demand: tuple[str, float], cells: Cells) -> bool | None:
    name, bound = demand
    ours = cells[row.contestants[0]].median
    if ours is None:
        return None
    if name:
        theirs = cells[name].median
        return ours / theirs >= bound if theirs else None
    if row.difference:
        theirs = cells[row.contestants[1]].median
        return ours - theirs <= bound if theirs is not None else None
    return ours <= bound


def prepare(keys: list[str]) -> None:
    """What the rows need beside the servers. Raises CannotRun."""
    if "ipc" in keys and shutil.which("redis-server") is None:
        raise CannotRun("redis-server is not installed: `apt-get install redis-server`, or --only other rows")
