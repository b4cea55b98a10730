"""Server: starting and stopping within a running event loop, in order, and in time."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daphne_like import Server, Settings
from daphne_like.errors import ConfigurationError, StartupFailed
from tests.asgi.conversation import GET, HANDSHAKE, FrameParser, frame, sentences
from tests.net.real import ask, connect, echo_scope, port_of, read_all, read_until, served

ROOT = Path(__file__).resolve().parent.parent


class Site:
    """An application that notes what happens to it, and answers when it is let."""

    def __init__(self, *, startup="complete"):
        self.notes = []
        self.startup = startup
        self.requested = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope, receive, send):
        await getattr(self, scope["type"])(scope, receive, send)

    async def lifespan(self, scope, receive, send):
        while True:
            said = (await receive())["type"]
            self.notes.append(said)
            if said == "lifespan.startup" and self.startup != "complete":
                await send({"type": "lifespan.startup.failed", "message": self.startup})
                return
            scope["state"]["notes"] = self.notes
            await send({"type": said + ".complete"})
            if said == "lifespan.shutdown":
                return

    async def http(self, scope, receive, send):
        self.notes.append(scope["path"])
        self.requested.set()
        try:
            if scope["path"] == "/deaf":
                await asyncio.Event().wait()
            await self.may_answer.wait()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"answer"})
            self.notes.append("answered")
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise

    async def websocket(self, scope, receive, send):
        await receive()
        self.requested.set()
        await send({"type": "websocket.accept"})
        while (said := await receive())["type"] != "websocket.disconnect":
            pass
        self.notes.append((said["code"], said["reason"]))


async def started(site, **settings):
    server = Server(site, Settings(verbosity=0, port=0, **settings))
    await server.start()
    return server


# ---- starting


async def test_start_and_stop_in_a_running_loop(caplog):
    caplog.set_level(logging.INFO, logger="daphne_like")
    site = Site()
    site.may_answer.set()
    server = await started(site)
    assert (await ask(server)).body == b"answer"
    await server.stop()
    assert site.notes == ["lifespan.startup", "/", "answered", "lifespan.shutdown"]
    told = [line for line in sentences(caplog) if line in ("listening", "stopped")]
    assert told == ["listening", "stopped"]


async def test_nothing_listens_before_the_application_has_started():
    """An application that cannot start has never refused a client."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    seen = []

    async def application(scope, receive, send):
        await receive()
        with socket.socket() as client:
            seen.append(client.connect_ex(("127.0.0.1", port)))
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = Server(application, Settings(verbosity=0, bind=(f"127.0.0.1:{port}",)))
    with pytest.raises(StartupFailed, match="no database"):
        await server.start()
    assert seen
    assert seen[0] != 0
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


async def test_application_is_shut_down_again_when_it_cannot_listen():
    async with served() as other:
        site = Site()
        server = Server(site, Settings(verbosity=0, bind=(f"127.0.0.1:{port_of(other)}",)))
        with pytest.raises(StartupFailed, match="address in use"):
            await server.start()
        assert site.notes == ["lifespan.startup", "lifespan.shutdown"]
        await server.stop()
        assert site.notes == ["lifespan.startup", "lifespan.shutdown"]


async def test_failed_lifespan_ends_the_start():
    site = Site(startup="no database")
    with pytest.raises(StartupFailed, match="no database"):
        await started(site)
    assert site.notes == ["lifespan.startup"]


async def test_endpoint_string_that_twisted_does_not_know_is_an_error():
    server = Server(echo_scope, Settings(verbosity=0, endpoint=("nonsense:80",)))
    with pytest.raises((ConfigurationError, StartupFailed)):
        await server.start()


async def test_stop_without_start_is_nothing():
    await Server(echo_scope).stop()


async def test_stop_twice_is_nothing_more():
    site = Site()
    server = await started(site)
    await server.stop()
    await server.stop()
    assert site.notes == ["lifespan.startup", "lifespan.shutdown"]


async def test_second_stop_waits_for_the_first():
    site = Site()
    server = await started(site)
    async with connect(server) as (reader, writer):
        writer.write(GET)
        await site.requested.wait()
        stops = [asyncio.create_task(server.stop()) for _ in range(2)]
        await asyncio.sleep(0)
        site.may_answer.set()
        assert (await read_all(reader))[0].endswith(b"answer")
        await asyncio.gather(*stops)
    assert site.notes[-1] == "lifespan.shutdown"


