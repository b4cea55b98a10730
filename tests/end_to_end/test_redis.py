"""
Servers and workers that meet on a Redis: what their users rely on, above all when something of it goes away.

Counted under load by the clients of tests/faults: sockets that speak and requests, each with a number.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.clients import fetch
from tests.end_to_end.nginx import nginx_before
from tests.end_to_end.processes import ROOT, ServerProcess, children, complaint_of, serving
from tests.faults.load import Load, Report
from tests.layers_redis.redis_clusters import RedisCluster, SentinelSite, redis_cluster, sentinel_site
from tests.layers_redis.redis_servers import RedisServer, redis_server

websockets = pytest.importorskip("websockets.sync.client")

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.time_limit(120)]

SITE = "tests.faults.application:application"
WITHIN = 20.0
PROBES = ("--health-path", "/healthz", "--ready-path", "/readyz")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as engine:
        yield engine


@contextlib.contextmanager
def site(
    engine: RedisServer | RedisCluster | SentinelSite, *words: str, workers: int = 2, port: int = 0
) -> Iterator[ServerProcess]:
    """A server, with workers of its own or without."""
    own = (SITE, "--workers", str(workers)) if workers else ()
    with serving("-p", str(port), "--layer", engine.url, *own, *words) as server:
        if workers:
            server.stderr.wait_for("worker ready", count=workers)
        yield server


@contextlib.contextmanager
def worker(engine: RedisServer) -> Iterator[ServerProcess]:
    """A worker by itself."""
    ready = lambda process: process.stderr.wait_for("worker ready")  # noqa: E731
    with serving("worker", SITE, "--layer", engine.url, ready=ready) as process:
        yield process


def status(server: ServerProcess, target: str) -> int:
    return fetch(server.port, target).status


async def until(condition, within: float = WITHIN) -> None:
    """Look again and again: processes of others give no event to wait for."""
    async with asyncio.timeout(within):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def loaded(server: ServerProcess, *, publish: bool = False) -> AsyncIterator[Report]:
    """Nothing may be lost, doubled or out of order in the block, and no socket closed."""
    load = Load(server.port, 20, 8, publish=publish)
    async with load.running() as report:
        await asyncio.sleep(0.5)  # the pace
        yield report
        await asyncio.sleep(0.5)
    print(report)
    assert report.sockets_closed == report.failed == []
    assert (report.unanswered, report.doubled, report.disordered) == (0, 0, 0)
    assert (report.news_lost, report.news_doubled) == (0, 0)


# -- who meets ------------------------------------------------------------------------------------


def test_servers_and_workers_on_one_engine(engine: RedisServer) -> None:
    """Any worker serves any server, and groups reach across all of them."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(site(engine, workers=0)) for _ in range(2)]
        workers = [stack.enter_context(worker(engine)) for _ in range(2)]
        pids = {process.process.pid for process in workers}
        for server in servers:
            assert {int(fetch(server.port, "/pid").body) for _ in range(20)} == pids
        sockets = [
            stack.enter_context(websockets.connect(f"ws://127.0.0.1:{server.port}/echo", compression=None))
            for server in (*servers, *servers)
        ]
        for number, socket in enumerate(sockets):
            socket.send(str(number))
            assert socket.recv(timeout=WITHIN) == f"e{number}"
        assert fetch(servers[0].port, "/publish", method="POST", body=b"7").status == 200
        assert [socket.recv(timeout=WITHIN) for socket in sockets] == ["n7"] * 4


def test_one_process_over_redis(engine: RedisServer) -> None:
    with (
        serving("-p", "0", SITE, "--layer", engine.url) as one,
        serving("-p", "0", SITE, "--layer", engine.url) as two,
    ):
        with websockets.connect(f"ws://127.0.0.1:{one.port}/echo", compression=None) as socket:
            socket.send("1")
            assert socket.recv(timeout=WITHIN) == "e1"
            assert fetch(two.port, "/publish", method="POST", body=b"7").status == 200
            assert socket.recv(timeout=WITHIN) == "n7"


