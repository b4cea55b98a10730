"""
The rows of the table: for each, the work, the check made before it is timed, and what daphne_like owes.

`ROWS` is the whole list, in the order of the table. A demand compares our median with a peer's (a ratio that
must be reached) or, for memory, with a number of bytes that must not be exceeded. Names on the command line
are the keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import bench_app
import bench_client
import bench_load
from bench_load import Load
from bench_servers import REFERENCE, RunningServer

POST_BODY = b"x" * 10240
PIPELINE = 16
SHORT_TEXT = b"w" * 64
LONG_TEXT = b"w" * 10240

IDLE_CONNECTIONS = 4000
# How long resident memory may take to stop changing after a burst, and what "stopped" means.
SETTLING_TIMEOUT = 3.0
SETTLING_INTERVAL = 0.05
SETTLED_READINGS = 6


@dataclass(frozen=True)
class Demand:
    """
    Args:
        bound: least ratio to *peer*, or most bytes where *peer* is None.
        peer: the server compared with.
    """

    bound: float
    peer: str | None = REFERENCE


@dataclass(frozen=True)
class Sample:
    """
    One measurement of one server.

    Args:
        value: the row's figure (per second, or bytes per connection); meaningless when there are errors.
        server_cpu, generator_cpu: shares of a core, 0 to 1; None where nothing is driven.
        errors: sentences.
    """

    value: float
    server_cpu: float | None = None
    generator_cpu: float | None = None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """
    Args:
        key: its name on the command line.
        must, aim: the issue's two columns; the aim has the form of the first demand.
        prepare: checks the answers and returns their size on the wire; raises WrongAnswer or OSError.
        drive: runs the load for some seconds; None for the memory rows.
        websocket: which kind of connection a memory row holds open.
    """

    key: str
    title: str
    unit: str
    must: tuple[Demand, ...]
    aim: Demand
    prepare: Callable[[int], int]
    drive: Callable[[int, int, int], Load] | None
    needs_wrk: bool = True
    websocket: bool = False

    @property
    def is_memory(self) -> bool:
        return self.drive is None


def measure_load(row: Row, server: RunningServer, seconds: int, warm_up: int) -> Sample:
    """Check, warm up, measure. Raises WrongAnswer, OSError or ServerFailed."""
    assert row.drive is not None
    wire_size = row.prepare(server.port)
    if warm_up:
        row.drive(server.port, wire_size, warm_up)
    cpu, begun = server.cpu_seconds(), time.perf_counter()
    load = row.drive(server.port, wire_size, seconds)
    elapsed = time.perf_counter() - begun
    cpu = server.cpu_seconds() - cpu
    server.check_alive()
    return Sample(load.rate, cpu / elapsed, load.cpu, load.errors)


def measure_memory(row: Row, server: RunningServer, count: int) -> Sample:
    """
    Growth of resident memory per open connection that has done its work and is idle.

    A batch of connections is opened and closed beforehand, so that what a server loads or allocates once is
    not counted.
    """
    row.prepare(server.port)
    bench_load.idle_connections(server.port, bench_load.CONNECTIONS, websocket=row.websocket).close()
    before = settled_memory(server)
    idle = bench_load.idle_connections(server.port, count, websocket=row.websocket)
    try:
        errors = list(idle.errors)
        after = settled_memory(server)
        if not errors and (closed := bench_load.closed_by_server(idle)):
            errors.append(f"{closed} of {count} idle connections were closed by the server")
    finally:
        idle.close()
    server.check_alive()
    return Sample((after - before) / count, errors=tuple(errors))


def settled_memory(server: RunningServer) -> int:
    """Resident bytes once they have stayed the same for some readings, or after SETTLING_TIMEOUT."""
    deadline = time.monotonic() + SETTLING_TIMEOUT
    last, same = server.resident_bytes(), 1
    while same < SETTLED_READINGS and time.monotonic() < deadline:
        time.sleep(SETTLING_INTERVAL)
        now = server.resident_bytes()
        last, same = now, same + 1 if now == last else 1
    return last


# The checks and the loads of ROWS.


def check_hello(port: int) -> int:
    return bench_client.check_http(port, "GET", "/", b"", bench_app.HELLO)


def check_echo(port: int) -> int:
    return bench_client.check_http(port, "POST", "/echo", POST_BODY, POST_BODY)


def check_chunks(port: int) -> int:
    return bench_client.check_http(port, "GET", "/chunks", b"", bench_app.CHUNK * bench_app.CHUNKS)


def check_large(port: int) -> int:
    return bench_client.check_http(port, "GET", "/large", b"", bench_app.LARGE)


def check_connect(port: int) -> int:
    return bench_client.check_http(port, "GET", "/", b"", bench_app.HELLO, close=True)


def check_pipeline(port: int) -> int:
    return bench_client.check_http(port, "GET", "/", b"", bench_app.HELLO, times=PIPELINE)


def check_short_text(port: int) -> int:
    return bench_client.check_websocket(port, SHORT_TEXT)


def check_long_text(port: int) -> int:
    return bench_client.check_websocket(port, LONG_TEXT)


def drive_hello(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.wrk(port, "/", wire_size, seconds)


def drive_echo(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.wrk(port, "/echo", wire_size, seconds, method="POST", body_size=len(POST_BODY))


def drive_chunks(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.wrk(port, "/chunks", wire_size, seconds)


def drive_large(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.large_responses(port, "/large", wire_size, seconds)


def drive_connect(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.wrk(port, "/", wire_size, seconds, close=True)


def drive_pipeline(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.wrk(port, "/", wire_size, seconds, pipeline=PIPELINE)


def drive_short_text(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.websocket_echo(port, SHORT_TEXT, wire_size, seconds)


def drive_long_text(port: int, wire_size: int, seconds: int) -> Load:
    return bench_load.websocket_echo(port, LONG_TEXT, wire_size, seconds)


PER_SECOND = "requests/s"
KB = 1000

ROWS = {
    row.key: row
    for row in (
        Row(
            "hello",
            "hello world, keep-alive",
            PER_SECOND,
            (Demand(1.4), Demand(1.2, "granian")),
            Demand(1.9),
            check_hello,
            drive_hello,
        ),
        Row("post", "POST 10 KB echo", PER_SECOND, (Demand(1.4),), Demand(2.0), check_echo, drive_echo),
        Row(
            "chunks",
            "response of 100 chunks of 1 KB",
            PER_SECOND,
            (Demand(4),),
            Demand(8),
            check_chunks,
            drive_chunks,
        ),
        Row(
            "large",
            "1 MB response",
            PER_SECOND,
            (Demand(1.0),),
            Demand(1.5),
            check_large,
            drive_large,
            needs_wrk=False,
        ),
        Row(
            "connect",
            "new connection per request",
            PER_SECOND,
            (Demand(1.0),),
            Demand(1.4),
            check_connect,
            drive_connect,
        ),
        Row(
            "pipeline",
            "16 pipelined",
            PER_SECOND,
            (Demand(2.5),),
            Demand(5),
            check_pipeline,
            drive_pipeline,
        ),
        Row(
            "ws-64",
            "WebSocket echo 64 B",
            "messages/s",
            (Demand(1.3),),
            Demand(1.9),
            check_short_text,
            drive_short_text,
            needs_wrk=False,
        ),
        Row(
            "ws-10k",
            "WebSocket echo 10 KB",
            "messages/s",
            (Demand(1.3),),
            Demand(1.9),
            check_long_text,
            drive_long_text,
            needs_wrk=False,
        ),
        Row(
            "memory-ws",
            "memory per idle WebSocket",
            "KB",
            (Demand(12 * KB, None),),
            Demand(8 * KB, None),
            check_short_text,
            None,
            needs_wrk=False,
            websocket=True,
        ),
        Row(
            "memory-http",
            "memory per idle keep-alive connection",
            "KB",
            (Demand(6 * KB, None),),
            Demand(4 * KB, None),
            check_hello,
            None,
            needs_wrk=False,
        ),
    )
}
