"""
A WebSocket in a worker: receive() and send() as asgi.websocket.WebSocketStream has them.

websocket.connect comes first, at every epoch; then what the epoch before has not taken, then what the client
sends. Once the client has closed or is gone, send() raises; receive() first gives what came before.

Handoff. After CANCEL the application is told websocket.disconnect with 1012, when it has taken what had come.
What it says still goes to the client, but a websocket.close that it says after it was told is absorbed: the
client stays. Its group messages are kept by the layer from the CANCEL on, under the stream's label.

What the application has taken is told to the server at the end of each turn, so that nothing of it is given to
the next worker should this one die, and everything else is.
"""

import asyncio
import contextlib
import logging
from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Sequence
from typing import Any

from daphne_like import logs
from daphne_like.asgi.stream import came_from_departure
from daphne_like.errors import ClientDisconnected
from daphne_like.layers.base import current_stream, stream_will
from daphne_like.relay.conversation import CLOSED, CLOSING, DENIAL, HANDSHAKE, OPEN, WebSocketConversation
from daphne_like.relay.envelope import GAP, HANDED_OFF, HANDOFF, TIMEOUT, WILL, Opening
from daphne_like.relay.session import UNFINISHED, Session, SessionHost
from daphne_like.relay.window import Inflow
from daphne_like.typing import Message

__all__ = ["WebSocketSession"]

log = logging.getLogger(logs.APPLICATION)


