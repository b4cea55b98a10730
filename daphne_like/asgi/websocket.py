"""
One WebSocket, as an ASGI conversation (WebSocket spec 2.5).

States, and the messages that an application may send in them; anything absent raises UnexpectedMessage:

    HANDSHAKE websocket.accept -> OPEN               websocket.close -> CLOSED (403)
              websocket.http.response.start -> DENIAL
    DENIAL    websocket.http.response.body -> DENIAL | CLOSED
    OPEN      websocket.send -> OPEN                 websocket.close -> CLOSING
    CLOSING   our close frame is out, the client's is awaited
    CLOSED    the connection is over, or no longer ours

Once the client has closed, or is gone, send() raises ClientDisconnected (an OSError, spec 2.4); receive()
first gives what came before.

Backpressure by octets, both ways. What the application has not taken is counted; above the high-water mark
messages stay encoded in the codec, and the socket is paused. send() waits while the client does not keep up;
so do our answers to pings, by not reading further ones.

The coarse clock drives everything that is about time: handshake, ping and pong, silence, age, and the wait for
a close that is not answered.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from daphne_like import logs
from daphne_like.asgi.access import write_record, write_refusal, write_websocket_close
from daphne_like.asgi.messages import (
    message_body,
    message_close,
    message_headers,
    message_payload,
    message_status,
    message_type,
    payload_size,
)
from daphne_like.asgi.stream import LARGE_WRITE, NEVER, StreamTransport, Wakeup, came_from_departure
from daphne_like.asgi.websocket_times import WebSocketTimes
from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from daphne_like.http.events import DataReceived, RequestReceived
from daphne_like.typing import Message
from daphne_like.websocket.codec import ABNORMAL_CLOSURE, UNFINISHED, Closed, Codec
from daphne_like.websocket.handshake import Handshake, negotiate_deflate

__all__ = ["WebSocketStream"]

log = logging.getLogger(logs.APPLICATION)
protocol_log = logging.getLogger(logs.PROTOCOL)

HANDSHAKE, DENIAL, OPEN, CLOSING, CLOSED = "HANDSHAKE", "DENIAL", "OPEN", "CLOSING", "CLOSED"

# What a message in the inbox costs beside its payload: objects around it, so that empty ones are counted too.
MESSAGE_OVERHEAD = 64


class WebSocketStream:
    """
    Args:
        transport: the socket's keeper.
        event: the request's head.
        handshake: what the client offers, already judged.
        scope: for the application.
    """

    __slots__ = (
        "_bytes_received",
        "_bytes_sent",
        "_code",
        "_codec",
        "_connect_given",
        "_context",
        "_departure",
        "_disconnect",
        "_handshake",
        "_high_water",
        "_inbox",
        "_messages_received",
        "_messages_sent",
        "_stalled",
        "_times",
        "_transport",
        "_waiting",
        "_wakeup",
        "deadline",
        "scope",
        "state",
        "stream_id",
        "task",
    )

    def __init__(
        self, transport: StreamTransport, event: RequestReceived, handshake: Handshake, scope: dict[str, Any]
    ) -> None:
        self._transport = transport
        self._context = context = transport.context
        self._handshake: Handshake | None = handshake
        self.scope = scope
        self.stream_id = event.stream_id
        self.state = HANDSHAKE
        self.task: asyncio.Task[None] | None = None
        self._codec: Codec | None = None
        self._connect_given = self._stalled = False  # stalled: the codec holds more than we want to take
        self._inbox: deque[str | bytes] = deque()
        self._high_water = context.settings.receive_buffer_size
        self._waiting = 0  # octets in the inbox, overhead counted
        self._disconnect: tuple[int, str] | None = None  # what websocket.disconnect says, once it is known
        self._departure: Callable[[bool], None] | None = None
        self._wakeup = Wakeup()
        now = context.clock()
        self._times = WebSocketTimes(context.settings, now)
        self._messages_received = self._messages_sent = self._bytes_received = self._bytes_sent = 0
        self._code = 0  # of a denial response
        timeout = context.settings.websocket_connect_timeout
        self.deadline = now + timeout if timeout else NEVER
        context.watch(self)

    # ---- from the connection

    @property
    def wants_data(self) -> bool:
        return not self._stalled

    @property
    def described(self) -> dict[str, Any]:
        return {"path": self.scope.get("path"), "state": self.state}

    def handle_data(self, event: DataReceived) -> None:
        """Take octets that came before the connection knew that they are all ours."""
        self.octets_received(event.data)

    def octets_received(self, data: bytes) -> None:
        """Take octets of frames."""
        self._times.heard = self._context.clock()
        codec = self._codec
        if codec is None or self.state is CLOSED:
            return
        if self._waiting < self._high_water and self.state is OPEN:
            message = codec.single_message(data)
            if message is not None:
                self._take(message)
                self._wakeup.wake()
                return
        codec.receive_data(data)
        self._decode()

    def _take(self, message: str | bytes) -> None:
        size = len(message) if type(message) is bytes or message.isascii() else payload_size(message)
        self._inbox.append(message)
        self._waiting += size + MESSAGE_OVERHEAD
        self._messages_received += 1
        self._bytes_received += size
        self._times.last_message = self._times.heard

    def _decode(self) -> None:
        """Move messages from the codec into the inbox, as far as there is room and the client reads."""
        codec = self._codec
        assert codec is not None
        self._stalled = False
        while True:
            if (self._waiting >= self._high_water and self.state is OPEN) or self._transport.blocked:
                self._stalled = codec.held > 0
                break
            message = codec.next_message()
            if message is None:
                break
            if message is UNFINISHED:
                self._stalled = True
                asyncio.get_running_loop().call_soon(self.writable)
                break
            if isinstance(message, Closed):
                self._closed_by_client(message)
                break
            if self.state is OPEN:
                self._take(message)
        self._send_control_frames()
        if self._inbox:
            self._wakeup.wake()

    def _send_control_frames(self) -> None:
        assert self._codec is not None
        frames = self._codec.data_to_send()
        if frames and not self._transport.lost:
            self._transport.connection.send_data(self.stream_id, frames)
            self._transport.flush_soon()

    def _closed_by_client(self, closed: Closed) -> None:
        if closed.violation:
            protocol_log.info(
                "client broke the WebSocket protocol",
                extra={"client": self.scope["client"], "code": closed.code, "reason": closed.reason},
            )
        self._send_control_frames()
        self._end(closed.code, closed.reason)
        self._transport.close(linger=closed.violation)

    def _end(self, code: int, reason: str) -> None:
        """Nothing more is said; *code* and *reason* count only where none were known before."""
        was_open = self.state in (OPEN, CLOSING)
        self.state = CLOSED
        if self._disconnect is None:
            self._disconnect = (code, reason)
        if was_open:
            self._log_close(self._disconnect[0])
        if self.task is not None and not self.task.done():
            self.deadline = self._context.clock() + self._context.settings.application_close_timeout
        else:
            self.deadline = NEVER
            self._context.unwatch(self)
        self._wakeup.wake()
        if self._departure is not None:
            self._departure(True)

    def tell_departure(self, callback: Callable[[bool], None] | None) -> None:
        """Extension "daphne_like.departure": see asgi.departure."""
        self._departure = callback
        if callback is not None and self.state is CLOSED:
            callback(True)

    def client_silent(self) -> None:
        """The client ends the connection without a close: it is gone."""
        self.client_left()
        self._transport.close(linger=False)

    def client_left(self) -> None:
        """The socket is gone."""
        if self.state is not CLOSED:
            self._end(ABNORMAL_CLOSURE, "")

    def refused(self, status: int) -> None:
        """Not possible: a handshake has no body."""

    def writable(self) -> None:
        """The socket takes data again: go on decoding what waited for it."""
        if self._stalled:
            self._decode()
            self._transport.receive_more()

    def shutdown(self) -> None:
        """Say 1012: the server stops, clients should come back (RFC 6455's registry: Service Restart)."""
        if self.state is OPEN:
            self._disconnect = (1012, "server shutting down")
            self._close(*self._disconnect)
            self._wakeup.wake()
        elif self.state is HANDSHAKE:
            self._reject(503)

    # ---- the clock

    def deadline_passed(self, now: float) -> None:
        """Look at everything that is about time, and set the next deadline."""
        settings = self._context.settings
        self.deadline = NEVER
        if self.state is OPEN:
            self._look_at_open(now)
        elif self.state is CLOSING:
            self._end(ABNORMAL_CLOSURE, "close not answered")
            self._transport.reset("close not answered")
        elif self.state is HANDSHAKE:
            log.warning(
                "application did not answer a WebSocket handshake in time, refused it",
                extra={"path": self.scope["path"], "limit": settings.websocket_connect_timeout},
            )
            self._reject(403)
        elif self.task is not None and not self.task.done():
            log.warning(
                "application did not end after its WebSocket closed, cancelled it",
                extra={"path": self.scope["path"], "limit": settings.application_close_timeout},
            )
            self.task.cancel()

    def _look_at_open(self, now: float) -> None:
        times = self._times
        if self._stalled:
            times.heard = now  # it is we who do not listen
        due = times.due(now)
        if due == "lifetime":
            self._close(1000, "maximum lifetime reached")
        elif due == "idle":
            self._close(1000, "idle")
        elif due == "dead":
            protocol_log.info("client did not answer a ping, dropped it", extra=self.described)
            self._end(ABNORMAL_CLOSURE, "ping not answered")
            self._transport.reset("ping not answered")
        else:
            if due == "ping":
                assert self._codec is not None
                self._codec.ping()
                self._send_control_frames()
            self.deadline = times.next_deadline(now)

    # ---- to the application

    async def run(self) -> None:
        """Call the application, and see to it that its stream ends with it."""
        context = self._context
        try:
            await context.application(self.scope, self.receive, self.send)
        except BaseException as error:
            self._application_raised(error)
        else:
            self._application_ended(1000)
        if self.state is CLOSED:
            context.unwatch(self)
        context.running.discard(self)
        if context.draining and context.idle is not None:
            context.idle()

    async def receive(self) -> Message:
        """ASGI receive()."""
        if not self._connect_given:
            self._connect_given = True
            return {"type": "websocket.connect"}
        inbox = self._inbox
        while not inbox:
            if self._disconnect is not None and self.state in (CLOSED, CLOSING):
                code, reason = self._disconnect
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            await self._wakeup.wait()
        message = inbox.popleft()
        size = len(message) if type(message) is bytes or message.isascii() else payload_size(message)
        self._waiting -= size + MESSAGE_OVERHEAD
        if self._stalled and self._waiting < self._high_water // 2:
            self._decode()
            self._transport.receive_more()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Message) -> None:
        """
        ASGI send(). Returns when the message is on its way and the client keeps up.

        Raises:
            ClientDisconnected: an OSError; nothing is sent any more.
            UnexpectedMessage, InvalidMessage: nothing of the message is sent.
        """
        transport = self._transport
        if self._disconnect is not None or transport.lost:
            raise ClientDisconnected("the WebSocket is closed")
        try:
            handler = _TRANSITIONS[self.state][message["type"]]
        except (KeyError, TypeError):
            raise UnexpectedMessage(self.state, message_type(message)) from None
        handler(self, message)
        if transport.connection.buffered and transport.blocked:
            await transport.drained()

    def _accept(self, message: Message) -> None:
        assert self._handshake is not None
        settings = self._context.settings
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise InvalidMessage(f"websocket.accept: subprotocol is a str, not {subprotocol!r}")
        deflate = None
        if settings.websocket_compression:
            deflate = negotiate_deflate(self._handshake.offers, settings.websocket_compression_window)
        headers = self._handshake.accept_headers(subprotocol, deflate, message_headers(message))
        transport = self._transport
        transport.connection.switch_protocols(self.stream_id, headers)
        self._codec = Codec(settings.websocket_max_frame_size, settings.websocket_max_message_size, deflate)
        self._handshake = None
        self.state = OPEN
        now = self._context.clock()
        asked = self._times.opened
        self._times = WebSocketTimes(settings, now)
        self.deadline = self._times.next_deadline(now)
        if self._context.access_log.enabled:
            write_record(self._context.access_log.websocket_open, self.scope, duration=now - asked)
        transport.upgraded()
        transport.flush_soon()

    def _send(self, message: Message) -> None:
        payload = message.get("text")
        if type(payload) is not str or message.get("bytes") is not None:
            payload = message_payload(message)
        assert self._codec is not None
        try:
            frame = self._codec.encode(payload)
        except UnicodeEncodeError as error:
            raise InvalidMessage(f"websocket.send: text has a lone surrogate: {error}") from None
        self._messages_sent += 1
        size = len(payload) if type(payload) is bytes or payload.isascii() else payload_size(payload)
        self._bytes_sent += size
        self._times.last_message = self._context.clock()
        transport = self._transport
        transport.connection.send_data(self.stream_id, frame)
        (transport.flush if size >= LARGE_WRITE else transport.flush_soon)()

    def _send_close(self, message: Message) -> None:
        code, reason = message_close(message)
        self._inbox.clear()  # an application that closes wants no more
        self._waiting = 0
        self._close(code, reason)

    def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake (RFC 6455 §7.1.2)."""
        assert self._codec is not None
        self._codec.close(code, reason)
        if self._disconnect is None:
            self._disconnect = (code, reason)
        self.state = CLOSING
        self.deadline = self._context.clock() + self._context.settings.websocket_close_timeout
        self._send_control_frames()
        self._stalled = False
        self._transport.receive_more()  # to find the client's close, whatever stands before it
        self._decode()
        self._wakeup.wake()

    def _deny(self, message: Message) -> None:
        """Answer websocket.close in HANDSHAKE."""
        self._reject(403)

    def _reject(self, status: int) -> None:
        connection = self._transport.connection
        connection.send_headers(self.stream_id, status, [(b"content-type", b"text/plain; charset=utf-8")])
        connection.send_data(self.stream_id, b"WebSocket connection refused\n", True)
        self._denied(status)

    def _start_denial(self, message: Message) -> None:
        self._code = message_status(message)
        self._transport.connection.send_headers(self.stream_id, self._code, message_headers(message))
        self.state = DENIAL
        self.deadline = NEVER  # it has answered in time
        self._transport.flush_soon()

    def _send_denial_body(self, message: Message) -> None:
        last = not message.get("more_body", False)
        self._transport.connection.send_data(self.stream_id, message_body(message), last)
        if last:
            self._denied(self._code)
        else:
            self._transport.flush_soon()

    def _denied(self, status: int) -> None:
        sent = self._transport.connection.body_sent
        write_refusal(self._context, self.scope, status=status, bytes_sent=sent, asked=self._times.opened)
        self._end(ABNORMAL_CLOSURE, "")
        self._transport.response_ended()

    # ---- endings

    def _application_raised(self, error: BaseException) -> None:
        if self._disconnect is not None and came_from_departure(error):
            return
        over = self._disconnect is not None or self._context.draining
        if over and isinstance(error, asyncio.CancelledError):
            self._application_ended(1012)
            return
        log.error("application failed", exc_info=error, extra={"path": self.scope["path"]})
        self._application_ended(1011)

    def _application_ended(self, code: int) -> None:
        if self.state is OPEN:
            self._close(code, "")
        elif self.state is HANDSHAKE:
            if code == 1000:
                log.error("application neither accepted nor closed a WebSocket", extra=self.described)
            self._reject(500)
        elif self.state is DENIAL:
            connection = self._transport.connection
            if connection.withdraw_headers(self.stream_id):
                self._reject(500)
            else:
                self._end(ABNORMAL_CLOSURE, "")
                self._transport.reset("the response was not completed")

    def _log_close(self, code: int) -> None:
        write_websocket_close(
            self._context,
            self.scope,
            code=code,
            opened=self._times.opened,
            received=(self._messages_received, self._bytes_received),
            sent=(self._messages_sent, self._bytes_sent),
        )


_TRANSITIONS: dict[str, dict[str, Callable[[WebSocketStream, Message], None]]] = {
    HANDSHAKE: {
        "websocket.accept": WebSocketStream._accept,
        "websocket.close": WebSocketStream._deny,
        "websocket.http.response.start": WebSocketStream._start_denial,
    },
    DENIAL: {"websocket.http.response.body": WebSocketStream._send_denial_body},
    OPEN: {
        "websocket.send": WebSocketStream._send,
        "websocket.close": WebSocketStream._send_close,
    },
    CLOSING: {},
    CLOSED: {},
}
