"""
What users of workers rely on: sockets outlive code, nothing lost looks like success, nothing is left behind.

Under load, and counted, much of it is in tests/faults again. How workers start, join and stop is in
tests/test_worker_process.py.
"""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.end_to_end.clients import Answer, drain, fetch, random_octets
from tests.end_to_end.clients import connect as connect_tcp
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

WITHIN = 20.0
SITE = f"{APPLICATIONS}.workers_site:application"
# The relay's and the kernel's buffers, for one stream.
IN_FLIGHT = 24 * 1024 * 1024


@contextmanager
def site(*words: str, workers: int = 2, **options: Any) -> Iterator[ServerProcess]:
    with serving("-p", "0", "--workers", str(workers), *words, SITE, **options) as server:
        server.stderr.wait_for("worker ready", count=workers)
        yield server


def noted(server: ServerProcess, what: str, count: int = 1) -> int:
    """The process that did *what*, once it was done *count* times."""
    return int(server.stderr.wait_for(rf"noted {re.escape(what)} (\d+)", count=count)[1])


def times(server: ServerProcess, what: str) -> int:
    return len(re.findall(rf"noted {re.escape(what)} ", server.stderr.text))


@contextmanager
def asked(server: ServerProcess, target: str, method: str = "GET") -> Iterator[socket.socket]:
    """A request that somebody works on."""
    with connect_tcp(server.port) as client:
        head = f"{method} {target} HTTP/1.1\r\nHost: site\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode())
        noted(server, f"{method} {target.partition('?')[0]}")
        yield client


def opened(server: ServerProcess, path: str = "/") -> connect:
    return connect(f"ws://127.0.0.1:{server.port}{path}", max_size=None, compression=None)


def ask(client: ClientConnection, text: str) -> int:
    """Who echoes *text*."""
    client.send(text)
    echo = client.recv(WITHIN)
    assert isinstance(echo, str)
    pid, _, echoed = echo.partition(" ")
    assert echoed == text
    return int(pid)


def in_background(server: ServerProcess, target: str) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(fetch(server.port, target)))
    thread.start()
    return thread, answers


# -- kill -9 of a worker, in the middle of ... ----------------------------------------------------


def test_request_of_a_killed_worker_runs_again_if_that_is_safe_and_is_502_if_not() -> None:
    with site() as server:
        with asked(server, "/wait?0.1", "POST") as client:
            os.kill(noted(server, "POST /wait"), signal.SIGKILL)
            assert drain(client).startswith(b"HTTP/1.1 502 ")
        with asked(server, "/wait?0.1") as client:
            os.kill(noted(server, "GET /wait"), signal.SIGKILL)
            assert drain(client).startswith(b"HTTP/1.1 200 ")
            noted(server, "GET /wait", count=2)
        assert times(server, "POST /wait") == 1


