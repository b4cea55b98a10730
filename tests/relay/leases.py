"""A keeper of leases whose clock and post a test holds in its hands."""

from typing import Any

from daphne_like.errors import SequenceGap
from daphne_like.relay.envelope import EVENTS, Opening, read_opening, split_item
from daphne_like.relay.http_lease import HTTPLease
from daphne_like.relay.keeper import Counters, Terms
from daphne_like.relay.lease import Lease
from daphne_like.relay.websocket_lease import WebSocketLease

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"h")]}
SOCKET_SCOPE: dict[str, Any] = {"type": "websocket", "path": "/ws", "headers": [(b"host", b"h")]}

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"all", "more_body": False}
SOME = {"type": "http.response.body", "body": b"some", "more_body": True}
ACCEPT = {"type": "websocket.accept", "subprotocol": None, "headers": []}


class FakeKeeper:
    """
    Attributes:
        posted: (to, envelope), since taken.
        offers: (lease's ref, opening, limit), since taken.
        withdrawn: refs.
        ended: how many leases have.
        room: for one more to wait for the layer.
    """

    def __init__(self, **terms: Any) -> None:
        self.terms = Terms(**terms)
        self.counters = Counters()
        self.reachable = True
        self.knows_claims = True
        self.now = 100.0
        self.posted: list[tuple[str, list[Any]]] = []
        self.offers: list[tuple[int, Opening, int]] = []
        self.withdrawn: list[int] = []
        self.ended = 0
        self.room = True

    def may_wait(self) -> bool:
        return self.room

    def time(self) -> float:
        return self.now

    def post(self, to: str, envelope: list[Any]) -> None:
        self.posted.append((to, envelope))

    def offer(self, lease: Lease, opening: list[Any], limit: int) -> None:
        self.offers.append((lease.ref, read_opening(opening), limit))

    def withdraw(self, lease: Lease) -> None:
        self.withdrawn.append(lease.ref)

    def gap_found(self, lease: Lease, gap: SequenceGap) -> None:
        self.counters.gaps += 1

    def lease_ended(self, lease: Lease) -> None:
        self.ended += 1

    # ---- the test's

    def take_posted(self) -> list[list[Any]]:
        posted, self.posted = self.posted, []
        return [envelope for _, envelope in posted]

    def take_offer(self) -> dict[str, Any]:
        (offer,) = self.offers
        self.offers = []
        return offer[1]

    def advance(self, lease: Lease, seconds: float) -> None:
        """Let time pass, looking at the deadline as the coarse clock does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            if lease.deadline <= self.now:
                lease.deadline_passed(self.now)


def request(keeper: FakeKeeper, body: bytes | None = b"", *, method: str = "GET", **scope: Any) -> HTTPLease:
    """An offered request; a *body* of None has not come."""
    lease = HTTPLease(keeper, 7, {**SCOPE, "method": method, **scope})
    if body is not None:
        lease.feed({"type": "http.request", "body": body, "more_body": False})
    lease.open()
    return lease


def socket(keeper: FakeKeeper, **how: Any) -> WebSocketLease:
    """An offered WebSocket."""
    lease = WebSocketLease(keeper, 7, SOCKET_SCOPE, **how)
    lease.open()
    return lease


def open_socket(keeper: FakeKeeper, **how: Any) -> WebSocketLease:
    """A WebSocket that its first worker, "w1", has accepted."""
    lease = socket(keeper, **how)
    lease.claimed("w1")
    say(lease, ACCEPT)
    assert deliver(lease) == [ACCEPT]
    keeper.take_offer()
    return lease


def say(lease: Lease, *items: Any, taken: int = 0) -> None:
    """The worker says *items*."""
    parts = [part for item in items for part in split_item(item)]
    lease.receive_events(lease.inflow.arrived + 1, parts, taken)


def end(lease: Lease, error: str = "", taken: int = 0) -> None:
    lease.receive_end(lease.inflow.arrived, taken, error)


def deliver(lease: Lease) -> list[Any]:
    """What the client gets of all that waits."""
    messages = []
    while lease.entries:
        entry = lease.entries.popleft()
        message = lease.deliver(entry)
        if message is not None:
            messages.append(message)
        if not lease.verdict:
            lease.delivered(entry)
    return messages


def text(value: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": value}


def sent(value: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": value}


def fed(envelopes: list[list[Any]]) -> list[Any]:
    """The items of all EVENTS among *envelopes*."""
    return [item for envelope in envelopes if envelope[0] == EVENTS for item in envelope[4]]


def kinds(envelopes: list[list[Any]]) -> list[Any]:
    """What each envelope is; of a CANCEL its reason."""
    return [envelope[3] if envelope[0] == 4 else envelope[0] for envelope in envelopes]
