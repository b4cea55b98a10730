"""
Load generators of `scripts/bench`: 64 connections in a closed loop (each sends again when it has its answer).

HTTP goes through wrk, one thread, with a Lua script. Two works are generated here, on raw non-blocking
sockets under epoll, because wrk has no WebSocket, and because its 8 KiB reads make it the slower side of a 1
MiB response:

* WebSocket echo: frames masked beforehand, replies counted by length; their first byte is checked.
* Large responses: the status line is read and checked, the rest discarded in the kernel (MSG_TRUNC, tcp(7)).

Every generator says how much of its core it used, so that a figure that shows the generator's limit instead
of the server's is not taken for the server's.
"""

from __future__ import annotations

import gc
import json
import resource
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import bench_client

CONNECTIONS = 64
STATUS_LINE = b"HTTP/1.1 200"
DISCARDED_AT_ONCE = 1 << 20
# More than that is a reason to stop looking, not a longer report.
MAX_ERRORS = 5
# wrk measures what it took in, which may end in the middle of a response; heads may differ by a digit.
SIZE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Load:
    """
    What one generator saw in one run.

    Args:
        count: answers that arrived whole.
        seconds: during which they were counted.
        cpu: share of one core that the generator used, 0 to 1.
        errors: sentences; empty when every answer was a 2xx and no socket failed.
    """

    count: int
    seconds: float
    cpu: float
    errors: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def wrk_script(method: str, body_size: int, close: bool, pipeline: int) -> str:
    lines = [f'wrk.method = "{method}"']
    if body_size:
        lines.append(f'wrk.body = string.rep("x", {body_size})')
    if close:
        lines.append('wrk.headers["Connection"] = "close"')
    if pipeline > 1:
        # wrk counts the requests in what request() returns, and waits for as many responses.
        lines += [
            "function init(args)",
            f"  batch = string.rep(wrk.format(), {pipeline})",
            "end",
            "function request()",
            "  return batch",
            "end",
        ]
    lines += [
        "function done(summary, latency, requests)",
        "  local e = summary.errors",
        "  io.write(string.format(",
        """    '\\n{"requests":%d,"bytes":%d,"microseconds":%d,'""",
        """    .. '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\\n',""",
        "    summary.requests, summary.bytes, summary.duration,",
        "    e.status, e.connect, e.read, e.write, e.timeout))",
        "end",
    ]
    return "\n".join(lines) + "\n"


def wrk(
    port: int,
    path: str,
    wire_size: int,
    seconds: int,
    *,
    method: str = "GET",
    body_size: int = 0,
    close: bool = False,
    pipeline: int = 1,
) -> Load:
    """
    Run wrk for *seconds*.

    Args:
        wire_size: of one response, as seen before: the bytes received must amount to that many each.
    """
    with tempfile.NamedTemporaryFile("w", prefix="bench-", suffix=".lua") as script:
        script.write(wrk_script(method, body_size, close, pipeline))
        script.flush()
        command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"]
        command += ["--script", script.name, f"http://127.0.0.1:{port}{path}"]
        before, begun = children_cpu(), time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        cpu = (children_cpu() - before) / (time.perf_counter() - begun)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines or not lines[-1].startswith("{"):
        return Load(0, seconds, cpu, (f"wrk failed: {(ended.stderr or ended.stdout).strip()[-200:]}",))
    summary = json.loads(lines[-1])
    errors = []
    if summary["status"]:
        errors.append(f"{summary['status']} responses with an error status")
    errors += [
        f"{summary[kind]} {kind} errors" for kind in ("connect", "read", "write", "timeout") if summary[kind]
    ]
    least = summary["requests"] * wire_size
    most = least + CONNECTIONS * pipeline * wire_size
    if not summary["requests"]:
        errors.append("no response at all")
    elif not least * (1 - SIZE_TOLERANCE) <= summary["bytes"] <= most * (1 + SIZE_TOLERANCE):
        mean = summary["bytes"] / summary["requests"]
        errors.append(f"{mean:.0f} bytes a response, where {wire_size} were seen before")
    return Load(summary["requests"], summary["microseconds"] / 1e6, cpu, tuple(errors))


def children_cpu() -> float:
    """Of children waited for. The servers are stopped outside every measurement, so only wrk shows."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def websocket_echo(
    port: int, payload: bytes, wire_size: int, seconds: float, sockets: int = CONNECTIONS
) -> Load:
    """One text message in flight on each of the connections."""
    connections = []
    try:
        for _ in range(sockets):
            connection = bench_client.Connection(port)
            connections.append(connection)
            connection.open_websocket()
        frames = [bench_client.text_frame(payload) for _ in connections]
        return closed_loop(
            [connection.socket for connection in connections], frames, wire_size, seconds, echo_turn
        )
    finally:
        for connection in connections:
            connection.socket.close()


def large_responses(port: int, path: str, wire_size: int, seconds: float) -> Load:
    """One GET in flight on each of the connections; bodies are counted and thrown away unread."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(CONNECTIONS):
            sockets.append(bench_client.Connection(port).socket)
        requests = [bench_client.request_bytes("GET", path)] * CONNECTIONS
        return closed_loop(sockets, requests, wire_size, seconds, discard_turn)
    finally:
        for each in sockets:
            each.close()


