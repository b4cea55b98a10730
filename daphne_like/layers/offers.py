"""
Who takes a stream that is offered: the places of workers, and the streams that wait for one.

An offer goes to the member with the most free places; among equals, to the one that has waited longest for
an offer. Where nobody has a place it waits, first in, first out.

What when full: the offerer's own limit, told with each offer; beyond it the offer is refused.

Pure: the hub calls.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Offers"]

EndT = TypeVar("EndT")


class Offers(Generic[EndT]):
    """
    The offers of one channel. Members are compared by identity.

    Args:
        suspended: members whose free places count as none. The caller's, who changes it.
    """

    __slots__ = ("places", "refused", "suspended", "taken", "waiting")

    def __init__(self, suspended: set[EndT]) -> None:
        self.suspended = suspended
        # In the order of who has waited longest; free places, more than 0.
        self.places: dict[EndT, int] = {}
        self.waiting: OrderedDict[tuple[EndT, int], bytes] = OrderedDict()
        self.taken = 0
        self.refused = 0

    def choose(self) -> EndT | None:
        """The member that gets the next offer; its place is taken by it. None: nobody has a place."""
        places = self.places
        if self.suspended:
            places = {end: free for end, free in places.items() if end not in self.suspended}
        if not places:
            return None
        # max() gives the first of equals.
        chosen = max(places, key=places.__getitem__)
        left = self.places.pop(chosen) - 1
        if left:
            self.places[chosen] = left
        self.taken += 1
        return chosen

    def serve(self, end: EndT, places: int) -> None:
        """*places* more for *end*; a negative number takes some back, at most those that are free."""
        places += self.places.get(end, 0)
        if places > 0:
            self.places[end] = places
        else:
            self.places.pop(end, None)

    def leave(self, end: EndT) -> None:
        """Neither its places nor its offers are there any more."""
        self.places.pop(end, None)
        for key in [key for key in self.waiting if key[0] is end]:
            del self.waiting[key]
