"""
Ports without a layer: servers and workers of the relay meet in one process, and a test plays the network.

An Exchange keeps the rules of a layer of ours: what one port posts within a turn of the event loop leaves
together, arrives in order, and only while the receiver lives; offers go to the member with the most free
places. Envelopes are really packed and unpacked, so that what does not survive that fails here too. Nothing is
delivered within the call that caused it: each delivery is a turn of its own.

What a test can do to it: `drop` envelopes, `delay()` a member's mail by some turns, `hold()` it as a stopped
process' and `release()` it, `kill()` a member, `cut()` one off the layer and `mend()` it, fill a channel.

    exchange = Exchange()
    server, worker = exchange.port("server"), exchange.port("worker")
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from daphne_like.errors import LayerUnavailable, MessageTooLarge
from daphne_like.layers.codec import pack, unpack
from daphne_like.layers.port import Envelope, PortUser

__all__ = ["Exchange", "ExchangePort"]

# One envelope must leave room for what a layer puts around it.
MAX_ENVELOPE = 256 * 1024


class Exchange:
    """
    Args:
        knows_claims: as a layer of ours does; False to play any other layer.

    Attributes:
        ports: by address, those that are open.
        drop: given (sender, receiver, envelope), whether to lose it; None to lose nothing.
        tap: called with (sender, receiver, envelope) for all that is sent, lost or not; None for nobody.
        dropped: how many envelopes `drop` has lost.
    """

    def __init__(self, *, knows_claims: bool = True) -> None:
        self.knows_claims = knows_claims
        self.ports: dict[str, ExchangePort] = {}
        self.drop: Callable[[str, str, Envelope], bool] | None = None
        self.tap: Callable[[str, str, Envelope], object] | None = None
        self.dropped = 0
        self._numbers = itertools.count(1)
        self._turns = itertools.count(1)
        self._offers: dict[str, deque[tuple[ExchangePort, int, bytes]]] = {}

    def port(self, name: str = "") -> "ExchangePort":
        """A new port; its address is *name* and a number, anew each time that it opens."""
        return ExchangePort(self, name or "member")

    def waiting(self, channel: str) -> int:
        """How many offers wait for somebody to serve *channel*."""
        return len(self._offers.get(channel, ()))

    # ---- what a test does

    def hold(self, port: "ExchangePort") -> None:
        """Deliver nothing to *port* from now on, as if its process were stopped."""
        port.held = True

    def release(self, port: "ExchangePort") -> None:
        """Deliver what was held."""
        port.release()

    def delay(self, port: "ExchangePort", turns: int) -> None:
        """Deliver what comes for *port* that many turns of the event loop later."""
        port.turns_late = turns

    def kill(self, port: "ExchangePort") -> None:
        """End *port* as a process ends on SIGKILL: what it has not sent is lost, the others are told."""
        self._leave(port)

    def cut(self, port: "ExchangePort") -> None:
        """Take the layer away from *port*; to the others it looks dead."""
        self._leave(port)
        port.cut_off = True
        port.tell("port_lost")

    def mend(self, port: "ExchangePort") -> None:
        """Give the layer back to a port that was cut off; its address is a new one."""
        port.cut_off = False
        self._join(port)
        port.tell("port_regained")

    # ---- what ports do

    def _join(self, port: "ExchangePort") -> None:
        port.address = f"{port.name}{next(self._numbers)}"
        self.ports[port.address] = port

    def _leave(self, port: "ExchangePort") -> None:
        if self.ports.pop(port.address, None) is None:
            return
        port.forget()
        for channel, waiting in self._offers.items():
            self._offers[channel] = deque(offer for offer in waiting if offer[0] is not port)
        for other in list(self.ports.values()):
            other.tell("member_gone", port.address)

    def _carry(self, sender: str, to: str, batch: list[Envelope]) -> None:
        """Take what *sender* has posted to *to* in one turn."""
        packed = pack(batch)
        if len(packed) > MAX_ENVELOPE:
            for envelope in batch:
                if len(pack(envelope)) > MAX_ENVELOPE:
                    raise MessageTooLarge(f"an envelope of {len(pack(envelope))} octets")
        if self.tap is not None:
            for envelope in batch:
                self.tap(sender, to, envelope)
        if self.drop is not None:
            kept = [envelope for envelope in batch if not self.drop(sender, to, envelope)]
            self.dropped += len(batch) - len(kept)
            if not kept:
                return
            packed = pack(kept)
        receiver = self.ports.get(to)
        if receiver is not None:
            receiver.tell("envelopes_received", sender, packed)

    def _offer(self, port: "ExchangePort", channel: str, ref: int, packed: bytes, limit: int) -> None:
        waiting = self._offers.setdefault(channel, deque())
        if limit and len(waiting) >= limit:
            port.tell("offer_refused", ref)
            return
        waiting.append((port, ref, packed))
        self._match(channel)

    def _withdraw(self, port: "ExchangePort", channel: str, ref: int) -> None:
        waiting = self._offers.get(channel, ())
        self._offers[channel] = deque(offer for offer in waiting if offer[:2] != (port, ref))

    def _match(self, channel: str) -> None:
        """Give waiting offers to those with the most free places, in turn where these are equal."""
        waiting = self._offers.get(channel)
        while waiting:
            free = [port for port in self.ports.values() if port.places.get(channel, 0) > 0]
            if not free:
                return
            port = max(free, key=lambda one: (one.places[channel], -one.last_turn))
            port.places[channel] -= 1
            port.last_turn = next(self._turns)
            offerer, ref, packed = waiting.popleft()
            if self.knows_claims:
                offerer.tell("offer_claimed", ref, port.address)
            port.tell("offer_received", channel, offerer.address, ref, packed)


class ExchangePort:
    """
    A port of the exchange (layers.port.Port).

    Attributes:
        places: by channel, how many more offers its user takes.
        held, turns_late, cut_off, last_turn: the exchange's notes.
    """

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self.address = ""
        self.knows_claims = exchange.knows_claims
        self.places: dict[str, int] = {}
        self.held = self.cut_off = False
        self.turns_late = 0
        self.last_turn = 0
        self._exchange = exchange
        self._user: PortUser | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outgoing: dict[str, list[Envelope]] = {}
        self._mail: deque[tuple[str, tuple[Any, ...]]] = deque()

    async def open(self, user: PortUser) -> None:
        """Join the exchange."""
        if self.cut_off:
            raise LayerUnavailable("the exchange is cut off")
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._exchange._join(self)

    def post(self, to: str, envelope: Envelope) -> None:
        """Send an envelope at the end of this turn."""
        outgoing = self._outgoing
        if to in outgoing:
            outgoing[to].append(envelope)
            return
        if not outgoing and self._loop is not None:
            self._loop.call_soon(self.flush)
        outgoing[to] = [envelope]

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """Offer a stream to whoever serves *channel*. Who takes it is told later, always."""
        if self._is_member:
            self._exchange._offer(self, channel, ref, pack(opening), limit)
        return ""

    def withdraw(self, channel: str, ref: int) -> None:
        """Take an offer back, if nobody has it yet."""
        if self._is_member:
            self._exchange._withdraw(self, channel, ref)

    def serve(self, channel: str, places: int) -> None:
        """Take up to *places* more offers of *channel*; a negative number takes places back."""
        if self._is_member:
            self.places[channel] = max(0, self.places.get(channel, 0) + places)
            self._exchange._match(channel)

    def member_ended(self, address: str) -> None:
        """kill() tells everybody at once."""

    def member_suspended(self, address: str, suspended: bool) -> None:
        """Nobody is ever stuck."""

    def flush(self) -> None:
        """Send what waits for the end of the turn now."""
        outgoing = self._outgoing
        self._outgoing = {}
        if self._is_member:
            for to, batch in outgoing.items():
                self._exchange._carry(self.address, to, batch)

    async def close(self) -> None:
        """Leave: what was posted before arrives."""
        self.flush()
        self._exchange._leave(self)

    # ---- for the exchange

    @property
    def _is_member(self) -> bool:
        return self._exchange.ports.get(self.address) is self

    def forget(self) -> None:
        """Lose what is on its way to and from here."""
        self._outgoing = {}
        self._mail.clear()
        self.places.clear()

    def tell(self, what: str, *arguments: Any) -> None:
        """Have the user's method *what* called, in a turn of its own; octets are unpacked on the way."""
        self._mail.append((what, arguments))
        self.schedule()

    def schedule(self, count: int = 1) -> None:
        """Deliver that many pieces of mail after the turns that this port's mail is late."""
        assert self._loop is not None
        for _ in range(count):
            self._loop.call_soon(self._deliver, self.turns_late)

    def release(self) -> None:
        """Deliver what was held."""
        self.held = False
        self.schedule(len(self._mail))

    def _deliver(self, turns: int) -> None:
        if turns > 0:
            assert self._loop is not None
            self._loop.call_soon(self._deliver, turns - 1)
        elif self._mail and not self.held:
            what, arguments = self._mail.popleft()
            getattr(self._user, what)(*(unpack(a) if type(a) is bytes else a for a in arguments))
