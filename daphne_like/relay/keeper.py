"""
What leases have in common, and what they ask of the one who keeps them: terms, counters, the way to workers.

Kept apart from relay/lease.py, where the states are.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from daphne_like.errors import SequenceGap
from daphne_like.layers.port import Envelope
from daphne_like.relay.envelope import WINDOW

__all__ = [
    "BROKEN",
    "ENDED",
    "FAILED",
    "GONE",
    "HELD",
    "LOST_WORKER",
    "NEVER",
    "OPENING",
    "OVER",
    "RELEASING",
    "UNAVAILABLE",
    "Counters",
    "Keeper",
    "Offered",
    "Terms",
    "Waiter",
]

OPENING, HELD, RELEASING, ENDED = "OPENING", "HELD", "RELEASING", "ENDED"

OVER, FAILED, UNAVAILABLE, LOST_WORKER, BROKEN, GONE = (
    "OVER",
    "FAILED",
    "UNAVAILABLE",
    "LOST_WORKER",
    "BROKEN",
    "GONE",
)

NEVER = float("inf")


@dataclass(slots=True, frozen=True)
class Terms:
    """
    What all leases of a server have in common; seconds.

    Attributes:
        queue_timeout: how long a stream waits for a worker that takes it.
        queue_limit: how many may wait in a channel; 0 for no limit.
        connect_timeout: as queue_timeout, of WebSockets; less than their host gives a handshake.
        resume_timeout: how long a stream whose worker is gone waits for another one.
        release_timeout: how long an application may take to end after a handoff.
        close_timeout: how long the relay, when it stops, waits for applications to end.
        keepalive: on layers that may lose envelopes: how often both sides compare what was sent.
        claim_timeout: on layers that do not tell who has taken an offer: when it counts as lost.
        window: octets of credit that a stream begins with, each way.
        max_runs: how often one request is given to a worker: one that ends each of them has to end here.
    """

    queue_timeout: float = 10.0
    queue_limit: int = 100
    connect_timeout: float = 4.0
    resume_timeout: float = 30.0
    release_timeout: float = 10.0
    close_timeout: float = 1.0
    keepalive: float = 2.0
    claim_timeout: float = 2.0
    max_runs: int = 2
    window: int = WINDOW


@dataclass(slots=True)
class Counters:
    """
    What has happened since the start.

    Attributes:
        refused: streams that nobody took in time, or whose channel was full.
        workers_lost: how often a worker went that held streams.
        resumed: streams that another worker has got (WebSockets, Server-Sent Events).
        run_again: requests that another worker has got.
        cut: responses that were broken off, and requests answered 502.
        gaps: streams that were broken off because an envelope was missing.
        frames_redelivered: that a lost worker may have taken without our knowing: doubled at most.
        frames_unanswered: that a lost worker had taken, and said nothing since: lost at most.
    """

    refused: int = 0
    workers_lost: int = 0
    resumed: int = 0
    run_again: int = 0
    cut: int = 0
    gaps: int = 0
    frames_redelivered: int = 0
    frames_unanswered: int = 0


class Waiter(Protocol):
    """A future, as far as leases need one."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


class Offered(Protocol):
    """A lease, as its keeper needs it."""

    channel: str
    stream: int

    @property
    def described(self) -> dict[str, Any]:
        """Which one it is, for the log."""

    @property
    def ref(self) -> int:
        """The number of its present offer."""

    def claimed(self, worker: str) -> None:
        """The worker at this address has it."""


class Keeper(Protocol):
    """Who has the leases, and the way to the workers."""

    terms: Terms
    counters: Counters
    reachable: bool
    knows_claims: bool

    def time(self) -> float:
        """Seconds, monotonic."""

    def may_wait(self) -> bool:
        """Whether one more new stream may wait for the layer, which is not reachable."""

    def post(self, to: str, envelope: Envelope) -> None: ...

    def offer(self, lease: Offered, opening: list[Any], limit: int) -> None:
        """Offer the lease's stream as `lease.ref`."""

    def withdraw(self, lease: Offered) -> None: ...

    def gap_found(self, lease: Offered, gap: SequenceGap) -> None:
        """An envelope for it is missing: it is broken off."""

    def lease_ended(self, lease: Offered) -> None:
        """It has a verdict: no envelope is for it any more."""
