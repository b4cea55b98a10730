"""
ServerProtocol: one class for every socket.

Bytes from the socket go through an HTTP connection to streams in one call stack, without a queue in between;
what streams write is collected in the connection and leaves in one write per turn of the event loop (`flush`).

Three things are regulated here, because only here all of it is known:

* Reading. The socket is paused while the stream has no room, or while too much waits behind it.
* Writing. The transport pauses us when the kernel takes no more; then bytes wait in the connection, and a
  stream that has more than the high-water mark there waits in drained().
* Time. `deadline` is the earliest moment at which something could be late; deadline_passed() finds out what:
  a head, an idle connection, a body, a client that does not read, or a close that lingers.
"""

import logging
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from daphne_like import logs
from daphne_like.asgi.opening import open_stream
from daphne_like.asgi.stream import NEVER, ServerContext, Stream, Wakeup
from daphne_like.asgi.websocket import WebSocketStream
from daphne_like.errors import ClientDisconnected, RemoteProtocolError
from daphne_like.http.events import DataReceived, Event, RequestReceived
from daphne_like.http.h1 import H1Connection
from daphne_like.net.addresses import describe_connection
from daphne_like.typing import Address, Headers, ServerAddress
from daphne_like.websocket.handshake import refusal_headers

__all__ = ["ServerProtocol"]

log = logging.getLogger(logs.PROTOCOL)

# After an answer that the client may not expect, its data is read and dropped for so long before the socket
# closes: "a server typically [...] closes only the write side [...], then continues to read" -- RFC 9112 §9.6.
LINGER = 5.0

# Pieces are joined for one write up to here; beyond, copying costs more than writing them in a row.
JOIN_LIMIT = 128 * 1024

# Responses to pipelined requests are collected up to here.
PIPELINE_LIMIT = 16 * 1024

RETRY_AFTER = b"1"

