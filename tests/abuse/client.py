"""
The client side: sockets, just enough HTTP/1.1 to read an answer, floods, and the probe.

Everything here ends: blocking sockets carry a timeout, and loops carry a deadline. A closed or reset
connection is what many scenarios wait for, so it is a result and not an error. poll() rather than select(),
whose descriptors stop at 1024.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

TIMEOUT = 10.0
SMALL_BUFFER = 64 * 1024
_POLL_ERRORS = select.POLLERR | select.POLLHUP | select.POLLNVAL


class BadAnswer(Exception):
    """What came back is not an HTTP response, or not the one that the scenario rests on."""


def connect(
    port: int, *, receive_buffer: int = 0, send_buffer: int = 0, timeout: float = TIMEOUT
) -> socket.socket:
    """
    A connected blocking socket.

    Args:
        receive_buffer, send_buffer: octets, set before connecting so that the window follows them; 0 leaves
            the system's. A client that does not read uses a small one: what the kernel keeps for it proves
            nothing about the server.
    """
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(timeout)
        client.connect(("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


def reset(client: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# --- HTTP -------------------------------------------------------------------------------------------------


def request_head(method: str, target: str, *fields: str) -> bytes:
    """A request head with a Host field and *fields* ("Name: value")."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode("ascii")


@dataclass(slots=True)
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names, the last of each
    body: bytes = b""


