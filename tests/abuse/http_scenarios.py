"""
HTTP/1.1 scenarios: connections that say nothing or never end, bodies and answers at the wrong pace, floods,
sudden departures.

At short scale the sizes shrink, and the bound with them where the full one could not be exceeded any more;
timeouts are shortened by the server's options.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable

from .client import (
    SENT,
    SMALL_BUFFER,
    BadAnswer,
    Reader,
    closed_after,
    connect,
    drip,
    fetch,
    request_head,
    reset,
    wait_readable,
)
from .scenario import (
    CPU,
    KIB,
    MIB,
    Either,
    Run,
    Scale,
    equals,
    others_below,
    rss_below,
    scenario,
    seconds_at_least,
    seconds_below,
    size_below,
    yes,
)

_HELD = "connections held"
_RSS_EACH = "RSS per connection"
_CLOSED_AFTER = "closed after"
_HANDED_OVER = "handed over"
_SENT = "sent by the client"
_CALLS_LEFT = "calls left"
_STATUS_LINE = b"HTTP/1.1 200"
_DESCRIPTORS_LEFT = "descriptors left"


@scenario(
    "idle connections",
    "5000 connections that never send a byte: the server answers others, and spends little on each.",
    full=Scale(
        (equals(_HELD, 5000), size_below(_RSS_EACH, 20 * KIB), others_below(1)),
        {"connections": 5000, "watch": 5.0},
    ),
    short=Scale(
        (equals(_HELD, 1000), size_below(_RSS_EACH, 20 * KIB), others_below(1)),
        {"connections": 1000, "watch": 1.0},
    ),
)
def idle_connections(run: Run, connections: int, watch: float) -> None:
    for _ in range(connections):
        run.connect()
    # The probe's connection may be among them now, and not a moment later: hence counted at the end.
    run.wait_for(lambda: run.connections_held() >= connections, 10)
    time.sleep(watch)  # an observation: the probe asks meanwhile
    run.record(_HELD, min(connections, run.connections_held()))
    run.record_size(_RSS_EACH, run.memory.peak_growth / connections)


def _record_closing(run: Run, waited: float) -> None:
    run.record_seconds(_CLOSED_AFTER, waited)


_WITHIN_90 = (seconds_below(_CLOSED_AFTER, 90), seconds_at_least(_CLOSED_AFTER, 1))
_WITHIN_5 = (seconds_below(_CLOSED_AFTER, 5), seconds_at_least(_CLOSED_AFTER, 0.5))


@scenario(
    "idle first byte timeout",
    "A connection that never sends a byte is closed, though not at once.",
    full=Scale(_WITHIN_90, {"within": 95.0}, deadline=120),
    short=Scale(_WITHIN_5, {"within": 6.0}, ("--header-timeout", "2", "--keep-alive-timeout", "2")),
)
def idle_first_byte_timeout(run: Run, within: float) -> None:
    _record_closing(run, closed_after(run.connect(), within))


@scenario(
    "header timeout",
    "Slowloris: a head that never ends, an octet at a time, is closed.",
    full=Scale(_WITHIN_90, {"every": 2.0, "within": 95.0}, deadline=120),
    short=Scale(_WITHIN_5, {"every": 0.2, "within": 6.0}, ("--header-timeout", "2")),
)
def header_timeout(run: Run, every: float, within: float) -> None:
    client = run.connect()
    client.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
    _record_closing(run, drip(client, lambda: b"a", every, within))


@scenario(
    "keepalive timeout",
    "A connection idle after one answer is closed.",
    full=Scale(_WITHIN_90, {"within": 95.0}, deadline=120),
    short=Scale(_WITHIN_5, {"within": 6.0}, ("--keep-alive-timeout", "2")),
)
def keepalive_timeout(run: Run, within: float) -> None:
    client = run.connect()
    client.sendall(request_head("GET", "/ping"))
    Reader(client).response()
    _record_closing(run, closed_after(client, within))


@scenario(
    "body timeout stalled",
    "A request whose body stops half-way is ended by 408 or by closing, and its application call with it.",
    full=Scale((*_WITHIN_90, equals(_CALLS_LEFT, 0)), {"within": 95.0}, deadline=120),
    short=Scale((*_WITHIN_5, equals(_CALLS_LEFT, 0)), {"within": 6.0}, ("--body-timeout", "2")),
)
def body_timeout_stalled(run: Run, within: float) -> None:
    client = run.connect()
    client.sendall(request_head("POST", "/read", "Content-Length: 1000") + b"b" * 500)
    _record_closing(run, closed_after(client, within, answer_counts=True))
    run.record(_CALLS_LEFT, run.calls_left(within=5))


@scenario(
    "slowloris 500",
    "500 heads dripping a line each second for 20 s: others are answered, memory stays.",
    full=Scale((others_below(1), rss_below(32 * MIB)), {"connections": 500, "lines": 20, "every": 1.0}),
    short=Scale((others_below(1), rss_below(32 * MIB)), {"connections": 500, "lines": 12, "every": 0.25}),
)
def slowloris_500(run: Run, connections: int, lines: int, every: float) -> None:
    clients = [run.connect() for _ in range(connections)]
    for client in clients:
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n")
    began = time.monotonic()
    alive = connections
    for number in range(1, lines + 1):
        time.sleep(max(0.0, began + number * every - time.monotonic()))
        alive = 0
        for client in clients:
            try:
                client.sendall(b"X-Drip-%d: %s\r\n" % (number, b"d" * 50))
                alive += 1
            except ConnectionError:
                continue  # refused by now: as good
    run.remark("still open", str(alive))


@scenario(
    "slow reader",
    "A client that reads nothing of a 256 MiB streamed answer: memory stays, the application is held back.",
    full=Scale(
        (rss_below(16 * MIB), size_below(_HANDED_OVER, 32 * MIB)),
        {"size": 256 * MIB, "watch": 20.0, "still": 3.0},
    ),
    short=Scale(
        (rss_below(16 * MIB), size_below(_HANDED_OVER, 32 * MIB)),
        {"size": 64 * MIB, "watch": 5.0, "still": 1.0},
    ),
)
def slow_reader(run: Run, size: int, watch: float, still: float) -> None:
    client = run.connect(receive_buffer=SMALL_BUFFER)
    client.sendall(request_head("GET", f"/stream?size={size}"))
    wait_readable(client, 10)
    run.record_size(_HANDED_OVER, run.steady("handed_over", watch=watch, still=still))


_RSS_AFTERWARDS = "RSS growth after they are gone"


@scenario(
    "slow readers 100",
    "100 such clients at once: 1 MiB each at most, then and after they are gone; others are answered.",
    full=Scale(
        (rss_below(100 * MIB), size_below(_RSS_AFTERWARDS, 100 * MIB), others_below(1)),
        {"clients": 100, "size": 256 * MIB, "watch": 30.0, "still": 3.0},
        deadline=90,
    ),
    short=Scale(
        (rss_below(24 * MIB), size_below(_RSS_AFTERWARDS, 24 * MIB), others_below(1)),
        {"clients": 24, "size": 16 * MIB, "watch": 5.0, "still": 1.0},
    ),
)
def slow_readers_100(run: Run, clients: int, size: int, watch: float, still: float) -> None:
    readers = [run.connect(receive_buffer=SMALL_BUFFER) for _ in range(clients)]
    for reader in readers:
        reader.sendall(request_head("GET", f"/stream?size={size}"))
    run.wait_for(lambda: run.stats()["started"] >= clients, 10)
    handed_over = run.steady("handed_over", watch=watch, still=still)
    run.record_size("handed over each", handed_over / clients)
    for reader in readers:
        reader.close()
    run.record(_CALLS_LEFT, run.calls_left())
    run.record_size(_RSS_AFTERWARDS, max(0, run.memory.growth))


_UPLOAD_FULL = Scale((rss_below(16 * MIB), size_below(_SENT, 64 * MIB)), {"size": 256 * MIB, "watch": 10.0})
_UPLOAD_SHORT = Scale((rss_below(16 * MIB), size_below(_SENT, 32 * MIB)), {"size": 64 * MIB, "watch": 3.0})


def _chunk(payload: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(payload), extension, payload)


@scenario(
    "upload slow app",
    "A 256 MiB body to an application that reads a message a second: memory stays, the client is held back.",
    full=_UPLOAD_FULL,
    short=_UPLOAD_SHORT,
)
def upload_slow_app(run: Run, size: int, watch: float) -> None:
    client = run.connect()
    client.sendall(request_head("POST", "/sip?interval=1", f"Content-Length: {size}"))
    run.record_size(_SENT, run.flood(client, b"u" * (256 * KIB), size, within=watch).sent)


@scenario(
    "upload slow app chunked",
    "The same with chunked framing.",
    full=_UPLOAD_FULL,
    short=_UPLOAD_SHORT,
)
def upload_slow_app_chunked(run: Run, size: int, watch: float) -> None:
    client = run.connect()
    client.sendall(request_head("POST", "/sip?interval=1", "Transfer-Encoding: chunked"))
    run.record_size(_SENT, run.flood(client, _chunk(b"u" * (16 * KIB)), size, within=watch).sent)


@scenario(
    "upload deaf app",
    "A 256 MiB body to an application that never calls receive: memory stays.",
    full=Scale((rss_below(16 * MIB),), {"size": 256 * MIB, "watch": 10.0}),
    short=Scale((rss_below(16 * MIB),), {"size": 64 * MIB, "watch": 3.0}),
)
def upload_deaf_app(run: Run, size: int, watch: float) -> None:
    client = run.connect()
    client.sendall(request_head("POST", f"/deaf?seconds={watch}", f"Content-Length: {size}"))
    # Past the answer by two seconds: what the server does with the rest of the body is part of the question.
    run.flood(client, b"u" * (256 * KIB), size, within=watch + 2)
    client.settimeout(5)
    try:
        run.remark("answer", str(Reader(client).response().status))
    except (OSError, BadAnswer) as error:
        run.remark("answer", f"none, {type(error).__name__}")


# A browser's head with its cookies; 47 octets would let the kernel's buffers hide half of a flood.
_BROWSER_FIELDS = ("User-Agent: " + "Mozilla/5.0 " * 8, "Accept: text/html", "Cookie: session=" + "c" * 300)


@scenario(
    "pipeline flood",
    "200,000 pipelined GETs (heads of 500 octets, answers of 1 KiB) and no reading: memory stays, others are "
    "answered.",
    full=Scale((rss_below(32 * MIB), others_below(2)), {"requests": 200_000, "stall": 3.0}),
    short=Scale((rss_below(16 * MIB), others_below(2)), {"requests": 60_000, "stall": 1.5}),
)
def pipeline_flood(run: Run, requests: int, stall: float) -> None:
    head = request_head("GET", "/ping?size=1024", *_BROWSER_FIELDS)
    client = run.connect(receive_buffer=SMALL_BUFFER, send_buffer=256 * KIB)
    run.flood(client, head * 500, len(head) * requests, within=20, stall=stall)
    run.settle()


@scenario(
    "pipeline read",
    "50,000 pipelined GETs sent as fast as the server takes them, the answers read: all are answered, memory "
    "stays, others are answered.",
    full=Scale(
        (equals("answers", 50_000), seconds_below(CPU, 8), rss_below(16 * MIB), others_below(2)),
        {"requests": 50_000},
        deadline=90,
    ),
    short=Scale(
        (equals("answers", 20_000), seconds_below(CPU, 4), rss_below(8 * MIB), others_below(2)),
        {"requests": 20_000},
    ),
)
def pipeline_read(run: Run, requests: int) -> None:
    head = request_head("GET", "/ping", *_BROWSER_FIELDS)
    client = run.connect()
    before = run.server.cpu_seconds()
    answers = 0
    tail = b""

    def count(data: bytes) -> bool:
        nonlocal answers, tail
        data = tail + data
        answers += data.count(_STATUS_LINE)
        tail = data[-len(_STATUS_LINE) + 1 :]
        return answers >= requests

    flood = run.flood(client, head * 500, len(head) * requests, on_data=count)
    if flood.ended == SENT:
        client.settimeout(20)
        while answers < requests and (data := client.recv(1 << 18)):
            count(data)
    run.record_seconds(CPU, run.server.cpu_seconds() - before)
    run.record("answers", answers)


_WHOLE = "arrives whole"


@scenario(
    "tiny chunks",
    "A 300 kB body in one-octet chunks costs little processor time and arrives whole.",
    full=Scale((seconds_below(CPU, 5), yes(_WHOLE)), {"size": 300_000}),
    short=Scale((seconds_below(CPU, 2), yes(_WHOLE)), {"size": 100_000}),
)
def tiny_chunks(run: Run, size: int) -> None:
    body = bytes(index * 7 % 251 for index in range(size))
    client = run.connect(timeout=30)
    before = run.server.cpu_seconds()
    client.sendall(request_head("POST", "/read", "Transfer-Encoding: chunked"))
    client.sendall(b"".join(b"1\r\n%c\r\n" % octet for octet in body) + b"0\r\n\r\n")
    response = Reader(client).response()
    run.record_seconds(CPU, run.server.cpu_seconds() - before)
    run.record_yes(_WHOLE, response.body.decode() == f"{size} {hashlib.sha256(body).hexdigest()}")


@scenario(
    "byte at a time head",
    "A 16 kB head sent one octet a packet costs little processor time.",
    full=Scale((seconds_below(CPU, 2), yes("answered")), {"size": 16_000}),
    short=Scale((seconds_below(CPU, 2), yes("answered")), {"size": 16_000}),
)
def byte_at_a_time_head(run: Run, size: int) -> None:
    fields = [f"X-Filler-{number}: {'f' * 980}" for number in range(size // 1000)]
    head = request_head("GET", "/ping", *fields)
    client = run.connect(timeout=30)
    before = run.server.cpu_seconds()
    for index in range(len(head)):
        client.sendall(head[index : index + 1])
        time.sleep(0.00002)  # pace: without it the kernel would join octets into one read
    response = Reader(client).response()
    run.record_seconds(CPU, run.server.cpu_seconds() - before)
    run.record_yes("answered", response.status in (200, 431))
    run.remark("status", str(response.status))


_REFUSED_AFTER = "refused after"


@scenario(
    "chunk ext flood",
    "64 MiB of one-octet chunks, each with a 4 KiB extension: refused early or cheap, and memory stays.",
    full=Scale(
        (Either((size_below(_REFUSED_AFTER, 16 * MIB), seconds_below(CPU, 5))), rss_below(16 * MIB)),
        {"size": 64 * MIB},
    ),
    short=Scale(
        (Either((size_below(_REFUSED_AFTER, 16 * MIB), seconds_below(CPU, 2))), rss_below(16 * MIB)),
        {"size": 24 * MIB},
    ),
)
def chunk_ext_flood(run: Run, size: int) -> None:
    block = _chunk(b"x", b";e=" + b"e" * (4 * KIB)) * 16
    client = run.connect()
    before = run.server.cpu_seconds()
    client.sendall(request_head("POST", "/read", "Transfer-Encoding: chunked"))
    flood = run.flood(client, block, size // len(block) * len(block), on_data=lambda data: True)
    if flood.ended == SENT:
        client.settimeout(30)
        client.sendall(b"0\r\n\r\n")
        Reader(client).response()
        run.record_seconds(CPU, run.server.cpu_seconds() - before)
    else:
        run.record_size(_REFUSED_AFTER, flood.sent)


@scenario(
    "disconnect storm",
    "2000 requests cut off by RST right after sending: the server answers, every application call ends, "
    "no descriptor is left.",
    full=Scale((others_below(1), equals(_CALLS_LEFT, 0), equals(_DESCRIPTORS_LEFT, 0)), {"requests": 2000}),
    short=Scale((others_below(1), equals(_CALLS_LEFT, 0), equals(_DESCRIPTORS_LEFT, 0)), {"requests": 500}),
)
def disconnect_storm(run: Run, requests: int) -> None:
    heads = [request_head("GET", "/hold"), request_head("GET", f"/stream?size={64 * MIB}")]
    lingering: list[socket.socket] = []
    for number in range(requests):
        client = run.connect()
        client.sendall(heads[number % 2])
        # Half of them are gone before the server accepts them, the others mostly after it has begun to
        # answer.
        if number % 4 < 2:
            reset(client)
        else:
            lingering.append(client)
        if len(lingering) > 50:
            reset(lingering.pop(0))
    for client in lingering:
        reset(client)
    run.record(_CALLS_LEFT, run.calls_left())
    run.record(_DESCRIPTORS_LEFT, run.descriptors_left())
    run.remark("calls", str(run.stats()["started"]))


def _leave(clients: list[socket.socket]) -> None:
    """Half of them close, half of them reset."""
    for number, client in enumerate(clients):
        if number % 2:
            reset(client)
        else:
            client.close()


@scenario(
    "told of disconnect",
    "200 applications waiting in receive() when their client goes: all are told http.disconnect.",
    full=Scale((equals("told", 200), seconds_below("told within", 5)), {"clients": 200}),
    short=Scale((equals("told", 100), seconds_below("told within", 5)), {"clients": 100}),
)
def told_of_disconnect(run: Run, clients: int) -> None:
    waiting = [run.connect() for _ in range(clients)]
    for client in waiting:
        client.sendall(request_head("GET", "/hold"))
    run.wait_for(lambda: run.stats()["waiting"] == clients, 10)
    _leave(waiting)
    run.record_seconds("told within", run.wait_for(lambda: run.stats()["disconnected"] >= clients, 5))
    run.record("told", run.stats()["disconnected"])


@scenario(
    "stream stops on disconnect",
    "An application streaming when its client goes stops (send raises, or it is told) and does not run on.",
    full=Scale((seconds_below("stopped within", 5), equals(_CALLS_LEFT, 0)), {"clients": 20}),
    short=Scale((seconds_below("stopped within", 5), equals(_CALLS_LEFT, 0)), {"clients": 10}),
)
def stream_stops_on_disconnect(run: Run, clients: int) -> None:
    streams = [run.connect() for _ in range(clients)]
    for client in streams:
        client.sendall(request_head("GET", f"/stream?size={1 << 50}&chunk=1000&interval=0.02"))
    for client in streams:
        client.recv(1000)
    _leave(streams)
    run.record_seconds("stopped within", run.wait_for(lambda: run.stats()["running"] == 0, 5))
    stats = run.stats()
    run.record(_CALLS_LEFT, stats["running"])
    run.remark("how", f"told {stats['disconnected']}, send raised {stats['send_refused']}")


@scenario(
    "connection churn",
    "10,000 connections opened and closed at once, half of them with half a request line: "
    "the server answers, no descriptor is left, memory stays.",
    full=Scale(
        (others_below(1), equals(_DESCRIPTORS_LEFT, 0), rss_below(16 * MIB)),
        {"connections": 10_000},
        deadline=90,
    ),
    short=Scale((others_below(1), equals(_DESCRIPTORS_LEFT, 0), rss_below(16 * MIB)), {"connections": 2500}),
)
def connection_churn(run: Run, connections: int) -> None:
    for number in range(connections):
        client = connect(run.port)
        if number % 2:
            client.sendall(b"GET /pi")
        client.close()
    run.record(_DESCRIPTORS_LEFT, run.descriptors_left())


@scenario(
    "fd exhaustion",
    "With 256 descriptors allowed, 400 connections: the server survives, does not spin, and takes requests "
    "again when they go.",
    full=Scale(
        (yes("survives"), seconds_below(CPU, 1), seconds_below("answers again within", 5)),
        {"connections": 400, "watch": 3.0},
        descriptors=256,
    ),
    short=Scale(
        (yes("survives"), seconds_below(CPU, 1), seconds_below("answers again within", 5)),
        {"connections": 400, "watch": 3.0},
        descriptors=256,
    ),
)
def fd_exhaustion(run: Run, connections: int, watch: float) -> None:
    clients = [run.connect() for _ in range(connections)]
    run.wait_for(lambda: run.connections_held() > 200, 5)
    before = run.server.cpu_seconds()
    time.sleep(watch)  # an observation: what the server does while it can accept nothing
    run.record_seconds(CPU, run.server.cpu_seconds() - before)
    run.remark("held", str(run.connections_held()))
    run.record_yes("survives", run.server.alive)
    for client in clients:
        client.close()
    run.record_seconds("answers again within", run.wait_for(_answers(run), 10))


def _answers(run: Run) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return fetch(run.port, "/ping", timeout=2).status == 200
        except (OSError, BadAnswer):
            return False

    return ask
