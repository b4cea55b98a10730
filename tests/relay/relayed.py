"""A server in memory that relays, and workers that a test plays, envelope by envelope."""

import contextlib
from collections.abc import Iterator
from typing import Any

from daphne_like.relay.application import RelayApplication
from daphne_like.relay.envelope import (
    CANCEL,
    CREDIT,
    END,
    EVENTS,
    HTTP_CHANNEL,
    WEBSOCKET_CHANNEL,
    Opening,
    read_opening,
)
from daphne_like.relay.keeper import Terms
from daphne_like.relay.window import Outflow
from daphne_like.settings import Settings
from daphne_like.testing.exchange import Exchange
from daphne_like.testing.wire import MemoryServer, Wire

__all__ = ["PuppetSession", "PuppetWorker", "Relayed", "relayed"]


class PuppetSession:
    """
    A stream that a puppet worker has.

    Attributes:
        items: that have come, those of the opening included; ended: the opening had the whole body.
        cancels: reasons.
    """

    def __init__(self, worker: "PuppetWorker", server: str, opening: Opening) -> None:
        self.worker = worker
        self.server = server
        self.opening = opening
        self.scope = opening.scope
        self.items = list(opening.items)
        self.cancels: list[str] = []
        self.outflow = Outflow(opening.credit)
        self.taken = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.opening.stream, self.opening.epoch

    def say(self, *items: Any) -> None:
        """Send *items*, whether or not there is credit."""
        first = self.outflow.sent + 1
        for item in items:
            self.outflow.spend(item)
        self.post([EVENTS, *self.key, first, list(items), self.taken])

    def credit(self, octets: int = 0) -> None:
        self.post([CREDIT, *self.key, octets, self.taken])

    def end(self, error: str = "") -> None:
        self.post([END, *self.key, self.outflow.sent, self.taken, error, []])

    def post(self, envelope: list[Any]) -> None:
        self.worker.port.post(self.server, envelope)
        self.worker.relayed.settle()


class PuppetWorker:
    """A worker whose user is the test."""

    def __init__(self, bench: "Relayed", places: int) -> None:
        self.relayed = bench
        self.port = bench.exchange.port("worker")
        self.sessions: dict[tuple[int, int], PuppetSession] = {}
        self.envelopes: list[list[Any]] = []
        self._unseen: list[PuppetSession] = []
        bench.server.loop.run_until_complete(self.port.open(self))
        for channel in (HTTP_CHANNEL, WEBSOCKET_CHANNEL):
            self.port.serve(channel, places)
        bench.settle()

    def take(self) -> PuppetSession:
        """The only stream that has come since the last call."""
        (session,) = self._unseen
        self._unseen = []
        return session

    @property
    def has_got_something(self) -> bool:
        return bool(self._unseen)

    def kill(self) -> None:
        self.relayed.exchange.kill(self.port)
        self.relayed.settle()

    # ---- PortUser

    def envelopes_received(self, sender: str, batch: list[list[Any]]) -> None:
        for envelope in batch:
            self.envelopes.append(envelope)
            session = self.sessions.get((envelope[1], envelope[2]))
            if session is None:
                continue
            if envelope[0] == EVENTS:
                session.items += envelope[4]
            elif envelope[0] == CREDIT:
                session.outflow.credit += envelope[3]
            elif envelope[0] == CANCEL:
                session.cancels.append(envelope[3])

    def offer_received(self, channel: str, sender: str, ref: int, opening: list[Any]) -> None:
        session = PuppetSession(self, sender, read_opening(opening))
        self.sessions[session.key] = session
        self._unseen.append(session)

    def member_gone(self, address: str) -> None: ...

    def port_lost(self) -> None: ...

    def port_regained(self) -> None: ...


class Relayed:
    """
    Attributes:
        relay: the application of the server; relay_port: its way to the workers.
        worker: the first of its workers, where there is one.
    """

    def __init__(
        self, *, workers: int, knows_claims: bool, settings: dict[str, Any], how: dict[str, Any], terms: Terms
    ) -> None:
        self.exchange = Exchange(knows_claims=knows_claims)
        self.relay_port = self.exchange.port("server")
        self.relay = RelayApplication(self.relay_port, terms=terms, **how)
        self.server = MemoryServer(self.relay, Settings(verbosity=0, **settings))
        self.workers = [PuppetWorker(self, 100) for _ in range(workers)]

    @property
    def worker(self) -> PuppetWorker:
        return self.workers[0]

    def add_worker(self, places: int = 100) -> PuppetWorker:
        worker = PuppetWorker(self, places)
        self.workers.append(worker)
        return worker

    def settle(self) -> None:
        self.server.loop.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass in steps that the relay's coarse clock does not miss."""
        end = self.server.loop.now + seconds
        while self.server.loop.now < end:
            self.server.advance(0.25)

    def ask(self, data: bytes) -> Wire:
        """Connect and send."""
        wire = self.server.connect()
        wire.receive(data)
        return wire


@contextlib.contextmanager
def relayed(
    *,
    workers: int = 1,
    knows_claims: bool = True,
    settings: dict[str, Any] | None = None,
    terms: dict[str, Any] | None = None,
    **how: Any,
) -> Iterator[Relayed]:
    """At the end all clients leave and all workers die, and the relay must hold nothing of them."""
    bench = Relayed(
        workers=workers,
        knows_claims=knows_claims,
        settings=settings or {},
        how=how,
        terms=Terms(**(terms or {})),
    )
    try:
        yield bench
    finally:
        with bench.server:
            for stream in list(bench.server.context.running):
                stream.client_left()
            for worker in bench.workers:
                bench.exchange.kill(worker.port)
            bench.settle()
            bench.advance(60)
            assert bench.relay.streams == 0
            assert not bench.server.context.running
