"""
Applications and clients that do what they should not: each is told, and ends alone. The server goes on, and
keeps nothing of them.
"""

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.clients import abandon, connect, drain, fetch, read_until
from tests.end_to_end.processes import APPLICATIONS, ROOT, ServerProcess, eventually, serving

websockets = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

PLAIN = f"{APPLICATIONS}.plain:application"
GET = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


def alive(server: ServerProcess) -> dict[str, int]:
    """
    How many things the application's process holds for its clients; the asking request's own are among them.

    In a worker these are sessions. That the server itself keeps nothing there is asked in memory, after each
    test of tests/asgi.
    """
    counts: dict[str, int] = json.loads(fetch(server.port, "/alive").body)
    return {name: count for name, count in counts.items() if count}


ALONE = {"HTTPStream": 1, "ServerProtocol": 1, "H1Connection": 1}, {"HTTPSession": 1}


def is_alone(server: ServerProcess) -> bool:
    """Nothing is left of anybody but who asks."""
    return alive(server) in ALONE


def application_pid(server: ServerProcess) -> int:
    return int(fetch(server.port).text)


def wait_until_blocked(pid: int) -> None:
    """The process sleeps outside of the poll that an event loop sleeps in; no socket could tell us."""
    wchan = Path(f"/proc/{pid}/wchan")
    if not wchan.exists():
        pytest.skip("needs Linux's /proc")
    eventually(lambda: "nanosleep" in wchan.read_text() or "nsleep" in wchan.read_text())


def notes(server: ServerProcess) -> list[str]:
    return fetch(server.port, "/notes").json


# ---- applications


@pytest.mark.parametrize("path", ["/raises", "/exits"])
def test_application_that_raises_before_its_response(path: str, workers: tuple[str, ...]) -> None:
    """sys.exit() in a view is an exception like others: it ends a request, not the server."""
    with serving("-p", "0", *workers, PLAIN, expected_trouble=True) as server, connect(server.port) as sock:
        sock.sendall(GET % path.encode() + GET % b"/")
        text = read_until(sock, b"%d\n" % application_pid(server))
        assert text.startswith(b"HTTP/1.1 500 ")
        assert text.count(b"HTTP/1.1 200 ") == 1
        server.stderr.wait_for("on purpose|SystemExit: 5")
        assert server.stderr.text.count("application failed") == 1
        assert server.stderr.text.count("Traceback") == 1


def test_application_that_raises_after_its_start(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN, expected_trouble=True) as server, connect(server.port) as sock:
        sock.sendall(GET % b"/raises-after-start")
        with pytest.raises(ConnectionResetError):  # never the end of a chunked body
            drain(sock)
        assert fetch(server.port).status == 200
        server.stderr.wait_for("on purpose")
        assert server.stderr.text.count("Traceback") == 1


def test_websocket_application_that_raises(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN, expected_trouble=True) as server:
        with websockets.connect(f"ws://127.0.0.1:{server.port}/ws/raises") as socket:
            with pytest.raises(exceptions.ConnectionClosed) as closed:
                socket.recv(timeout=10)
            assert closed.value.rcvd.code == 1011


def test_application_that_blocks_the_loop(workers: tuple[str, ...]) -> None:
    """Everybody waits; nobody is lost, and no deadline is held against those who could not be heard."""
    words = (
        "--keep-alive-timeout",
        "1",
        "--header-timeout",
        "1",
        "--body-timeout",
        "1",
        "--ping-interval",
        "1",
    )
    with serving("-p", "0", *workers, *words, "--ping-timeout", "1", PLAIN) as server:
        pid = application_pid(server)
        with (
            connect(server.port) as idle,
            connect(server.port) as sending,
            connect(server.port) as blocking,
            websockets.connect(f"ws://127.0.0.1:{server.port}/ws/") as talk,
        ):
            idle.sendall(GET % b"/notes")
            read_until(idle, b"]")
            sending.sendall(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
            blocking.sendall(GET % b"/block?2.5")
            wait_until_blocked(pid)
            idle.sendall(GET % b"/notes")
            sending.sendall(b"abc")
            fresh = connect(server.port)
            fresh.sendall(GET % b"/notes")
            assert read_until(blocking, b"ok\n").startswith(b"HTTP/1.1 200")
            assert read_until(idle, b"]").startswith(b"HTTP/1.1 200")
            assert read_until(sending, b"\r\n\r\n3").startswith(b"HTTP/1.1 200")
            assert read_until(fresh, b"]").startswith(b"HTTP/1.1 200")
            fresh.close()
            talk.send("still here")
            assert talk.recv(timeout=10) == "still here"


def test_application_that_takes_no_cancellation(workers: tuple[str, ...]) -> None:
    """It is told once, goes on in vain, and the server works on beside it."""
    with serving("-p", "0", *workers, "--application-close-timeout", "0.2", PLAIN) as server:
        sock = connect(server.port)
        sock.sendall(GET % b"/stubborn?2")
        eventually(lambda: "stubborn: begun" in notes(server))
        sock.close()
        eventually(lambda: "stubborn: cancelled" in notes(server))
        eventually(lambda: is_alone(server))
        assert notes(server).count("stubborn: cancelled") == 1


def test_close_timeout_of_0_cancels_at_once(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, "--application-close-timeout", "0", PLAIN) as server:
        sock = connect(server.port)
        sock.sendall(GET % b"/stubborn?3")
        eventually(lambda: "stubborn: begun" in notes(server))
        sock.close()
        eventually(lambda: "stubborn: cancelled" in notes(server), 2.5)


# ---- clients

KILLED = """
import socket, sys, time
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
sock.recv(10)
print("receiving", flush=True)
time.sleep(60)
"""
UPGRADE = (
    r"GET /ws/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    r"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("request_text", "noted"),
    [(r"GET /events HTTP/1.1\r\nHost: a\r\n\r\n", "events: "), (UPGRADE, "websocket: 1006")],
    ids=["events", "websocket"],
)
def test_client_that_is_killed(request_text: str, noted: str, workers: tuple[str, ...]) -> None:
    """kill -9: the kernel closes its socket, and the application hears of it."""
    with serving("-p", "0", *workers, PLAIN) as server:
        command = [sys.executable, "-c", KILLED, str(server.port), request_text]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(8)]
        for client in clients:
            with client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"receiving\n"
                client.send_signal(signal.SIGKILL)
        eventually(lambda: sum(note.startswith(noted) for note in notes(server)) == len(clients))
        eventually(lambda: is_alone(server))