@pytest.mark.parametrize(
    "words", [(SITE, "--workers", "1"), (SITE,), ()], ids=["workers", "embedded", "alone"]
)
def test_an_engine_that_is_not_there_is_one_line(words: tuple[str, ...]) -> None:
    layer = "redis://user:secret@127.0.0.1:1?send_timeout=0.5"
    code, lines = complaint_of("-p", "0", *words, "--layer", layer)
    assert code == 3
    assert lines[-1].startswith("daphne-like: --layer: redis:127.0.0.1:1: no way to the layer")
    assert "secret" not in "\n".join(lines)


def test_a_worker_waits_for_its_engine(engine: RedisServer) -> None:
    engine.kill()
    url = f"{engine.url}?send_timeout=0.5"
    ready = lambda process: process.stderr.wait_for("waiting for one")  # noqa: E731
    with serving("worker", SITE, "--layer", url, ready=ready) as process:
        engine.start()
        process.stderr.wait_for("worker ready")


# -- replaced -------------------------------------------------------------------------------------


@pytest.mark.needs("nginx")
@pytest.mark.time_limit(180)
async def test_restart_of_all_workers_and_of_one_server_behind_nginx(
    engine: RedisServer, tmp_path: Path
) -> None:
    """Two servers, three workers: sockets of the other server miss nothing, and 0 requests are lost."""
    with site(engine, workers=1) as staying, contextlib.ExitStack() as stack:
        going = stack.enter_context(site(engine, workers=2))
        port = going.port
        with nginx_before([f"127.0.0.1:{staying.port}", f"127.0.0.1:{port}"], tmp_path) as nginx:
            requests = Load(nginx.port, 0, 8, publish=False)
            async with loaded(staying, publish=True), requests.running() as through_nginx:
                for server, count in ((staying, 1), (going, 2)):
                    old = set(children(server.process.pid))
                    server.signal(signal.SIGHUP)
                    await until(
                        lambda server=server, count=count, old=old: (
                            len(now := set(children(server.process.pid))) == count and not now & old
                        ),
                        60,
                    )
                await asyncio.to_thread(stack.close)
                again = site(engine, workers=2, port=port)
                await asyncio.to_thread(stack.enter_context, again)
                await asyncio.sleep(1)  # the pace
            print(through_nginx)
            assert through_nginx.failed == []
            assert through_nginx.requests > 100


async def test_a_killed_worker_is_noticed_at_once(engine: RedisServer) -> None:
    """Its supervisor tells: nobody waits for its lease to end."""
    with site(engine, workers=2) as server:
        load = Load(server.port, 20, 8, publish=False)
        async with load.running() as report:
            await asyncio.sleep(0.5)  # the pace
            report.longest_silence = 0.0
            os.kill(children(server.process.pid)[0], signal.SIGKILL)
            await asyncio.sleep(3)  # the pace
            silence = report.longest_silence
        print(report)
    assert report.sockets_closed == report.failed == []
    assert (report.doubled, report.disordered) == (0, 0)
    # One frame of each socket at most, which its dead application had taken.
    assert report.unanswered <= 20
    assert silence < 2.0


def test_requests_of_a_killed_worker(engine: RedisServer) -> None:
    with site(engine, workers=1) as server, contextlib.ExitStack() as stack:
        pid = int(fetch(server.port, "/pid").body)
        pool = stack.enter_context(contextlib.closing(_Background()))
        safe = pool.fetch(server.port, "/slow?0.7")
        unsafe = pool.fetch(server.port, "/slow?0.7", method="POST")
        time.sleep(0.3)  # the pace: they are being worked on
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        assert unsafe().status == 502
        assert time.monotonic() - began < 5
        assert safe().body == b"slept"


