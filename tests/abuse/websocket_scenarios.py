"""
WebSocket scenarios: senders and readers at the wrong pace, frames that announce or never end, compression
bombs, peers that vanish.

"Refused" is a close frame or the end of the connection. Where the scenario's sentence names a close code,
another code is no refusal.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from dataclasses import dataclass

from .client import SENT, SMALL_BUFFER, closed_after, reset, wait_readable
from .scenario import (
    CPU,
    KIB,
    MIB,
    Bound,
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
from .websocket_client import BINARY, CLOSE, CONTINUATION, PING, TEXT, HandshakeRefused, WebSocket, frame

_SENT = "sent by the client"
_HANDED_OVER = "handed over"
_RSS_EACH = "RSS per connection"
_REFUSED = "refused"
_CALLS_LEFT = "calls left"
_DESCRIPTORS_LEFT = "descriptors left"
_NEGOTIATED = "deflate negotiated"
_CLOSED_AFTER = "closed after"
_CLOSE_CODE = "close code"


@dataclass(slots=True)
class _Ending:
    """
    How the server ended a WebSocket: the code of its close frame, None without one; whether it ended at
    all; octets it took first.
    """

    ended: bool
    code: int | None
    sent: int

    def refused(self, *codes: int) -> bool:
        return self.ended and (self.code is None or self.code in codes)

    def __str__(self) -> str:
        if not self.ended:
            return "still open"
        return "closed without a close frame" if self.code is None else f"close {self.code}"


def _flood_until_refused(
    run: Run, websocket: WebSocket, block: bytes, total: int, *, patience: float = 5.0
) -> _Ending:
    """Floods while reading; when all is sent, waits *patience* seconds for the refusal."""
    codes: list[int] = []

    def closes(data: bytes) -> bool:
        code = websocket.parser.close_code_in(data)
        if code is not None:
            codes.append(code)
        return code is not None

    flood = run.flood(websocket.client, block, total, on_data=closes)
    if flood.ended == SENT:
        ending = _wait_for_close(websocket, patience)
        ending.sent = flood.sent
    else:
        ending = _Ending(True, codes[0] if codes else None, flood.sent)
    run.remark("ended", str(ending))
    return ending


def _wait_for_close(websocket: WebSocket, within: float) -> _Ending:
    """Reads until a close frame or the end of the connection."""
    websocket.client.settimeout(within)
    try:
        while (received := websocket.read_frame()) is not None:
            if received.opcode == CLOSE:
                return _Ending(True, received.close_code, 0)
    except TimeoutError:
        return _Ending(False, None, 0)
    return _Ending(True, None, 0)


@scenario(
    "websocket sender faster than app",
    "256 MiB of 64 KiB messages to an application that takes one a second: memory stays, the client is "
    "held back.",
    full=Scale((rss_below(16 * MIB), size_below(_SENT, 64 * MIB)), {"size": 256 * MIB, "watch": 10.0}),
    short=Scale((rss_below(16 * MIB), size_below(_SENT, 32 * MIB)), {"size": 64 * MIB, "watch": 3.0}),
)
def sender_faster_than_app(run: Run, size: int, watch: float) -> None:
    websocket = run.websocket("/sip?interval=1")
    block = frame(BINARY, b"m" * (64 * KIB))
    run.record_size(
        _SENT, run.flood(websocket.client, block, size // (64 * KIB) * len(block), within=watch).sent
    )


@scenario(
    "websocket small messages faster than app",
    "1,000,000 messages of 32 octets to an application that takes one a second: memory stays.",
    full=Scale((rss_below(32 * MIB),), {"messages": 1_000_000, "watch": 20.0}),
    short=Scale((rss_below(24 * MIB),), {"messages": 250_000, "watch": 4.0}),
)
def small_messages_faster_than_app(run: Run, messages: int, watch: float) -> None:
    websocket = run.websocket("/sip?interval=1", send_buffer=256 * KIB)
    block = frame(BINARY, b"m" * 32)
    run.flood(websocket.client, block * 1000, messages * len(block), within=watch)
    run.settle()


@scenario(
    "websocket slow reader",
    "256 MiB sent by the application to a client that reads nothing: memory stays, the application is "
    "held back.",
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
    websocket = run.websocket(f"/stream?size={size}", receive_buffer=SMALL_BUFFER)
    wait_readable(websocket.client, 10)
    run.record_size(_HANDED_OVER, run.steady("handed_over", watch=watch, still=still))


@scenario(
    "websocket giant frame",
    "A frame of 4 GiB announced and 256 MiB of it sent: refused with 1009 or by closing, memory stays.",
    full=Scale((yes(_REFUSED), rss_below(32 * MIB)), {"size": 256 * MIB}),
    short=Scale((yes(_REFUSED), rss_below(32 * MIB)), {"size": 64 * MIB}),
)
def giant_frame(run: Run, size: int) -> None:
    websocket = run.websocket("/echo")
    websocket.client.sendall(frame(BINARY, announced=1 << 32))
    ending = _flood_until_refused(run, websocket, b"g" * (256 * KIB), size)
    run.record_yes(_REFUSED, ending.refused(1009))


_UNEXPLAINED = "refusals without 1009"


@scenario(
    "websocket message 16m limit",
    "Messages of 1, 16, 17 and 64 MiB: echoed, or refused with 1009 (which of them is information).",
    full=Scale((equals(_UNEXPLAINED, 0),), {"sizes": (MIB, 16 * MIB, 17 * MIB, 64 * MIB)}),
    short=Scale((equals(_UNEXPLAINED, 0),), {"sizes": (MIB, 16 * MIB, 17 * MIB)}),
)
def message_limit(run: Run, sizes: tuple[int, ...]) -> None:
    unexplained = 0
    for size in sizes:
        answer = _offer_message(run, size)
        run.remark(f"{size // MIB} MiB", answer)
        unexplained += answer not in ("echoed", "1009")
    run.record(_UNEXPLAINED, unexplained)


def _offer_message(run: Run, size: int) -> str:
    """What became of one message of *size* octets: "echoed", the close code, or "closed"."""
    websocket = run.websocket("/echo")
    echoed = 0
    answer = ""

    def read(data: bytes) -> bool:
        nonlocal echoed, answer
        for received in websocket.parser.feed(data):
            if received.opcode == CLOSE:
                answer = str(received.close_code)
            elif received.opcode in (CONTINUATION, BINARY):
                echoed += len(received.payload)
        answer = answer or ("echoed" if echoed == size else "")
        return bool(answer)

    message = frame(BINARY, b"m" * size)
    run.flood(websocket.client, message, len(message), on_data=read)
    websocket.client.settimeout(20)
    try:
        while not answer:
            data = websocket.client.recv(1 << 20)
            if not data:
                return "closed"
            read(data)
    except ConnectionError:
        return "closed"
    return answer


@scenario(
    "websocket length msb",
    "A 64-bit length with the top bit set is a protocol error: closed at once; a close frame says 1002.",
    full=Scale((yes(_REFUSED), seconds_below(_CLOSED_AFTER, 2))),
    short=Scale((yes(_REFUSED), seconds_below(_CLOSED_AFTER, 2))),
)
def length_msb(run: Run) -> None:
    websocket = run.websocket("/echo")
    began = time.monotonic()
    websocket.client.sendall(frame(BINARY, b"12345", announced=(1 << 63) | 5))
    ending = _wait_for_close(websocket, 5)
    run.record_seconds(_CLOSED_AFTER, time.monotonic() - began if ending.ended else math.inf)
    run.record_yes(_REFUSED, ending.refused(1002))
    run.remark("ended", str(ending))


@scenario(
    "websocket endless fragments",
    "A message of 1 KiB fragments that never ends, 256 MiB: refused, memory stays.",
    full=Scale((yes(_REFUSED), rss_below(64 * MIB)), {"size": 256 * MIB}),
    short=Scale((yes(_REFUSED), rss_below(24 * MIB)), {"size": 48 * MIB}),
)
def endless_fragments(run: Run, size: int) -> None:
    websocket = run.websocket("/echo")
    websocket.client.sendall(frame(BINARY, b"f" * KIB, fin=False))
    fragment = frame(CONTINUATION, b"f" * KIB, fin=False)
    ending = _flood_until_refused(run, websocket, fragment * 64, size // KIB * len(fragment))
    run.record_yes(_REFUSED, ending.refused(1009))


@scenario(
    "websocket empty fragments",
    "2,000,000 empty continuation frames: memory stays, others are answered meanwhile.",
    full=Scale((rss_below(32 * MIB), others_below(2)), {"fragments": 2_000_000}, deadline=180),
    short=Scale((rss_below(16 * MIB), others_below(2)), {"fragments": 300_000}),
)
def empty_fragments(run: Run, fragments: int) -> None:
    websocket = run.websocket("/echo")
    websocket.client.sendall(frame(TEXT, fin=False))
    fragment = frame(CONTINUATION, fin=False)
    flood = run.flood(
        websocket.client,
        fragment * 10_000,
        fragments * len(fragment),
        on_data=lambda data: websocket.parser.close_code_in(data) is not None,
    )
    if flood.ended == SENT:  # the end of the message tells that all of it was worked through
        websocket.client.settimeout(max(1.0, run.remaining - 5))
        websocket.client.sendall(frame(CONTINUATION, b"end"))
        run.remark("message", repr(websocket.read_message()))


@scenario(
    "websocket octet fragments",
    "A message in 1,000,000 fragments of one octet: others are answered meanwhile, memory stays.",
    full=Scale((others_below(2), rss_below(16 * MIB)), {"fragments": 1_000_000}, deadline=120),
    short=Scale((others_below(1), rss_below(16 * MIB)), {"fragments": 400_000}),
)
def octet_fragments(run: Run, fragments: int) -> None:
    websocket = run.websocket("/echo")
    websocket.client.sendall(frame(BINARY, fin=False))
    fragment = frame(CONTINUATION, b"f", fin=False)
    flood = run.flood(
        websocket.client,
        fragment * 10_000,
        fragments * len(fragment),
        on_data=lambda data: websocket.parser.close_code_in(data) is not None,
    )
    if flood.ended == SENT:
        websocket.client.settimeout(max(1.0, run.remaining - 5))
        websocket.client.sendall(frame(CONTINUATION))
        message = websocket.read_message()
        run.remark("message", "none" if message is None else f"{len(message)} octets")


_ANSWERED = "answered"


@scenario(
    "websocket byte at a time frame",
    "A message of 1,000,000 octets of which the last 15,000 come one a packet costs little processor time.",
    full=Scale((seconds_below(CPU, 0.6), yes(_ANSWERED)), {"dripped": 15_000}),
    short=Scale((seconds_below(CPU, 0.6), yes(_ANSWERED)), {"dripped": 15_000}),
)
def byte_at_a_time_frame(run: Run, dripped: int) -> None:
    websocket = run.websocket("/echo", timeout=30)
    message = b"m" * 1_000_000
    octets = frame(BINARY, message)
    before = run.server.cpu_seconds()
    websocket.client.sendall(octets[:-dripped])
    for index in range(len(octets) - dripped, len(octets)):
        websocket.client.sendall(octets[index : index + 1])
        time.sleep(0.00002)  # pace: without it the kernel would join octets into one read
    run.record_yes(_ANSWERED, websocket.read_message() == message)
    run.record_seconds(CPU, run.server.cpu_seconds() - before)


@scenario(
    "websocket ping flood",
    "1,000,000 pings of 125 octets and no reading of pongs: memory stays.",
    full=Scale((rss_below(32 * MIB),), {"pings": 1_000_000, "stall": 3.0}, deadline=90),
    short=Scale((rss_below(16 * MIB),), {"pings": 250_000, "stall": 1.5}),
)
def ping_flood(run: Run, pings: int, stall: float) -> None:
    websocket = run.websocket("/echo", receive_buffer=SMALL_BUFFER, send_buffer=256 * KIB)
    ping = frame(PING, b"p" * 125)
    run.flood(websocket.client, ping * 1000, pings * len(ping), within=50, stall=stall)
    run.settle()


@scenario(
    "websocket echo flood unread",
    "256 MiB of messages echoed to a client that does not read: memory stays.",
    full=Scale((rss_below(32 * MIB),), {"size": 256 * MIB, "stall": 3.0}),
    short=Scale((rss_below(32 * MIB),), {"size": 64 * MIB, "stall": 1.5}),
)
def echo_flood_unread(run: Run, size: int, stall: float) -> None:
    websocket = run.websocket("/echo", receive_buffer=SMALL_BUFFER, send_buffer=256 * KIB)
    block = frame(BINARY, b"m" * (64 * KIB))
    run.flood(websocket.client, block, size // (64 * KIB) * len(block), within=30, stall=stall)
    run.settle()


_BOMB_BLOCK = 16 * MIB


@scenario(
    "websocket deflate bomb",
    "1 GiB of zeros as one permessage-deflate message of about 1 MiB: refused, memory stays, little "
    "processor time.",
    full=Scale(
        (yes(_NEGOTIATED), yes(_REFUSED), rss_below(64 * MIB), seconds_below(CPU, 3)), {"size": 1024 * MIB}
    ),
    short=Scale(
        (yes(_NEGOTIATED), yes(_REFUSED), rss_below(32 * MIB), seconds_below(CPU, 1)), {"size": 256 * MIB}
    ),
)
def deflate_bomb(run: Run, size: int) -> None:
    websocket = run.websocket("/echo", deflate=True)
    run.record_yes(_NEGOTIATED, websocket.deflates)
    if not websocket.deflates:
        return
    # A full flush forgets what came before, so one compressed block can be repeated instead of compressing
    # a gigabyte. The blocks are large enough for the bomb to stay under 1 MiB: a limit on frames must not
    # be what saves the server.
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(_BOMB_BLOCK)) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = (block * (size // _BOMB_BLOCK))[:-4]
    before = run.server.cpu_seconds()
    message = frame(BINARY, bomb, compressed=True)
    ending = _flood_until_refused(run, websocket, message, len(message), patience=20)
    run.record_seconds(CPU, run.server.cpu_seconds() - before)
    run.record_yes(_REFUSED, ending.refused(1009, 1007))
    run.remark("compressed", f"{len(bomb)} octets")


@scenario(
    "websocket deflate memory",
    "500 idle connections with permessage-deflate after one 1 KiB message each: memory per connection.",
    full=Scale((yes(_NEGOTIATED), size_below(_RSS_EACH, 128 * KIB)), {"connections": 500}),
    short=Scale((yes(_NEGOTIATED), size_below(_RSS_EACH, 128 * KIB)), {"connections": 200}),
)
def deflate_memory(run: Run, connections: int) -> None:
    websockets = run.websockets(connections, "/echo", deflate=True)
    run.record_yes(_NEGOTIATED, all(websocket.deflates for websocket in websockets))
    payload = b"".join(b"message %d of many; " % number for number in range(100))[:KIB]
    for websocket in websockets:
        if websocket.deflates:
            websocket.client.sendall(frame(TEXT, websocket.compressed(payload), compressed=True))
        else:
            websocket.send(TEXT, payload)
    for websocket in websockets:
        websocket.read_frame()
    run.record_size(_RSS_EACH, run.memory.peak_growth / connections)


@scenario(
    "websocket idle connections",
    "2000 idle WebSockets: memory per connection, others are answered.",
    full=Scale((size_below(_RSS_EACH, 64 * KIB), others_below(1)), {"connections": 2000, "watch": 5.0}),
    short=Scale((size_below(_RSS_EACH, 64 * KIB), others_below(1)), {"connections": 400, "watch": 1.0}),
)
def idle_connections(run: Run, connections: int, watch: float) -> None:
    run.websockets(connections, "/echo")
    time.sleep(watch)  # an observation: the probe asks meanwhile
    run.record_size(_RSS_EACH, run.memory.peak_growth / connections)


@scenario(
    "websocket dead peer",
    "A peer that stops answering anything, pings too, is dropped.",
    full=Scale(
        (seconds_below(_CLOSED_AFTER, 90), seconds_at_least(_CLOSED_AFTER, 1)), {"within": 95.0}, deadline=120
    ),
    short=Scale(
        (seconds_below(_CLOSED_AFTER, 7), seconds_at_least(_CLOSED_AFTER, 0.5)),
        {"within": 8.0},
        ("--ping-interval", "1", "--ping-timeout", "1", "--websocket-close-timeout", "1"),
    ),
)
def dead_peer(run: Run, within: float) -> None:
    run.record_seconds(_CLOSED_AFTER, closed_after(run.websocket("/echo").client, within))


@scenario(
    "websocket close never answered",
    "The application closes, the client never answers: the TCP connection ends.",
    full=Scale((seconds_below(_CLOSED_AFTER, 30), equals(_CALLS_LEFT, 0)), {"within": 35.0}),
    short=Scale(
        (seconds_below(_CLOSED_AFTER, 5), equals(_CALLS_LEFT, 0)),
        {"within": 6.0},
        ("--websocket-close-timeout", "1"),
    ),
)
def close_never_answered(run: Run, within: float) -> None:
    run.record_seconds(_CLOSED_AFTER, closed_after(run.websocket("/close").client, within))
    run.record(_CALLS_LEFT, run.calls_left(within=5))


_AT_ONCE = seconds_below(_CLOSED_AFTER, 2)
_ORDINARY_CODE = (Bound(_CLOSE_CODE, ">=", 1000), Bound(_CLOSE_CODE, "<", 1012))


def _record_close(run: Run, websocket: WebSocket) -> None:
    began = time.monotonic()
    ending = _wait_for_close(websocket, 5)
    run.record_seconds(_CLOSED_AFTER, time.monotonic() - began if ending.ended else math.inf)
    run.record(_CLOSE_CODE, ending.code or 0)


@scenario(
    "websocket app returns",
    "The application returns without closing: the client gets a close frame (1000 to 1011) at once, not an "
    "open connection.",
    full=Scale((*_ORDINARY_CODE, _AT_ONCE)),
    short=Scale((*_ORDINARY_CODE, _AT_ONCE)),
)
def app_returns(run: Run) -> None:
    _record_close(run, run.websocket("/return"))


_EARLY = "500 or 403 before accept"


@scenario(
    "websocket app raises",
    "The application raises: close 1011 after accept; 500 or 403 before it.",
    full=Scale((equals(_CLOSE_CODE, 1011), _AT_ONCE, yes(_EARLY))),
    short=Scale((equals(_CLOSE_CODE, 1011), _AT_ONCE, yes(_EARLY))),
)
def app_raises(run: Run) -> None:
    _record_close(run, run.websocket("/raise"))
    try:
        run.websocket("/raise-early")
    except HandshakeRefused as refused:
        run.record_yes(_EARLY, refused.response.status in (500, 403))
        run.remark("status", str(refused.response.status))
    else:
        run.record_yes(_EARLY, False)


@scenario(
    "websocket rst storm",
    "500 connections cut by RST: every application call ends, no descriptor is left.",
    full=Scale((equals(_CALLS_LEFT, 0), equals(_DESCRIPTORS_LEFT, 0)), {"connections": 500}),
    short=Scale((equals(_CALLS_LEFT, 0), equals(_DESCRIPTORS_LEFT, 0)), {"connections": 200}),
)
def rst_storm(run: Run, connections: int) -> None:
    for websocket in run.websockets(connections, "/echo"):
        reset(websocket.client)
    run.record(_CALLS_LEFT, run.calls_left(within=10))
    run.record(_DESCRIPTORS_LEFT, run.descriptors_left())


@scenario(
    "websocket order and count",
    "20,000 numbered messages, read back while sent: all come back, in order.",
    full=Scale((equals("in order", 20_000),), {"messages": 20_000}),
    short=Scale((equals("in order", 5000),), {"messages": 5000}),
)
def order_and_count(run: Run, messages: int) -> None:
    websocket = run.websocket("/echo")
    websocket.client.settimeout(20)

    def numbered(number: int) -> bytes:
        return b"%d " % number + b"n" * (number * 37 % 500)

    def send_all() -> None:
        try:
            for number in range(messages):
                websocket.send(TEXT if number % 2 else BINARY, numbered(number))
        except OSError:
            return  # the reader sees what is missing

    sender = threading.Thread(target=send_all, name="sender", daemon=True)
    sender.start()
    in_order = 0
    try:
        while in_order < messages and websocket.read_message() == numbered(in_order):
            in_order += 1
    except TimeoutError:
        pass  # the count says how far it came
    run.record("in order", in_order)
    if in_order < messages:
        websocket.client.close()  # breaks the sender's wait
    sender.join()
