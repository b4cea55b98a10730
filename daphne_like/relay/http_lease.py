"""
The lease of a request: when it may run again elsewhere, and when its response can only be broken off.

A safe request (RFC 9110 §9.2.1) of whose response nothing has reached the client runs again when its worker is
lost, as long as its body is kept: up to KEPT_BODY octets are. Any other gets 502, or its response is cut.

Event streams go on: with another worker, from the last event that the client has got (relay/event_stream.py).
"""

from collections.abc import Mapping
from typing import Any

from daphne_like.relay.envelope import CANCEL, CREDIT, HANDED_OFF, HTTP_CHANNEL, TIMEOUT, Item, split_body
from daphne_like.relay.event_stream import EventStream, asking_again
from daphne_like.relay.keeper import GONE, HELD, LOST_WORKER, NEVER, OPENING, OVER, RELEASING, Keeper
from daphne_like.relay.lease import Lease
from daphne_like.relay.window import Joined

__all__ = ["HTTPLease"]

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))

KEPT_BODY = 64 * 1024


class HTTPLease(Lease):
    """
    Attributes:
        body_ended: all of the request's body has been fed.
        begun: the response's head has been given to the client; whole: its last message has.
        held_body: the body is not to be asked of the client before the worker gives credit (100-continue).
    """

    channel = HTTP_CHANNEL
    body_ended = False
    begun = False
    held_body = False
    _trailers = False
    whole = False
    _kept_octets = 0
    _head: Any = None  # the response's, until it has been looked at
    _events: EventStream | None = None
    _handoff_wanted = False
    _awaits_head = False  # a later epoch's, of an event stream
    _another_head = False  # has come then

    def __init__(self, keeper: Keeper, stream: int, scope: Mapping[str, Any]) -> None:
        super().__init__(keeper, stream, scope)
        # The request's body, for another run; None where there will be none.
        self._kept: list[Item] | None = [] if scope.get("method") in SAFE_METHODS else None
        self.runs = 1

    # ---- from the client

    @property
    def may_feed(self) -> bool:
        return not self.held_body and super().may_feed

    def feed(self, message: Any) -> None:
        """Send an http.request."""
        body = message.get("body", b"")
        more = message.get("more_body", False)
        self.body_ended = not more
        if not body and not more and self.state is OPENING:
            self._unsent.append(None)  # as most requests are
            return
        items: list[Item] = split_body(body) if body else []
        kept = self._kept
        if kept is not None:
            kept += items
            self._kept_octets += len(body)
            if self._kept_octets > KEPT_BODY:
                self._kept = None
        if not more:
            items.append(None)
        self._feed(items)

    def receive_credit(self, octets: int, taken: int) -> None:
        self.held_body = False
        super().receive_credit(octets, taken)

    # ---- from the worker

    def worker_gone(self) -> None:
        if self.client_lost:
            self._finish(GONE)
        elif self._response_has_come():
            self._finish(OVER)
        elif self._can_resume():
            self._resume("lost")
        elif self.begun:
            self.keeper.counters.cut += 1
            self._finish(LOST_WORKER)
        else:
            self.entries.clear()
            self._run_again()

    def _run_again(self) -> None:
        if self._kept is None or self.runs >= self.keeper.terms.max_runs:
            self.keeper.counters.cut += 1
            self._finish(LOST_WORKER)
            return
        self.runs += 1
        self.keeper.counters.run_again += 1
        self._reopen("lost", self.keeper.terms.queue_timeout)

    def _rewind(self) -> None:
        assert self._kept is not None
        self._unsent.clear()
        self._unsent.extend(self._kept)
        if self.body_ended:
            self._unsent.append(None)

    def _claim_timed_out(self) -> None:
        self._withdraw()
        if self._kept is None:
            self._finish(LOST_WORKER)
        else:
            # The opening before may still be taken by somebody: fenced off by its epoch.
            self._reopen(self.resume, self.keeper.terms.queue_timeout)

    def _response_has_come(self) -> bool:
        """Whether `entries` hold the rest of the response."""
        trailers = self._trailers
        for entry in self.entries:
            message = entry.item if type(entry) is Joined else entry
            if type(message) is not dict:
                continue
            kind = message["type"]
            if kind == "http.response.start":
                trailers = bool(message.get("trailers"))
            elif kind == "http.response.trailers":
                if not message.get("more_trailers"):
                    return True
            elif trailers:
                continue
            elif kind in ("http.response.body", "http.response.pathsend") and not message.get("more_body"):
                return True
        return self.whole

    # ---- event streams

    def receive_handoff(self) -> None:
        self._look_at_head()
        if self.state is HELD and self._events is not None and not self.client_lost:
            if self._events.resumable:
                self._release()
            else:
                self._handoff_wanted = True

    def _release(self) -> None:
        self._handoff_wanted = False
        self.state = RELEASING
        self.deadline = self.keeper.time() + self.keeper.terms.release_timeout
        self.keeper.post(self.worker, [CANCEL, self.stream, self.epoch, HANDED_OFF, 1012])

    def worker_condemned(self, taken: int) -> None:
        self.runs = self.keeper.terms.max_runs  # what has not been answered may be why

    def _application_ended(self, error: str) -> None:
        if self._client_silent and not self._response_has_come():
            self._finish(GONE)  # the application has seen its client go, and so will have our host
        elif self.state is RELEASING and not self._response_has_come():
            self._resume("drain")
        else:
            super()._application_ended(error)

    def deadline_passed(self, now: float) -> None:
        if self.state is RELEASING:
            self._cancel(TIMEOUT)
            self._resume("drain")
        else:
            super().deadline_passed(now)

    def _can_resume(self) -> bool:
        """Whether what the client gets, `entries` included, ends where another response can go on."""
        self._look_at_head()
        if self._events is None or self._kept is None:
            return False
        entries = list(self.entries)
        self.entries.clear()
        for entry in entries:
            message = self.deliver(entry)
            if message is not None:
                self.entries.append(_Ready(message))
        return self._events.resumable

    def _resume(self, reason: str) -> None:
        can_resume, events = self._can_resume(), self._events
        if self.verdict:
            return
        if not can_resume or events is None or events.last_id is None:
            self.keeper.counters.cut += 1
            self._finish(LOST_WORKER)
            return
        events.cut()
        self._awaits_head = True
        self.scope = asking_again(self.scope, events.last_id)
        self._reopen(reason, self.keeper.terms.resume_timeout)

    def claimed(self, worker: str) -> None:
        if self._awaits_head and self.state is OPENING:
            self.keeper.counters.resumed += 1
        super().claimed(worker)
        if not self._awaits_head:
            self._give_up_at = NEVER  # how often it runs is bounded

    def _judge_head(self, start: dict[str, Any]) -> None:
        """The head of an event stream's next response: the client has it already, or it is another one."""
        self._awaits_head = False
        if self._events is not None and self._events.same_head(start):
            self._settled()
        else:
            # Cut. The client asks again by itself, and hears what there is to say.
            self._another_head = True
            self.abandon()

    # ---- to the client

    def delivered(self, entry: Any) -> None:
        if type(entry) is _Ready:
            return
        super().delivered(entry)
        if type(entry) is dict and entry["type"] == "http.response.pathsend" and self.worker:
            # Its application may be waiting for that, to delete the file.
            self.keeper.post(self.worker, [CREDIT, self.stream, self.epoch, 0, self.inflow.taken])

    def deliver(self, entry: Any) -> Item:
        if type(entry) is dict:
            message = entry
        elif type(entry) is _Ready:
            return entry.message
        else:
            message = super().deliver(entry)
        if message is None or self._another_head:
            return None
        kind = message["type"]
        if kind == "http.response.body":
            last = not message.get("more_body") and not self._trailers
            if last:
                self.whole = True
            elif self._head is not None:
                self._look_at_head()
            if self._events is not None:
                return self._deliver_events(self._events, message, last)
        elif kind == "http.response.start":
            if self._awaits_head:
                self._judge_head(message)
                return None
            self.begun = True
            self._head = message
            self._trailers = bool(message.get("trailers"))
        elif kind == "http.response.trailers":
            self.whole = not message.get("more_trailers")
        elif kind == "http.response.pathsend":
            self.whole = not self._trailers
        return message

    def take_whole(self) -> tuple[Item, Item] | None:
        """What to answer where all that there is and will be is a response in one piece: its start and body."""
        entries = self.entries
        if len(entries) == 2 and self.verdict is OVER and self.epoch == 1 and not self.client_lost:
            start, body = entries
            if (
                type(start) is type(body) is dict
                and start.get("type") == "http.response.start"
                and body.get("type") == "http.response.body"
                and not start.get("trailers")
                and not body.get("more_body")
            ):
                entries.clear()
                self.begun = self.whole = True
                return start, body
        return None

    def _look_at_head(self) -> None:
        """Find out whether it is an event stream. A response in one piece never needs to know."""
        if self._head is not None:
            self._events = EventStream.of(self.scope["method"], self._head)
            self._head = None

    def _deliver_events(self, events: EventStream, message: Item, last: bool) -> Item:
        body = events.pass_on(message.get("body", b""), last)
        if self._handoff_wanted and events.resumable and self.state is HELD:
            self._release()
        return {**message, "body": body} if body or last else None


class _Ready:
    """A message from an epoch that is over, as the client gets it."""

    __slots__ = ("message",)

    def __init__(self, message: Item) -> None:
        self.message = message
