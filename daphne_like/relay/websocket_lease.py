"""
The lease of a WebSocket: what it takes for the socket not to notice that its worker changes.

Up: what was fed is kept until the worker has said that its application took it (`taken`), and goes to the next
worker otherwise. Down: the client has had its accept; that of a later epoch is absorbed, and with it begins
what the new application says.

    at a later epoch, before its accept     the client gets
        websocket.accept                    nothing, or close 1012 where the subprotocol is another one
        websocket.close                     close with that code, 1008 where none was given
        a denial response                   close 1008
        the application ends                close 1011

A close of the application's is the end: what happens to its worker after that changes nothing.
"""

import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from daphne_like import logs
from daphne_like.errors import LayerError
from daphne_like.relay.envelope import CANCEL, HANDED_OFF, TIMEOUT, WEBSOCKET_CHANNEL, Item, split_item
from daphne_like.relay.keeper import ENDED, GONE, HELD, LOST_WORKER, NEVER, OPENING, OVER, RELEASING, Keeper
from daphne_like.relay.lease import Lease
from daphne_like.relay.window import Inflow, Joined

__all__ = ["WebSocketLease"]

log = logging.getLogger(logs.SERVER)

SERVICE_RESTART = 1012
POLICY_VIOLATION = 1008

# A message that has been with so many workers as they died is not given to another.
MAX_DEATHS = 5

# Names in a will; beyond that they are not kept.
MAX_WILL = 1000