# How the end goes: _CLOSES and _CLOSES_GENTLY once all is written, _LINGERS after that, _GONE.
_NOT, _CLOSES, _CLOSES_GENTLY, _LINGERS, _GONE = range(5)


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class ServerProtocol:
    """
    Args:
        context: of the server.
        factory: counts connections; told when this one is lost.

    Attributes: as in asgi.stream.StreamTransport, and stream: the one in course.
    """

    __slots__ = (
        "_ending",
        "_factory",
        "_in_head",
        "_more_to_come",
        "_read_paused",
        "_tunnel",
        "_unsent",
        "_wakeup",
        "_write_paused",
        "client",
        "connection",
        "context",
        "deadline",
        "flush_scheduled",
        "lost",
        "scheme",
        "server",
        "stream",
        "tls",
        "transport",
    )

    def __init__(self, context: ServerContext, factory: Any) -> None:
        self.context = context
        self._factory = factory
        self.connection = H1Connection(context.limits, context.identity, context.tokenizer)
        self.transport: Any = None
        self.client: Address | None = None
        self.server: ServerAddress | None = None
        self.scheme = "http"
        self.tls: dict[str, Any] | None = None
        self.lost, self.deadline = False, NEVER
        self.stream: Stream | None = None
        self._tunnel: WebSocketStream | None = None
        self._wakeup: Wakeup | None = None
        self._read_paused = self._write_paused = False
        self.flush_scheduled = self._in_head = False
        self._more_to_come = False  # the next pipelined request has just begun
        self._ending = _NOT
        self._unsent = 0  # what the transport held when we last looked whether a client reads

    # ---- called by Twisted, whence camelCase, or the adapter of a loop's transport

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Find out who is there, and wait for the first head."""
        transport = self.transport
        transport.registerProducer(self, True)
        self.client, self.server, self.scheme, self.tls = describe_connection(transport, self._factory)
        context = self.context
        context.watch(self)
        # One that was accepted as the server began to stop is not waited for.
        limit = LINGER if context.draining else context.settings.header_timeout or NEVER
        self.deadline = context.clock() + limit
        if self._factory.is_full:
            log.warning("refused a connection: --max-connections reached", extra={"client": self.client})
            self._answer_briefly(503, b"Too many connections\n", [(b"retry-after", RETRY_AFTER)])

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the socket."""
        tunnel = self._tunnel
        if tunnel is not None:
            tunnel.octets_received(data)
            if not tunnel.wants_data and not self._read_paused:
                self._pause_reading()
            return
        if self._ending:
            return
        connection = self.connection
        try:
            events = connection.receive_data(data)
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        if events:
            self._dispatch(events)
        elif connection.reads_head and not self._in_head and not connection.is_idle():
            self._in_head = True
            self._set_deadline()
        if not self._read_paused and connection.has_more_to_read():
            self._regulate_reading()

    def readConnectionLost(self) -> None:
        """The client has closed its side: most likely it is gone, but it may still read."""
        if self._ending:
            if self._ending == _LINGERS:
                self.transport.loseConnection()
            return
        stream = self.stream
        try:
            self.connection.receive_eof()
            events = self.connection.events_received()
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        if events:  # it broke off within a body
            self.reset("the client closed within a request body")
        elif stream is None:
            self.close(linger=False)
        else:
            stream.client_silent()

    def writeConnectionLost(self) -> None:
        """Our side is closed, as we wanted."""

    def connectionLost(self, reason: Failure) -> None:
        """The socket is gone."""
        if self.lost and self.transport is None:
            return
        self.lost = True
        self.transport = None
        self.context.unwatch(self)
        self._factory.connection_lost(self)
        self._leave_stream()

    def pauseProducing(self) -> None:
        """The kernel takes no more for now."""
        self._write_paused = True
        self._look_for_progress()

    def resumeProducing(self) -> None:
        """All that was written has left."""
        self._write_paused = False
        self.flush()
        if not self._write_paused:
            self._set_deadline()
            if self._wakeup is not None:
                self._wakeup.wake()
            if self.stream is not None:
                self.stream.writable()

    def stopProducing(self) -> None:
        """connectionLost() follows."""

    # ---- requests

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is RequestReceived:
                context = self.context
                self._in_head = False
                if (context.draining or context.max_requests is not None) and self._is_refused(event):
                    return
                try:
                    self.stream = open_stream(event, self)
                except RemoteProtocolError as error:
                    log.info("handshake refused", extra={"client": self.client, "reason": error.reason})
                    text = error.reason.encode() + b"\n"
                    self._answer_briefly(error.status_hint, text, refusal_headers(error.status_hint))
                    return
            elif (
                type(event) is DataReceived
                and (stream := self.stream) is not None
                and stream.stream_id == event.stream_id
            ):
                stream.handle_data(event)
            else:
                continue
            if event.end_stream and not self._write_paused:
                self.deadline = NEVER
                return  # nothing follows before this is answered
        self._set_deadline()

    def _is_refused(self, event: RequestReceived) -> bool:
        """Whether there is no room for a request, or no time; then it is answered."""
        context = self.context
        if context.draining:
            self.connection.stop_keeping_alive()
        if context.is_full_for(event):
            log.warning("refused a request: --max-concurrent-requests reached")
            self._answer_briefly(503, b"Too many requests\n", [(b"retry-after", RETRY_AFTER)])
        elif event.upgrade and context.draining:
            self._answer_briefly(503, b"The server is stopping\n", [(b"retry-after", RETRY_AFTER)])
        else:
            return False
        return True

    def response_ended(self) -> None:
        """The stream's response is complete: go on with the next request, or close."""
        self.stream = None
        connection = self.connection
        if connection.should_close:
            self.close(linger=connection.lingers)
            return
        if connection.is_idle():
            if self._read_paused:
                self._resume_reading()  # Twisted's TLS had gone on, to the body's end
            self.flush()
            self._in_head = False
            if not self._write_paused:
                self.deadline = self.context.clock() + self.context.keep_alive
            return
        try:
            events = connection.events_received()
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        if self._read_paused and connection.held <= self.context.settings.receive_buffer_size:
            self._resume_reading()
        if events:
            self._dispatch(events)
            if connection.client_ended:
                self.flush()
                self.readConnectionLost()  # this stream is to know, too
            self._more_to_come = True
            self.flush_soon()
        else:
            self._in_head = connection.reads_head
            self.flush()
            self._set_deadline()

    def _answer_briefly(self, status: int, text: bytes, headers: Headers) -> None:
        """Answer in place of an application; the connection closes after it."""
        connection = self.connection
        connection.stop_keeping_alive()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), *headers]
        connection.send_headers(connection.stream_id, status, fields)
        connection.send_data(connection.stream_id, text, True)
        self.close(linger=True)

    def _refuse(self, error: RemoteProtocolError) -> None:
        """Answer what cannot be read, if that is still possible, and close."""
        log.info(
            "request refused",
            extra={"client": self.client, "reason": error.reason, "status": error.status_hint},
        )
        stream, self.stream = self.stream, None
        if self.connection.response_started and stream is not None:
            self.stream = stream
            self.reset(error.reason)
            return
        if stream is not None:
            stream.refused(error.status_hint)
        self.connection.refuse(error)
        self.close(linger=True)

    def drain(self) -> None:
        """Stop after the response in course; at once when there is none."""
        self.connection.stop_keeping_alive()
        if self.stream is None and not self._ending and self.connection.should_close:
            self.close(linger=self.connection.lingers)

    # ---- asgi.stream.StreamTransport

    def upgraded(self) -> None:
        """The connection has become the stream's alone."""
        stream = self.stream
        assert isinstance(stream, WebSocketStream)
        self._tunnel = stream
        self._set_deadline()
        for event in self.connection.events_received():
            assert isinstance(event, DataReceived)
            stream.octets_received(event.data)
        if self._read_paused and stream.wants_data:
            self._resume_reading()
        elif not self._read_paused and not stream.wants_data:
            self._pause_reading()

    @property
    def blocked(self) -> bool:
        """More waits than the high-water mark allows, after everything possible has been written."""
        connection, limit = self.connection, self.context.settings.send_buffer_size
        if connection.buffered > limit and not self._write_paused:
            self.flush()
        return connection.buffered > limit

    async def drained(self) -> None:
        """Wait until not blocked; raises ClientDisconnected when the socket is lost meanwhile."""
        while not self.lost:
            if not self.blocked:
                return
            if self._wakeup is None:
                self._wakeup = Wakeup()
            await self._wakeup.wait()
        raise ClientDisconnected("the client has left")

    def flush_soon(self) -> None:
        """Write what the connection has at the end of this turn of the event loop."""
        if not self.flush_scheduled:
            self.flush_scheduled = True
            waiting = self._factory.to_flush
            if not waiting:
                self._factory.call_at_end_of_turn()
            waiting.append(self)

    def end_of_turn(self) -> None:
        """
        Called by the factory after a turn with a flush_soon() and without a flush() after it.

        A response to a pipelined request waits for the turn of the next one, and leaves together with its
        response if that is ready in that turn.
        """
        self.flush_scheduled = False
        if self._more_to_come and self.connection.buffered < PIPELINE_LIMIT:
            self._more_to_come = False
            self.flush_soon()
        elif self.connection.has_data_to_send:
            self.flush()

    def flush(self) -> None:
        """Write what the connection has, now."""
        if self._write_paused or self.lost:
            return
        pieces = self.connection.data_to_send()
        if pieces:
            self.flush_scheduled = False
            if len(pieces) == 1:
                self.transport.write(pieces[0])
            elif sum(map(len, pieces)) <= JOIN_LIMIT:
                self.transport.write(b"".join(pieces))
            else:
                self.transport.writeSequence(pieces)
        if self._ending:
            self._finish()

    def receive_more(self) -> None:
        """The stream has room for data again."""
        stream = self.stream
        if stream is not None and (self._read_paused or self.connection.reads_body) and stream.wants_data:
            if self._read_paused:
                self._resume_reading()
            self._set_deadline()

    def close(self, *, linger: bool) -> None:
        """End the connection when all is written; *linger* where the client may still be sending."""
        if self._ending or self.lost:
            return
        self._ending = _CLOSES_GENTLY if linger and not self.connection.client_ended else _CLOSES
        self.flush()

    def reset(self, reason: str) -> None:
        """Cut the connection: what was sent so far must not look like a whole response."""
        if self.lost:
            return
        log.debug("connection reset", extra={"client": self.client, "reason": reason})
        self._ending = _GONE
        self.lost = True
        self.transport.abortConnection()
        self._leave_stream()

    def _leave_stream(self) -> None:
        """The socket is gone, for whoever used it."""
        stream, self.stream, self._tunnel = self.stream, None, None
        if stream is not None:
            stream.client_left()
        if self._wakeup is not None:
            self._wakeup.wake()

    # ---- the end, and what is late

    def _finish(self) -> None:
        """All is with the transport, which sends the rest before it closes."""
        if self._ending == _CLOSES_GENTLY:
            self._ending = _LINGERS
            if self._read_paused:
                self._resume_reading()
            self._close_writing()
            self._set_deadline()
        elif self._ending == _CLOSES:
            self._ending = _GONE
            self._close_transport()
            self._set_deadline()

    def _close_writing(self) -> None:
        # Twisted's TLS hands the name on to the TCP transport beneath it, which would end TLS without a word.
        transport = self.transport
        if hasattr(transport, "loseWriteConnection") and not hasattr(transport, "getPeerCertificate"):
            transport.loseWriteConnection()
        else:
            self._close_transport()

    def _close_transport(self) -> None:
        if not hasattr(self.transport, "bytes_unsent"):
            self.transport.unregisterProducer()  # Twisted's would wait for that before they close
        self.transport.loseConnection()

    def _regulate_reading(self) -> None:
        stream = self.stream
        if stream is not None and (
            not stream.wants_data or self.connection.held > self.context.settings.receive_buffer_size
        ):
            self._pause_reading()

    def _pause_reading(self) -> None:
        self._read_paused = True
        self.transport.pauseProducing()

    def _resume_reading(self) -> None:
        self._read_paused = False
        if not self.lost:
            self.transport.resumeProducing()

    def _set_deadline(self) -> None:
        settings = self.context.settings
        if self._write_paused:
            return  # _look_for_progress() has set it: what a client sends gains it no time to read
        if self._ending:
            limit = LINGER
        elif self.stream is None:
            limit = settings.header_timeout if self._in_head else settings.keep_alive_timeout
        elif self._tunnel is None and self.connection.reads_body:
            limit = settings.body_timeout
        else:
            self.deadline = NEVER
            return
        self.deadline = self.context.clock() + (limit or NEVER)

    def deadline_passed(self, now: float) -> None:
        """Something is late, or was: find out what."""
        if self._write_paused:
            if not self._look_for_progress():
                log.info("client did not read, dropped it", extra={"client": self.client})
                self.reset("the client does not read")
        elif self._ending:
            self.reset("the client did not close")
        elif self.stream is None:
            if self._in_head and not self.connection.is_idle():
                self._refuse(RemoteProtocolError("request head took too long", status_hint=408))
            else:
                self.close(linger=False)
        elif self._read_paused:
            self._set_deadline()  # it is we who do not listen
        elif self.connection.reads_body:
            self._refuse(RemoteProtocolError("request body took too long", status_hint=408))
        else:
            self.deadline = NEVER

    def _look_for_progress(self) -> bool:
        """Whether the transport has got rid of anything since the last look, which this one replaces."""
        measure = getattr(self.transport, "bytes_unsent", lambda: 0)
        before, self._unsent = self._unsent, measure()
        self.deadline = self.context.clock() + (self.context.settings.write_timeout or NEVER)
        return self._unsent < before
