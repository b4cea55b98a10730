"""
docs/examples/deploy, run: nginx's files by a real nginx, units by systemd's tools, all command lines by ours.

What stands in the files is tested as it stands, but for paths, addresses and ports.
"""

import asyncio
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from daphne_like.cli import main
from tests.end_to_end.clients import Load, connect, drain, fetch, leave, random_octets, read_until
from tests.end_to_end.nginx import Nginx, nginx_running
from tests.end_to_end.processes import APPLICATIONS, ROOT, ServerProcess, eventually, free_port, serving

pytest.importorskip("django")
websockets = pytest.importorskip("websockets.sync.client")

DEPLOY = ROOT / "docs" / "examples" / "deploy"
SITE = f"{APPLICATIONS}.deployed_site:application"

MAIN = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {site}
}}
"""


@contextmanager
def nginx_with(file: str, directory: Path, replaced: dict[str, str]) -> Iterator[Nginx]:
    """NGINX with a file of the examples in its http block; *replaced* must all be there."""
    port = free_port()
    (directory / "static").mkdir()
    text = (DEPLOY / "nginx" / file).read_text()
    common = {
        "/etc/nginx/daphne-like.conf": str(DEPLOY / "nginx" / "daphne-like.conf"),
        "listen 80;": f"listen 127.0.0.1:{port};",
        "/srv/mysite/static/": f"{directory}/static/",
    }
    for old, new in {**common, **replaced}.items():
        assert old in text, f"{file} has no {old}"
        text = text.replace(old, new)
    with nginx_running(MAIN.format(directory=directory, site=text), directory, port) as nginx:
        yield nginx


@dataclass
class Site:
    nginx: Nginx
    server: ServerProcess

    @property
    def port(self) -> int:
        return self.nginx.port


@contextmanager
def site_on_a_unix_socket(directory: Path, *words: str) -> Iterator[Site]:
    """As nginx/mysite.conf says at its beginning."""
    path = directory / "daphne.sock"
    words = ("--workers", "2", "--proxy-headers", "-u", str(path), "--unix-socket-mode", "660", *words)
    with serving(*words, "--health-path", "/healthz", SITE) as server:
        server.stderr.wait_for("worker ready", count=2)
        with nginx_with("mysite.conf", directory, {"/run/mysite/daphne.sock": str(path)}) as nginx:
            yield Site(nginx, server)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_on_a_unix_socket(tmp_path_factory.mktemp("deployed")) as found:
        yield found
        assert found.nginx.complaints == []


# -- nginx, over a Unix socket -------------------------------------------------------------------


@pytest.mark.needs("nginx")
def test_client_scheme_and_host_are_the_browsers(site: Site) -> None:
    with connect(site.port) as client:
        port = client.getsockname()[1]
        client.sendall(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n")
        told = json.loads(drain(client).partition(b"\r\n\r\n")[2])
    assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == ("127.0.0.1", port)
    assert (told["host"], told["scheme"], told["SCRIPT_NAME"]) == ("www.example.com", "http", "")


SPOOFED = {
    "X-Forwarded-For": "198.51.100.1, 203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "1",
    "Forwarded": "for=198.51.100.1;host=evil.example",
    "Daphne-Root-Path": "/evil",
    "X_Forwarded_For": "198.51.100.1",
}
CLAIMS = "".join(f"{name}: {value}\r\n" for name, value in SPOOFED.items())
# An address of this machine too, and by default no trusted one.
STRANGER = "127.0.0.2"


@pytest.mark.needs("nginx")
def test_what_a_client_claims_is_not_believed(site: Site) -> None:
    """127.0.0.1, nginx's client, is a trusted peer by default; the one before it is hearsay of a trusted one."""
    told = fetch(site.port, headers=SPOOFED).json
    assert told["REMOTE_ADDR"] == "203.0.113.9"
    assert (told["host"], told["scheme"], told["SCRIPT_NAME"]) == ("localhost", "http", "")