Turn = Callable[[socket.socket, bytes, int], Callable[[], int]]


def closed_loop(
    sockets: list[socket.socket], requests: list[bytes], wire_size: int, seconds: float, turn: Turn
) -> Load:
    """
    Send each socket its request, again whenever its answer is complete, until *seconds* have passed.

    Args:
        turn: makes the function called when a socket is readable, which returns how many answers that
            completed (0 or 1) and raises OSError or WrongAnswer when the connection is of no more use.
    """
    poller = select.epoll()
    turns: dict[int, Callable[[], int]] = {}
    errors: list[str] = []
    count = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        cpu, begun = time.process_time(), time.perf_counter()
        for each, request in zip(sockets, requests, strict=True):
            each.setblocking(False)
            poller.register(each, select.EPOLLIN)
            turns[each.fileno()] = turn(each, request, wire_size)
            send_whole(each, request)
        end = begun + seconds
        now = begun
        while now < end and turns:
            for descriptor, _ in poller.poll(end - now):
                try:
                    count += turns[descriptor]()
                except (OSError, bench_client.WrongAnswer) as error:
                    poller.unregister(descriptor)
                    del turns[descriptor]
                    errors.append(str(error))
            now = time.perf_counter()
        cpu = time.process_time() - cpu
    finally:
        poller.close()
        if collecting:
            gc.enable()
    if not count:
        errors.append("no answer at all")
    elapsed = now - begun
    return Load(count, elapsed, cpu / elapsed, summarised(errors))


def echo_turn(each: socket.socket, frame: bytes, wire_size: int) -> Callable[[], int]:
    receive_into = each.recv_into
    buffer = bytearray(wire_size + 1)
    first = bench_client.FINAL_TEXT
    missing = wire_size

    def readable() -> int:
        nonlocal missing
        received = receive_into(buffer)
        if missing == wire_size and received and buffer[0] != first:
            raise bench_client.WrongAnswer(f"a frame that begins with 0x{buffer[0]:02x} instead of the echo")
        missing -= received
        if missing == 0:
            missing = wire_size
            send_whole(each, frame)
            return 1
        if missing < 0:
            raise bench_client.WrongAnswer("more bytes than the echo has")
        if not received:
            raise bench_client.WrongAnswer("connection closed by the server")
        return 0

    return readable


def discard_turn(each: socket.socket, request: bytes, wire_size: int) -> Callable[[], int]:
    receive_into = each.recv_into
    buffer = bytearray(DISCARDED_AT_ONCE)
    start = memoryview(buffer)[: len(STATUS_LINE)]
    missing = wire_size

    def readable() -> int:
        nonlocal missing
        if missing == wire_size:
            received = receive_into(start)
            if received and start != STATUS_LINE:
                raise bench_client.WrongAnswer(f"response begins with {bytes(start)!r}")
        else:
            received = receive_into(buffer, min(missing, DISCARDED_AT_ONCE), socket.MSG_TRUNC)
        if not received:
            raise bench_client.WrongAnswer("connection closed by the server")
        missing -= received
        if missing == 0:
            missing = wire_size
            send_whole(each, request)
            return 1
        return 0

    return readable


def send_whole(each: socket.socket, data: bytes) -> None:
    """
    Send on a non-blocking socket; what the kernel does not take at once is sent blocking.

    With one message in flight a socket's send buffer is empty before each, so that is the rare case.
    """
    sent = each.send(data)
    if sent != len(data):
        each.settimeout(bench_client.TIMEOUT)
        each.sendall(memoryview(data)[sent:])
        each.setblocking(False)


@dataclass(frozen=True)
class Idle:
    """Connections that have done one exchange each and are open still."""

    sockets: list[socket.socket]
    errors: tuple[str, ...]

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def idle_connections(port: int, count: int, *, websocket: bool) -> Idle:
    """Open *count* connections, 64 at a time; each does one handshake, or one request, and then nothing."""
    request, expected = bench_client.request_bytes("GET", "/"), 200
    if websocket:
        request, expected = bench_client.upgrade_request(b"AAAAAAAAAAAAAAAAAAAAAA=="), 101
    sockets: list[socket.socket] = []
    answered = 0
    try:
        while answered < count:
            batch = []
            for _ in range(min(CONNECTIONS, count - answered)):
                connection = bench_client.Connection(port)
                sockets.append(connection.socket)
                batch.append(connection)
            for connection in batch:
                connection.send(request)
            for connection in batch:
                status = connection.response().status
                if status != expected:
                    raise bench_client.WrongAnswer(f"status {status}")
                answered += 1
    except (OSError, bench_client.WrongAnswer) as error:
        return Idle(sockets, (f"{error} (after {answered} of {count} connections)",))
    return Idle(sockets, ())


def closed_by_server(idle: Idle) -> int:
    """How many of the connections the server has closed, or written to, in the meantime."""
    poller = select.poll()
    for each in idle.sockets:
        poller.register(each, select.POLLIN)
    return len(poller.poll(0))


def summarised(errors: list[str]) -> tuple[str, ...]:
    kept = errors[:MAX_ERRORS]
    if len(errors) > MAX_ERRORS:
        kept.append(f"and {len(errors) - MAX_ERRORS} more errors")
    return tuple(kept)
