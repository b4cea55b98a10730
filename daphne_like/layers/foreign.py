"""
Third-party layers for Channels, such as channels_redis, as one of ours: the same API, our errors.

What they raise is translated at this door. Of their libraries none is imported: classes are told by Channels'
own, where that is installed, and by the names that libraries give to what means "not connected".

Their guarantees stay their own. They have no port(); the relay makes one out of send() and receive().
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from daphne_like.errors import LayerUnavailable

from .base import FULL_ERRORS, TOO_LARGE_ERRORS, BaseChannelLayer, ChannelFull, MessageTooLarge

__all__ = ["ForeignLayer", "translated"]

# Class names, of the exception or of a base of it: redis.exceptions.ConnectionError, amqp's ConnectionClosed,
# and so on. OSError covers Python's own ConnectionError and TimeoutError.
_UNREACHABLE = {
    "ConnectionError",
    "TimeoutError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "MaxConnectionsError",
}


# Layers that give a message of a shared channel to every process that waits for one, where the specification
# says to one of them.
_BROADCASTING = {("channels_redis.pubsub", "RedisPubSubChannelLayer")}


class ForeignLayer(BaseChannelLayer):
    """
    Args:
        layer: the third party's; what it has beyond the API is reached through this object as well.

    Attributes:
        broadcasts: it is known to give a message of a shared channel to more than one receiver. Groups work;
            work cannot be shared out over it.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(
            expiry=_attribute(layer, "expiry", 60),
            group_expiry=_attribute(layer, "group_expiry", 86400),
            capacity=_attribute(layer, "capacity", 100),
        )
        self.layer = layer
        self.broadcasts = (type(layer).__module__, type(layer).__qualname__) in _BROADCASTING
        self.extensions = list(_attribute(layer, "extensions", ()))  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        with translated():
            await self.layer.send(channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        with translated():
            message: dict[str, Any] = await self.layer.receive(channel)
            return message

    async def new_channel(self, prefix: str = "specific") -> str:
        with translated():
            # Theirs have defaults of their own, such as "specific.".
            made = self.layer.new_channel() if prefix == "specific" else self.layer.new_channel(prefix)
            name: str = await made
            return name

    async def group_add(self, group: str, channel: str) -> None:
        with translated():
            await self.layer.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        with translated():
            await self.layer.group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        with translated():
            await self.layer.group_send(group, message)

    async def flush(self) -> None:
        with translated():
            await self.layer.flush()

    async def close(self) -> None:
        """By whichever of the names it has: close(), as the spec; close_pools(), as channels_redis."""
        for name in ("close", "close_pools"):
            if (close := getattr(self.layer, name, None)) is not None:
                with translated():
                    await close()
                return


def _attribute(layer: Any, name: str, default: Any) -> Any:
    try:
        return getattr(layer, name, default)
    except RuntimeError:  # channels_redis' pub/sub layer has its attributes on a running event loop only
        return default


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """
    Raises:
        ChannelFull, MessageTooLarge, LayerUnavailable: for what a third party's layer raises to the same effect.
            Anything else passes: it is the caller's fault, or a bug.
    """
    try:
        yield
    except Exception as error:
        # Ours already, such as of a layer that is built on ours.
        if isinstance(error, ChannelFull | MessageTooLarge | LayerUnavailable):
            raise
        if isinstance(error, FULL_ERRORS):
            raise ChannelFull(*error.args) from error
        if isinstance(error, TOO_LARGE_ERRORS):
            raise MessageTooLarge(*error.args) from error
        if _means_unreachable(type(error)):
            raise LayerUnavailable(f"{type(error).__name__}: {error}") from error
        raise


def _means_unreachable(kind: type[BaseException]) -> bool:
    return issubclass(kind, OSError | EOFError) or any(each.__name__ in _UNREACHABLE for each in kind.__mro__)
