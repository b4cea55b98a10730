"""
One request and its response, as an ASGI conversation (HTTP spec 2.5).

States, and the messages that an application may send in them; anything absent raises UnexpectedMessage:

    REQUEST   http.response.start -> HEADERS         http.response.early_hint -> REQUEST
    HEADERS   http.response.body  -> BODY | last     http.response.pathsend -> last
    BODY      http.response.body  -> BODY | last
    TRAILERS  http.response.trailers -> TRAILERS (more_trailers) | DONE
              last = TRAILERS where start announced them, else DONE
    ABANDONED nothing: nobody waits for the rest

HEADERS: the connection holds the head until the first of the body, or until the end of this turn of the event
loop: one write for small answers, no delay for Server-Sent Events.

When the application ends before DONE, the client gets a 500 as long as nothing has left, and a cut connection
otherwise: never a response that looks whole.

Departure. A client that has closed its side of the socket has most likely gone, so receive() says
http.disconnect at once; but a client may have closed only its sending side, and still read. Until the
application has been *told*, send() goes on; from then on, or when the socket is lost, it raises
ClientDisconnected (an OSError, spec 2.4).
"""

import asyncio
import io
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from daphne_like import logs
from daphne_like.asgi.access import write_record
from daphne_like.asgi.messages import message_body, message_headers, message_status, message_type
from daphne_like.asgi.stream import NEVER, StreamTransport, Wakeup, came_from_departure
from daphne_like.errors import ClientDisconnected, InvalidMessage, RelayError, UnexpectedMessage
from daphne_like.http.events import DataReceived, RequestReceived
from daphne_like.typing import Headers, Message

__all__ = ["HTTPStream"]

log = logging.getLogger(logs.APPLICATION)

REQUEST, HEADERS, BODY, TRAILERS, DONE, ABANDONED = (
    "REQUEST",
    "HEADERS",
    "BODY",
    "TRAILERS",
    "DONE",
    "ABANDONED",
)

# What one read from disk hands over: large enough to make a thread's turn worth it, small enough for a
# thousand slow downloads at once.
FILE_CHUNK = 256 * 1024


