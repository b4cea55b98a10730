"""
Client side of `scripts/bench`: one exchange at a time, every byte looked at.

Used before anything is timed, to see that a server's answers are right, and to learn how long they are on the
wire: the load generators count bytes and need that number. Blocking sockets; a failure is a WrongAnswer.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from dataclasses import dataclass

TIMEOUT = 10.0
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class WrongAnswer(Exception):
    """A server answered, or did not, in a way that makes its speed meaningless."""


@dataclass(frozen=True)
class Response:
    """
    Args:
        headers: names in lower case; a repeated name keeps its last value.
        body: with any chunked coding undone.
        wire_size: bytes of the whole response as received, head included.
    """

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    wire_size: int


class Connection:
    """A blocking socket with a buffer, and the little HTTP/1.1 and WebSocket that is needed here."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.received = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def fill(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            raise WrongAnswer(f"no answer within {TIMEOUT:.0f} s") from None
        if not data:
            raise WrongAnswer("connection closed in the middle of an answer")
        self.buffer += data

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        self.received += size
        return data

    def take_until(self, mark: bytes) -> bytes:
        """Up to and including *mark*, which is not returned."""
        while mark not in self.buffer:
            self.fill()
        return self.take(self.buffer.index(mark) + len(mark))[: -len(mark)]

    def response(self) -> Response:
        """The next response; bodies by Content-Length or chunked, as every server here sends them."""
        start = self.received
        status_line, *lines = self.take_until(b"\r\n\r\n").split(b"\r\n")
        status = int(status_line.split(b" ")[1])
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if status == 101:
            body = b""
        elif headers.get(b"transfer-encoding") == b"chunked":
            parts = []
            while size := int(self.take_until(b"\r\n"), 16):
                parts.append(self.take(size))
                self.take(2)
            self.take_until(b"\r\n")
            body = b"".join(parts)
        elif b"content-length" in headers:
            body = self.take(int(headers[b"content-length"]))
        else:
            raise WrongAnswer("response with neither Content-Length nor chunked coding")
        return Response(status, headers, body, self.received - start)

    def at_end(self) -> bool:
        """Wait for the server to close: True if it does so without another byte."""
        try:
            return not self.buffer and not self.socket.recv(1)
        except TimeoutError:
            return False

    def open_websocket(self) -> None:
        """RFC 6455 §4; no extension is offered, so nothing gets compressed."""
        key = base64.b64encode(os.urandom(16))
        self.send(upgrade_request(key))
        response = self.response()
        expected = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
        if response.status != 101:
            raise WrongAnswer(f"WebSocket handshake answered with status {response.status}")
        if response.headers.get(b"sec-websocket-accept") != expected:
            raise WrongAnswer("wrong Sec-WebSocket-Accept")
        if b"sec-websocket-extensions" in response.headers:
            raise WrongAnswer("an extension that was not offered")

    def text_message(self) -> tuple[bytes, int]:
        """The next message, which must be one whole text frame: payload, and size of the frame."""
        start = self.received
        first, second = self.take(2)
        if first != FINAL_TEXT:
            raise WrongAnswer(f"frame begins with 0x{first:02x}, not with a final text frame's 0x81")
        size = second
        if size == 126:
            size = int.from_bytes(self.take(2), "big")
        elif size >= 127:
            raise WrongAnswer("frame is masked, or longer than any message here")
        return self.take(size), self.received - start


FINAL_TEXT = 0x81


def request_bytes(method: str, path: str, body: bytes = b"", close: bool = False) -> bytes:
    """A request with the three fields that wrk sends, so that checks and load ask the same."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def upgrade_request(key: bytes) -> bytes:
    return (
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )


def text_frame(payload: bytes) -> bytes:
    """One final, masked text frame. The mask is random: an all-zero one would flatter whoever skips it."""
    mask = os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    pad = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
    return bytes([FINAL_TEXT]) + length + mask + masked


def check_http(
    port: int, method: str, path: str, body: bytes, expected: bytes, *, close: bool = False, times: int = 1
) -> int:
    """
    Send *times* requests at once over one connection and look at every answer.

    Returns:
        bytes of one response on the wire.
    """
    wire_size = 0
    with Connection(port) as connection:
        connection.send(request_bytes(method, path, body, close) * times)
        for _ in range(times):
            response = connection.response()
            if response.status != 200:
                raise WrongAnswer(f"status {response.status} instead of 200")
            if len(response.body) != len(expected):
                raise WrongAnswer(f"body of {len(response.body)} bytes instead of {len(expected)}")
            if response.body != expected:
                raise WrongAnswer("body of the right length with other bytes")
            wire_size = response.wire_size
        if close and not connection.at_end():
            raise WrongAnswer("connection left open, or more sent, after a request with Connection: close")
    return wire_size


def check_websocket(port: int, payload: bytes) -> int:
    """
    Handshake, one echo.

    Returns:
        bytes of the echoed frame on the wire.
    """
    with Connection(port) as connection:
        connection.open_websocket()
        connection.send(text_frame(payload))
        echoed, wire_size = connection.text_message()
        if echoed != payload:
            raise WrongAnswer("the echo differs from what was sent")
    return wire_size
