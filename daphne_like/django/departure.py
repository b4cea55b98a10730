"""
How the handler learns that a client has left.

Our own streams call back (asgi/departure.py). Elsewhere a task waits in receive(), as Django's handler has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daphne_like.asgi.direct import Exchange
from daphne_like.typing import Receive

__all__ = ["Departure"]


class Departure:
    """
    Args:
        receive: to be listened to, where there is no exchange.

    Attributes:
        departed: the client has left.
        on_departed: what to do then, once.
    """

    def __init__(self, exchange: Exchange | None, receive: Receive | None) -> None:
        self.departed = False
        self.on_departed: Callable[[], object] | None = None
        self._exchange = exchange
        self._listener: asyncio.Task[None] | None = None
        self._cancelled = False
        self._error: BaseException | None = None
        if exchange is not None:
            exchange.tell_departure(self._told)
        elif receive is not None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(receive))

    def cancels_current_task(self) -> None:
        """From now on a departure cancels this task; who catches that asks absorb_cancel()."""
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            self._cancelled = True
            task.cancel()

        self.on_departed = cancel
        if self.departed:
            self._depart()

    def absorb_cancel(self) -> bool:
        """Whether the CancelledError at hand is the departure's, and nothing else's."""
        if not self._cancelled:
            return False
        self._cancelled = False
        task = asyncio.current_task()
        assert task is not None
        return task.uncancel() == 0

    def check(self) -> None:
        """Raise what is wrong with what the server said, if anything is."""
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Listen no more."""
        self.on_departed = None
        if self._exchange is not None:
            self._exchange.tell_departure(None)
        elif self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))

    def _told(self, lost: bool) -> None:
        self.departed = True
        self._depart()

    def _depart(self) -> None:
        callback, self.on_departed = self.on_departed, None
        if callback is not None:
            callback()

    async def _listen(self, receive: Receive) -> None:
        message = await receive()
        if message["type"] != "http.disconnect":
            self._error = AssertionError(f"Invalid ASGI message after request body: {message['type']}")
        self._told(True)
