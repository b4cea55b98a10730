"""
One application instance in a worker, for one epoch of a stream: what HTTP and WebSocket have in common.

Towards the application a session is what HTTPStream and WebSocketStream are in the server's process: receive()
and send() with the same observable behaviour. Towards the server it speaks envelopes (relay/envelope.py):

    offer -> Session -> task runs the application
             said       items -> EVENTS at the end of the turn, or with END, whichever comes first
             no credit  items wait here, and send() with them, until CREDIT
             END        when the application has ended and all that it said has been sent, or goes with it

Told by the server, or by the loss of it, a session is *departed*: what waits is dropped, send() raises. It stays
until its application ends, which application_close_timeout sees to.

Backpressure. What waits for credit is bounded by the application: send() does not return before it has gone.
What has come and is not taken is bounded by the credit that the server was given.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from daphne_like import logs
from daphne_like.asgi.stream import NEVER, Wakeup
from daphne_like.errors import ClientDisconnected, SequenceGap
from daphne_like.layers.port import Envelope
from daphne_like.relay.envelope import (
    CREDIT,
    END,
    EVENTS,
    KEEPALIVE,
    LOST,
    MAX_ITEM,
    Item,
    Opening,
    item_cost,
    split_item,
)
from daphne_like.relay.window import Inflow
from daphne_like.typing import ASGIApplication

__all__ = ["UNFINISHED", "Session", "SessionHost"]

log = logging.getLogger(logs.APPLICATION)

# END's error where the application returned and should not have yet.
UNFINISHED = "unfinished"

# END's error where the application was cancelled.
CANCELLED = "CancelledError"

# Up to this size no item can be too large for one envelope, whatever is around its payload.
_SURELY_SMALL = MAX_ITEM // 2


class SessionHost(Protocol):
    """The worker, as its sessions see it."""

    application: ASGIApplication
    application_close_timeout: float
    draining: bool

    @property
    def post(self) -> Callable[[str, Envelope], None]:
        """Send an envelope to an address."""

    def flush_soon(self, session: "Session") -> None:
        """Have session.flush() called at the end of this turn of the event loop."""

    def watch(self, session: "Session", seconds: float) -> None:
        """Have session.deadline_passed() called when *seconds* are over, if not unwatched."""

    def unwatch(self, session: "Session") -> None:
        """Have it not called."""

    def stream_leaving(self, label: str) -> None:
        """See BaseChannelLayer."""

    def stream_left(self, label: str) -> None:
        """See BaseChannelLayer."""

    def stream_inherited(self, label: str, will: Mapping[str, str]) -> None:
        """See BaseChannelLayer."""

    def session_stopped(self) -> None:
        """A session's application has been cancelled, and has not ended yet."""

    def session_ended(self, session: "Session") -> None:
        """The session is over, and its END posted."""


