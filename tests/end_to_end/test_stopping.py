"""SIGTERM and SIGINT: nobody's request is lost, everybody is told, and the process ends in time with 0."""

import asyncio
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.end_to_end.clients import Load, connect, drain, fetch, read_until
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

websockets = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

PLAIN = f"{APPLICATIONS}.plain:application"
CLIENTS = 64


@pytest.mark.parametrize("target", ["/", "/slow?0.02"])
@pytest.mark.time_limit(120)
async def test_restart_under_load_loses_no_request(target: str) -> None:
    """
    64 clients on kept connections; a second server shares the listening socket, and the first one is stopped.

    The socket is the test's, and inherited by both.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        fd = listener.fileno()
        words = ("--fd", str(fd), "-v", "1", "--no-access-log", PLAIN)
        load = Load(listener.getsockname()[1], CLIENTS, target)
        enough = asyncio.Event()
        with serving(*words, pass_fds=[fd]) as first:
            clients = asyncio.create_task(load.run(enough))
            await asyncio.to_thread(eventually, lambda: load.answered > 5 * CLIENTS)
            with serving(*words, pass_fds=[fd]) as second:
                first.signal(signal.SIGTERM)
                assert await asyncio.to_thread(first.wait) == 0
                after = load.answered
                await asyncio.to_thread(eventually, lambda: load.answered > after + 5 * CLIENTS)
                enough.set()
                await clients
                assert second.process.poll() is None
        assert load.failures == []
        pids = {str(each.process.pid).encode() + b"\n" for each in (first, second)}
        assert set(load.bodies) == pids


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU])
def test_signals_for_workers_do_not_stop_a_server_without(number: signal.Signals) -> None:
    """By default they stop the process until SIGCONT, and SIGTERM would have to wait for that."""
    with serving("-p", "0", PLAIN) as server:
        server.signal(number)
        server.stderr.wait_for("there are no workers here")
        assert fetch(server.port).status == 200


async def test_stop_under_load_resets_nobody(workers: tuple[str, ...]) -> None:
    """
    Without a successor: every response that has begun arrives whole, and the rest of the clients find the
    port closed, or their connection ended between two responses.
    """
    with serving("-p", "0", *workers, "--no-access-log", PLAIN) as server:
        load = Load(server.port, CLIENTS)
        clients = asyncio.create_task(load.run(asyncio.Event()))
        await asyncio.to_thread(eventually, lambda: load.answered > 5 * CLIENTS)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        await clients
    torn = [failure for failure in load.failures if not failure.startswith("connecting: ConnectionRefused")]
    assert torn == []


def stop_while(server: ServerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    server.signal(number)
    server.stderr.wait_for("INFO +stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_in_flight_is_finished(number: signal.Signals, workers: tuple[str, ...]) -> None:
    with (
        serving("-p", "0", *workers, PLAIN) as server,
        connect(server.port) as sock,
        connect(server.port) as idle,
    ):
        sock.sendall(b"GET /slow?1 HTTP/1.1\r\nHost: a\r\n\r\n")
        idle.sendall(b"GET /notes HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(idle, b"]")
        stop_while(server, number)
        assert drain(idle) == b""  # closed at once, and without a reset
        with pytest.raises(ConnectionRefusedError):
            connect(server.port)
        answer = drain(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nconnection: close\r\n" in answer
        assert server.wait() == 0
        assert "plain: lifespan shutdown" in server.stdout.text


def test_request_that_is_on_its_way_is_answered(workers: tuple[str, ...]) -> None:
    """A head that is half read when the signal comes."""
    with serving("-p", "0", *workers, PLAIN) as server, connect(server.port) as sock:
        sock.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\n")
        fetch(server.port)  # the server has read what was sent before this
        stop_while(server)
        sock.sendall(b"Content-Length: 3\r\n\r\nabc")
        assert drain(sock).endswith(b"\r\n\r\n3")


def test_body_that_was_answered_before_its_end_holds_nothing_up(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN) as server, connect(server.port) as sock:
        sock.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        read_until(sock, b"ok\n")
        begin = time.monotonic()
        stop_while(server)
        sock.sendall(b"67890")
        assert server.wait() == 0
        assert time.monotonic() - begin < 10


def test_event_stream_runs_until_the_graceful_time_ends(workers: tuple[str, ...]) -> None:
    with (
        serving("-p", "0", *workers, "--graceful-timeout", "1", PLAIN) as server,
        connect(server.port) as sock,
    ):
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(sock, b"data: 1\n")
        stop_while(server)
        read_until(sock, b"data: 10\n")
        with pytest.raises(ConnectionResetError):  # cut: a chunked body without its end is no whole response
            drain(sock)
        assert server.wait() == 0
        server.stderr.wait_for("outlasted the graceful time .*path=/events")


def test_websockets_are_told_to_come_back(workers: tuple[str, ...]) -> None:
    with (
        serving("-p", "0", *workers, PLAIN) as server,
        ThreadPoolExecutor(20) as threads,
        ExitStack() as opened,
    ):
        sockets = [
            opened.enter_context(websockets.connect(f"ws://127.0.0.1:{server.port}/ws/")) for _ in range(20)
        ]
        receiving = [threads.submit(each.recv, 20) for each in sockets]
        stop_while(server)
        for each in receiving:
            error = each.exception(20)
            assert isinstance(error, exceptions.ConnectionClosed)
            assert error.rcvd is not None
            assert error.rcvd.code == 1012
        assert server.wait() == 0
        assert server.stdout.text.count('"WSDISCONNECT /ws/ HTTP/1.1" 1012 ') == 20


def test_websocket_that_its_application_does_not_read_is_told_too(workers: tuple[str, ...]) -> None:
    """Its inbox is full: that keeps nobody from reading the answer to the close frame."""
    with serving("-p", "0", *workers, PLAIN) as server:
        with websockets.connect(f"ws://127.0.0.1:{server.port}/ws/deaf", compression=None) as socket:
            for _ in range(40):
                socket.send("x" * 10_000)
            begin = time.monotonic()
            with pytest.raises(exceptions.ConnectionClosed) as closed:
                socket.recv(timeout=20)
            assert closed.value.rcvd.code == 4000
        assert time.monotonic() - begin < 5


def test_handshake_during_the_stop_is_refused(workers: tuple[str, ...]) -> None:
    """Otherwise a WebSocket would be opened that nobody says goodbye to."""
    with (
        serving("-p", "0", *workers, "--graceful-timeout", "20", PLAIN) as server,
        connect(server.port) as sock,
    ):
        sock.sendall(b"GET /ws/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        fetch(server.port)
        begin = time.monotonic()
        stop_while(server)
        sock.sendall(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")
        sock.close()
        assert server.wait() == 0
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(number: signal.Signals, workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN) as server, connect(server.port) as sock:
        sock.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        fetch(server.port)
        stop_while(server, number)
        begin = time.monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert time.monotonic() - begin < 10
        server.stderr.wait_for("second signal")


def test_second_signal_ends_a_long_lifespan_shutdown(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN, environment={"PLAIN_LIFESPAN_SHUTDOWN": "25"}) as server:
        stop_while(server)
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begin < 10


def test_application_that_takes_no_cancellation_is_left_behind(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, "--graceful-timeout", "1", PLAIN, expected_trouble=True) as server:
        with connect(server.port) as sock:
            sock.sendall(b"GET /stubborn?60 HTTP/1.1\r\nHost: a\r\n\r\n")
            eventually(lambda: "stubborn: begun" in fetch(server.port, "/notes").json)
            begin = time.monotonic()
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert time.monotonic() - begin < 10
        server.stderr.wait_for("an application does not end, leaving it behind")


def test_thread_that_does_not_end_is_left_behind(workers: tuple[str, ...]) -> None:
    """A sync view that hangs: the interpreter would wait for its thread for ever."""
    with (
        serving("-p", "0", *workers, "--graceful-timeout", "1", PLAIN) as server,
        connect(server.port) as sock,
    ):
        sock.sendall(b"GET /block-a-thread?25 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: "thread: begun" in fetch(server.port, "/notes").json)
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begin < 12
        assert "plain: lifespan shutdown" in server.stdout.text


def test_unix_socket_files_of_a_successor_are_left_alone(tmp_path) -> None:
    path = tmp_path / "site.sock"
    with serving("-u", str(path), PLAIN):
        path.unlink()
        with serving("-u", str(path), PLAIN) as second:
            inode = path.stat().st_ino
            assert second.process.poll() is None
            assert path.stat().st_ino == inode
            assert fetch(str(path)).status == 200


def test_sigint_while_importing_is_130(tmp_path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    server = ServerProcess(["-p", "0", "--app-dir", str(tmp_path), "slow:application"])
    try:
        server.stdout.wait_for("importing")
        server.signal(signal.SIGINT)
        assert server.wait(10) == 130
    finally:
        server.close()
    assert server.stderr.text == ""
