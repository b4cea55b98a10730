"""
The relay's server side: an ASGI application that has other processes answer.

To its host, any ASGI server, it is an application like others: it starts and stops by lifespan (or, without
one, with the first stream), and takes http and websocket scopes. Each becomes a lease (relay/lease.py), and is
offered on a named channel to whoever serves that. What workers say arrives in one place, envelopes_received(),
which waits for nobody: it leaves things with the leases, and each stream's coroutine takes them to its client.

One coarse timer for all leases. No task per request, beside the host's own, under a host of ours.
"""

import asyncio
import fnmatch
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from daphne_like import logs
from daphne_like.asgi.direct import Exchange
from daphne_like.errors import LayerError, SequenceGap
from daphne_like.layers.port import Envelope
from daphne_like.relay.envelope import (
    BOUND,
    CANCEL,
    CREDIT,
    END,
    EVENTS,
    HANDOFF,
    KEEPALIVE,
    LOST,
    WILL,
)
from daphne_like.relay.foreign_port import port_of
from daphne_like.relay.http_lease import HTTPLease
from daphne_like.relay.keeper import ENDED, OPENING, Counters, Offered, Terms
from daphne_like.relay.lease import ABNORMAL_CLOSURE, Lease
from daphne_like.relay.relaying import relay_directly, relay_request, relay_websocket, take_departure
from daphne_like.relay.websocket_lease import WebSocketLease
from daphne_like.typing import Receive, Scope, Send

__all__ = ["RelayApplication"]

log = logging.getLogger(logs.SERVER)

# How often deadlines are looked at.
TICK = 0.25
# How often the log tells of streams that nobody took, at most.
TELL_REFUSED_EVERY = 1.0

OnRestart = Literal["resume", "close"]
InHand = Mapping[str, Sequence[Sequence[int]]]