class WebSocketLease(Lease):
    """
    Args:
        closes: on a change of the worker, the socket is closed (1012) in place of being handed on.
        spread: seconds over which such closings are spread.

    Attributes:
        accepted: the client's handshake has been accepted, by whichever epoch.
        entered: the application of this epoch has accepted.
        closed: the client has been given a close, or a denial response.
        farewell: the close message that the server itself wants to send; delivered before `entries`.
    """

    channel = WEBSOCKET_CHANNEL
    accepted = False
    closed = False
    farewell: dict[str, Any] | None = None
    _subprotocol: str | None = None
    entered = False  # this epoch's application has accepted
    _answered = 0  # items that the application had taken when it last said something
    _taken = 0
    _deaths = 0
    _leaves_at = 0.0

    def __init__(
        self,
        keeper: Keeper,
        stream: int,
        scope: Mapping[str, Any],
        *,
        closes: bool = False,
        spread: float = 0.0,
    ) -> None:
        super().__init__(keeper, stream, scope)
        self.closes = closes
        self._spread = spread
        # Fed and not known to be taken; of those that were sent, the number of the last item of each.
        self._kept: deque[Item] = deque()
        self._numbers: deque[int] = deque()

    @property
    def _patience(self) -> float:
        return min(self.keeper.terms.connect_timeout, self.keeper.terms.queue_timeout)

    # ---- from the client

    def feed(self, message: Any) -> None:
        """Send what the host's receive() gave."""
        item: Item = None
        if message["type"] == "websocket.receive":
            item = message.get("text")
            if item is None:
                item = message.get("bytes")
        elif message["type"] == "websocket.disconnect":
            self.client_departed(True)
        if self.state is ENDED:
            return
        if item is None:
            item = dict(message)
        try:
            items = split_item(item)
        except LayerError as error:
            log.warning("closed a WebSocket: its message is too large to relay", extra={"reason": str(error)})
            self._say_farewell(1009, "message too big")
            return
        self._kept.append(item)
        if self.state is not RELEASING:  # else it is for the next worker
            self._feed(items)

    def _sent(self, item: Item, number: int) -> None:
        if type(item) is not dict or not item.get("more"):
            self._numbers.append(number)

    def _took(self, taken: int) -> None:
        """The application has taken the items up to this number."""
        if taken > self._taken:
            self._taken = taken
            self._deaths = 0
            numbers = self._numbers
            while numbers and numbers[0] <= taken:
                numbers.popleft()
                self._kept.popleft()

    def _rewind(self) -> None:
        if self.resume == "lost":
            self.keeper.counters.frames_redelivered += len(self._numbers)
        self._numbers.clear()
        self._unsent.clear()
        self._taken = self._answered = 0
        for item in self._kept:
            self._unsent.extend(split_item(item))

    # ---- from the worker

    def receive_events(self, seq: int, items: Sequence[Item], taken: int) -> None:
        if taken:
            self._took(taken)
            self._answered = taken
        super().receive_events(seq, items, taken)

    def receive_credit(self, octets: int, taken: int) -> None:
        self._took(taken)
        super().receive_credit(octets, taken)

    def receive_end(self, seq: int, taken: int, error: str, items: Sequence[Item] = ()) -> None:
        self._took(taken)
        super().receive_end(seq, taken, error, items)

    def receive_will(self, name: str, value: str | None) -> None:
        """WILL: what the next worker's layer is told, should this worker die."""
        if self.will is None:
            self.will = {}
        if value is None:
            self.will.pop(name, None)
        elif name in self.will or len(self.will) < MAX_WILL:
            self.will[name] = value

    def _application_ended(self, error: str) -> None:
        if self.state is RELEASING and not self._is_closing:
            self._move("drain")
        else:
            super()._application_ended(error)

    def receive_handoff(self) -> None:
        if self.state is not HELD or self.client_lost or self._is_closing:
            return  # it ends by itself
        if self.closes:
            self._leaves_at = self.keeper.time() + random.uniform(0, self._spread)
            self.deadline = self._leaves_at
            return
        self.state = RELEASING
        self.deadline = self.keeper.time() + self.keeper.terms.release_timeout
        envelope = [CANCEL, self.stream, self.epoch, HANDED_OFF, SERVICE_RESTART]
        self.keeper.post(self.worker, envelope)

    def worker_gone(self) -> None:
        self.keeper.counters.frames_unanswered += max(0, self._taken - self._answered)
        if self.client_lost:
            self._finish(GONE)
        elif self._is_closing:
            self._finish(OVER)
        elif self.closes:
            self._finish(LOST_WORKER)
        else:
            if self._numbers:
                self._deaths += 1
                if self._deaths >= MAX_DEATHS:
                    log.error("closed a WebSocket: its workers die of it", extra=self.described)
                    self._finish(LOST_WORKER)
                    return
            self._move("lost")

    def worker_condemned(self, taken: int) -> None:
        self._took(taken)

    def layer_lost(self) -> None:
        if self.state is OPENING and not self.client_lost:
            self._move(self.resume)
        else:
            super().layer_lost()

    def _move(self, reason: str) -> None:
        if reason == "drain":
            self.will = None  # the worker has handed over by itself
        self._reopen(reason, self.keeper.terms.resume_timeout)

    def claimed(self, worker: str) -> None:
        if self.state is OPENING and self.resume:
            self.keeper.counters.resumed += 1
        super().claimed(worker)

    @property
    def _is_closing(self) -> bool:
        """Whether the client has been given a close, or will be."""
        return self.closed or any(
            type(entry) is dict and entry["type"] == "websocket.close" for entry in self.entries
        )

    def _claim_timed_out(self) -> None:
        self._withdraw()
        self._move(self.resume)

    def deadline_passed(self, now: float) -> None:
        if self.state is RELEASING:
            log.warning("application did not end after a handoff, cancelled it", extra=self.described)
            self._cancel(TIMEOUT)
            self._move("drain")
        elif self.state is HELD and self._leaves_at:
            self.deadline = NEVER
            self._say_farewell(SERVICE_RESTART, "restart")
        else:
            super().deadline_passed(now)

    # ---- to the client

    def _say_farewell(self, code: int, reason: str) -> None:
        self.farewell = {"type": "websocket.close", "code": code, "reason": reason}
        self._wake()

    def deliver(self, entry: Any) -> Item:
        if type(entry) is str:
            return {"type": "websocket.send", "text": entry}
        if type(entry) is bytes:
            return {"type": "websocket.send", "bytes": entry}
        if type(entry) is Inflow:
            self.entered = False
        item = super().deliver(entry)
        if type(entry) is Joined and type(item) is not dict:
            return self.deliver(item)
        return None if item is None else self._judge(item)

    def _judge(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What a message other than websocket.send means to the client at this epoch."""
        kind = message["type"]
        if kind == "websocket.accept":
            again, self.accepted, self.entered = self.accepted, True, True
            self._settled()
            subprotocol = message.get("subprotocol")
            if not again:
                self._subprotocol = subprotocol
                return message
            if subprotocol == self._subprotocol:
                return None
            log.warning(
                "closed a WebSocket: the new worker chose another subprotocol",
                extra={**self.described, "before": self._subprotocol, "now": subprotocol},
            )
            self.closed = True
            return {"type": "websocket.close", "code": SERVICE_RESTART, "reason": "subprotocol changed"}
        if self.accepted and not self.entered:
            if self.closed:
                return None
            self.closed = True
            code = message.get("code") if kind == "websocket.close" else None
            reason = message.get("reason") or "" if kind == "websocket.close" else ""
            return {"type": "websocket.close", "code": code or POLICY_VIOLATION, "reason": reason}
        self.closed = True  # a close, or a denial response
        return message
