"""Workers as processes: a server with its own, workers that join, and what becomes of each when another dies."""

import asyncio
import os
import select
import signal
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from daphne_like.layers.loading import open_layer
from daphne_like.worker_link import resident_memory, stacks
from tests.end_to_end.certificates import make_certificate
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import ServerProcess, complaint_of, serving

WITHIN = 30.0

APPLICATION = """
import asyncio, json, os, sys, time

print(f"imported by {os.getpid()}", file=sys.stderr)
hold = []

async def application(scope, receive, send):
    await globals()[scope["type"]](scope, receive, send)

async def lifespan(scope, receive, send):
    while True:
        said = (await receive())["type"]
        print(f"{said} {os.getpid()}", file=sys.stderr)
        scope["state"]["started_by"] = os.getpid()
        await send({"type": said + ".complete"})
        if said == "lifespan.shutdown":
            return

async def http(scope, receive, send):
    if scope["path"] == "/hang":
        print("hanging", file=sys.stderr)
        await asyncio.Event().wait()
    if scope["path"] == "/block":
        print("blocking", file=sys.stderr)
        time.sleep(1000)
    told = {
        "version": "VERSION",
        "pid": os.getpid(),
        "parent": os.getppid(),
        "started_by": scope["state"]["started_by"],
        "layer": os.environ.get("DAPHNE_LIKE_LAYER"),
        "client": scope["client"],
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"VERSION {os.getpid()} {message['text']}"})

async def channel(scope, receive, send):
    while True:
        print(f"job {scope['channel']}: {await receive()}", file=sys.stderr)
"""


class Site:
    """A module that can be edited."""

    name = "site_of_workers:application"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("first")

    def write(self, version: str) -> None:
        self.break_with(APPLICATION.replace("VERSION", version))

    def break_with(self, text: str) -> None:
        (self.directory / "site_of_workers.py").write_text(text)

    @contextmanager
    def served(self, *words, **options):
        words = ("-p", "0", "--app-dir", str(self.directory), *words, self.name)
        # A .pyc is checked by whole seconds; these tests edit faster.
        environment = {"PYTHONDONTWRITEBYTECODE": "1", **options.pop("environment", {})}
        with serving(*words, environment=environment, **options) as server:
            yield server


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def told_by(server: ServerProcess) -> dict:
    return fetch(server.port).json


def pids_of(server: ServerProcess, count: int = 0) -> list[int]:
    """Of all workers that were ready, the first *count* at least."""
    if count:
        server.stderr.wait_for("worker ready", count=count)
    lines = server.stderr.text.splitlines()
    return [int(line.partition("pid=")[2].split()[0]) for line in lines if "worker ready" in line]


