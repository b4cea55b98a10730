"""
A connection that is made again whenever it is lost, with back-off and jitter, until it is stopped.

The task that does this has nothing to do with what goes over the connection: that is plain calls. If somebody
cancels all tasks of the event loop, what is connected works on.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from daphne_like.errors import LayerUnavailable

from .connection import NEVER_DONE, Connection, Refused, connect
from .hosts import Host

__all__ = ["Tether", "TetherUser", "pauses"]

# Seconds between attempts: the first, and the longest.
PAUSES = (0.05, 0.5)


class TetherUser(Protocol):
    """Who uses it."""

    def first_words(self) -> Sequence[tuple[Any, ...]]:
        """Commands that are answered before begin()."""

    async def where(self) -> Host:
        """
        Where to connect to. Asked before each attempt.

        Raises:
            LayerUnavailable: nobody knows.
        """

    async def look_around(self) -> None:
        """It was lost, or could not be made: things may have changed."""

    def begin(self, replies: Sequence[Any], asked_at: float) -> None:
        """
        Connected.

        Args:
            replies: to first_words(), which were asked at *asked_at* (time.monotonic()).

        Raises:
            LayerUnavailable: that is no use.
        """

    def replied(self, replies: list[Any]) -> None:
        """What came, in order."""

    def lost(self, reason: str) -> None:
        """It is lost, after begin()."""

    def unreachable(self, reason: str) -> None:
        """It could not be made."""


class Tether:
    """
    Args:
        user: in the running event loop, which stays the tether's.
        name: of the task.

    Attributes:
        connection: None while there is none.
    """

    def __init__(self, user: TetherUser, name: str) -> None:
        self.connection: Connection | None = None
        self._user = user
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._task = self._loop.create_task(self._stay_connected(), name=f"daphne_like {name}")

    def drop(self, reason: str) -> None:
        """End the connection, if there is one; the next is made soon."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.end(reason)
            if not self._lost.done():
                self._lost.set_result(None)
            self._user.lost(reason)

    def stop(self) -> None:
        """Make no other connection."""
        self._stopping = True
        self._task.cancel()

    async def stopped(self) -> None:
        """Wait for the end of that."""
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Let go of the socket without a word: the loop has ended, or this is the child of a fork."""
        if self.connection is not None:
            self.connection.abandon()

    async def _stay_connected(self) -> None:
        delays = pauses(*PAUSES)
        # Not by cancellation alone: third parties have swallowed those.
        while not self._stopping:
            try:
                await self._connect()
            except LayerUnavailable as error:
                self._user.unreachable(str(error))
            else:
                delays = pauses(*PAUSES)
                await self._lost
            await self._user.look_around()
            # Jitter: everybody loses the same engine at the same moment.
            await asyncio.sleep(next(delays))

    async def _connect(self) -> None:
        host = await self._user.where()
        role = ("ROLE",) if host.master_only else ("PING",)
        connection, replies, asked_at = await connect(host, [role, *self._user.first_words()])
        if self._stopping:
            connection.end("stopped")
            raise LayerUnavailable("stopped")
        self.connection = connection
        self._lost = self._loop.create_future()
        connection.tell(self._user.replied, self.drop)
        try:
            _check_role(replies[0])
            self._user.begin(replies[1:], asked_at)
        except LayerUnavailable as error:
            self.connection = None
            connection.end(str(error))
            raise


def _check_role(reply: Any) -> None:
    """
    Args:
        reply: to ROLE or PING. Who may not ask for the role is let through: a replica will say so later.

    Raises:
        LayerUnavailable: it is no master.
    """
    if isinstance(reply, list) and reply[0] != b"master":
        raise LayerUnavailable(NEVER_DONE["READONLY"])
    if isinstance(reply, Refused) and reply.code in NEVER_DONE:
        raise LayerUnavailable(NEVER_DONE[reply.code])


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait between attempts: each half to whole of twice the one before."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(pause * 2, longest)
