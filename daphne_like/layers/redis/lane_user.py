"""What a lane tells the engine that it is a part of, and the error that only a lane can know of."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from daphne_like.errors import LayerUnavailable

from .backlog import Call
from .scripts import Script
from .topology import Topology

__all__ = ["LaneUser", "ReplyLost"]


class ReplyLost(LayerUnavailable):
    """It was sent, and no reply came: nobody knows whether it was done."""


class LaneUser(Protocol):
    """The engine, to its lanes."""

    topology: Topology
    send_timeout: float

    @property
    def scripts(self) -> Iterable[Script]:
        """To be loaded at each connect."""

    def lane_back(self, lane: Any) -> None:
        """Connected. What it is asked now goes first."""

    def lane_lost(self, lane: Any, reason: str) -> None:
        """The connection is lost."""

    def settled(self, call: Call) -> None:
        """It waits no longer."""

    def moved(self, lane: Any, calls: Sequence[tuple[Call, str]]) -> None:
        """These got MOVED or ASK, as the text says. They are not the lane's any longer."""

    def look_around(self, lane: Any) -> None:
        """It does not answer, or says that its cluster is down: others may have what it had."""

    def left(self, lane: Any, tags: Iterable[str]) -> None:
        """What was under way of these tags, which are elsewhere now, has been answered."""