class WebSocketSession(Session):
    """
    See Session.

    Attributes:
        label: names the stream on the layer, at every worker.
    """

    _tells_taken = True

    def __init__(self, host: SessionHost, server: str, channel: str, opening: Opening) -> None:
        super().__init__(host, server, channel, opening)
        self.label = f"{server}.{opening.stream}"
        subprotocols = opening.scope.get("subprotocols") or []
        self.conversation = WebSocketConversation(list(subprotocols), resumed=opening.epoch > 1)
        self._connect_given = False
        self._inbox: deque[Any] = deque()  # entries of the inflow
        self._last_came = False  # nothing follows what is in the inbox
        self._handed_off: int | None = None  # the code to say
        self._inflow = Inflow(opening.credit)
        if opening.items:
            self._arrived(self._inflow.arrive(1, opening.items))
        if opening.will:
            host.stream_inherited(self.label, opening.will)

    @property
    def described(self) -> dict[str, Any]:
        return {"path": self.scope.get("path"), "state": self.conversation.state}

    # ---- from the server

    def _arrived(self, entries: Sequence[Any]) -> None:
        for entry in entries:
            if type(entry) is dict and entry.get("type") == "websocket.disconnect":
                code, reason = entry.get("code", 1005), entry.get("reason") or ""
                self._client_left(code, reason)
            elif not self._last_came:
                self._inbox.append(entry)

    def _client_left(self, code: int, reason: str) -> None:
        """The last word of the client, behind all that it has sent."""
        self._last_came = True
        conversation = self.conversation
        if conversation.state not in _OVER:
            conversation.disconnect = None  # a CANCEL before this knew the code only
        conversation.close(code, reason)
        self._depart()
        self._watch_departed()

    def cancelled(self, reason: str, code: int) -> None:
        """CANCEL."""
        if reason == HANDED_OFF:
            self._host.stream_leaving(self.label)
            self._handed_off = code
            self._wake()
            self._watch_departed()
            return
        conversation = self.conversation
        if conversation.disconnect is None:
            conversation.disconnect = (code, "")
        if self._orphaned or reason in _AT_ONCE:
            self._last_came = True
        self._depart()
        if reason in _AT_ONCE:
            self.stop()
        else:
            self._watch_departed()

    def hand_off(self) -> bool:
        """Tell the server to take this WebSocket elsewhere; returns whether that makes sense."""
        if self._handed_off is None and self.conversation.disconnect is None:
            self._host.post(self.server, [HANDOFF, self.stream, self.epoch])
            return True
        return False

    def _outstays(self) -> bool:
        log.warning(
            "application did not end after its WebSocket closed, cancelled it",
            extra={"path": self.scope.get("path"), "limit": self._host.application_close_timeout},
        )
        return True

    # ---- to the application

    async def run(self) -> None:
        """Call the application, and see to it that its session ends with it."""
        self._started = True
        current_stream.set(self.label)
        loop = asyncio.get_running_loop()
        stream_will.set(lambda name, value: self._say_will(loop, name, value))
        try:
            await self._host.application(self.scope, self.receive, self.send)
        except BaseException as raised:
            error = self._application_raised(raised)
        else:
            error = self._application_returned()
        self._finish(error)
        # Tasks that the application has left behind.
        self.conversation.close(1006, "")
        self._last_came = True
        self._wake()

    async def receive(self) -> Message:
        """ASGI receive()."""
        if not self._connect_given:
            self._connect_given = True
            return {"type": "websocket.connect"}
        inbox = self._inbox
        conversation = self.conversation
        while not inbox or conversation.state is HANDSHAKE:
            disconnect = self._disconnect()
            if disconnect is not None:
                return disconnect
            await self._wait()
        assert self._inflow is not None
        message = self._inflow.consume(inbox.popleft())
        if not self._scheduled:
            self._scheduled = True
            self._host.flush_soon(self)
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        if type(message) is bytes:
            return {"type": "websocket.receive", "bytes": message}
        other: Message = message
        return other

    def _disconnect(self) -> Message | None:
        """websocket.disconnect, if it is time for it."""
        conversation = self.conversation
        if conversation.disconnect is not None and (self._last_came or conversation.state in _OVER):
            code, reason = conversation.disconnect
        elif self._handed_off is not None:
            code, reason = self._handed_off, ""
            conversation.absorbing = True
        else:
            return None
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def send(self, message: Message) -> None:
        """
        ASGI send(). Returns when the message is on its way and the client keeps up.

        Raises:
            ClientDisconnected: an OSError; nothing is sent any more.
            UnexpectedMessage, InvalidMessage: nothing of the message is sent.
        """
        conversation = self.conversation
        if conversation.disconnect is not None:
            raise ClientDisconnected("the WebSocket is closed")
        was_handshake = conversation.state is HANDSHAKE
        item = conversation.judged(message)
        if conversation.state is not OPEN:
            self._closing()
        elif was_handshake and self._inbox:
            self._wake()
        if item is None:
            return
        self._say(item, conversation.size)
        if self._pending:
            await self._said()

    def _closing(self) -> None:
        """The application has closed or refused, and wants no more; or it answers with a response."""
        if self.conversation.state is not DENIAL:
            self._inbox.clear()
            self._last_came = True
            if self.conversation.state is CLOSED:
                self._watch_departed()
            self._wake()

    def _say_will(self, loop: asyncio.AbstractEventLoop, name: str, value: str | None) -> None:
        """The layer says something for the case that this process dies. In any thread."""
        if running_loop() is not loop:
            with contextlib.suppress(RuntimeError):  # closed: the process ends by itself
                loop.call_soon_threadsafe(self._say_will, loop, name, value)
        elif not self._orphaned:
            self._host.post(self.server, [WILL, self.stream, self.epoch, name, value])

    # ---- endings

    def _finish(self, error: str) -> None:
        self._host.stream_left(self.label)  # before anybody learns of the end
        super()._finish(error)

    def _application_raised(self, error: BaseException) -> str:
        """Returns what END says."""
        over = self.conversation.disconnect is not None or self._handed_off is not None
        if over and came_from_departure(error):
            return type(error).__name__
        if not ((over or self._host.draining) and isinstance(error, asyncio.CancelledError)):
            log.error("application failed", exc_info=error, extra={"path": self.scope.get("path")})
        return type(error).__name__

    def _application_returned(self) -> str:
        state = self.conversation.state
        if state is HANDSHAKE and self._handed_off is None:
            log.error("application neither accepted nor closed a WebSocket", extra=self.described)
        return UNFINISHED if state in (HANDSHAKE, DENIAL) else ""


_OVER = (CLOSING, CLOSED)

# Reasons for which a server does not wait for the application at all.
_AT_ONCE = (TIMEOUT, GAP)