class RelayApplication:
    """
    Args:
        layer_or_port: a Port, a layer of ours (which has one), or any other channel layer.
        terms: times and limits.
        on_worker_restart: what becomes of a WebSocket whose worker goes: another one gets it, or it is
            closed with 1012.
        restart_rules: exceptions from that, as (pattern of paths, "resume" or "close"); the first that
            matches counts. Patterns as in a shell, where * matches slashes too.
        restart_spread: seconds over which the closings of a draining worker's sockets are spread.

    Attributes:
        counters: what has happened; see Counters.
        reachable: workers can be reached: the port is open, and its layer there.
    """

    # Has our own server offer asgi.departure.
    wants_departure = True

    def __init__(
        self,
        layer_or_port: Any,
        *,
        terms: Terms | None = None,
        on_worker_restart: OnRestart = "resume",
        restart_rules: Sequence[tuple[str, OnRestart]] = (),
        restart_spread: float = 5.0,
    ) -> None:
        self._port = port_of(layer_or_port)
        self.terms = terms if terms is not None else Terms()
        self.counters = Counters()
        self.reachable = False
        self.knows_claims = self._port.knows_claims
        self._on_worker_restart = on_worker_restart
        self._restart_rules = restart_rules
        self._restart_spread = restart_spread
        self._leases: dict[int, Lease] = {}
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = False
        self._emptied: asyncio.Future[None] | None = None
        self._keepalive_at = 0.0
        self._refused_told = 0
        self._tell_refused_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if self._loop is None and scope["type"] != "lifespan":
            await self._start_late()
        if self._timer is None:
            self._start_timer()
        kind = scope["type"]
        number = next(self._numbers)
        departure = take_departure(scope)
        if kind == "http":
            lease = self._leases[number] = HTTPLease(self, number, scope)
            await relay_request(lease, departure, receive, send)
        elif kind == "websocket":
            closes = self._restart_policy(scope["path"]) == "close"
            spread = self._restart_spread
            socket = WebSocketLease(self, number, scope, closes=closes, spread=spread)
            self._leases[number] = socket
            await relay_websocket(socket, departure, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"the relay knows no {kind} scopes")

    def daphne_like_direct(self, exchange: Exchange) -> bool:
        """See asgi.direct."""
        if self._loop is None:
            return False
        if self._timer is None:
            self._start_timer()
        number = next(self._numbers)
        lease = self._leases[number] = HTTPLease(self, number, exchange.scope)
        relay_directly(lease, exchange)
        return True

    def _restart_policy(self, path: str) -> OnRestart:
        for pattern, policy in self._restart_rules:
            if fnmatch.fnmatchcase(path, pattern):
                return policy
        return self._on_worker_restart

    @property
    def streams(self) -> int:
        """How many are there now."""
        return len(self._leases)

    # ---- start and stop

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except LayerError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """
        Open the port, if it is not.

        Raises:
            LayerUnavailable: it cannot be.
        """
        async with self._starting:
            if self._loop is None:
                await self._port.open(self)
                self._loop = asyncio.get_running_loop()
                self.reachable = True

    async def _start_late(self) -> None:
        """Under a host without lifespan: streams are answered 503 until it works."""
        try:
            await self.start()
        except LayerError as error:
            log.error("the channel layer cannot be reached", extra={"reason": str(error)})

    async def stop(self) -> None:
        """Leave the layer. Applications that have not ended after a while are cancelled."""
        async with self._starting:
            if self._loop is None:
                return
            if self._leases and self.reachable:
                self._emptied = asyncio.get_running_loop().create_future()
                await asyncio.wait((self._emptied,), timeout=self.terms.close_timeout)
            self.reachable = False
            for lease in list(self._leases.values()):
                lease.abandon()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            await self._port.close()
            self._loop = None

    # ---- relay.lease.Keeper

    def time(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def may_wait(self) -> bool:
        if self._loop is None:
            return False
        waiting = sum(lease.state is OPENING and not lease.offered for lease in self._leases.values())
        # The one that asks is among them.
        return not self.terms.queue_limit or waiting <= self.terms.queue_limit

    def post(self, to: str, envelope: Envelope) -> None:
        self._port.post(to, envelope)

    def offer(self, lease: Offered, opening: list[Any], limit: int) -> None:
        by = self._port.offer(lease.channel, lease.ref, opening, limit)
        if by:
            lease.claimed(by)

    def withdraw(self, lease: Offered) -> None:
        self._port.withdraw(lease.channel, lease.ref)

    def gap_found(self, lease: Offered, gap: SequenceGap) -> None:
        self.counters.gaps += 1
        log.error(
            "the layer lost an envelope, broke the stream off", extra={**lease.described, "gap": str(gap)}
        )

    def lease_ended(self, lease: Offered) -> None:
        del self._leases[lease.stream]
        if self._emptied is not None and not self._leases and not self._emptied.done():
            self._emptied.set_result(None)

    def _start_timer(self) -> None:
        if self._loop is not None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        """Look at the deadlines; end when there was no lease for a while."""
        assert self._loop is not None
        now = self._loop.time()
        untold = self.counters.refused - self._refused_told
        if untold and now >= self._tell_refused_at:
            self._tell_refused(untold, now)
            untold = 0
        if self._leases:
            for lease in [lease for lease in self._leases.values() if lease.deadline <= now]:
                lease.deadline_passed(now)
            if not self.knows_claims and now >= self._keepalive_at:
                self._keepalive_at = now + self.terms.keepalive
                for lease in self._leases.values():
                    lease.keep_alive()
        elif self._idle and not untold:
            self._timer = None
            self._idle = False
            return
        self._idle = not self._leases
        self._timer = self._loop.call_later(TICK, self._tick)

    def _tell_refused(self, untold: int, now: float) -> None:
        self._refused_told += untold
        self._tell_refused_at = now + TELL_REFUSED_EVERY
        waiting = sum(lease.state is OPENING for lease in self._leases.values())
        log.warning("no worker is free, streams were refused", extra={"refused": untold, "waiting": waiting})

    # ---- layers.port.PortUser

    def envelopes_received(self, sender: str, batch: list[Envelope]) -> None:
        leases = self._leases
        for envelope in batch:
            try:
                kind = envelope[0]
                lease = leases.get(envelope[1])
                if lease is None or lease.epoch != envelope[2]:
                    self._stray_received(sender, envelope)
                    continue
                if lease.state is OPENING:
                    lease.claimed(sender)
                elif lease.worker != sender:
                    # Layers of others may give an offer to two workers: the second one hears that it is over.
                    self._stray_received(sender, envelope)
                    continue
                if kind == EVENTS:
                    lease.receive_events(envelope[3], envelope[4], envelope[5])
                elif kind == END:
                    lease.receive_end(*envelope[3:7])
                elif kind == CREDIT:
                    lease.receive_credit(envelope[3], envelope[4])
                elif kind == HANDOFF:
                    lease.receive_handoff()
                elif kind == KEEPALIVE:
                    lease.receive_keepalive(envelope[3], envelope[4])
                elif kind == WILL and isinstance(lease, WebSocketLease):
                    lease.receive_will(envelope[3], envelope[4])
                elif kind != BOUND:
                    log.debug("unknown envelope", extra={"sender": sender, "kind": kind})
            except (IndexError, KeyError, TypeError, ValueError):
                log.exception("envelope that cannot be read", extra={"sender": sender})

    def _stray_received(self, sender: str, envelope: Envelope) -> None:
        """Of a stream that is over, or with another worker: whoever speaks is to know."""
        if envelope[0] not in (END, KEEPALIVE):
            self._port.post(sender, [CANCEL, envelope[1], envelope[2], LOST, ABNORMAL_CLOSURE])

    def offer_received(self, channel: str, sender: str, ref: int, opening: list[Any]) -> None:
        """Never: we serve nothing."""

    def offer_claimed(self, ref: int, by: str) -> None:
        lease = self._leases.get(ref >> 16)
        if lease is not None and lease.ref == ref and lease.state is OPENING:
            lease.claimed(by)
        elif lease is None or lease.ref != ref or lease.state is ENDED or lease.worker != by:
            # Taken as it was withdrawn, or by two.
            self._port.post(by, [CANCEL, ref >> 16, ref & 0xFFFF, LOST, ABNORMAL_CLOSURE])

    def offer_refused(self, ref: int) -> None:
        lease = self._leases.get(ref >> 16)
        if lease is not None and lease.ref == ref:
            lease.refused()

    def member_gone(self, address: str) -> None:
        held = [
            lease for lease in self._leases.values() if lease.worker == address and lease.state is not ENDED
        ]
        if not held:
            return
        counters = self.counters
        counters.workers_lost += 1
        before = (counters.run_again, counters.cut, counters.frames_unanswered, counters.frames_redelivered)
        for lease in held:
            lease.worker_gone()
        log.warning(
            "worker lost",
            extra={
                "address": address,
                "streams": len(held),
                "run_again": counters.run_again - before[0],
                "cut": counters.cut - before[1],
                "frames_unanswered": counters.frames_unanswered - before[2],
                "frames_redelivered": counters.frames_redelivered - before[3],
            },
        )

    def worker_condemned(self, address: str, in_hand: InHand | None = None) -> None:
        """
        The worker will be killed, for what it does or does not do: nobody else is to do that again.

        Requests that it has begun do not run again, and what the applications of its WebSockets have taken is
        not given to the next ones. Else everything moves as ever.

        Args:
            in_hand: as Worker.in_hand() has it; None where the worker does not say: all of its requests count.
        """
        if in_hand is None:
            for lease in self._leases.values():
                if lease.worker == address and isinstance(lease, HTTPLease):
                    lease.worker_condemned(0)
            return
        for stream, epoch, taken in in_hand.get(self._port.address, ()):
            held = self._leases.get(stream)
            if held is not None and held.worker == address and held.epoch == epoch:
                held.worker_condemned(taken)

    def worker_suspended(self, address: str, suspended: bool) -> None:
        """The worker is stuck, and lives: it gets no new work; or it goes on."""
        self._port.member_suspended(address, suspended)

    def worker_ended(self, address: str) -> None:
        """The process of the worker has ended: whoever started it knows that at once."""
        self._port.member_ended(address)

    def port_stalled(self) -> None:
        self.reachable = False
        log.error("the channel layer is out of reach", extra={"streams": len(self._leases)})

    def port_resumed(self) -> None:
        self.port_regained()

    def port_lost(self) -> None:
        self.reachable = False
        log.error("the channel layer is out of reach", extra={"streams": len(self._leases)})
        for lease in list(self._leases.values()):
            lease.layer_lost()

    def port_regained(self) -> None:
        self.reachable = True
        log.warning("the channel layer is there again", extra={"streams": len(self._leases)})
        for lease in list(self._leases.values()):
            lease.layer_regained()
