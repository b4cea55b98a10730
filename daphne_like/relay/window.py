"""
The two ends of one direction of a relayed stream: numbers, credit, and the joining of parts.

Outflow is kept by who sends, Inflow by who receives; a server and a worker have one of each per stream and
epoch. No I/O: what has to be posted is told as a number of octets.

    sender                                       receiver
    if outflow.open:                             entries = inflow.arrive(seq, items)     (SequenceGap)
        seq = outflow.spend(item)                ...
        post EVENTS                              item = inflow.consume(entry)
    outflow.grant(octets)         <- CREDIT      octets = inflow.give_back()

Credit of an item returns when its consumer has taken it. Parts of a large message would never fit, so that
theirs returns on arrival, as long as no message made of parts waits to be consumed: one such message and
WINDOW of the next is the most that a receiver holds.
"""

from collections.abc import Sequence

from daphne_like.errors import LayerError, SequenceGap
from daphne_like.layers.codec import unpack
from daphne_like.relay.envelope import MAX_JOINED, WINDOW, Item, item_cost

__all__ = ["Inflow", "Joined", "Outflow"]


class Outflow:
    """
    Attributes:
        credit: octets that may still be sent; negative when overdrawn by the last item.
        sent: number of the last item sent, 0 for none.
        granted: the sum of all credit beyond the initial.
    """

    __slots__ = ("credit", "granted", "sent")

    def __init__(self, credit: int = WINDOW) -> None:
        self.credit = credit
        self.sent = self.granted = 0

    @property
    def open(self) -> bool:
        """Whether an item may be sent."""
        return self.credit > 0

    def spend(self, item: Item) -> int:
        """Count *item* as sent; returns its number."""
        self.credit -= item_cost(item)
        self.sent += 1
        return self.sent

    def grant(self, octets: int) -> None:
        """So much more may be sent."""
        self.credit += octets
        self.granted += octets


class Joined:
    """A message that came in parts."""

    __slots__ = ("item", "parts")

    def __init__(self, item: Item, parts: int) -> None:
        self.item = item
        self.parts = parts


class Inflow:
    """
    Attributes:
        arrived: number of the last item that has come, 0 for none.
        taken: number of the last item that its consumer has taken.
        granted: the sum of all that give_back() has told.
    """

    __slots__ = ("_joined", "_octets", "_owed", "_parts", "_size", "_withheld", "arrived", "granted", "taken")

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._owed = 0  # consumed, and not given back
        self._withheld = 0  # parts that came while a joined message waits
        self._parts: list[bytes] = []
        self._octets = 0
        self._joined = 0  # joined messages that wait to be consumed
        self.arrived = self.taken = self.granted = 0

    def arrive(self, seq: int, items: Sequence[Item]) -> Sequence[Item | Joined]:
        """
        Take *items*, the first of them with the number *seq*.

        Returns: what can be consumed now, in order; entries for consume(). Ask give_back() afterwards.

        Raises:
            SequenceGap: something before is missing, or the parts make no message.
        """
        if seq != self.arrived + 1:
            raise SequenceGap(f"item {seq} came after {self.arrived}")
        self.arrived += len(items)
        for item in items:
            if type(item) is dict and "part" in item:
                return self._arrive_in_parts(items)
        if self._parts:
            raise SequenceGap("a part is missing")
        return items

    def _arrive_in_parts(self, items: Sequence[Item]) -> list[Item | Joined]:
        entries: list[Item | Joined] = []
        for item in items:
            if type(item) is dict and "part" in item:
                entry = self._add_part(item["part"], item.get("more", False))
                if entry is not None:
                    entries.append(entry)
            elif self._parts:
                raise SequenceGap("a part is missing")
            else:
                entries.append(item)
        return entries

    def _add_part(self, part: bytes, more: bool) -> Joined | None:
        cost = item_cost({"part": part})
        if self._joined:
            self._withheld += cost
        else:
            self._owed += cost
        self._parts.append(part)
        self._octets += len(part)
        if self._octets > MAX_JOINED:
            raise SequenceGap("the parts exceed what a message may have")
        if more:
            return None
        try:
            entry = Joined(unpack(b"".join(self._parts)), len(self._parts))
        except LayerError as error:
            raise SequenceGap(f"the parts make no message: {error}") from error
        self._parts = []
        self._octets = 0
        self._joined += 1
        return entry

    def consume(self, entry: Item | Joined) -> Item:
        """Count *entry* as taken by its consumer; returns its item. Ask give_back() afterwards."""
        if type(entry) is Joined:
            self.taken += entry.parts
            self._joined -= 1
            if not self._joined:
                self._owed += self._withheld
                self._withheld = 0
            return entry.item
        self.taken += 1
        self._owed += item_cost(entry)
        return entry

    def give_back(self) -> int:
        """Octets of credit to send now; 0 while less than half of all has been used up."""
        owed = self._owed
        if 2 * owed < self._size:
            return 0
        self._owed = 0
        self.granted += owed
        return owed