class _Background:
    """Requests in threads."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(4)

    def fetch(self, *arguments, **options):
        return self._pool.submit(fetch, *arguments, **options).result

    def close(self) -> None:
        self._pool.shutdown()


# -- the engine goes ------------------------------------------------------------------------------


async def test_engine_killed_and_back_empty_under_load(engine: RedisServer) -> None:
    """For 3 s it is away: the server is alive and not ready; then all goes on, and nothing was lost."""
    with site(engine, *PROBES) as server:
        async with loaded(server):
            engine.kill()
            await until(lambda: status(server, "/readyz") == 503)
            assert await asyncio.to_thread(status, server, "/healthz") == 200
            await asyncio.sleep(2)  # the outage
            await asyncio.to_thread(engine.start)
            await until(lambda: status(server, "/readyz") == 200)
        assert status(server, "/?42") == 200


async def test_requests_wait_for_the_engine_and_are_503_then(engine: RedisServer) -> None:
    with site(engine, *PROBES, "--queue-timeout", "1") as server:
        url = f"ws://127.0.0.1:{server.port}/echo"
        with websockets.connect(url, compression=None, ping_interval=None) as socket:
            socket.send("1")
            assert socket.recv(timeout=WITHIN) == "e1"
            engine.kill()
            await until(lambda: status(server, "/readyz") == 503)
            began = time.monotonic()
            answers = await asyncio.gather(*(asyncio.to_thread(status, server, "/?1") for _ in range(4)))
            assert answers == [503] * 4
            assert 0.9 < time.monotonic() - began < 4
            socket.send("2")
            engine.start()
            assert socket.recv(timeout=WITHIN) == "e2"
            await until(lambda: status(server, "/?1") == 200)


@pytest.mark.parametrize(
    "words",
    [
        ("CLIENT", "PAUSE", "3000", "ALL"),
        ("FLUSHALL",),
        ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    ],
    ids=lambda words: "-".join(words[:2]).lower(),
)
async def test_trouble_with_the_engine_under_load(engine: RedisServer, words: tuple[str, ...]) -> None:
    with site(engine) as server:
        async with loaded(server):
            engine.cli(*words)
            await asyncio.sleep(4)  # the pace


# -- several engines ------------------------------------------------------------------------------


@pytest.mark.time_limit(180)
@pytest.mark.parametrize("tag", ["http.request.0", "address"])
async def test_a_node_of_a_cluster_dies_under_load(tag: str) -> None:
    """The one with the offers that wait, or the one with the server's inbox."""
    with redis_cluster() as cluster, site(cluster) as server:
        async with loaded(server):
            if tag == "address":
                tag = await asyncio.to_thread(some_inbox, cluster)
            dying = await asyncio.to_thread(cluster.master_of, tag)
            dying.kill()
            replica = cluster.replica_of(dying)
            await until(lambda: replica.role() == "master")
            await asyncio.sleep(2)  # the pace


def some_inbox(cluster: RedisCluster) -> str:
    """The name of a member of the relay."""
    for member in cluster.members:
        for key in member.cli("KEYS", "asgi:port:*"):
            return str(key.decode().rpartition("{")[2].rstrip("}"))
    raise AssertionError("nobody is there")


@pytest.mark.time_limit(180)
async def test_sentinels_choose_another_engine_under_load() -> None:
    with sentinel_site() as sentinels, site(sentinels) as server:
        async with loaded(server):
            master, replica = sentinels.engines
            master.kill()
            await until(lambda: replica.role() == "master", 60)
            await asyncio.sleep(2)  # the pace


# -- looking --------------------------------------------------------------------------------------


def stats(url: str, *words: str) -> str:
    command = [sys.executable, "-m", "daphne_like", "layer", "stats", "--layer", url, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("kind", ["redis", "ipc"])
def test_statistics_of_a_layer(engine: RedisServer, tmp_path: Path, kind: str) -> None:
    url = engine.url if kind == "redis" else f"ipc:{tmp_path}/layer.sock"
    with serving("-p", "0", SITE, "--workers", "1", "--layer", url) as server:
        server.stderr.wait_for("worker ready")
        for _ in range(5):
            assert status(server, "/?1") == 200
        found = json.loads(stats(url, "--json", "--seconds", "0.2"))["http.request"]
        assert found["messages_count"] == 5
        assert found["messages_pending"] == found["channel_full_count"] == found["messages_per_second"] == 0
        header, *lines = stats(url, "--seconds", "0").splitlines()
        assert header.split() == ["channel", "pending", "oldest,", "s", "refused", "sent"]
        assert ["http.request", "0", "0.0", "0", "5"] in [line.split() for line in lines]
