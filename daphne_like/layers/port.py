"""
The relay's door to a channel layer: how envelopes of streams travel beside the layer's ordinary messages.

Servers offer streams on shared channels ("http.request"), workers say how many they have places for, and from
then on each posts envelopes to the other's address. Credit bounds what is under way, so that posts need no
capacity and never wait; what is posted to one address within a turn of the event loop leaves together.

Layers of our own have a port() built for this. For others the relay makes one out of send(), receive() and
new_channel().
"""

from typing import Any, Protocol

__all__ = ["Envelope", "Port", "PortUser"]

# A list whose first item, an int, says what it is: see relay/envelope.py.
Envelope = list[Any]


class PortUser(Protocol):
    """Who uses a port: the relay in a server, or a worker. All are plain calls, in the port's event loop."""

    def envelopes_received(self, sender: str, batch: list[Envelope]) -> None:
        """Envelopes that *sender* posted to us, in its order."""

    def offer_received(self, channel: str, sender: str, ref: int, opening: list[Any]) -> None:
        """A stream that we have got because we serve() its channel. *sender* is where its envelopes go."""

    def offer_claimed(self, ref: int, by: str) -> None:
        """The stream that we offered as *ref* is with the worker at address *by*."""

    def offer_refused(self, ref: int) -> None:
        """The stream that we offered as *ref* found its channel full."""

    def member_gone(self, address: str) -> None:
        """Nobody is at *address* any more: it closed its port, or its process ended."""

    def port_stalled(self) -> None:
        """The layer is out of reach. What is posted waits, nothing is lost; offer no new streams."""

    def port_resumed(self) -> None:
        """It is there again."""

    def port_lost(self) -> None:
        """The layer is out of reach. Nothing posted from now on arrives, until port_regained()."""

    def port_regained(self) -> None:
        """The layer is there again; the address may have changed, and what was served must be said anew."""


class Port(Protocol):
    """
    Attributes:
        address: where others post envelopes to us; "" before open().
        knows_claims: offer_claimed() tells who has a stream. False for layers that are not our own, where
            the worker says so itself (BOUND).
    """

    address: str
    knows_claims: bool

    async def open(self, user: PortUser) -> None:
        """
        Begin to receive, in the running event loop.

        Raises:
            LayerUnavailable: the layer cannot be reached.
        """

    def post(self, to: str, envelope: Envelope) -> None:
        """Send an envelope at the end of this turn. To an address where nobody is: nothing happens."""

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """
        Offer a stream to whoever serves *channel*.

        Args:
            ref: the offerer's number for it; in offer_claimed(), offer_refused(), withdraw().
            limit: refused where so many wait already; 0 for no limit.

        Returns:
            the address of the worker that has got it at once; "" where offer_claimed(), or BOUND, is to tell.
        """

    def withdraw(self, channel: str, ref: int) -> None:
        """Take an offer back, if nobody has it yet."""

    def serve(self, channel: str, places: int) -> None:
        """Take up to *places* more offers of *channel*. A negative number takes places back."""

    def flush(self) -> None:
        """Send what waits for the end of the turn now."""

    def member_ended(self, address: str) -> None:
        """
        Say that the process of the member at *address* has ended, as only its supervisor knows so early.

        Layers that cannot but notice at once do nothing. Else member_gone() follows, behind what it had said.
        """

    def member_suspended(self, address: str, suspended: bool) -> None:
        """
        Say that the member at *address* is to get no offers, and that its process lives, though it may not say
        so; or, where not *suspended*, that this is over.

        Layers whose hub is told so by its host do nothing, nor do those that cannot.
        """

    async def close(self) -> None:
        """Leave: others are told member_gone()."""