def test_clients_that_reset_before_they_are_accepted() -> None:
    """Health checks and port scanners do it. A socket without a peer is closed, and nothing is logged."""
    with serving("-p", "0", PLAIN) as server:
        with connect(server.port) as blocking:
            blocking.sendall(GET % b"/block?0.5")
            wait_until_blocked(server.process.pid)
            for _ in range(50):
                abandon(connect(server.port))
            read_until(blocking, b"ok\n")
        eventually(lambda: is_alone(server))
        assert server.stderr.text.count("\n") == 0, server.stderr.text


def test_clients_that_leave_are_forgotten(workers: tuple[str, ...]) -> None:
    """Also those whose application had to be cancelled, and those who left in the middle of a response."""
    with serving("-p", "0", *workers, "--application-close-timeout", "0.1", PLAIN) as server:
        for leave in (socket.socket.close, abandon):
            for path in (b"/slow?60", b"/hold", b"/events", b"/two-large", b"/ws"):
                for _ in range(5):
                    sock = connect(server.port)
                    sock.sendall(GET % path)
                    fetch(server.port)  # it has been read
                    leave(sock)
        eventually(lambda: is_alone(server))
        assert "application failed" not in server.stderr.text


def test_client_that_leaves_before_the_last_of_a_response(workers: tuple[str, ...]) -> None:
    """send() of the last message waits for a client that then leaves: not the application's error."""
    with serving("-p", "0", *workers, PLAIN) as server:
        sock = connect(server.port)
        sock.sendall(GET % b"/two-large")
        sock.recv(1000)
        fetch(server.port)
        abandon(sock)
        eventually(lambda: is_alone(server))
        assert "application failed" not in server.stderr.text


@pytest.mark.parametrize(
    "request_text",
    [
        GET % b"/unknown",
        b"GET /ws/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"not HTTP\r\n\r\n",
    ],
    ids=["unknown", "handshake", "old", "malformed"],
)
def test_refused_client_that_does_not_close(request_text: bytes) -> None:
    """Neither its connection stays for ever, nor does the server wait for it when it stops."""
    with serving("-p", "0", PLAIN) as server, connect(server.port) as sock:
        sock.sendall(request_text)
        read_until(sock, b"\r\n\r\n")
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - begin < 10


def test_expect_continue_waits_for_the_application(workers: tuple[str, ...]) -> None:
    """A client that rightly waits for 100 is not late, however long the application takes to ask."""
    with serving("-p", "0", *workers, "--body-timeout", "0.2", PLAIN) as server, connect(server.port) as sock:
        sock.sendall(
            b"POST /slow?1.5 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_one_at_a_time(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, "--max-concurrent-requests", "1", PLAIN) as server:
        with connect(server.port) as sock:
            sock.sendall(GET % b"/unread" * 5)
            data = b""
            while data.count(b"ok\n") < 5:
                data += sock.recv(65536)
                assert b" 503 " not in data


def test_half_closed_client_gets_its_answer(workers: tuple[str, ...]) -> None:
    with serving("-p", "0", *workers, PLAIN) as server, connect(server.port) as sock:
        sock.sendall(GET % b"/slow?0.5" + GET % b"/notes")
        sock.shutdown(socket.SHUT_WR)
        assert drain(sock).count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
        + socket.inet_aton("203.0.113.7")
        + socket.inet_aton("192.0.2.1")
        + struct.pack("!HH", 4711, 443),
    ],
    ids=["v1", "v2"],
)
def test_proxy_protocol(header: bytes, workers: tuple[str, ...]) -> None:
    """As HAProxy, or NGINX's stream module, begin a connection."""
    with serving("-p", "0", *workers, "--proxy-protocol", PLAIN) as server:
        with connect(server.port) as sock:
            for octet in header:  # however it is cut
                sock.sendall(bytes((octet,)))
            sock.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            scope = json.loads(drain(sock).partition(b"\r\n\r\n")[2])
            assert (scope["client"], scope["server"]) == (["203.0.113.7", 4711], ["192.0.2.1", 443])
        with connect(server.port) as sock:
            sock.sendall(GET % b"/scope")
            with pytest.raises(ConnectionResetError):
                drain(sock)