class Watched:
    """The end of a process that is not our child. Made while it runs, because pids are used again."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def wait(self) -> None:
        try:
            assert select.select([self._descriptor], [], [], WITHIN)[0], "it still runs"
        finally:
            os.close(self._descriptor)


# -- a server and its own workers -----------------------------------------------------------------


def test_workers_answer_and_the_server_never_imports_the_application(site):
    with site.served("--workers", "2") as server:
        workers = pids_of(server, 2)
        answers = [told_by(server) for _ in range(6)]
        assert {answer["pid"] for answer in answers} == set(workers)
        assert all(answer["started_by"] == answer["pid"] for answer in answers)
        assert all(answer["parent"] == server.process.pid for answer in answers)
        assert all(answer["client"][0] == "127.0.0.1" for answer in answers)
        [layer] = {answer["layer"] for answer in answers}
        path = Path(layer.removeprefix("ipc:"))
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.parent.exists()
    assert f"imported by {server.process.pid}" not in server.stderr.text
    for worker in workers:
        assert f"lifespan.startup {worker}" in server.stderr.text
        assert f"lifespan.shutdown {worker}" in server.stderr.text


def test_hangup_brings_new_code_to_an_open_websocket(site):
    with site.served("--workers", "2") as server:
        workers = pids_of(server, 2)
        with connect(f"ws://127.0.0.1:{server.port}/") as client:
            client.send("a")
            version, pid, text = client.recv(WITHIN).split()
            assert (version, text) == ("first", "a")
            assert int(pid) in workers
            site.write("second")
            server.signal(signal.SIGHUP)
            server.stderr.wait_for("worker ended", count=2)
            client.send("b")
            version, pid, text = client.recv(WITHIN).split()
            assert (version, text) == ("second", "b")
            assert int(pid) not in workers
        assert told_by(server)["version"] == "second"


def test_new_version_that_does_not_start_leaves_the_old_one_serving(site):
    with site.served("--workers", "1", expected_trouble=True) as server:
        before = told_by(server)["pid"]
        site.break_with("import no_such_module")
        server.signal(signal.SIGHUP)
        said = server.stderr.wait_for("the new workers do not start, the old ones go on serving reason=(.*)")
        assert "No module named 'no_such_module'" in said[1]
        server.stderr.wait_for("^ModuleNotFoundError: ")
        assert told_by(server)["pid"] == before


def test_websocket_survives_the_death_of_its_worker(site):
    with site.served("--workers", "2") as server:
        pids_of(server, 2)
        with connect(f"ws://127.0.0.1:{server.port}/") as client:
            client.send("a")
            _, pid, _ = client.recv(WITHIN).split()
            os.kill(int(pid), signal.SIGKILL)
            server.stderr.wait_for("a worker died")
            client.send("b")
            _, other, text = client.recv(WITHIN).split()
            assert other != pid
            assert text == "b"
        pids_of(server, 3)


def test_certificate_is_read_again_before_workers_are_replaced(site, tmp_path):
    tls = make_certificate(tmp_path)
    with site.served(
        "--workers", "1", "--certificate", str(tls.chain), "--private-key", str(tls.key)
    ) as server:
        server.signal(signal.SIGHUP)
        server.stderr.wait_for("all workers are new")
        said = server.stderr.text
        assert 0 < said.index("certificate reloaded") < said.index("starting new workers")


def test_more_and_less(site):
    with site.served("--workers", "1") as server:
        server.signal(signal.SIGTTIN)
        assert len(pids_of(server, 2)) == 2
        server.signal(signal.SIGTTOU)
        server.stderr.wait_for("worker ended")


def test_recycling_loses_no_request(site):
    with site.served(
        "--workers", "2", "--limit-max-requests", "20", "--limit-max-requests-jitter", "5"
    ) as server:
        pids_of(server, 2)
        count = 0
        while server.stderr.text.count("worker ended") < 2:
            assert fetch(server.port).status == 200
            count += 1
        assert count >= 20
    assert "because=requests" in server.stderr.text


def test_no_free_worker_is_503_and_the_health_path_answers_nevertheless(site):
    words = (
        "--workers",
        "1",
        "--worker-sessions",
        "1",
        "--queue-timeout",
        "0.2",
        "--health-path",
        "/healthz",
    )
    with site.served(*words, "--graceful-timeout", "0.1", expected_trouble=True) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /block HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.stderr.wait_for("blocking")
            refused = fetch(server.port)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            healthy = fetch(server.port, "/healthz")
            assert (healthy.status, healthy.body) == (200, b"ok\n")
            assert fetch(server.port, "/healthz", method="HEAD").status == 200
            # Our own death is quicker than the time that the stuck worker is given.
            server.signal(signal.SIGTERM)
            server.stderr.wait_for("stopping")
            server.signal(signal.SIGTERM)


# -- not starting ---------------------------------------------------------------------------------

FAILING_LIFESPAN = """
async def application(scope, receive, send):
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

WRONG = [  # the module, its name, exit code, the last line
    (
        "",
        "site_of_workers:nothing",
        2,
        "daphne-like: 'site_of_workers:nothing': module 'site_of_workers' has no",
    ),
    ("", "no_such_site:application", 2, "daphne-like: 'no_such_site:application': no module 'no_such_site'"),
    (
        "1 / 0",
        "site_of_workers:application",
        3,
        "daphne-like: 'site_of_workers:application': importing it raised",
    ),
    (
        FAILING_LIFESPAN,
        "site_of_workers:application",
        3,
        "daphne-like: lifespan startup failed: no database",
    ),
]


@pytest.mark.parametrize(("text", "name", "code", "last"), WRONG)
def test_what_keeps_workers_from_starting_ends_the_command(text, name, code, last, site):
    site.break_with(text)
    ended, lines = complaint_of("-p", "0", "--workers", "3", "--app-dir", str(site.directory), name)
    assert ended == code
    assert lines[-1].startswith(last)
    assert sum(line.startswith("daphne-like:") for line in lines) == 1
    assert ("ZeroDivisionError" in "\n".join(lines[:-1])) == (text == "1 / 0")


