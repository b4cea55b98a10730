"""
A Django site on a real PostgreSQL: how many connections it opens, how long they last, what becomes of dead ones.

The site runs in a process of its own, embedded and in workers, with the kinds of views that there are. Who is
connected is asked of the server (pg_stat_activity), and what was ever opened counted in its log.
"""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.django.projects import make_project
from tests.end_to_end.clients import fetch
from tests.end_to_end.postgres import Postgres, postgres_server
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

pytest.importorskip("django", reason="the demo's requirements are not installed: pip install -e '.[demo]'")
pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary,pool]'")
connect_websocket = pytest.importorskip("websockets.sync.client").connect

pytestmark = pytest.mark.time_limit(90)

SITE = f"{APPLICATIONS}.postgres_site:application"
KINDS = ("/sync/", "/transaction/", "/aget/", "/calls/")
# Where there are many requests.
MOSTLY_SYNC = (*("/sync/",) * 37, *KINDS[1:])

THREADS = 6
POOL = 4
CLIENTS = 64

PERSISTENT = {"CONN_MAX_AGE": 600}
POOLED = {"OPTIONS": {"pool": {"min_size": 1, "max_size": POOL, "timeout": 20}}}
HEALTHY = {"CONN_HEALTH_CHECKS": True}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        server.execute("CREATE TABLE seat (id integer PRIMARY KEY, name text NOT NULL)")
        server.execute("INSERT INTO seat SELECT number, 'seat' FROM generate_series(1, 20) AS number")
        yield server


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Who the site of this test is for PostgreSQL."""
    return "".join(each if each.isalnum() else "-" for each in request.node.name)[-60:]


@contextmanager
def site(
    postgres: Postgres, name: str, database: dict[str, Any], *words: str, failures: bool = False
) -> Iterator[ServerProcess]:
    """The site, on THREADS threads; afterwards it has left no connection."""
    environment = {"DATABASE": json.dumps(postgres.settings(database, name))}
    threads = ("--threads", "2", "--max-threads", str(THREADS), "--access-log", "")
    with serving(
        "-p", "0", *threads, *words, SITE, environment=environment, expected_trouble=failures
    ) as server:
        yield server
    eventually(lambda: not postgres.connections(name))


@dataclass
class Crowd:
    """
    Clients that ask all at once, each over a connection that it keeps.

    Attributes:
        statuses: how many answers had which.
        backends: of PostgreSQL, that answers came over; processes: of the site, that they came from.
        peak: the most connections that were open at any look.
    """

    server: ServerProcess
    statuses: Counter[int] = field(default_factory=Counter)
    backends: set[int] = field(default_factory=set)
    processes: set[int] = field(default_factory=set)
    peak: int = 0
    _awaited: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def answered(self, count: int) -> None:
        """Wait until so many have been answered."""
        self._awaited = count
        await self._reached.wait()

    async def ask(self, *targets: str, count: int, clients: int = CLIENTS) -> None:
        """Have *count* requests answered, for each of *targets* in turn."""
        left = iter(range(count))
        await asyncio.gather(*(self._client(targets, left) for _ in range(clients)))

    async def _client(self, targets: tuple[str, ...], left: Iterator[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            for number in left:
                target = targets[number % len(targets)]
                writer.write(f"GET {target} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
                self._note(*await self._response(reader))
        finally:
            writer.close()

    async def _response(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        async with asyncio.timeout(30):
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            fields = dict(line.split(b": ", 1) for line in lines[1:-2])
            return int(lines[0].split()[1]), await reader.readexactly(int(fields[b"content-length"]))

    def _note(self, status: int, body: bytes) -> None:
        self.statuses[status] += 1
        if self.statuses.total() == self._awaited:
            self._reached.set()
        if status == 200:
            answer = json.loads(body)
            self.backends |= set(answer["backends"])
            self.processes.add(answer["process"])

    @asynccontextmanager
    async def counted(self, postgres: Postgres, name: str) -> AsyncIterator[None]:
        """Look again and again how many connections are open."""

        async def look() -> None:
            while True:
                self.peak = max(self.peak, len(await asyncio.to_thread(postgres.connections, name)))
                await asyncio.sleep(0.01)  # or looking would be what the server does

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait((looking,))
        if not looking.cancelled():
            looking.result()


def words_for(workers: int) -> tuple[str, ...]:
    return ("--workers", str(workers)) if workers else ()


# -- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "workers", "limit"),
    [
        pytest.param(PERSISTENT, 0, THREADS, id="persistent"),
        pytest.param(PERSISTENT, 2, 2 * THREADS, id="persistent-workers"),
        pytest.param(POOLED, 0, POOL, id="pool"),
        pytest.param(POOLED, 2, 2 * POOL, id="pool-workers"),
    ],
)
async def test_64_requests_at_once_open_no_more_connections_than_allowed(
    postgres: Postgres, name: str, database: dict[str, Any], workers: int, limit: int
) -> None:
    """Each waits for the database for a while, so that all threads are wanted, and all of the pool."""
    with site(postgres, name, database, *words_for(workers)) as server:
        if workers:
            server.stderr.wait_for("worker ready", count=workers)
        crowd = Crowd(server)
        async with crowd.counted(postgres, name):
            await crowd.ask(*(f"{kind}?seconds=0.02" for kind in KINDS), count=4 * CLIENTS)
        assert crowd.statuses == {200: 4 * CLIENTS}
        assert limit / 2 < crowd.peak <= limit
        assert len(crowd.backends) <= postgres.opened(name) <= limit


async def test_connections_that_do_not_persist_are_closed_with_their_requests(
    postgres: Postgres, name: str
) -> None:
    """As Django's default is. PostgreSQL counts one that was closed until its process has ended."""
    with site(postgres, name, {}) as server:
        crowd = Crowd(server)
        async with crowd.counted(postgres, name):
            await crowd.ask(*(f"{kind}?seconds=0.02" for kind in KINDS), count=2 * CLIENTS)
        assert crowd.statuses == {200: 2 * CLIENTS}
        assert crowd.peak <= 2 * THREADS
        eventually(lambda: not postgres.connections(name))