@pytest.mark.needs("nginx")
def test_static_files(site: Site) -> None:
    directory = site.nginx.directory / "static"
    (directory / "site.css").write_text("a{}")
    (directory / "site.0123456789ab.css").write_text("b{}")
    plain = fetch(site.port, "/static/site.css")
    assert (plain.status, plain.body, plain.headers["cache-control"]) == (200, b"a{}", "max-age=3600")
    hashed = fetch(site.port, "/static/site.0123456789ab.css")
    assert (hashed.status, hashed.body) == (200, b"b{}")
    assert "immutable" in hashed.headers["cache-control"]
    assert fetch(site.port, "/static/page").status == 404, "they are nginx's, also those that are not there"


@pytest.mark.needs("nginx")
def test_server_sent_events_come_at_once_and_end_with_the_browser(site: Site) -> None:
    with connect(site.port) as client:
        client.sendall(b"GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(client, b"id: 1\n")
        assert read_until(client, b"id: 5\n").count(b"id: ") <= 5


@pytest.mark.needs("nginx")
def test_websocket(site: Site) -> None:
    with websockets.connect(f"ws://127.0.0.1:{site.port}/chat") as talk:
        talk.send("hello")
        assert talk.recv(timeout=10).split(" ", 1)[1] == "127.0.0.1 hello"


@pytest.mark.needs("nginx")
def test_health_is_not_for_the_public(site: Site) -> None:
    assert {fetch(site.port, path).status for path in ("/healthz", "/readyz")} == {404}
    assert fetch(str(site.nginx.directory / "daphne.sock"), "/healthz").body == b"ok\n"


@pytest.mark.needs("nginx")
@pytest.mark.time_limit(240)
async def test_four_kinds_of_traffic_while_workers_are_replaced(tmp_path: Path) -> None:
    """
    Pages, an upload of 200 MB, Server-Sent Events, WebSockets, through rolling restarts: nothing is lost.

    All of them come from an address that nobody trusts, and claim to come from others: nobody believes it.
    """
    body = random_octets(1 << 20) * 200
    go_on = threading.Event()
    with site_on_a_unix_socket(tmp_path) as site:
        pages = Load(site.port, 8, headers=SPOOFED, source=STRANGER)
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            group.create_task(pages.run(stop))
            events = Events()
            group.create_task(events.follow(site, stop))
            talks = [Talk() for _ in range(10)]
            for each in talks:
                group.create_task(each.go_on(site, stop))
            uploading = group.create_task(asyncio.to_thread(upload, site, body, go_on))
            try:
                for _ in range(2):
                    await until(lambda: pages.failures or len(pids_of(pages)) >= 2)
                    before = pids_of(pages)
                    site.server.signal(signal.SIGHUP)
                    await until(lambda: pages.failures or len(pids_of(pages) - before) >= 2)  # noqa: B023
                    go_on.set()
                    await uploading
                # The last two workers answer pages a moment before they are given what the old ones held.
                await until(
                    lambda: pages.failures or all(each.outlived_two_workers for each in (events, *talks))
                )
            finally:
                go_on.set()
                stop.set()
        assert pages.failures == []
        assert len(pids_of(pages)) >= 6, "workers of three generations"
        answer = json.loads(uploading.result())
        assert answer["size"] == len(body)
        assert answer["sha256"] == hashlib.sha256(body).hexdigest()
        assert events.numbers == list(range(1, len(events.numbers) + 1)), (
            "none is missing, and none came twice"
        )
        assert events.clients == {STRANGER.encode()}
        assert [each.lost for each in talks if each.lost] == []
        assert answer["client"] == STRANGER
        told = [json.loads(page) for page in pages.bodies]
        assert {each["REMOTE_ADDR"] for each in told} == {STRANGER}
        assert {(each["host"], each["scheme"], each["SCRIPT_NAME"]) for each in told} == {
            ("load", "http", "")
        }
        assert site.nginx.complaints == []


def pids_of(pages: Load) -> set[int]:
    return {json.loads(page)["pid"] for page in list(pages.bodies)}


async def until(holds: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, lambda: bool(holds()), 60)


def upload(site: Site, body: bytes, go_on: threading.Event) -> bytes:
    """Send *body*, the last tenth of it when told to; the response's body."""
    with connect(site.port, timeout=120, source=STRANGER) as client:
        head = f"POST /upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{CLAIMS}"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n")
        most = len(body) * 9 // 10
        client.sendall(memoryview(body)[:most])
        assert go_on.wait(120)
        client.sendall(memoryview(body)[most:])
        answered, _, rest = drain(client).partition(b"\r\n\r\n")
        assert answered.startswith(b"HTTP/1.1 200 "), answered
        return rest


class Events:
    """What /events/ sends over one connection."""

    def __init__(self) -> None:
        self.stream = b""

    async def follow(self, site: Site, stop: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, local_addr=(STRANGER, 0))
        try:
            writer.write(f"GET /events/ HTTP/1.1\r\nHost: localhost\r\n{CLAIMS}\r\n".encode())
            while not stop.is_set():
                data = await asyncio.wait_for(reader.read(65536), 60)
                assert data, f"the stream ended: {self.stream[-200:]!r}"
                self.stream += data
        finally:
            await leave(writer)

    @property
    def _found(self) -> list[tuple[bytes, bytes, bytes]]:
        """Each event's number, the process that sent it, and whom that took us for."""
        # In chunks: what is between two events does not matter.
        return re.findall(rb"id: (\d+)\n(?:\r\n\w+\r\n)?data: (\d+) (\S+)\n", self.stream)

    @property
    def numbers(self) -> list[int]:
        return [int(number) for number, _, _ in self._found]

    @property
    def clients(self) -> set[bytes]:
        return {client for _, _, client in self._found}

    @property
    def outlived_two_workers(self) -> bool:
        return len({pid for _, pid, _ in self._found}) >= 3


class Talk:
    """
    Messages over one WebSocket, each answered.

    Attributes:
        lost: what came back wrong.
        workers: the processes that answered.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.workers: set[str] = set()

    async def go_on(self, site: Site, stop: asyncio.Event) -> None:
        from websockets.asyncio.client import connect as connect_websocket

        number = 0
        async with connect_websocket(
            f"ws://127.0.0.1:{site.port}/chat", local_addr=(STRANGER, 0), additional_headers=SPOOFED
        ) as socket:
            while not stop.is_set():
                number += 1
                await socket.send(f"message {number}")
                pid, _, rest = str(await asyncio.wait_for(socket.recv(), 60)).partition(" ")
                self.workers.add(pid)
                if rest != f"{STRANGER} message {number}":
                    self.lost.append(rest)
                await asyncio.sleep(0.005)  # a person's pace, a hundred times

    @property
    def outlived_two_workers(self) -> bool:
        return len(self.workers) >= 3


# -- nginx, over TCP, two servers ----------------------------------------------------------------


@pytest.mark.needs("nginx")
@pytest.mark.time_limit(120)
async def test_a_server_itself_is_replaced_without_a_lost_request(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    replaced = {
        "10.0.0.11:8000": f"127.0.0.1:{ports[0]}",
        "10.0.0.12:8000": f"127.0.0.1:{ports[1]}",
    }
    # As the file says at its beginning; nginx is at 127.0.0.1 here.
    words = ("--proxy-headers", "--forwarded-allow-ips", "127.0.0.1", SITE)
    with ExitStack() as stack:
        first = stack.enter_context(serving("-p", str(ports[0]), *words))
        nginx = stack.enter_context(nginx_with("mysite-tcp.conf", tmp_path, replaced))
        pages = Load(nginx.port, 8)
        async with asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            group.create_task(pages.run(stop))
            try:
                await until(lambda: pages.failures or pids_of(pages) == {first.process.pid})
                second = stack.enter_context(serving("-p", str(ports[1]), *words))
                await until(lambda: pages.failures or second.process.pid in pids_of(pages))
                assert await asyncio.to_thread(first.stop) == 0
                answered = pages.answered
                await until(lambda: pages.failures or pages.answered > answered + 200)
            finally:
                stop.set()
        assert pages.failures == []


# -- systemd -------------------------------------------------------------------------------------


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.M)


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in ("mysite.socket", "mysite.service"):
        text = (DEPLOY / "systemd" / unit).read_text()
        # The program that is to be there, and users that every machine has.
        text = text.replace("/srv/mysite/venv/bin/daphne-like", shutil.which("true") or "")
        (tmp_path / unit).write_text(text.replace("User=mysite", "User=root").replace("www-data", "root"))
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            str(tmp_path / "mysite.socket"),
            str(tmp_path / "mysite.service"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "mysite" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr


@pytest.mark.needs("systemd-socket-activate")
def test_the_unit_serves_on_systemds_socket_and_believes_the_proxy(tmp_path: Path) -> None:
    (command,) = values("mysite.service", "ExecStart")
    program, application, *words = shlex.split(command)
    assert (Path(program).name, application) == ("daphne-like", "mysite.asgi:application")
    path = tmp_path / "daphne.sock"
    activate = ["systemd-socket-activate", "--listen", str(path)]
    activate += [f"--setenv={name}" for name in ("PATH", "PYTHONPATH", "PYTHONUNBUFFERED") if name != "PATH"]
    activate += [sys.executable, "-m", "daphne_like"]

    def ask(_: ServerProcess) -> None:
        """The socket is there at once, and the first client starts the service."""
        eventually(path.exists)
        told = fetch(str(path), headers={"X-Forwarded-For": "192.0.2.7"}).json
        assert told["REMOTE_ADDR"] == "192.0.2.7"

    with serving(SITE, *words, program=activate, ready=ask) as server:
        assert "--no-access-log" in words
        assert server.stdout.text == ""


def test_the_units_leave_time_to_stop() -> None:
    from daphne_like.settings import Settings

    default = Settings()
    needed = 2 * default.graceful_timeout + default.shutdown_timeout + 10
    assert float(values("mysite.service", "TimeoutStopSec")[0]) >= needed
    assert f"stop_grace_period: {needed + 10:g}s" in (DEPLOY / "compose.yaml").read_text()
    (patience,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", kubernetes())
    (pause,) = re.findall(r"command: \[sleep, \"(\d+)\"\]", kubernetes())
    assert int(patience) >= needed + int(pause)


# -- containers ----------------------------------------------------------------------------------


def kubernetes() -> str:
    return (DEPLOY / "kubernetes" / "mysite.yaml").read_text()


def command_lines() -> dict[str, list[str]]:
    """Every command line of the examples, without the program's name."""
    found = {"systemd": shlex.split(values("mysite.service", "ExecStart")[0])[1:]}
    for file in ("mysite.conf", "mysite-tcp.conf"):
        comment = (DEPLOY / "nginx" / file).read_text().replace("\\\n#", "")
        (line,) = re.findall(r"^#   daphne-like (.*)$", comment, re.M)
        found[file] = shlex.split(line)
    (line,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "site.Dockerfile").read_text(), re.M)
    found["site.Dockerfile"] = json.loads(line)
    (line,) = re.findall(r"^    command: \[(.*)\]$", (DEPLOY / "compose.yaml").read_text(), re.M)
    found["compose"] = [word.strip().strip('"') for word in line.split(",")]
    (line,) = re.findall(r"^ +args: \[(.*)\]$", kubernetes(), re.M)
    found["kubernetes"] = [word.strip().strip('"') for word in line.split(",")]
    return found


@pytest.mark.parametrize("where", command_lines())
def test_command_lines_are_understood(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    application, *words = command_lines()[where]
    assert application == "mysite.asgi:application"
    assert main(["settings", *words]) == 0
    assert "proxy_headers = true" in capsys.readouterr().out or where == "site.Dockerfile"


@pytest.mark.parametrize("file", ["compose.yaml", "kubernetes/mysite.yaml"])
def test_yaml_can_be_read(file: str) -> None:
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((DEPLOY / file).read_text()))
    assert all(isinstance(each, dict) for each in documents)


def test_kubernetes_asks_the_servers_own_paths() -> None:
    """Those that the image's environment sets."""
    asked = re.findall(r"(\w+)Probe:\n +httpGet: { path: (\S+),", kubernetes())
    image = (ROOT / "Dockerfile").read_text()
    assert {probe for probe, _ in asked} == {"readiness", "startup", "liveness"}
    for probe, path in asked:
        assert f"DAPHNE_LIKE_{'READY' if probe == 'readiness' else 'HEALTH'}_PATH={path}" in image