def test_address_in_use_ends_the_workers_too(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = complaint_of(
            "-p", str(port), "--workers", "1", "--app-dir", str(site.directory), site.name
        )
    assert code == 3
    assert lines[-1] == f"daphne-like: cannot listen on 127.0.0.1:{port}: address in use"


def test_layer_that_is_none(site):
    code, lines = complaint_of(
        "--workers", "1", "--layer", "nonsense:x", "--app-dir", str(site.directory), site.name
    )
    assert code == 2
    assert "layer 'nonsense:x'" in lines[-1]


# -- stopping -------------------------------------------------------------------------------------


def test_workers_end_with_a_server_that_was_killed(site):
    with site.served("--workers", "2", exit_code=-signal.SIGKILL) as server:
        workers = [Watched(pid) for pid in pids_of(server, 2)]
        port = server.port
        server.process.kill()
        for worker in workers:
            worker.wait()
        assert server.stderr.wait_for("the supervisor is gone, ending")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


def test_blocked_worker_ends_with_a_killed_server_too(site):
    with site.served("--workers", "1", exit_code=-signal.SIGKILL) as server:
        worker = Watched(pids_of(server, 1)[0])
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /block HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.stderr.wait_for("blocking")
            server.process.kill()
            worker.wait()


def test_stopping_waits_for_the_request_in_course_and_a_second_signal_does_not(site):
    with site.served("--workers", "1") as server:
        worker = Watched(pids_of(server, 1)[0])
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.stderr.wait_for("hanging")
            server.signal(signal.SIGTERM)
            server.stderr.wait_for("stopping graceful_timeout")
            server.signal(signal.SIGTERM)
            assert server.wait(10) == 0
            worker.wait()


def test_control_c_of_a_terminal_reaches_all_and_stops_gracefully(site):
    with site.served("--workers", "2", program=("setsid", sys.executable, "-m", "daphne_like")) as server:
        pids_of(server, 2)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.wait() == 0
    assert server.stderr.text.count('how="exit code 0"') == 2


# -- workers that join ----------------------------------------------------------------------------


@contextmanager
def joined(site, layer, *words, exit_code=0):
    """A worker that was started by itself; *ready* once it says so."""
    words = ("worker", site.name, "--layer", layer, "--app-dir", str(site.directory), *words)
    with serving(*words, ready=lambda worker: None, exit_code=exit_code) as worker:
        yield worker


def test_worker_joins_a_relay_and_finds_it_again_when_it_is_back(site, tmp_path):
    layer = f"ipc:{tmp_path}/s"
    with joined(site, layer) as worker:
        with serving("-p", "0", "--layer", layer, exit_code=-signal.SIGKILL) as relay:
            assert told_by(relay)["pid"] == worker.process.pid
            relay.process.kill()
        with serving("-p", "0", "--layer", layer) as relay:
            answer = told_by(relay)
            assert answer["pid"] == worker.process.pid
            assert answer["layer"] == layer
    assert f"lifespan.shutdown {worker.process.pid}" in worker.stderr.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_stops_by_either_signal_and_hands_its_websockets_on(number, site, tmp_path):
    layer = f"ipc:{tmp_path}/s"
    with site.served("--workers", "1", "--layer", layer) as server, joined(site, layer) as worker:
        worker.stderr.wait_for("worker ready")
        with ExitStack() as opened:
            address = f"ws://127.0.0.1:{server.port}/"
            clients = [opened.enter_context(connect(address)) for _ in range(4)]
            pids = set()
            for client in clients:
                client.send("a")
                pids.add(int(client.recv(WITHIN).split()[1]))
            own = pids_of(server, 1)
            assert pids == {*own, worker.process.pid}
            worker.signal(number)
            assert worker.wait() == 0
            for client in clients:
                client.send("b")
                assert int(client.recv(WITHIN).split()[1]) == own[0]


def test_pools_by_channel(site, tmp_path):
    layer = f"ipc:{tmp_path}/s"
    with serving("-p", "0", "--layer", layer) as relay:
        with (
            joined(site, layer, "--only", "websocket.*") as sockets,
            joined(site, layer, "--only", "http.*") as http,
        ):
            assert told_by(relay)["pid"] == http.process.pid
            with connect(f"ws://127.0.0.1:{relay.port}/") as client:
                client.send("a")
                assert int(client.recv(WITHIN).split()[1]) == sockets.process.pid


def test_jobs_on_a_channel_of_another_name(site, tmp_path):
    layer = f"ipc:{tmp_path}/s"

    async def send():
        sender = open_layer(layer)
        await sender.send("thumbnails", {"type": "make", "number": 7})
        await sender.close()

    with serving("-p", "0", "--layer", layer), joined(site, layer, "--channels", "thumbnails") as worker:
        worker.stderr.wait_for("worker ready")
        asyncio.run(send())
        worker.stderr.wait_for("job thumbnails: {'type': 'make', 'number': 7}")


def test_worker_stops_while_it_waits_for_a_layer(site, tmp_path):
    with joined(site, f"ipc:{tmp_path}/s") as worker:
        worker.stderr.wait_for("lifespan.startup")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


# -- in small -------------------------------------------------------------------------------------


def test_stacks_name_each_other_thread():
    inside, enough = threading.Event(), threading.Event()

    def wait_for_enough():
        inside.set()
        enough.wait(WITHIN)

    def look():
        found.append(stacks())

    found = []
    waiting = threading.Thread(target=wait_for_enough, name="waiting one")
    waiting.start()
    inside.wait(WITHIN)
    looking = threading.Thread(target=look, name="looking one")
    looking.start()
    looking.join()
    enough.set()
    waiting.join()
    assert found[0].startswith("Thread MainThread:\n")
    assert "Thread waiting one:\n" in found[0]
    assert "in wait_for_enough" in found[0]
    assert "looking one" not in found[0]


def test_resident_memory_grows_with_what_is_held():
    before = resident_memory()
    held = bytearray(os.urandom(1)) * (64 * 1024 * 1024)
    assert resident_memory() - before > 48 * 1024 * 1024
    del held