async def test_results_that_are_read_in_parts_are_read_to_their_end(postgres: Postgres, name: str) -> None:
    """
    More views than threads, each with a cursor open while it waits for something else: those that have begun
    keep their connections, and the others wait.
    """
    with site(postgres, name, {}) as server:
        crowd = Crowd(server)
        async with crowd.counted(postgres, name):
            await crowd.ask("/walk/?seconds=0.01", count=3 * THREADS)
        assert crowd.statuses == {200: 3 * THREADS}
        assert crowd.peak <= 2 * THREADS


def test_consumers_of_a_process_share_one_connection(postgres: Postgres, name: str) -> None:
    """They run their database calls in the one thread that asgiref has for them, beside those of requests."""
    with site(postgres, name, PERSISTENT) as server, ExitStack() as stack:
        sockets = [
            stack.enter_context(connect_websocket(f"ws://127.0.0.1:{server.port}/", compression=None))
            for _ in range(20)
        ]
        for socket in sockets:
            socket.send("")
        assert len({socket.recv(timeout=20) for socket in sockets}) == 1
        assert postgres.opened(name) == 1


# -- how long -------------------------------------------------------------------------------------


async def test_none_leaks_over_10000_requests(postgres: Postgres, name: str) -> None:
    """Those that were opened first serve to the end."""
    with site(postgres, name, PERSISTENT) as server:
        crowd = Crowd(server)
        await crowd.ask(*MOSTLY_SYNC, count=10_000)
        assert crowd.statuses == {200: 10_000}
        assert len(crowd.backends) <= postgres.opened(name) <= THREADS
        assert crowd.backends <= postgres.connections(name)


async def test_none_leaks_over_10000_requests_and_a_reload(postgres: Postgres, name: str) -> None:
    """The new workers open connections of their own, and those of the old ones are closed."""
    with site(postgres, name, PERSISTENT, "--workers", "2") as server:
        server.stderr.wait_for("worker ready", count=2)
        crowd = Crowd(server)
        asking = asyncio.create_task(crowd.ask(*MOSTLY_SYNC, count=10_000))
        await crowd.answered(4_000)
        server.signal(signal.SIGHUP)
        await asking
        assert crowd.statuses == {200: 10_000}
        await asyncio.to_thread(server.stderr.wait_for, "worker ended", count=2)
        assert len(crowd.processes) == 4
        assert postgres.opened(name) <= 4 * THREADS
        after = Crowd(server)
        await after.ask(*KINDS, count=CLIENTS)
        assert after.statuses == {200: CLIENTS}
        assert after.processes < crowd.processes
        eventually(lambda: len(postgres.connections(name)) <= 2 * THREADS)
        assert after.backends <= postgres.connections(name)


LIVE_TESTS = """
import threading
import urllib.request

from daphne_like.django.testing import LiveServerTestCase
from shop.models import Item


class LiveTests(LiveServerTestCase):
    def test_it(self):
        def add(number):
            urllib.request.urlopen(f"{self.live_server_url}/add/?name={number}", timeout=20).close()

        threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(Item.objects.count(), 16)
"""


@pytest.mark.parametrize("database", [PERSISTENT, POOLED], ids=["persistent", "pool"])
def test_live_server_leaves_nothing_that_keeps_its_database_from_being_dropped(
    postgres: Postgres, database: dict[str, Any], tmp_path: Path
) -> None:
    described = postgres.settings(database, "live-server")
    project = make_project(tmp_path, f"DATABASES = {{'default': {described!r}}}\n")
    project.write("shop/tests.py", LIVE_TESTS)
    done = project.run("test")
    assert done.returncode == 0, done.stderr
    assert postgres.opened("live-server") > 1


# -- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "lost"),
    [(PERSISTENT | HEALTHY, False), (POOLED | HEALTHY, False), (PERSISTENT, True)],
    ids=["checked", "pool-checked", "unchecked"],
)
async def test_killed_connections_cost_what_they_cost_django(
    postgres: Postgres, name: str, database: dict[str, Any], lost: bool
) -> None:
    """
    Nothing with CONN_HEALTH_CHECKS, which look before a request's first query. Without, one request for each
    connection: Django learns from its error that it is dead, and opens another one for the next.
    """
    targets = [f"{kind}?seconds=0.01" for kind in KINDS]
    with site(postgres, name, database, failures=lost) as server:
        before, after = Crowd(server), Crowd(server)
        await before.ask(*targets, count=2 * CLIENTS)
        killed = await asyncio.to_thread(postgres.terminate, name)
        await after.ask(*targets, count=4 * CLIENTS)
        assert before.statuses == {200: 2 * CLIENTS}
        assert not after.backends & before.backends
        assert killed == (POOL if "OPTIONS" in database else THREADS)
        assert after.statuses[500] == (killed if lost else 0)


def test_query_that_is_killed_is_one_request_lost(postgres: Postgres, name: str) -> None:
    with site(postgres, name, PERSISTENT, failures=True) as server, ThreadPoolExecutor(1) as clients:
        for kind in KINDS:
            asked = clients.submit(fetch, server.port, f"{kind}?seconds=20")
            eventually(lambda: bool(postgres.execute(ASLEEP, name)))
            postgres.terminate(name)
            assert asked.result().status == 500
            assert fetch(server.port, kind).status == 200


ASLEEP = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'"
