"""
`scripts/bench django`: one Django site under the servers that people would use.

The same site for all (bench_site): under our server with our handler, under uvicorn with Django's own, and, for
orientation, under gunicorn's threads and under granian. One process pinned to one core, the load generator to
another, but for the row with two workers, where everything may use both. What the rows mean:
docs/reference/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bench_client
import bench_load
import bench_servers
from bench_client import WrongAnswer
from bench_comparison import CORES, Comparison
from bench_relay import sampled
from bench_rows import Sample
from bench_servers import LIB, OURS, ROOT, SERVERS, RunningServer, Server
from bench_setup import CannotRun, say

STREAMS = 1000
SOCKETS = 1000
MESSAGE = b"m" * 64
FACTORY = "--factory bench_site.asgi:"

OUR_ARGUMENTS = "-m daphne_like -v 0 -b 127.0.0.1 -p {port} "
UVICORN_ARGUMENTS = (
    "-m uvicorn --no-access-log --loop uvloop --http httptools --ws websockets-sansio --host 127.0.0.1"
    " --port {port} "
)
GRANIAN_ARGUMENTS = "-m granian --workers 1 --runtime-threads 1 --host 127.0.0.1 --port {port} "

CONTESTANTS = {
    server.name: server
    for server in (
        Server(OURS, OUR_ARGUMENTS + FACTORY + "ours", SERVERS[OURS].modules),
        Server("uvicorn", UVICORN_ARGUMENTS + FACTORY + "djangos", SERVERS["uvicorn"].modules),
        Server(
            "gthread",
            "-m gunicorn --worker-class gthread --threads 32 --workers 1 -b 127.0.0.1:{port}"
            " bench_site.asgi:wsgi()",
            ("gunicorn",),
        ),
        Server(
            "granian wsgi", GRANIAN_ARGUMENTS + "--interface wsgi " + FACTORY + "wsgi", ("granian", "uvloop")
        ),
        Server(
            "granian asgi",
            GRANIAN_ARGUMENTS + "--interface asgi " + FACTORY + "djangos",
            ("granian", "uvloop"),
        ),
        Server("ours, 2 workers", OUR_ARGUMENTS + "--workers 2 " + FACTORY + "ours", SERVERS[OURS].modules),
        Server(
            "uvicorn, 2 workers",
            UVICORN_ARGUMENTS + "--workers 2 " + FACTORY + "djangos",
            SERVERS["uvicorn"].modules,
        ),
        Server("ours, chat", OUR_ARGUMENTS + FACTORY + "ours_with_chat", SERVERS[OURS].modules),
        Server(
            "uvicorn, chat", UVICORN_ARGUMENTS + FACTORY + "djangos_with_chat", SERVERS["uvicorn"].modules
        ),
    )
}

PEERS = ("gthread", "granian wsgi", "granian asgi")

# Where the site's database is, once prepare() has made it.
DATABASE: list[str] = []


def prepare() -> None:
    """Make the site's database, and say which peers are missing. Raises CannotRun."""
    if not all(bench_servers.importable(name) for name in ("django", "channels")):
        raise CannotRun("Django and Channels are not installed: `pip install daphne-like[bench]`")
    for name in PEERS:
        if missing := CONTESTANTS[name].missing_modules():
            say(f"{name} is left out: cannot import {', '.join(missing)}")
    folder = tempfile.mkdtemp(prefix="bench-django-")
    DATABASE[:] = [str(Path(folder, "site.sqlite3"))]
    done = subprocess.run(
        [sys.executable, "-c", MAKE_DATABASE],
        cwd=LIB,
        env={**os.environ, **environment(Site("bare")), "PYTHONPATH": os.pathsep.join([str(LIB), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CannotRun(f"the site's database could not be made: {done.stderr.strip()[-300:]}")


MAKE_DATABASE = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
from bench_site.models import Row
Row.objects.bulk_create(Row(pk=n, name=f"row {n}", number=n * n) for n in range(1, 51))
"""


@dataclass(frozen=True)
class Site:
    """
    What the site's settings are, for every contestant of a row.

    Args:
        middleware: "bare" or "startproject".
        max_age: seconds for which a database connection may be used again; 0 is Django's default.
        layer: the channel layer's class.
    """

    middleware: str = "startproject"
    max_age: int = 600
    layer: str = "channels.layers.InMemoryChannelLayer"


def environment(site: Site, *, app: bool = False) -> dict[str, str]:
    """What the site's settings read."""
    return {
        "DJANGO_SETTINGS_MODULE": "bench_site.settings",
        "BENCH_SITE_MIDDLEWARE": site.middleware,
        "BENCH_SITE_DATABASE": DATABASE[0],
        "BENCH_SITE_MAX_AGE": str(site.max_age),
        "BENCH_SITE_LAYER": site.layer,
        "BENCH_SITE_APP": "1" if app else "0",
    }


@contextlib.contextmanager
def started(name: str, site: Site, *, both_cores: bool = False) -> Iterator[RunningServer]:
    """The contestant *name*, running."""
    os.environ.update(environment(site, app=name == "ours, chat"))
    os.sched_setaffinity(0, CORES if both_cores else CORES[1:])
    with bench_servers.running(CONTESTANTS[name], *(CORES if both_cores else CORES[:1])) as server:
        yield server


def wire_size(port: int, path: str) -> int:
    """Octets of the response, which must be a 200 with a body."""
    with bench_client.Connection(port) as connection:
        connection.send(bench_client.request_bytes("GET", path))
        response = connection.response()
    if response.status != 200 or not response.body:
        raise WrongAnswer(f"{path}: status {response.status}, {len(response.body)} octets")
    return response.wire_size


def requests(path: str, site: Site, *, both_cores: bool = False) -> Callable[[str, int], Sample]:
    """How a row measures requests for *path*."""

    def measure(name: str, seconds: int) -> Sample:
        with started(name, site, both_cores=both_cores) as server:
            size = wire_size(server.port, path)
            bench_load.wrk(server.port, path, size, 1)
            return sampled(server, lambda: bench_load.wrk(server.port, path, size, seconds))

    return measure


def measure_streams(name: str, seconds: int) -> Sample:
    """Threads of the server's processes while event streams are held."""
    with started(name, Site()) as server:
        held = []
        try:
            for _ in range(STREAMS):
                connection = bench_client.Connection(server.port)
                held.append(connection)
                connection.send(bench_client.request_bytes("GET", "/events/"))
                connection.take_until(b"data: first\n\n")
            server.check_alive()
            return Sample(sum(len(os.listdir(f"/proc/{pid}/task")) for pid in server.pids()))
        finally:
            for connection in held:
                connection.socket.close()


def chat(site: Site) -> Callable[[str, int], Sample]:
    """How a row measures what is said in a room."""

    def measure(name: str, seconds: int) -> Sample:
        """Deliveries a second: one socket speaks, all of them hear it, then the next one speaks."""
        with started(name, site) as server:
            connections = []
            poller = select.epoll()
            try:
                for _ in range(SOCKETS):
                    connection = bench_client.Connection(server.port)
                    connections.append(connection)
                    connection.open_websocket()
                    connection.socket.setblocking(False)
                by_number = {connection.socket.fileno(): connection.socket for connection in connections}
                for number in by_number:
                    poller.register(number, select.EPOLLIN)
                frame = bench_client.text_frame(MESSAGE)
                reply = 2 + len(MESSAGE)
                begun = end = 0.0
                delivered = 0
                for turn in range(10**9):
                    if turn == 3:  # warm
                        begun, end, delivered = time.perf_counter(), time.perf_counter() + seconds, 0
                    elif turn > 3 and time.perf_counter() >= end:
                        break
                    connections[turn % SOCKETS].socket.send(frame)
                    missing = SOCKETS * reply
                    while missing:
                        ready = poller.poll(bench_client.TIMEOUT)
                        if not ready:
                            raise WrongAnswer(f"{missing // reply} of {SOCKETS} did not hear it")
                        for number, _ in ready:
                            received = by_number[number].recv(65536)
                            if not received:
                                raise WrongAnswer("connection closed")
                            missing -= len(received)
                    delivered += SOCKETS
                server.check_alive()
                return Sample(delivered / (time.perf_counter() - begun))
            finally:
                poller.close()
                for connection in connections:
                    connection.socket.close()

    return measure


def row(
    key: str, title: str, path: str, site: Site, must: float, aim: float, peers: tuple[str, ...]
) -> Comparison:
    installed = tuple(name for name in peers if not CONTESTANTS[name].missing_modules())
    return Comparison(
        key,
        title,
        "requests/s",
        (OURS, "uvicorn", *installed),
        (("uvicorn", must),),
        ("uvicorn", aim),
        requests(path, site),
        needs_wrk=True,
    )


def chat_row(key: str, title: str, site: Site) -> Comparison:
    return Comparison(
        key,
        title,
        "deliveries/s",
        ("ours, chat", "uvicorn, chat"),
        (("uvicorn, chat", 2),),
        ("uvicorn, chat", 4),
        chat(site),
    )


ROWS = {
    each.key: each
    for each in (
        row("hello", "sync hello, no middleware", "/", Site("bare"), 7, 12, PEERS[:2]),
        row("startproject", "sync hello, `startproject` middleware", "/", Site(), 9, 14, PEERS[:2]),
        row("row", "one SQLite row, `startproject`", "/row/", Site(), 5.5, 9, PEERS[:2]),
        row(
            "row-opened",
            "the same, a connection for each request (Django's default)",
            "/row/",
            Site(max_age=0),
            3.5,
            5.5,
            PEERS[:2],
        ),
        row("async", "async hello, `startproject`", "/async/", Site(), 6, 9, (PEERS[0], PEERS[2])),
        row("aget", "`aget` of one row, `startproject`", "/async-row/", Site(), 3, 4, PEERS[2:]),
        row("table", "template of 50 rows", "/table/", Site(), 1.8, 2.4, PEERS[:2]),
        row("slow", "10 % of requests sleep 50 ms", "/sometimes-slow/", Site(), 4.5, 7, PEERS[:1]),
        Comparison(
            "workers",
            "sync hello with two workers on both cores",
            "requests/s",
            ("ours, 2 workers", "uvicorn, 2 workers"),
            (("uvicorn, 2 workers", 5),),
            ("uvicorn, 2 workers", 9),
            requests("/", Site(), both_cores=True),
            needs_wrk=True,
        ),
        Comparison(
            "streams",
            f"threads with {STREAMS} held event streams of an async view",
            "threads",
            (OURS, "uvicorn"),
            (("", 20),),
            ("", 20),
            measure_streams,
            once=True,
        ),
        chat_row(
            "chat", "unmodified Channels chat, 1000 sockets in one group, Channels' memory layer", Site()
        ),
        chat_row(
            "chat-ours",
            "the same, our memory layer under both servers",
            Site(layer="daphne_like.layers.memory.MemoryChannelLayer"),
        ),
    )
}