class Reader:
    """Reads a blocking socket by lines and lengths."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._buffer = bytearray()

    def _more(self) -> None:
        data = self._client.recv(1 << 20)
        if not data:
            raise ConnectionResetError("closed in the middle of an answer")
        self._buffer += data

    def line(self) -> bytes:
        """Up to CR LF, without it."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def unread(self) -> bytes:
        """What has arrived and was not asked for yet."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def rest(self) -> bytes:
        """Everything until the peer closes."""
        try:
            while True:
                self._more()
        except ConnectionResetError:
            return self.unread()

    def head(self) -> Response:
        version, _, rest = self.line().partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise BadAnswer(f"not a status line: {version[:80]!r}")
        response = Response(int(rest[:3]))
        while line := self.line():
            name, _, value = line.partition(b":")
            response.headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        return response

    def response(self) -> Response:
        """The next final response with its body; interim ones are passed over."""
        response = self.head()
        while response.status < 200:
            response = self.head()
        if "chunked" in response.headers.get("transfer-encoding", ""):
            body = bytearray()
            while size := int(self.line().partition(b";")[0], 16):
                body += self.exactly(size)
                self.line()
            while self.line():
                pass  # trailers
            response.body = bytes(body)
        elif "content-length" in response.headers:
            response.body = self.exactly(int(response.headers["content-length"]))
        elif response.status not in (204, 304):
            response.body = self.rest()
        return response


def fetch(port: int, target: str, *, body: bytes = b"", timeout: float = TIMEOUT) -> Response:
    """One request on a connection of its own; POST when there is a body."""
    fields = ["Connection: close"]
    if body:
        fields.append(f"Content-Length: {len(body)}")
    with connect(port, timeout=timeout) as client:
        client.sendall(request_head("POST" if body else "GET", target, *fields) + body)
        return Reader(client).response()


# --- waiting for the server to close ----------------------------------------------------------------------


def wait_readable(client: socket.socket, timeout: float) -> bool:
    poller = select.poll()
    poller.register(client, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def closed_after(client: socket.socket, within: float, *, answer_counts: bool = False) -> float:
    """
    Seconds until the server closes or resets the connection, reading away what it says; math.inf when it
    does not within *within*.

    Args:
        answer_counts: whether the first octet of an answer ends the wait as well.
    """
    return drip(client, lambda: b"", within, within, answer_counts=answer_counts)


def drip(
    client: socket.socket,
    piece: Callable[[], bytes],
    every: float,
    within: float,
    *,
    answer_counts: bool = False,
) -> float:
    """closed_after(), while piece() is sent each *every* seconds."""
    client.settimeout(TIMEOUT)
    began = time.monotonic()
    next_piece = began + every
    while (now := time.monotonic()) - began < within:
        try:
            if wait_readable(client, min(next_piece - now, within - (now - began))):
                data = client.recv(65536)
                if not data or answer_counts:
                    return time.monotonic() - began
            elif time.monotonic() >= next_piece:
                next_piece += every
                client.sendall(piece())
        except ConnectionError:
            return time.monotonic() - began
    return math.inf


# --- floods -----------------------------------------------------------------------------------------------

SENT = "sent"  # all of it
STALLED = "stalled"  # the server took nothing more for a while
OUT_OF_TIME = "out of time"
ANSWERED = "answered"  # on_data() had seen enough
CLOSED = "closed"


@dataclass(slots=True)
class Flood:
    """How a flood went: octets that the kernel took from us, and what ended it."""

    sent: int
    ended: str


def flood(
    client: socket.socket,
    block: bytes,
    total: int,
    *,
    within: float,
    stall: float = math.inf,
    on_data: Callable[[bytes], bool] | None = None,
) -> Flood:
    """
    Sends *block* again and again, as fast as the server takes it, until *total* octets are sent.

    Args:
        within: seconds after which it ends in any case.
        stall: seconds without a single octet taken after which it ends.
        on_data: given what the server says; returns True to end. None: the client does not read.
    """
    client.setblocking(False)
    poller = select.poll()
    poller.register(client, select.POLLOUT | (select.POLLIN if on_data else 0))
    view = memoryview(block)
    sent = 0
    began = progressed = time.monotonic()
    while sent < total:
        now = time.monotonic()
        if now - began >= within:
            return Flood(sent, OUT_OF_TIME)
        if now - progressed >= stall:
            return Flood(sent, STALLED)
        ready = poller.poll(min(within - (now - began), stall - (now - progressed), 1.0) * 1000)
        happened = ready[0][1] if ready else 0
        try:
            if on_data is not None and happened & (select.POLLIN | _POLL_ERRORS):
                data = client.recv(65536)
                if not data:
                    return Flood(sent, CLOSED)
                if on_data(data):
                    return Flood(sent, ANSWERED)
            if happened & (select.POLLOUT | _POLL_ERRORS):
                offset = sent % len(block)
                sent += client.send(view[offset : offset + min(len(block) - offset, total - sent)])
                progressed = time.monotonic()
        except BlockingIOError:
            continue
        except ConnectionError:
            return Flood(sent, ANSWERED if on_data is not None and _last_words(client, on_data) else CLOSED)
    return Flood(sent, SENT)


def _last_words(client: socket.socket, on_data: Callable[[bytes], bool]) -> bool:
    """Reads what had arrived before the connection broke; whether on_data() had seen enough."""
    try:
        while data := client.recv(65536):
            if on_data(data):
                return True
    except OSError:
        pass  # nothing more: reset, or not even an end
    return False


# --- others -----------------------------------------------------------------------------------------------


class Probe:
    """
    The others: a thread that asks GET /ping on a new connection, again and again, and keeps the worst time.

    A request that fails or takes longer than *timeout* counts as infinitely slow.
    """

    def __init__(self, port: int, *, interval: float = 0.05, timeout: float = TIMEOUT) -> None:
        self._port = port
        self._interval = interval
        self._timeout = timeout
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="probe", daemon=True)
        self.worst = 0.0
        self.asked = 0
        self.failure = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last question is answered; may be called again."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _ask(self) -> None:
        while not self._stopping.wait(self._interval):
            began = time.monotonic()
            try:
                status = fetch(self._port, "/ping", timeout=self._timeout).status
            except (OSError, BadAnswer, ValueError) as error:
                self.failure, took = repr(error), math.inf
            else:
                took = time.monotonic() - began if status == 200 else math.inf
                self.failure = self.failure or ("" if status == 200 else f"status {status}")
            self.worst = max(self.worst, took)
            self.asked += 1
