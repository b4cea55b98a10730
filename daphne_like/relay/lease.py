"""
Leases: a worker's hold on a stream, as the server sees it. No I/O, no asyncio; the time is asked of the keeper.

    OPENING    claimed -> HELD                    offer refused, timeout -> ENDED (503), or another try
    HELD       events -> HELD                     handoff -> RELEASING (stop feeding; cancel)
               end -> ENDED                       worker lost -> OPENING epoch + 1 | ENDED
    RELEASING  events -> RELEASING (delivered)    end, timeout, worker lost -> OPENING epoch + 1
    any        client gone: OPENING, RELEASING -> ENDED; HELD -> HELD until the worker's END
               an envelope is missing -> ENDED

What is said by the worker waits in `entries` for a coroutine that takes it to the client, and returns
credit after that. What comes from the client goes through feed methods, which may be called while `may_feed`.
The coroutines leave a future in `waiter` and `feed_waiter` to be woken. When nothing is left to do for a client,
`verdict` tells how it ends:

    OVER         the application has ended by itself
    FAILED       the application has raised
    UNAVAILABLE  nobody took the stream in time
    LOST_WORKER  its worker is gone, and nobody else may go on with it
    BROKEN       an envelope is missing, or the server gave up
    GONE         the client has left, there is nobody to tell

HTTPLease and WebSocketLease say what may go on with another worker.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from daphne_like.errors import SequenceGap
from daphne_like.relay.envelope import (
    CANCEL,
    CREDIT,
    EVENTS,
    GAP,
    KEEPALIVE,
    LOST,
    MAX_ITEM,
    SILENT,
    TIMEOUT,
    Item,
    build_opening,
    item_cost,
)
from daphne_like.relay.keeper import (
    BROKEN,
    ENDED,
    FAILED,
    GONE,
    HELD,
    NEVER,
    OPENING,
    OVER,
    UNAVAILABLE,
    Keeper,
    Waiter,
)
from daphne_like.relay.window import Inflow, Joined, Outflow

__all__ = ["ABNORMAL_CLOSURE", "Lease"]

# What may be fed before somebody has taken the stream.
FEED_AHEAD = 64 * 1024

# How long after a failed try the next one comes: at least, growing to at most, with jitter.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

ABNORMAL_CLOSURE = 1006


class Lease:
    """
    Args:
        scope: the host's.

    Attributes:
        channel: where the stream is offered.
        worker: address of the one that has it, "" for none.
        deadline: when deadline_passed() is to be called.
        entries: what the worker has said, for deliver(); an Inflow among them begins an epoch.
        client_lost: nobody is there to deliver to.
        verdict: see above; "" while it goes on.
        resume, will: how the epoch before has ended, and what its worker left; as in openings.
    """

    channel = ""

    # Most of what a stream may come to never happens to a small request: the values to begin with are here.
    state = OPENING
    epoch = 1
    deadline = NEVER
    worker = verdict = resume = ""
    will: dict[str, str] | None = None
    closes = client_lost = False
    waiter: Waiter | None = None
    feed_waiter: Waiter | None = None
    offered = False
    _client_silent = False
    _attempts = 0
    _unsent_cost = 0
    _give_up_at = NEVER

    def __init__(self, keeper: Keeper, stream: int, scope: Mapping[str, Any]) -> None:
        self.keeper = keeper
        self.stream = stream
        self.scope = scope
        self.inflow = self._consuming = Inflow(keeper.terms.window)
        self.outflow = Outflow(keeper.terms.window)
        self.entries: deque[Any] = deque()
        self._unsent: deque[Item] = deque()

    @property
    def ref(self) -> int:
        """The number of the present offer."""
        return self.stream << 16 | self.epoch & 0xFFFF

    @property
    def described(self) -> dict[str, Any]:
        """Which one it is, for the log."""
        return {"path": self.scope.get("path"), "address": self.worker, "epoch": self.epoch}

    # ---- opening

    def open(self) -> None:
        """Offer the stream for the first time."""
        keeper = self.keeper
        if not keeper.reachable and not keeper.may_wait():
            self._nobody_takes_it()
            return
        self._give_up_at = keeper.time() + self._patience
        self._offer(keeper.terms.queue_limit)

    @property
    def _patience(self) -> float:
        return self.keeper.terms.queue_timeout

    def _offer(self, limit: int) -> None:
        keeper = self.keeper
        self.deadline = self._give_up_at
        if not keeper.reachable:
            return  # layer_regained() comes back to it
        items, ended = self._first_items()
        self.offered = True
        if not keeper.knows_claims:
            self.deadline = min(self.deadline, keeper.time() + keeper.terms.claim_timeout)
        opening = build_opening(
            self.stream, self.epoch, self.scope, items, ended, self.resume, keeper.terms.window, self.closes
        )
        if self.will and self.resume == "lost":
            opening.append(self.will)
        keeper.offer(self, opening, limit)

    def _first_items(self) -> tuple[list[Item], bool]:
        """What goes with the opening, and whether that is all of a request's body."""
        items: list[Item] = []
        unsent = self._unsent
        room = min(MAX_ITEM, self.keeper.terms.window)
        while unsent:
            item = unsent[0]
            if item is None:
                unsent.clear()
                return items, True
            room -= item_cost(item)
            if room < 0 and items:
                break
            unsent.popleft()
            items.append(item)
            self._sent(item, self.outflow.spend(item))
        self._unsent_cost = 0
        return items, False

    def _sent(self, item: Item, number: int) -> None:
        """*item* is on its way as *number*."""

    def claimed(self, worker: str) -> None:
        """The worker at this address has the stream."""
        if self.state is OPENING:
            self.state = HELD
            self.worker = worker
            self.deadline = NEVER
            if self.epoch == 1:
                self._give_up_at = NEVER
            if self._client_silent:
                self._cancel(SILENT)
            if self._unsent:
                self._pump()
            if self.feed_waiter is not None:
                self._wake_feeder()

    def refused(self) -> None:
        """The channel is full."""
        if self.state is not OPENING:
            return
        if self.epoch == 1:
            self._nobody_takes_it()
        else:
            self._pause()

    def _withdraw(self) -> None:
        if self.state is OPENING and self.offered:
            self.offered = False
            self.keeper.withdraw(self)

    def _pause(self) -> None:
        """Try again in a while, which grows."""
        self._attempts += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._attempts)
        self.offered = False
        self.deadline = self.keeper.time() + random.uniform(longest / 2, longest)

    def _nobody_takes_it(self) -> None:
        self.keeper.counters.refused += 1
        self._finish(UNAVAILABLE)

    def _reopen(self, reason: str, patience: float) -> None:
        """Go on with another worker: epoch + 1."""
        keeper = self.keeper
        now = keeper.time()
        if self._give_up_at == NEVER:
            self._give_up_at = now + patience
        self.epoch += 1
        self.state = OPENING
        self.worker = ""
        self.resume = reason
        self.inflow = Inflow(keeper.terms.window)
        self.outflow = Outflow(keeper.terms.window)
        self.entries.append(self.inflow)
        self._wake()  # whoever delivers has to pass that
        self._rewind()
        self.offered = False
        if now >= self._give_up_at:
            self._nobody_takes_it()
        elif not keeper.reachable:
            self.deadline = self._give_up_at
        elif self._attempts:
            self._pause()
        else:
            self._attempts = 1
            self._offer(0)

    def _rewind(self) -> None:
        """Make what the next worker has to get again the unsent items."""

    def _settled(self) -> None:
        """The application at this epoch is well: the next loss of its worker begins anew."""
        self._attempts = 0
        self._give_up_at = NEVER

    def layer_regained(self) -> None:
        """Offers can be made again."""
        if self.state is OPENING and not self.offered:
            self._offer(0)

    # ---- from the worker

    def receive_events(self, seq: int, items: Sequence[Item], taken: int) -> None:
        """EVENTS: keep them for the client."""
        if self.state is ENDED:
            return
        try:
            entries = self.inflow.arrive(seq, items)
        except SequenceGap as gap:
            self._gap(gap)
            return
        if self.client_lost:
            for entry in entries:
                self.inflow.consume(entry)
            self._give_back()
            return
        self.entries.extend(entries)
        if entries is not items:
            self._give_back()  # of parts
        self._wake()

    def receive_credit(self, octets: int, taken: int) -> None:
        """CREDIT: so much more may be sent."""
        self.outflow.grant(octets)
        if self._unsent and self.state is HELD:
            self._pump()
        if self.feed_waiter is not None:
            self._wake_feeder()

    def receive_end(self, seq: int, taken: int, error: str, items: Sequence[Item] = ()) -> None:
        """END: the application has ended, and *items* were its last."""
        if items:
            waiter, self.waiter = self.waiter, None  # to be woken once, by the end
            self.receive_events(seq - len(items) + 1, items, taken)
            self.waiter = waiter
        if self.state is ENDED:
            self._wake()
            return
        if seq != self.inflow.arrived:
            self._gap(SequenceGap(f"the end after item {seq} came after {self.inflow.arrived}"))
            return
        self._application_ended(error)

    def _application_ended(self, error: str) -> None:
        self._finish(FAILED if error else OVER)

    def receive_handoff(self) -> None:
        """HANDOFF: the worker wants to be rid of the stream."""

    def worker_gone(self) -> None:
        """The worker has left, or died."""
        raise NotImplementedError

    def worker_condemned(self, taken: int) -> None:
        """The worker will be killed for what it does; its application had taken the items up to *taken*."""

    def layer_lost(self) -> None:
        """Nothing reaches anybody; who had the stream may go on with it, unheard."""
        if self.state is not ENDED:
            self.worker_gone()

    def _gap(self, gap: SequenceGap) -> None:
        self.keeper.gap_found(self, gap)
        self._cancel(GAP, 1011)
        self._finish(BROKEN)

    # ---- layers that may lose envelopes

    def keep_alive(self) -> None:
        """Tell the worker what it must have got by now."""
        if self.worker and self.state is not ENDED:
            numbers = [self.outflow.sent, self.inflow.granted]
            self.keeper.post(self.worker, [KEEPALIVE, self.stream, self.epoch, *numbers])

    def receive_keepalive(self, sent: int, granted: int) -> None:
        """KEEPALIVE: what we must have got by now."""
        if self.state is ENDED:
            return
        if sent != self.inflow.arrived or granted != self.outflow.granted:
            self._gap(SequenceGap(f"{sent} items were sent, {self.inflow.arrived} came"))

    # ---- to the client

    def deliver(self, entry: Any) -> Item:
        """
        What to give the client for *entry*, which was taken from `entries`; None for nothing.

        Call delivered() when the client has taken it.
        """
        if type(entry) is Inflow:
            self._consuming = entry
            return None
        return entry.item if type(entry) is Joined else entry

    def delivered(self, entry: Any) -> None:
        """The client has really taken *entry*."""
        consuming = self._consuming
        if type(entry) is not Inflow:
            consuming.consume(entry)
        if consuming is self.inflow:
            self._give_back()

    def _give_back(self) -> None:
        octets = self.inflow.give_back()
        if octets and self.worker:
            envelope = [CREDIT, self.stream, self.epoch, octets, self.inflow.taken]
            self.keeper.post(self.worker, envelope)

    # ---- from the client

    @property
    def may_feed(self) -> bool:
        """Whether more may be asked of the client. What it has left behind when it went is bounded anyway."""
        if self.state is HELD:
            return self.client_lost or (self.outflow.credit > 0 and not self._unsent)
        return (
            self.state is OPENING
            and self.epoch == 1
            and self._unsent_cost < min(FEED_AHEAD, self.keeper.terms.window)
        )

    def _feed(self, items: list[Item]) -> None:
        """Send *items*, or keep them until that is possible."""
        outflow = self.outflow
        if len(items) == 1 and self.state is HELD and outflow.credit > 0 and not self._unsent:
            self._sent(items[0], outflow.spend(items[0]))
            self._post_events(items)
            return
        self._unsent.extend(items)
        if self.state is HELD:
            self._pump()
        else:
            self._unsent_cost += sum(map(item_cost, items))

    def _pump(self) -> None:
        """Send what credit allows."""
        unsent, outflow = self._unsent, self.outflow
        batch: list[Item] = []
        size = 0
        while unsent and (outflow.credit > 0 or self.client_lost):
            cost = item_cost(unsent[0])
            if batch and size + cost > MAX_ITEM:
                self._post_events(batch)
                batch = []
                size = 0
            item = unsent.popleft()
            batch.append(item)
            size += cost
            self._sent(item, outflow.spend(item))
        if batch:
            self._post_events(batch)

    def _post_events(self, batch: list[Item]) -> None:
        first = self.outflow.sent - len(batch) + 1
        self.keeper.post(self.worker, [EVENTS, self.stream, self.epoch, first, batch, self.inflow.taken])

    def client_departed(self, lost: bool) -> None:
        """The client has gone (*lost*), or will send nothing more."""
        if self.state is ENDED or self.client_lost:
            return
        if not lost:
            if not self._client_silent:
                self._client_silent = True
                if self.state is HELD:
                    self._cancel(SILENT)
            return
        self.client_lost = True
        self._withdraw()
        self._cancel(LOST)
        if self.state is HELD:
            self._drop_entries()
            self._wake()
            self._pump()
            if self.feed_waiter is not None:
                self._wake_feeder()
        else:
            self._finish(GONE)

    @property
    def is_over(self) -> bool:
        """Nothing is left to do for a client."""
        return bool(self.verdict) or self.client_lost

    def _drop_entries(self) -> None:
        while self.entries:
            entry = self.entries.popleft()
            if type(entry) is Inflow:
                self._consuming = entry
            elif self._consuming is self.inflow:
                self.inflow.consume(entry)
        self._give_back()

    # ---- the end

    def deadline_passed(self, now: float) -> None:
        """It took too long."""
        self.deadline = NEVER
        if self.state is OPENING:
            if now >= self._give_up_at:
                self._withdraw()
                self._nobody_takes_it()
            elif self.offered:
                self._claim_timed_out()
            else:
                self._offer(0)

    def _claim_timed_out(self) -> None:
        """On a layer that does not tell: the opening may have been lost, or who took it."""
        raise NotImplementedError

    def abandon(self, reason: str = TIMEOUT) -> None:
        """The server gives the stream up: its host has cancelled it, or refused what the application said."""
        if self.state is not ENDED:
            self._withdraw()
            self._cancel(reason)
            self._finish(BROKEN)

    def _cancel(self, reason: str, code: int = ABNORMAL_CLOSURE) -> None:
        if self.worker:
            self.keeper.post(self.worker, [CANCEL, self.stream, self.epoch, reason, code])

    def _finish(self, verdict: str) -> None:
        """Nothing more comes; what is in `entries` still counts, as far as the verdict lets it."""
        self.state = ENDED
        self.deadline = NEVER
        if not self.verdict:
            self.verdict = verdict
            self.keeper.lease_ended(self)
        self._wake()
        if self.feed_waiter is not None:
            self._wake_feeder()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _wake_feeder(self) -> None:
        waiter = self.feed_waiter
        if waiter is not None and (self.may_feed or self.state is ENDED):
            self.feed_waiter = None
            if not waiter.done():
                waiter.set_result(None)