def test_download_of_a_killed_worker_does_not_look_complete() -> None:
    with site() as server, asked(server, "/download?100000000") as client:
        assert client.recv(1) == b"H"
        os.kill(noted(server, "GET /download"), signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            drain(client)


def test_event_stream_goes_on_through_deaths_and_replacements_without_a_gap_or_a_double() -> None:
    def numbers() -> list[int]:
        return [int(number) for number in re.findall(rb"id: (\d+)\ndata: \d+\n\n", stream)]

    def pids() -> set[bytes]:
        return set(re.findall(rb"data: (\d+)\n\n", stream))

    with site(workers=1) as server, asked(server, "/events") as client:
        stream = b""
        for change in range(4):
            while len(pids()) <= change or len(numbers()) < 20 * change + 10:
                stream += client.recv(65536)
            if change % 2:
                server.signal(signal.SIGHUP)
            else:
                [*_, last] = re.findall(rb"data: (\d+)\n\n", stream)
                os.kill(int(last), signal.SIGKILL)
        assert numbers() == list(range(1, len(numbers()) + 1))
        assert stream.count(b"HTTP/1.1 ") == stream.count(b"text/event-stream") == 1


def test_large_message_to_a_killed_worker_comes_whole_to_the_next() -> None:
    limits = ("--websocket-max-message-size", "32m", "--websocket-max-frame-size", "32m")
    with site(*limits) as server, opened(server) as client:
        for number, large in enumerate(random_octets(5_000_000) for _ in range(3)):
            pid = ask(client, f"who {number}")
            sender = threading.Thread(target=client.send, args=(large,))
            sender.start()
            os.kill(pid, signal.SIGKILL)
            assert client.recv(WITHIN) == large
            sender.join(WITHIN)


# -- replaced -------------------------------------------------------------------------------------


def test_applications_that_will_not_go_on_close_their_websockets_with_their_own_codes() -> None:
    with site("--application-close-timeout", "0.5", expected_trouble=True) as server, ExitStack() as stack:
        paths = ("/refuses", "/denies", "/raises", "/lingers", "/")
        clients = {path: stack.enter_context(opened(server, path)) for path in paths}
        for client in clients.values():
            ask(client, "before")
        server.signal(signal.SIGHUP)
        codes = {}
        for path in ("/refuses", "/denies", "/raises"):
            with pytest.raises(ConnectionClosed) as closed:
                clients[path].recv(WITHIN)
            assert closed.value.rcvd is not None
            codes[path] = closed.value.rcvd.code
        assert codes == {"/refuses": 4001, "/denies": 1008, "/raises": 1011}
        # One that does not end when it is told to holds nobody up.
        server.stderr.wait_for("worker ended", count=2)
        for path in ("/lingers", "/"):
            ask(clients[path], "after")


def test_hangup_while_new_workers_hang_begins_anew(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with site(workers=1, environment={"GATE": str(gate)}) as server:
        with opened(server) as client:
            before = ask(client, "before")
            os.mkfifo(gate)
            server.signal(signal.SIGHUP)
            with gate.open("wb"):  # which returns when the import hangs
                gate.unlink()
                server.signal(signal.SIGHUP)
                server.stderr.wait_for("all workers are new")
            server.stderr.wait_for("worker ended")
            assert ask(client, "after") != before
        assert "do not start" not in server.stderr.text


def test_hangup_does_not_wait_for_a_worker_that_is_being_recycled() -> None:
    with site("--limit-max-requests", "1", workers=1) as server:
        with asked(server, "/wait?1000", "POST") as client:
            server.stderr.wait_for("replacing a worker")
            server.stderr.wait_for("worker ready", count=2)
            server.signal(signal.SIGHUP)
            server.stderr.wait_for("all workers are new")
            assert "worker ended worker=1 " not in server.stderr.text
            os.kill(noted(server, "POST /wait"), signal.SIGKILL)
            assert drain(client).startswith(b"HTTP/1.1 502 ")


# -- stuck ----------------------------------------------------------------------------------------

QUICK_END = ("--graceful-timeout", "0.1", "--shutdown-timeout", "0.1")


def test_what_a_worker_is_stuck_in_is_not_given_to_the_next() -> None:
    with site(*QUICK_END, workers=1) as server, opened(server) as stuck, opened(server) as innocent:
        before = ask(innocent, "before")
        assert ask(stuck, "before") == before
        stuck.send("block")
        noted(server, "took block")
        innocent.send("waits")
        server.signal(signal.SIGHUP)
        server.stderr.wait_for("a worker does not stop, killing it")
        after, text = str(innocent.recv(WITHIN)).split()
        assert (text, int(after) != before) == ("waits", True)
        assert ask(stuck, "after") == int(after)
        assert times(server, "took block") == 1


def test_requests_behind_one_that_blocks_run_on_another_worker_and_that_one_does_not() -> None:
    with site(*QUICK_END, workers=1) as server, asked(server, "/block") as client:
        waiting, answers = in_background(server, "/")
        server.signal(signal.SIGHUP)
        assert drain(client).startswith(b"HTTP/1.1 502 ")
        waiting.join(WITHIN)
        assert [answer.status for answer in answers] == [200]
        assert times(server, "GET /block") == 1


# -- what an operator sees, and is left with ------------------------------------------------------


def test_nothing_is_left_of_a_server_that_was_killed() -> None:
    with site(exit_code=-signal.SIGKILL) as server:
        directory = Path(server.stderr.wait_for(r"layer=ipc:(\S+)/layer.sock")[1])
        assert directory.exists()
        server.process.kill()
        eventually(lambda: not directory.exists())


def test_refusals_are_told_in_the_log() -> None:
    words = ("--worker-sessions", "1", "--queue-size", "1", "--queue-timeout", "0.3")
    with site(*words, workers=1) as server, asked(server, "/wait?1"):
        waiting, answers = in_background(server, "/")
        refused = [fetch(server.port).status for _ in range(2)]
        waiting.join(WITHIN)
        statuses = [*refused, answers[0].status]
        assert sorted(statuses)[-2:] == [503, 503]
        said = server.stderr.wait_for(r"WARNING  no worker is free, streams were refused refused=(\d+)")
        assert int(said[1]) >= 1


def test_worker_that_is_lost_can_be_found_in_the_log() -> None:
    with site(workers=1) as server, opened(server) as client:
        [pid, address] = server.stderr.wait_for(r"worker ready worker=1 pid=(\d+) address=(\S+)").groups()
        os.kill(int(pid), signal.SIGKILL)
        assert server.stderr.wait_for(r"worker lost address=(\S+)")[1] == address
        ask(client, "after")


def test_clients_that_do_not_read_cost_little_memory() -> None:
    def resident(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with site(workers=1) as server:
        worker = int(fetch(server.port).body)
        before = [resident(pid) for pid in (server.process.pid, worker)]
        with asked(server, "/download?1000000000") as one, asked(server, "/download?1000000000") as other:
            assert one.recv(1) == other.recv(1) == b"H"
            assert fetch(server.port).status == 200
            after = [resident(pid) for pid in (server.process.pid, worker)]
        assert all(now - then < IN_FLIGHT for now, then in zip(after, before, strict=True)), (before, after)
