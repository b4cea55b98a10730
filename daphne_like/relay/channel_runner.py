"""
Named channels in a worker: an application instance for the messages of one channel.

As Channels' ChannelNameRouter and consumers expect it: scope {"type": "channel", "channel": name}, receive()
gives the channel's messages, nothing can be sent. The instance is made for the first message, and lives for as
long as it likes; one that raises is logged and the next message gets a new one.

What is not received waits on the layer, within the channel's capacity.
"""

import asyncio
import logging
from typing import Any, Protocol

from daphne_like import logs
from daphne_like.asgi.messages import message_type
from daphne_like.errors import LayerError, UnexpectedMessage
from daphne_like.typing import ASGIApplication, Message

__all__ = ["ChannelRunner", "Layer"]

log = logging.getLogger(logs.APPLICATION)

# After the layer has failed.
PAUSE = 1.0


class Layer(Protocol):
    """Of a channel layer, what is used here."""

    async def receive(self, channel: str) -> dict[str, Any]:
        """The channel's next message."""


class ChannelRunner:
    """
    Args:
        application: ASGI 3.
        layer: where *channel* is.
    """

    def __init__(self, application: ASGIApplication, layer: Layer, channel: str) -> None:
        self._application = application
        self._layer = layer
        self._channel = channel
        self._draining = False
        self._waiting = False  # nothing is in hand
        self._first: Message | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to receive."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def drain(self) -> None:
        """Receive nothing more; the message in hand is finished."""
        self._draining = True
        if self._waiting and self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until the message in hand is finished, after drain()."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def stop(self) -> None:
        """End, whatever is in hand."""
        self._draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=PAUSE)

    async def _run(self) -> None:
        scope = {"type": "channel", "channel": self._channel}
        while not self._draining:
            try:
                self._first = await self._next()
            except asyncio.CancelledError:
                return
            except LayerError as error:
                log.warning(
                    "channel cannot be received from now",
                    extra={"channel": self._channel, "reason": str(error)},
                )
                await asyncio.sleep(PAUSE)
                continue
            try:
                await self._application(scope.copy(), self._receive, self._send)
            except BaseException as error:
                if not (isinstance(error, asyncio.CancelledError) and self._is_ending()):
                    log.error("application failed", exc_info=error, extra={"channel": self._channel})

    def _is_ending(self) -> bool:
        return self._draining

    async def _next(self) -> Message:
        self._waiting = True
        try:
            return await self._layer.receive(self._channel)
        finally:
            self._waiting = False

    async def _receive(self) -> Message:
        first = self._first
        if first is not None:
            self._first = None
            return first
        if self._draining:
            # Asking for more means that the one in hand is done.
            assert self._task is not None
            self._task.cancel()
            await asyncio.get_running_loop().create_future()
        return await self._next()

    async def _send(self, message: Message) -> None:
        raise UnexpectedMessage("channel", message_type(message))
