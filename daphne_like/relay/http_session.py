"""
A request and its response in a worker: receive() and send() as asgi.http.HTTPStream has them.

Departure, as there: a client that has closed its sending side may still read, so that send() goes on until the
application has been *told* by receive(); from then on, or when the client is gone for good, it raises
ClientDisconnected. A response that is handed off (an event stream, on drain) ends like the latter: what the
application says from then on would be said twice, since the client asks the next worker for what it has missed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from daphne_like import logs
from daphne_like.asgi.stream import came_from_departure
from daphne_like.errors import ClientDisconnected, UnexpectedMessage
from daphne_like.relay.conversation import ABANDONED, DONE, REQUEST, HTTPConversation
from daphne_like.relay.envelope import CREDIT, GAP, HANDOFF, SILENT, TIMEOUT, Opening, item_cost
from daphne_like.relay.session import UNFINISHED, Session, SessionHost
from daphne_like.relay.window import Inflow
from daphne_like.typing import Headers, Message

__all__ = ["HTTPSession"]

log = logging.getLogger(logs.APPLICATION)

_SMALL = 64 * 1024


class HTTPSession(Session):
    """See Session."""

    is_exchange = True

    _departure: Callable[[bool], None] | None = None
    _failure = ""  # of a direct exchange, for its end
    _body_given = False
    _told = False
    _asked = False
    _silent = False  # the client will send nothing more

    def __init__(self, host: SessionHost, server: str, channel: str, opening: Opening) -> None:
        super().__init__(host, server, channel, opening)
        scope = opening.scope
        self.conversation = HTTPConversation(scope["method"], scope["http_version"])
        self._entries: list[Any] = []  # pieces of the body that the application has not taken
        self._body_ended = opening.ended
        if opening.items:
            self._inflow = Inflow(opening.credit)
            self._arrived(self._inflow.arrive(1, opening.items))

    @property
    def described(self) -> dict[str, Any]:
        scope = self.scope
        return {
            "method": scope.get("method"),
            "path": scope.get("path"),
            "state": self.conversation.state,
        }

    # ---- from the server

    def _arrived(self, entries: Sequence[Any]) -> None:
        self._entries += entries
        if entries and entries[-1] is None:
            self._body_ended = True

    def cancelled(self, reason: str, code: int) -> None:
        """CANCEL."""
        if reason == SILENT:
            self._silent = True
            self._wake()
            if self._departure is not None:
                self._departure(False)
            if self.conversation.state is not DONE:
                self._watch_departed()
            return
        self._silent = True
        self._depart()
        if self._departure is not None:
            self._departure(True)
        if self.conversation.state is DONE:
            return  # one that has answered may go on for as long as it likes
        if reason in _AT_ONCE:
            self.stop()
        else:
            self._watch_departed()

    def hand_off(self) -> bool:
        """Tell the server to take this response elsewhere, if it can be taken up there; returns whether."""
        headers = self.conversation.headers
        if self.conversation.state not in (REQUEST, DONE) and any(
            name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in headers
        ):
            self._host.post(self.server, [HANDOFF, self.stream, self.epoch])
            return True
        return False

    def _outstays(self) -> bool:
        if self.conversation.state is DONE:
            return False
        log.warning(
            "application did not end after its client left, cancelled it",
            extra={**self.described, "limit": self._host.application_close_timeout},
        )
        return True

    # ---- to the application

    async def run(self, rest: Coroutine[Any, Any, None] | None = None) -> None:
        """Call the application, or go on with the *rest* of it; see to it that its session ends with it."""
        self._started = True
        error = ""
        try:
            await (rest or self._host.application(self.scope, self.receive, self.send))
        except BaseException as raised:
            error = self._application_raised(raised)
        else:
            if self.conversation.state is not DONE:
                error = self._application_returned()
        self._finish(error)

    def receive_arrived(self) -> Message | None:
        """See asgi.direct.Exchange."""
        if self._entries:
            return self._take_body()
        if self._body_ended and not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return None

    def tell_departure(self, callback: Callable[[bool], None] | None) -> None:
        """See asgi.direct.Exchange."""
        self._departure = callback
        if callback is not None and self._silent:
            callback(self.departed)

    async def receive(self) -> Message:
        """ASGI receive()."""
        while True:
            message = self.receive_arrived()
            if message is not None:
                return message
            if self._silent or self.conversation.state is DONE:
                self._told = True
                return {"type": "http.disconnect"}
            if not self._asked:
                self._ask_for_body()
            await self._wait()

    def _ask_for_body(self) -> None:
        """Say that the application waits for the body: a client that expects 100 is told only now."""
        self._asked = True
        if self._inflow is None and not self._body_ended and not self._orphaned:
            for name, value in self.scope["headers"]:
                if name == b"expect" and value.lower() == b"100-continue":
                    if self._items:
                        self.flush()  # a response that has begun is what makes 100 needless
                    self._host.post(self.server, [CREDIT, self.stream, self.epoch, 0, 0])

    def _take_body(self) -> Message:
        inflow = self._inflow
        assert inflow is not None
        pieces = [inflow.consume(entry) for entry in self._entries]
        self._entries = []
        if pieces[-1] is None:
            pieces.pop()
        self._body_given = self._body_ended
        self._give_credit()
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not self._body_ended}

    async def send(self, message: Message) -> None:
        """
        ASGI send(). Returns when the message is on its way and the client keeps up.

        Raises:
            ClientDisconnected: an OSError; nothing is sent any more.
            UnexpectedMessage, InvalidMessage: nothing of the message is sent.
        """
        if self.departed or (self._told and self._silent):
            raise ClientDisconnected("the client has left")
        conversation = self.conversation
        item = conversation.judged(message)
        if item is None:
            return
        if conversation.state is DONE and self._wakeup is not None:
            self._wakeup.wake()  # whoever waits in receive() is told http.disconnect
        size = conversation.size
        if size < _SMALL and self._credit > 0 and not self._pending:
            # _put(), without the calls: nearly every message comes this way.
            cost = item_cost(item)
            self._credit -= cost
            self._items.append(item)
            self._items_size += cost
            if self._items_size > _SMALL:
                self.flush()
            if not self._scheduled:
                self._scheduled = True
                self._host.flush_soon(self)
            if item["type"] == "http.response.pathsend":
                await self._file_sent()
            return
        self._say(item, size)
        if self._pending:
            await self._said()
        if item["type"] == "http.response.pathsend":
            await self._file_sent()

    async def _file_sent(self) -> None:
        """Wait until the server has sent a file: its application may be about to delete it."""
        while not self.departed:
            # Flushed and not: the file is the last item said so far, if nobody else sends meanwhile.
            if not self._items and not self._pending and self._seen_below >= self._sent:
                return
            await self._wait()
        raise ClientDisconnected("the client has left")

    # ---- asgi.direct

    @property
    def is_over(self) -> bool:
        """See asgi.direct.Exchange."""
        return self.conversation.state in (DONE, ABANDONED)

    @property
    def is_whole(self) -> bool:
        """Whether all of the request has come."""
        return self._body_ended

    def run_directly(self, direct: Callable[["HTTPSession"], bool]) -> bool:
        """Whether the application has taken the session without a task."""
        self._started = direct(self)
        return self._started

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See asgi.direct.Exchange."""
        if self.departed or (self._told and self._silent):
            raise ClientDisconnected("the client has left")
        conversation = self.conversation
        if conversation.state is not REQUEST:
            raise UnexpectedMessage(conversation.state, "http.response.start")
        item = conversation.judged({"type": "http.response.start", "status": status, "headers": headers})
        self._say(item, conversation.size)
        item = conversation.judged({"type": "http.response.body", "body": body})
        self._say(item, conversation.size)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See asgi.direct.Exchange."""
        if self.conversation.state is REQUEST:
            try:
                self.respond(status, headers, body)
            except Exception as error:
                self._failure = self._application_raised(error)

    def ended(self, error: BaseException | None) -> None:
        """See asgi.direct.Exchange."""
        if error is not None:
            failure = self._application_raised(error)
        elif self.conversation.state is not DONE and not self._failure:
            failure = self._application_returned()
        else:
            failure = self._failure
        self._finish(failure)

    def proceed(self, conversation: Coroutine[Any, Any, None]) -> None:
        """See asgi.direct.Exchange."""
        self.task = asyncio.get_running_loop().create_task(self.run(conversation))

    # ---- endings

    def _application_raised(self, error: BaseException) -> str:
        """Returns what END says."""
        conversation = self.conversation
        cancelled = isinstance(error, asyncio.CancelledError)
        nobody_waits = self._silent or conversation.state is DONE
        if not (
            (nobody_waits and (cancelled or came_from_departure(error)))
            or (cancelled and self._host.draining)
        ):
            log.error("application failed", exc_info=error, extra=self.described)
        if conversation.state is DONE:
            return ""
        self._abandon()
        return type(error).__name__

    def _application_returned(self) -> str:
        if not self._silent:
            log.error("application ended without a complete response", extra=self.described)
        self._abandon()
        return UNFINISHED

    def _abandon(self) -> None:
        """Tell tasks that the application has left behind."""
        self.conversation.state = ABANDONED
        self._silent = True
        self._wake()


# Reasons for which a server does not wait for the application at all.
_AT_ONCE = (TIMEOUT, GAP)