class HTTPStream:
    """
    Args:
        transport: the socket's keeper.
        event: the request's head.
        scope: for the application.

    Attributes:
        wants_data: there is room for more of the request's body.
        task: runs the application; None while that is called directly (asgi.direct).
    """

    is_exchange = True

    __slots__ = (
        "_body",
        "_body_ended",
        "_body_given",
        "_context",
        "_departed",
        "_departure",
        "_started_at",
        "_status",
        "_told",
        "_trailers",
        "_transport",
        "_waiting",
        "_wakeup",
        "deadline",
        "scope",
        "state",
        "stream_id",
        "task",
    )

    def __init__(self, transport: StreamTransport, event: RequestReceived, scope: dict[str, Any]) -> None:
        self._transport = transport
        self._context = context = transport.context
        self.scope = scope
        self.stream_id = event.stream_id
        self.state = REQUEST
        self.task: asyncio.Task[None] | None = None
        self.deadline = NEVER
        self._waiting = 0  # octets of body that the application has not taken
        self._body: list[bytes] = []
        self._body_ended = event.end_stream
        self._body_given = False
        self._departed = self._told = False
        self._departure: Callable[[bool], None] | None = None
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._wakeup: Wakeup | None = None
        self._status = 0
        self._started_at = time.perf_counter() if context.access_log.enabled else 0.0
        if context.http_timeout is not None:
            self.deadline = context.clock() + context.http_timeout
            context.watch(self)

    # ---- from the connection

    @property
    def wants_data(self) -> bool:
        return self._waiting < self._context.settings.receive_buffer_size

    @property
    def described(self) -> dict[str, Any]:
        return {"method": self.scope.get("method"), "path": self.scope.get("path"), "state": self.state}

    def handle_data(self, event: DataReceived) -> None:
        """Take some of the request's body."""
        if event.data:
            self._body.append(event.data)
            self._waiting += len(event.data)
        self._body_ended = event.end_stream
        if self._wakeup is not None:
            self._wakeup.wake()

    def client_silent(self) -> None:
        """The client has closed its side."""
        self._departed = True
        self._departs()

    def client_left(self) -> None:
        """The socket is gone."""
        self._departed = self._told = True
        self._departs()

    def refused(self, status: int) -> None:
        """The request proved malformed, and the connection answers it with *status*: the rest is off."""
        self._departed = self._told = True
        self._status = status
        self._end(ABANDONED)
        self._departs()

    def writable(self) -> None:
        """Nothing: send() waits by itself."""

    def shutdown(self) -> None:
        """Nothing: a response in course goes on until the drain's end."""

    def tell_departure(self, callback: Callable[[bool], None] | None) -> None:
        """Extension "daphne_like.departure": see asgi.departure."""
        self._departure = callback
        if callback is not None and self._departed:
            callback(self._told)

    def _departs(self) -> None:
        """
        Tell the application. One that does not notice is ended after a while; one that has answered never.

        Nor one that asks to be told: it sees to its own end.
        """
        if self._wakeup is not None:
            self._wakeup.wake()
        if self._departure is not None:
            self._departure(self._told)
        context = self._context
        if (
            self.state is not DONE
            and not context.tells_departure
            and self.task is not None
            and not self.task.done()
        ):
            self.deadline = min(self.deadline, context.clock() + context.settings.application_close_timeout)
            context.watch(self)

    def deadline_passed(self, now: float) -> None:
        """End an application that took too long (--http-timeout, --application-close-timeout)."""
        self.deadline = NEVER
        self._context.unwatch(self)
        task = self.task
        if self.state is DONE or (self._departed if task is None else task.done()):
            return
        if self._departed:
            log.warning(
                "application did not end after its client left, cancelled it",
                extra={**self.described, "limit": self._context.settings.application_close_timeout},
            )
        else:
            log.warning(
                "request took longer than --http-timeout, cancelled its application",
                extra={**self.described, "limit": self._context.settings.http_timeout},
            )
            self._departed = self._told = True
            self._give_up(503, b"The application took too long to answer.\n")
            if self._departure is not None:
                self._departure(True)
        if task is not None:
            task.cancel()

    # ---- to the application

    async def run(self, rest: Coroutine[Any, Any, None] | None = None) -> None:
        """Call the application, or go on with the *rest* of it; see to it that its stream ends with it."""
        try:
            await (rest or self._context.application(self.scope, self.receive, self.send))
        except BaseException as error:
            self._application_raised(error)
        else:
            if self.state is not DONE:
                self._application_returned()
        self._over()

    def _over(self) -> None:
        """The application has ended."""
        context = self._context
        if self.deadline is not NEVER:
            context.unwatch(self)
        context.running.discard(self)
        if context.draining and context.idle is not None:
            context.idle()

    def receive_arrived(self) -> Message | None:
        """Extension "daphne_like.receive_arrived": what of the request's body receive() has at once, or None."""
        if self._body:
            return self._take_body()
        if self._body_ended and not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return None

    async def receive(self) -> Message:
        """ASGI receive()."""
        while True:
            message = self.receive_arrived()
            if message is not None:
                return message
            if self._departed or self.state is DONE:
                self._told = True
                return {"type": "http.disconnect"}
            transport = self._transport
            if transport.connection.expects_continue and self.state is REQUEST:
                transport.connection.send_informational(self.stream_id, 100, [])
                transport.flush()
                transport.receive_more()
            if self._wakeup is None:
                self._wakeup = Wakeup()
            await self._wakeup.wait()

    def _take_body(self) -> Message:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waiting = 0
        self._body_given = self._body_ended
        self._transport.receive_more()
        return {"type": "http.request", "body": body, "more_body": not self._body_ended}

    async def send(self, message: Message) -> None:
        """
        ASGI send(). Returns when the message is on its way and the client keeps up.

        Raises:
            ClientDisconnected: an OSError; nothing is sent any more.
            UnexpectedMessage, InvalidMessage: nothing of the message is sent.
        """
        transport = self._transport
        if (self._told and self._departed) or transport.lost:
            raise ClientDisconnected("the client has left")
        try:
            handler = _TRANSITIONS[self.state][message["type"]]
        except (KeyError, TypeError):
            raise UnexpectedMessage(self.state, message_type(message)) from None
        waits = handler(self, message)
        if waits is not None:
            await waits
        elif transport.connection.buffered and transport.blocked:
            await transport.drained()

    def _start(self, message: Message) -> None:
        status = message.get("status")
        if type(status) is not int or not 200 <= status <= 999:
            status = message_status(message)
        headers = message.get("headers")
        if type(headers) is not list:
            headers = message_headers(message)
        transport = self._transport
        transport.connection.send_headers(self.stream_id, status, headers)
        self._status = status
        if message.get("trailers"):
            self._trailers = []
        self.state = HEADERS
        transport.flush_soon()

    def _send_body(self, message: Message) -> None:
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = message_body(message)
        if message.get("more_body", False):
            transport = self._transport
            transport.connection.send_data(self.stream_id, body)
            self.state = BODY
            transport.flush_soon()
        else:
            self._send_last(body)

    def _send_last(self, data: bytes) -> None:
        transport = self._transport
        if self._trailers is None:
            transport.connection.send_data(self.stream_id, data, True)
            self._end(DONE)
            transport.response_ended()
        else:
            transport.connection.send_data(self.stream_id, data)
            self.state = TRAILERS
            transport.flush_soon()

    def _send_trailers(self, message: Message) -> None:
        assert self._trailers is not None
        self._trailers += message_headers(message)
        if not message.get("more_trailers", False):
            self._transport.connection.send_trailers(self.stream_id, self._trailers)
            self._end(DONE)
            self._transport.response_ended()

    def _early_hint(self, message: Message) -> None:
        if self.scope["http_version"] == "1.0":
            raise UnexpectedMessage(self.state, message["type"])
        links = message.get("links", ())
        if isinstance(links, (bytes, str)) or not all(isinstance(link, bytes) for link in links):
            raise InvalidMessage(f"http.response.early_hint: links are a list of bytes, not {links!r}")
        connection = self._transport.connection
        connection.send_informational(self.stream_id, 103, [(b"link", link) for link in links])
        self._transport.flush_soon()

    def _pathsend(self, message: Message) -> Awaitable[None]:
        path = message.get("path")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise InvalidMessage(f"http.response.pathsend: path is an absolute path, not {path!r}")
        # Opened here and not in a thread, so that an error is still in time for a 500. Without waiting, so
        # that a FIFO of that name stops nobody.
        return self._send_file(io.FileIO(path, opener=_open_without_waiting))

    async def _send_file(self, file: io.FileIO) -> None:
        """Send a file as the body: read in threads, no faster than the client takes it."""
        transport = self._transport
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[bytes] | None = None
        try:
            data = b""
            while self.scope["method"] != "HEAD":
                reading = loop.run_in_executor(None, file.read, FILE_CHUNK)
                following = await asyncio.shield(reading)
                if transport.lost or self.state in _OVER:  # the rest of the request may have been refused
                    raise ClientDisconnected("the client has left")
                if not following:
                    break
                if data:
                    transport.connection.send_data(self.stream_id, data)
                    self.state = BODY
                    transport.flush_soon()
                    await transport.drained()
                data = following
        finally:
            # Cancelled while a thread reads: closing under it would let it read from whatever gets the
            # descriptor next.
            if reading is None or reading.done():
                file.close()
            else:
                reading.add_done_callback(lambda _: file.close())
        self._send_last(data)

    # ---- asgi.direct

    @property
    def is_over(self) -> bool:
        """See Exchange."""
        return self.state in _OVER

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Exchange."""
        if (self._told and self._departed) or self._transport.lost:
            raise ClientDisconnected("the client has left")
        if self.state is not REQUEST:
            raise UnexpectedMessage(self.state, "http.response.start")
        self._start({"type": "http.response.start", "status": status, "headers": headers})
        self._send_last(body)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See Exchange."""
        if self.state not in _OVER:
            try:
                self.respond(status, headers, body)
            except Exception as error:
                self._application_raised(error)

    def ended(self, error: BaseException | None) -> None:
        """See Exchange."""
        if error is not None:
            self._application_raised(error)
        elif self.state is not DONE:
            self._application_returned()
        self._over()

    def proceed(self, conversation: Coroutine[Any, Any, None]) -> None:
        """See Exchange."""
        self.task = self._context.spawn(self.run(conversation))

    # ---- endings

    def _end(self, state: str) -> None:
        """The response is complete, or never will be."""
        self.state = state
        context = self._context
        context.requests -= 1
        if context.access_log.enabled:
            self._log_access()
        if self._wakeup is not None:
            self._wakeup.wake()  # whoever waits in receive() is told http.disconnect

    def _application_raised(self, error: BaseException) -> None:
        nobody_waits = self._departed or self.state is DONE
        cancelled = isinstance(error, asyncio.CancelledError)
        if (nobody_waits and (cancelled or came_from_departure(error))) or (
            cancelled and self._context.draining
        ):
            self._abandon()
        elif isinstance(error, RelayError):
            log.info("response broken off", extra={**self.described, "reason": str(error)})
            self._give_up()
        else:
            log.error("application failed", exc_info=error, extra=self.described)
            self._give_up()

    def _application_returned(self) -> None:
        if self._departed or self.state is ABANDONED:
            self._abandon()
            return
        log.error("application ended without a complete response", extra=self.described)
        self._give_up()

    def _give_up(self, status: int = 500, text: bytes = b"Internal Server Error\n") -> None:
        """Answer for the application if that is still possible, else cut the connection."""
        if self.state in _OVER:
            return
        transport = self._transport
        connection = transport.connection
        if transport.lost or not connection.withdraw_headers(self.stream_id):
            self._abandon()
            return
        self._status = status
        self._trailers = None
        connection.send_headers(self.stream_id, status, [(b"content-type", b"text/plain; charset=utf-8")])
        connection.send_data(self.stream_id, text, True)
        self._end(DONE)
        transport.response_ended()

    def _abandon(self) -> None:
        """Nobody waits for the rest."""
        if self.state not in _OVER:
            self._end(ABANDONED)
            self._transport.reset("the response was not completed")

    def _log_access(self) -> None:
        write_record(
            self._context.access_log.http,
            self.scope,
            method=self.scope["method"],
            status=self._status,
            bytes_sent=self._transport.connection.body_sent,
            duration=time.perf_counter() - self._started_at,
        )


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


_OVER = (DONE, ABANDONED)

_TRANSITIONS: dict[str, dict[str, Callable[[HTTPStream, Message], Awaitable[None] | None]]] = {
    REQUEST: {
        "http.response.start": HTTPStream._start,
        "http.response.early_hint": HTTPStream._early_hint,
    },
    HEADERS: {
        "http.response.body": HTTPStream._send_body,
        "http.response.pathsend": HTTPStream._pathsend,
    },
    BODY: {"http.response.body": HTTPStream._send_body},
    TRAILERS: {"http.response.trailers": HTTPStream._send_trailers},
    DONE: {},
    ABANDONED: {},
}
