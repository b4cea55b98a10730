"""
Asking around: who is master, who has which slots.

Several are asked at once, as one of them may be dead, paused or behind. What one knows has an *epoch*, a number
that grows with every failover: of the answers that come at about the same time the newest counts.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from daphne_like.errors import LayerUnavailable

from .connection import Connection, Refused, connect, pack
from .hosts import Host

__all__ = ["Line", "newest_answer"]

# Seconds: for one answer, connecting included; for others that may know better than the first.
ASK_TIMEOUT = 2.0
GRACE = 0.2

_Known = TypeVar("_Known")
_Whom = TypeVar("_Whom")

Words = tuple[str, ...]


class Line:
    """
    A connection for questions, made at the first one and again when it was lost. One is asked at a time.

    Args:
        host: whom to ask.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._connection: Connection | None = None
        # Of the question that is out.
        self._waiting: asyncio.Future[list[Any]] | None = None
        self._replies: list[Any] = []
        self._wanted = 0

    def __str__(self) -> str:
        return str(self.host)

    async def ask(self, *questions: Words) -> list[Any]:
        """
        The replies to commands.

        Raises:
            LayerUnavailable: none came, or one of them was an error.
        """
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                replies = await self._ask(questions)
        except TimeoutError:
            self.close()
            raise LayerUnavailable("nobody has answered") from None
        except asyncio.CancelledError:
            # The reply may come yet, and would be taken for the next one's.
            self.close()
            raise
        for reply in replies:
            if isinstance(reply, Refused):
                raise LayerUnavailable(str(reply))
        return replies

    async def _ask(self, questions: tuple[Words, ...]) -> list[Any]:
        if self._connection is None:
            connection, replies, _ = await connect(self.host, questions)
            connection.tell(self._replied, functools.partial(self._lost, connection))
            self._connection = connection
            return replies
        self._wanted = len(questions)
        self._replies = []
        self._waiting = asyncio.get_running_loop().create_future()
        self._connection.write(b"".join(pack(words) for words in questions))
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort("asked enough")

    def abandon(self) -> None:
        """Let go of the socket without a word."""
        if self._connection is not None:
            self._connection.abandon()

    def _replied(self, replies: list[Any]) -> None:
        self._replies += replies
        if self._waiting is not None and len(self._replies) >= self._wanted and not self._waiting.done():
            self._waiting.set_result(self._replies)

    def _lost(self, connection: Connection, reason: str) -> None:
        if self._connection is connection:
            self._connection = None
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(LayerUnavailable(reason))


async def newest_answer(
    whom: Iterable[_Whom], ask: Callable[[_Whom], Awaitable[tuple[int, _Known]]]
) -> tuple[int, _Known]:
    """
    What is known about something, with the greatest epoch among those that answer soon.

    Args:
        ask: what one of *whom* knows; LayerUnavailable for nothing.

    Raises:
        LayerUnavailable: none has answered; says what each said instead.
    """
    asked: dict[asyncio.Future[tuple[int, _Known]], _Whom] = {
        asyncio.ensure_future(ask(one)): one for one in whom
    }
    answers: list[tuple[int, _Known]] = []
    reasons: list[str] = []
    waiting = set(asked)
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=GRACE if answers else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for one in done:
                try:
                    answers.append(one.result())
                except LayerUnavailable as error:
                    reasons.append(f"{asked[one]}: {error}")
    finally:
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.wait(waiting)
    if not answers:
        raise LayerUnavailable("; ".join(reasons) or "there is nobody to ask")
    return max(answers, key=lambda answer: answer[0])
