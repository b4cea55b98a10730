"""
One request and its response, as an ASGI conversation (HTTP spec 2.5).

States, and the messages that an application may send in them; anything absent raises UnexpectedMessage:

    REQUEST   http.response.start -> HEADERS         http.response.early_hint -> REQUEST
    HEADERS   http.response.body  -> BODY | last     http.response.pathsend -> last
    BODY      http.response.body  -> BODY | last
    TRAILERS  http.response.trailers -> TRAILERS (more_trailers) | DONE
              last = TRAILERS where start announced them, else DONE

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
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from daphne_like import logs
from daphne_like.asgi.messages import message_body, message_headers, message_status, message_type
from daphne_like.asgi.stream import NEVER, StreamTransport, Wakeup
from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from daphne_like.http.events import DataReceived, RequestReceived
from daphne_like.typing import Message

__all__ = ["HTTPStream"]

log = logging.getLogger(logs.APPLICATION)

REQUEST, HEADERS, BODY, TRAILERS, DONE = "REQUEST", "HEADERS", "BODY", "TRAILERS", "DONE"

# What one read from disk hands over: as large as the pipe's other end will take at once, no larger than what
# a thousand slow downloads may hold.
FILE_CHUNK = 256 * 1024


class HTTPStream:
    """
    Args:
        transport: the socket's keeper.
        event: the request's head.
        scope: for the application.

    Attributes:
        wants_data: there is room for more of the request's body.
        task: runs the application.
    """

    __slots__ = (
        "_body",
        "_body_ended",
        "_body_given",
        "_context",
        "_departed",
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
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._wakeup = Wakeup()
        self._status = 0
        self._started_at = context.clock() if context.access_log.enabled else 0.0
        if context.settings.http_timeout is not None:
            self.deadline = context.clock() + context.settings.http_timeout
            context.watch(self)

    # ---- from the connection

    @property
    def wants_data(self) -> bool:
        return self._waiting < self._context.settings.receive_buffer_size

    @property
    def described(self) -> dict[str, Any]:
        return {"method": self.scope["method"], "path": self.scope["path"], "state": self.state}

    def handle_data(self, event: DataReceived) -> None:
        """Take some of the request's body."""
        if event.data:
            self._body.append(event.data)
            self._waiting += len(event.data)
        self._body_ended = event.end_stream
        self._wakeup.wake()

    def client_silent(self) -> None:
        """The client has closed its side."""
        self._departed = True
        self._watch_departed()
        self._wakeup.wake()

    def client_left(self) -> None:
        """The socket is gone."""
        self._departed = self._told = True
        self._watch_departed()
        self._wakeup.wake()

    def refused(self, status: int) -> None:
        """The request proved malformed, and the connection answers it with *status*: the rest is off."""
        self._departed = self._told = True
        self._watch_departed()
        self.state = DONE
        self._status = status
        self._log_access()
        self._wakeup.wake()

    def writable(self) -> None:
        """Nothing: send() waits by itself."""

    def shutdown(self) -> None:
        """Nothing: a response in course goes on until the drain's end."""

    def _watch_departed(self) -> None:
        """An application that does not notice is ended after a while; one that has answered, never."""
        limit = self._context.settings.application_close_timeout
        if limit and self.state is not DONE and self.task is not None and not self.task.done():
            self.deadline = min(self.deadline, self._context.clock() + limit)
            self._context.watch(self)

    def deadline_passed(self, now: float) -> None:
        """End an application that took too long (--http-timeout, --application-close-timeout)."""
        self.deadline = NEVER
        if self.state is DONE or self.task is None or self.task.done():
            return
        if self._departed:
            log.warning(
                "application did not end after its client left, cancelled it",
                extra={"path": self.scope["path"], "limit": self._context.settings.application_close_timeout},
            )
        else:
            log.warning(
                "request took longer than --http-timeout, cancelled its application",
                extra={"path": self.scope["path"], "limit": self._context.settings.http_timeout},
            )
            self._give_up(503, b"The application took too long to answer.\n")
        self.task.cancel()

    # ---- to the application

    async def run(self) -> None:
        """Call the application, and see to it that its stream ends with it."""
        context = self._context
        try:
            await context.application(self.scope, self.receive, self.send)
        except BaseException as error:
            self._application_raised(error)
        else:
            if self.state is not DONE:
                self._application_returned()
        finally:
            context.requests -= 1
            context.ended(self)
            if self.deadline != NEVER or context.settings.http_timeout is not None:
                context.unwatch(self)

    async def receive(self) -> Message:
        """ASGI receive()."""
        while True:
            if self._body:
                return self._take_body()
            if self._body_ended and not self._body_given:
                self._body_given = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._departed or self.state is DONE:
                self._told = True
                return {"type": "http.disconnect"}
            transport = self._transport
            if transport.connection.expects_continue and not self._body_ended and self.state is REQUEST:
                transport.connection.send_informational(self.stream_id, 100, [])
                transport.flush()
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
        kind = message_type(message)
        handler = _TRANSITIONS.get((self.state, kind))
        if handler is None:
            raise UnexpectedMessage(self.state, kind)
        waits = handler(self, message)
        if waits is not None:
            await waits
        elif transport.blocked:
            await transport.drained()

    def _start(self, message: Message) -> None:
        status = message_status(message)
        self._transport.connection.send_headers(self.stream_id, status, message_headers(message))
        self._status = status
        if message.get("trailers"):
            self._trailers = []
        self.state = HEADERS
        self._transport.flush_soon()

    def _send_body(self, message: Message) -> None:
        body = message_body(message)
        if message.get("more_body", False):
            self._transport.connection.send_data(self.stream_id, body)
            self.state = BODY
            self._transport.flush_soon()
        else:
            self._send_last(body)

    def _send_last(self, data: bytes) -> None:
        connection = self._transport.connection
        if self._trailers is None:
            connection.send_data(self.stream_id, data, True)
            self._done()
        else:
            connection.send_data(self.stream_id, data)
            self.state = TRAILERS
            self._transport.flush_soon()

    def _send_trailers(self, message: Message) -> None:
        assert self._trailers is not None
        self._trailers += message_headers(message)
        if not message.get("more_trailers", False):
            self._transport.connection.send_trailers(self.stream_id, self._trailers)
            self._done()

    def _early_hint(self, message: Message) -> None:
        if self.scope["http_version"] == "1.0":
            raise UnexpectedMessage(self.state, message["type"])
        links = message.get("links", ())
        if isinstance(links, (bytes, str)) or not all(isinstance(link, bytes) for link in links):
            raise InvalidMessage(f"http.response.early_hint: links are a list of bytes, not {links!r}")
        connection = self._transport.connection
        connection.send_informational(self.stream_id, 103, [(b"link", link) for link in links])
        self._transport.flush_soon()

    async def _pathsend(self, message: Message) -> None:
        """Send a file as the body: read in a thread, no faster than the client takes it."""
        path = message.get("path")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise InvalidMessage(f"http.response.pathsend: path is an absolute path, not {path!r}")
        transport = self._transport
        connection = transport.connection
        in_thread = asyncio.get_running_loop().run_in_executor
        descriptor = await in_thread(None, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            if self.scope["method"] != "HEAD":
                while True:
                    following = await in_thread(None, os.read, descriptor, FILE_CHUNK)
                    if transport.lost:
                        raise ClientDisconnected("the client has left")
                    if not following:
                        break
                    if data:
                        connection.send_data(self.stream_id, data)
                        self.state = BODY
                        transport.flush_soon()
                        await transport.drained()
                    data = following
        finally:
            os.close(descriptor)
        self._send_last(data)

    # ---- endings

    def _done(self) -> None:
        self.state = DONE
        self._log_access()
        # Whoever waits in receive() for http.disconnect is told now.
        self._wakeup.wake()
        self._transport.response_ended()

    def _application_raised(self, error: BaseException) -> None:
        if isinstance(error, ClientDisconnected) and self._departed:
            self._abandon()
        elif isinstance(error, asyncio.CancelledError) and (self._departed or self._context.draining):
            self._abandon()
        elif isinstance(error, asyncio.CancelledError) and self.state is DONE:
            pass
        else:
            log.error(
                "application failed",
                exc_info=error,
                extra=self.described,
            )
            self._give_up()

    def _application_returned(self) -> None:
        if self._departed:
            self._abandon()
            return
        log.error(
            "application ended without a complete response",
            extra=self.described,
        )
        self._give_up()

    def _give_up(self, status: int = 500, text: bytes = b"Internal Server Error\n") -> None:
        """Answer for the application if that is still possible, else cut the connection."""
        if self.state is DONE:
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
        self._done()

    def _abandon(self) -> None:
        """Nobody waits for the rest."""
        if self.state is not DONE:
            self.state = DONE
            self._log_access()
            self._wakeup.wake()
            if not self._transport.lost:
                self._transport.reset("the response was not completed")

    def _log_access(self) -> None:
        context = self._context
        if not context.access_log.enabled:
            return
        scope = self.scope
        agent = referer = b""
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value
            elif name == b"referer":
                referer = value
        query = scope["query_string"]
        context.access_log.http(
            client=scope["client"],
            method=scope["method"],
            target=scope["raw_path"] + b"?" + query if query else scope["raw_path"],
            http_version=scope["http_version"],
            status=self._status,
            bytes_sent=self._transport.connection.body_sent,
            duration=context.clock() - self._started_at,
            user_agent=agent,
            referer=referer,
        )


_TRANSITIONS: dict[tuple[str, str], Callable[[HTTPStream, Message], Awaitable[None] | None]] = {
    (REQUEST, "http.response.start"): HTTPStream._start,
    (REQUEST, "http.response.early_hint"): HTTPStream._early_hint,
    (HEADERS, "http.response.body"): HTTPStream._send_body,
    (HEADERS, "http.response.pathsend"): HTTPStream._pathsend,
    (BODY, "http.response.body"): HTTPStream._send_body,
    (TRAILERS, "http.response.trailers"): HTTPStream._send_trailers,
}