async def test_stop_that_is_given_up_can_be_repeated():
    site = Site()
    server = await started(site)
    async with connect(server) as (reader, writer):
        writer.write(GET)
        await site.requested.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.stop(), 0.05)
        site.may_answer.set()
        assert (await read_all(reader))[0].endswith(b"answer")
        await server.stop()
    assert site.notes[-1] == "lifespan.shutdown"


async def test_server_starts_again_after_it_has_stopped():
    async with served() as server:
        assert (await ask(server)).status == 200
        await server.stop()
        await server.start()
        assert len(server.addresses) == 1
        assert (await ask(server)).status == 200


async def test_two_servers_in_one_loop():
    async with served() as one, served() as other:
        assert port_of(one) != port_of(other)
        assert (await ask(one)).status == (await ask(other)).status == 200


async def test_state_reaches_requests():
    seen = []

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = 7
            while True:
                said = await receive()
                await send({"type": said["type"] + ".complete"})
                if said["type"] == "lifespan.shutdown":
                    return
        seen.append(scope["state"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async with served(application) as server:
        await ask(server)
    assert seen == [{"pool": 7}]


async def test_date_moves_on():
    async with served(header_timeout=0.2) as server:
        async with connect(server) as (reader, writer):
            dates = set()
            for _ in range(2):
                writer.write(GET)
                head = await read_until(reader, b"\r\n\r\n")
                dates.add(next(line for line in head.split(b"\r\n") if line.startswith(b"date: ")))
                size = int(
                    next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))[16:]
                )
                await reader.readexactly(size)
                await asyncio.sleep(1.1)
            assert len(dates) == 2


# ---- draining


async def test_drain_in_order():
    """Socket and idle connections close, the request in course is finished, then the lifespan ends."""
    site = Site()
    server = await started(site)
    async with connect(server) as (idle, _), connect(server) as (busy, writer):
        writer.write(GET)
        await site.requested.wait()
        stopping = asyncio.ensure_future(server.stop())
        assert await idle.read() == b""
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port_of(server))) != 0
        assert not stopping.done()
        assert "lifespan.shutdown" not in site.notes
        site.may_answer.set()
        data, reset = await read_all(busy)
        assert not reset
        assert data.endswith(b"answer")
        assert b"connection: close\r\n" in data
        await stopping
    assert site.notes == ["lifespan.startup", "/", "answered", "lifespan.shutdown"]


async def test_drain_says_1012_to_websockets():
    site = Site()
    server = await started(site)
    async with connect(server) as (reader, writer):
        writer.write(HANDSHAKE + b"\r\n")
        await read_until(reader, b"\r\n\r\n")
        stopping = asyncio.ensure_future(server.stop())
        (close,) = FrameParser().feed(await reader.read(1000))
        assert (close.opcode, close.payload) == (8, b"\x03\xf4server shutting down")
        writer.write(frame(8, close.payload))
        data, reset = await read_all(reader)
        assert (data, reset) == (b"", False)
        await stopping
    assert site.notes == ["lifespan.startup", (1012, "server shutting down"), "lifespan.shutdown"]


async def test_what_outlasts_the_graceful_time_is_cut_and_named(caplog):
    site = Site()
    server = await started(site, graceful_timeout=0.1)
    async with connect(server) as (reader, writer):
        writer.write(GET.replace(b"/", b"/deaf", 1))
        await site.requested.wait()
        async with asyncio.timeout(10):
            await server.stop()
        _, reset = await read_all(reader)
        assert reset
    assert site.notes == ["lifespan.startup", "/deaf", "cancelled", "lifespan.shutdown"]
    named = [record.path for record in caplog.records if getattr(record, "path", None) == "/deaf"]
    assert named
    assert sentences(caplog, level="ERROR") == []


async def test_websocket_that_does_not_answer_the_goodbye_is_cut():
    site = Site()
    server = await started(site, graceful_timeout=0.1)
    async with connect(server) as (reader, writer):
        writer.write(HANDSHAKE + b"\r\n")
        await read_until(reader, b"\r\n\r\n")
        async with asyncio.timeout(10):
            await server.stop()
    assert site.notes == ["lifespan.startup", (1012, "server shutting down"), "lifespan.shutdown"]


