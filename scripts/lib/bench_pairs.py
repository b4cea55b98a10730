"""
Measurements of a layer between processes: each starts layer_pair.py, and a redis-server where it takes one.

The engine is a fresh one on loopback for every measurement, without persistence. All processes may use both
cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import bench_servers
from bench_comparison import CORES
from bench_rows import Sample
from bench_servers import LIB, ROOT, Server, ServerFailed
from bench_setup import CannotRun

# The layers' packages, as servers have theirs: for the installation that is missing one.
LAYERS = (
    Server("channels", "", ("channels",)),
    Server("channels_redis", "", ("channels_redis",)),
    Server("redis", "", ("redis", "hiredis")),
)

# Messages that are under way at a time.
FLIGHT = 64
# Each of so many processes has so many channels in the group.
MEMBER_PROCESSES = 2
MEMBERS = 500


def require_redis() -> None:
    """Raises CannotRun."""
    if shutil.which("redis-server") is None:
        raise CannotRun("redis-server is not installed: `apt-get install redis-server`, or --only other rows")


@contextlib.contextmanager
def engine() -> Iterator[int]:
    """The port of a redis-server that runs inside of the block."""
    port = bench_servers.free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until_accepting(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def wait_until_accepting(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ServerFailed("redis-server accepts nothing") from None
            time.sleep(0.02)  # nothing can be waited for


@contextlib.contextmanager
def layer_url(name: str) -> Iterator[str]:
    """What layer_pair.py's *name* is opened with: a socket in a folder of its own, or an engine."""
    if name == "ours-ipc":
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            yield f"ipc:{folder}/layer.sock?capacity=1000"
    else:
        with engine() as port:
            yield f"redis://127.0.0.1:{port}/0"


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


@contextlib.contextmanager
def helper(*words: str) -> Iterator[None]:
    """A layer_pair.py that has said "ready", until the end of the block."""
    process = pair(*words, stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise ServerFailed(f"layer_pair.py {words[0]} over {words[1]} did not start")
        yield
        process.stdin.close()
        process.wait(10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure_memory_layer(name: str, seconds: int) -> Sample:
    os.sched_setaffinity(0, CORES[1:])
    return Sample(said(pair("memory", name, str(seconds)))["rate"])


def round_trips(name: str, seconds: int, flight: int) -> dict[str, float]:
    """ "rate" per second, and "median" seconds of one, between two processes."""
    os.sched_setaffinity(0, CORES)
    with layer_url(name) as url, helper("echo", name, url):
        return said(pair("drive", name, url, str(seconds), str(flight)))


def measure_pair(name: str, seconds: int) -> Sample:
    """Round trips a second between two processes, FLIGHT at a time."""
    return Sample(round_trips(name, seconds, FLIGHT)["rate"])


def measure_alone(name: str, seconds: int) -> Sample:
    """Microseconds of one round trip after another: the median."""
    return Sample(round_trips(name, seconds, 1)["median"] * 1e6)


def measure_group(name: str, seconds: int) -> Sample:
    """Deliveries a second of messages to a group, FLIGHT at a time; each must reach every member."""
    os.sched_setaffinity(0, CORES)
    with layer_url(name) as url:
        words = [str(seconds), str(FLIGHT), str(MEMBER_PROCESSES), str(MEMBERS)]
        return Sample(said(pair("group", name, url, *words))["rate"])