class Session:
    """
    Args:
        host: the worker.
        server: address of the stream's server.
        channel: where it was offered.
        opening: what was offered.

    Attributes:
        departed: the client is gone, or the server: nothing that is said arrives.
        task: runs the application.
        stopped: it has been cancelled, which is done once.
        deadline: when to look whether the application has ended.
        closes: its server closes it where others are handed on.
    """

    # What a small request never changes: the values to begin with are here.
    task: asyncio.Task[None] | None = None
    deadline = NEVER
    departed = False
    stopped = False
    _started = False  # the task has had its first turn
    _orphaned = False  # nobody is there who would read what we post
    _sent = 0
    _granted = 0
    _items_size = 0
    _pending: deque[tuple[Item, int]] | None = None  # said, and waiting for credit; with their sizes
    _scheduled = False
    _inflow: Inflow | None = None
    _taken_told = 0
    _seen_below = 0  # the last item down that the client, or its server, is done with
    _wakeup: Wakeup | None = None
    _error: str | None = None  # what END will say, once the application has ended

    # Whether the server is to know at once what the application has taken.
    _tells_taken = False

    def __init__(self, host: SessionHost, server: str, channel: str, opening: Opening) -> None:
        self._host = host
        self.server = server
        self.channel = channel
        self.stream = opening.stream
        self.epoch = opening.epoch
        self.scope = opening.scope
        self.closes = opening.closes
        self._credit = self._window = opening.credit
        self._items: list[Item] = []  # said in this turn

    # ---- from the server

    def events_received(self, seq: int, items: Sequence[Item], taken: int) -> None:
        """EVENTS."""
        self._seen_below = max(self._seen_below, taken)
        inflow = self._inflow
        if inflow is None:
            inflow = self._inflow = Inflow(self._window)
        try:
            entries = inflow.arrive(seq, items)
        except SequenceGap as error:
            self.break_off(error)
            return
        self._arrived(entries)
        self._give_credit()
        self._wake()

    def _arrived(self, entries: Sequence[Any]) -> None:
        """Keep what has come for the application."""
        raise NotImplementedError

    def credit_received(self, octets: int, taken: int) -> None:
        """CREDIT."""
        self._credit += octets
        self._granted += octets
        self._seen_below = max(self._seen_below, taken)
        pending = self._pending
        while pending and self._credit > 0:
            self._put(*pending.popleft())
        if not pending and self._error is not None:
            self._end(self._error)
        self._wake()

    def keepalive_received(self, sent: int, granted: int) -> None:
        """KEEPALIVE: what must have come by now; answered with what has been sent."""
        inflow = self._inflow
        if sent != (inflow.arrived if inflow is not None else 0) or granted != self._granted:
            self.break_off(SequenceGap(f"{sent} items were sent"))
            return
        self.flush()
        given = inflow.granted if inflow is not None else 0
        self._host.post(self.server, [KEEPALIVE, self.stream, self.epoch, self._sent, given])

    def cancelled(self, reason: str, code: int) -> None:
        """CANCEL."""
        raise NotImplementedError

    def server_lost(self) -> None:
        """The server, or the way to it, is gone: nothing comes any more, and nothing arrives."""
        self._orphaned = True
        self.cancelled(LOST, 1006)

    def break_off(self, error: SequenceGap) -> None:
        """An envelope is missing. The server breaks the stream off; our application sees its client gone."""
        log.error(
            "the layer lost an envelope, broke the stream off", extra={**self.described, "gap": str(error)}
        )
        if self._error is None:
            self._host.post(
                self.server, [END, self.stream, self.epoch, self._sent, self.taken, type(error).__name__, []]
            )
        self.server_lost()

    # ---- to the server

    @property
    def begun(self) -> bool:
        """Whether its application runs, or has run."""
        return self._started

    @property
    def taken(self) -> int:
        """Number of the last item that the application has received."""
        return self._inflow.taken if self._inflow is not None else 0

    @property
    def described(self) -> dict[str, Any]:
        """Which one it is, for the log."""
        raise NotImplementedError

    def _put(self, item: Item, size: int) -> None:
        """Send *item*, at the end of this turn at the latest."""
        self._credit -= item_cost(item)
        if self._items_size + size > MAX_ITEM and self._items:
            self.flush()
        self._items.append(item)
        self._items_size += size
        if not self._scheduled:
            self._scheduled = True
            self._host.flush_soon(self)

    def _say(self, item: Item, size: int) -> None:
        """Send *item* as credit allows; what it does not allow is left in `_pending`."""
        if size > _SURELY_SMALL:
            pieces = [(piece, item_cost(piece)) for piece in split_item(item)]
        else:
            pieces = [(item, size)]
        for piece in pieces:
            if self._credit > 0 and not self._pending:
                self._put(*piece)
            elif self._pending is None:
                self._pending = deque((piece,))
            else:
                self._pending.append(piece)

    async def _said(self) -> None:
        """
        Wait until nothing waits for credit.

        Raises:
            ClientDisconnected: the client left meanwhile.
        """
        while self._pending:
            await self._wait()
        if self.departed:
            raise ClientDisconnected("the client has left")

    def flush(self) -> None:
        """Post what was said in this turn, and how much of the server's was taken."""
        self._scheduled = False
        if self._orphaned:
            self._items.clear()
            return
        inflow = self._inflow
        taken = inflow.taken if inflow is not None else 0
        items = self._items
        if items:
            self._items = []
            self._items_size = 0
            self._host.post(self.server, [EVENTS, self.stream, self.epoch, self._sent + 1, items, taken])
            self._sent += len(items)
            self._taken_told = taken
        if inflow is not None:
            octets = inflow.give_back()
            if octets or (self._tells_taken and taken != self._taken_told):
                self._taken_told = taken
                self._host.post(self.server, [CREDIT, self.stream, self.epoch, octets, taken])

    def _give_credit(self) -> None:
        """Return credit now, if enough was used up."""
        inflow = self._inflow
        if inflow is not None and not self._orphaned:
            octets = inflow.give_back()
            if octets:
                self._host.post(self.server, [CREDIT, self.stream, self.epoch, octets, inflow.taken])

    # ---- waiting

    async def _wait(self) -> None:
        if self._wakeup is None:
            self._wakeup = Wakeup()
        await self._wakeup.wait()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.wake()

    # ---- endings

    def _depart(self) -> None:
        """Nothing that is said arrives from now on."""
        self.departed = True
        self._pending = None
        if self._error is not None:
            self._end(self._error)
        self._wake()

    def _watch_departed(self) -> None:
        """An application that does not notice is ended after a while."""
        if self._is_running:
            self._host.watch(self, self._host.application_close_timeout)

    @property
    def _is_running(self) -> bool:
        return self._error is None and self.task is not None and not self.task.done()

    def deadline_passed(self) -> None:
        """End an application that took too long to notice, or to be rid of its last words."""
        if self._error is not None:
            self._depart()
        elif self._is_running and self._outstays():
            self.stop()

    def _outstays(self) -> bool:
        """Whether the application has to end; says so in the log."""
        raise NotImplementedError

    def stop(self) -> None:
        """Cancel the application, once; END tells the server."""
        if self._is_running:
            assert self.task is not None
            if not self.stopped:
                self.stopped = True
                self.task.cancel()
                self._host.session_stopped()
            if not self._started:
                self._finish(CANCELLED)  # its run() never will
        elif self._error is not None:
            self._depart()  # ended, and waiting for credit

    def abandon(self) -> None:
        """The worker leaves: cancel the application, and leave the stream to its server and other workers."""
        self.flush()
        self._orphaned = True
        self.stop()

    def _finish(self, error: str) -> None:
        """The application has ended: say so once everything else is said."""
        self._error = error
        if not self._pending:
            self._end(error)

    def _end(self, error: str) -> None:
        if self.deadline is not NEVER:
            self._host.unwatch(self)
        if not self._orphaned:
            items, self._items = self._items, []
            self._sent += len(items)
            self._host.post(self.server, [END, self.stream, self.epoch, self._sent, self.taken, error, items])
            self._orphaned = True
        self._host.session_ended(self)