async def test_application_that_takes_no_cancellation_is_left_behind_and_named(caplog):
    release = asyncio.Event()
    begun = asyncio.Event()

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise ValueError("none")
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    server = await started(application, graceful_timeout=0)
    async with connect(server) as (_, writer):
        writer.write(GET)
        await begun.wait()
        async with asyncio.timeout(10):
            await server.stop()
    assert "an application does not end, leaving it behind" in sentences(caplog, level="ERROR")
    release.set()


async def test_hurry_ends_the_graceful_time():
    """What a second signal does."""
    site = Site()
    server = await started(site, graceful_timeout=300)
    async with connect(server) as (reader, writer):
        writer.write(GET.replace(b"/", b"/deaf", 1))
        await site.requested.wait()
        stopping = asyncio.ensure_future(server.stop())
        _, pending = await asyncio.wait((stopping,), timeout=0.05)
        assert pending
        server.hurry()
        async with asyncio.timeout(10):
            await stopping
        assert (await read_all(reader))[1]


async def test_graceful_timeout_0_stops_at_once():
    site = Site()
    server = await started(site, graceful_timeout=0)
    async with connect(server) as (_, writer):
        writer.write(GET.replace(b"/", b"/deaf", 1))
        await site.requested.wait()
        async with asyncio.timeout(10):
            await server.stop()
    assert site.notes[-2:] == ["cancelled", "lifespan.shutdown"]


async def test_no_request_is_lost_by_a_stop_under_load():
    """Each client gets an answer, or a connection that was closed before its request had been taken."""

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise ValueError("none")
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"answer"})

    server = await started(application)
    port = port_of(server)
    answered, lost = 0, []

    async def client():
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(GET)
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as error:
                    if error.partial:
                        lost.append(error.partial)
                    return  # closed while idle: RFC 9112 §9.3.1 has clients send such a request again
                assert await reader.readexactly(6) == b"answer"
                answered += 1
                if b"connection: close" in head:
                    return
        finally:
            writer.close()

    clients = [asyncio.ensure_future(client()) for _ in range(32)]
    while answered < 100:
        await asyncio.sleep(0.01)
    await server.stop()
    for done in await asyncio.gather(*clients, return_exceptions=True):
        assert done is None or isinstance(done, ConnectionResetError)
    assert lost == []


# ---- owning the process

PROGRAM = """
import asyncio, sys
from daphne_like import Server, Settings

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            said = await receive()
            print(said["type"], flush=True)
            await send({"type": said["type"] + ".complete"})
            if said["type"] == "lifespan.shutdown":
                return
    print("request", flush=True)
    while (await receive())["type"] != "http.disconnect":
        pass

server = Server(application, Settings(port=0, graceful_timeout=float(sys.argv[1]), verbosity=0))

real_start = server.start

async def start():
    await real_start()
    print(server.addresses[0], flush=True)

server.start = start
server.run()
print("run() has returned", flush=True)
"""


class Embedded:
    """A program that calls Server.run()."""

    def __init__(self, graceful_timeout):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(graceful_timeout)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "lifespan.startup"
        self.port = int(self.line().rpartition(":")[2])

    def line(self):
        return self.process.stdout.readline().rstrip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def wait_until_refused(port):
    """The first signal has been taken when nobody listens any more."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_with_a_signal(number):
    with Embedded(30) as program:
        program.process.send_signal(number)
        out, err = program.process.communicate(timeout=30)
        assert out.splitlines() == ["lifespan.shutdown", "run() has returned"]
        assert (program.process.returncode, err) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_second_signal_stops_at_once():
    with Embedded(300) as program:
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(GET)
            assert program.line() == "request"
            program.process.send_signal(signal.SIGTERM)
            wait_until_refused(program.port)
            program.process.send_signal(signal.SIGTERM)
            out, err = program.process.communicate(timeout=30)
        assert out.splitlines() == ["lifespan.shutdown", "run() has returned"]
        assert program.process.returncode == 0
        assert "Traceback" not in err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals")
def test_sighup_does_not_end_an_embedded_server():
    with Embedded(30) as program:
        program.process.send_signal(signal.SIGHUP)
        with socket.create_connection(("127.0.0.1", program.port)) as client:
            client.sendall(GET)
            assert program.line() == "request"
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(30) == 0
