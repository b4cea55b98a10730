"""
What every channel layer of ours promises: the API of Channels' channel layer spec, its guarantees kept.

Channels
    A name without "!" is shared: any process sends to it, any process receives from it, and each message goes
    to one receiver. A name with "!" belongs to the process that made it with new_channel(): only that process
    receives from it.

Guarantees
    * First in, first out: what one sender sends to a channel reaches one reader of it in that order.
    * Never twice. A message is lost with the process that held it, and by its age; never doubled.
    * A cancelled receive() eats no message, not even in the turn in which the message arrived.
    * send() does not wait for room: it raises ChannelFull when `capacity` messages wait unread. Of names with
      "!" those of one process and prefix are counted together, on the part up to the "!".
    * What nobody has received `expiry` seconds after it was sent is never delivered.
    * group_send() sends to whoever is a member at that moment. It never raises ChannelFull: members whose
      channel is full miss the message, and that is counted. A process gets a group's message once, however
      many of its channels are members.
    * A membership ends with group_discard(), `group_expiry` seconds after its last group_add(), or with its
      process.
    * Messages are as the sender's were at the moment of sending, and are nobody else's object.
    * Usable from any number of event loops and threads at a time, so through async_to_sync as well.

Group messages in a handoff: while `current_stream` names a stream, group_add() labels memberships with it. When
a worker gives such a stream away, the layer keeps what its channels would have received, for the instance that
adds itself to the same groups under the same label: stream_leaving() and stream_left().
"""

import fnmatch
import importlib
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

from daphne_like import errors

from .port import Port

__all__ = [
    "FULL_ERRORS",
    "TOO_LARGE_ERRORS",
    "BaseChannelLayer",
    "Capacities",
    "ChannelFull",
    "MessageTooLarge",
    "current_stream",
    "stream_will",
]

current_stream: ContextVar[str] = ContextVar("current_stream", default="")
"""Label of the relayed stream whose application runs in this context; "" for none."""

stream_will: ContextVar[Callable[[str, str | None], None] | None] = ContextVar("stream_will", default=None)
"""
Has the server of that stream keep (name, value) for the case that this process dies: then the layer is told in
stream_inherited(), in the process where the stream goes on. None ends a name. May be called in any thread.
"""

_Error = TypeVar("_Error", bound=errors.LayerError)


def _with_channels(error: type[_Error]) -> tuple[type[_Error], tuple[type[Exception], ...]]:
    """
    *error* as Channels' handlers catch it too, and all classes that mean the same.

    Channels is no dependency of ours; who has it installed catches `channels.exceptions.ChannelFull`.
    """
    try:
        theirs = getattr(importlib.import_module("channels.exceptions"), error.__name__)
    except (ImportError, AttributeError):
        return error, (error,)
    ours = type(error.__name__, (error, theirs), {"__doc__": error.__doc__, "__module__": __name__})
    return ours, (error, theirs)


ChannelFull, FULL_ERRORS = _with_channels(errors.ChannelFull)
MessageTooLarge, TOO_LARGE_ERRORS = _with_channels(errors.MessageTooLarge)

_CHANNEL = re.compile(r"[a-zA-Z\d\-_.]+(![\w\-_.]*)?", re.ASCII)
_GROUP = re.compile(r"[a-zA-Z\d\-_.]+", re.ASCII)
_WHAT_A_NAME_IS = "has fewer than 100 characters, of ASCII letters, digits, hyphen, underscore and period"

# Names that were found good are remembered, up to so many: specific channels come and go.
_MAX_REMEMBERED = 20_000


class Capacities:
    """
    How many messages a channel may hold.

    Args:
        capacity: where no pattern matches.
        channel_capacity: glob or compiled pattern -> capacity; the first that matches counts.
    """

    def __init__(self, capacity: int, channel_capacity: Mapping[Any, int] | None = None) -> None:
        self.capacity = capacity
        self.patterns = [
            (pattern if hasattr(pattern, "match") else re.compile(fnmatch.translate(pattern)), value)
            for pattern, value in (channel_capacity or {}).items()
        ]

    def of(self, channel: str) -> int:
        """
        The capacity of *channel*.

        Channels with "!" share a capacity, so that what counts is what matches the part up to the "!"; a
        pattern that wants more than that is tried on the whole name.
        """
        if self.patterns:
            prefix = channel[: channel.find("!") + 1]
            for pattern, value in self.patterns:
                if pattern.match(channel) or (prefix and pattern.match(prefix)):
                    return value
        return self.capacity


class BaseChannelLayer:
    """
    The public API. Times in seconds.

    Args:
        expiry: age at which a message that nobody has received is dropped.
        group_expiry: age at which a membership ends that was not renewed.
        capacity: messages that a channel may hold.
        channel_capacity: glob or compiled pattern -> capacity.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    MAX_NAME_LENGTH = 100

    def __init__(
        self,
        *,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.capacity = capacity
        self.channel_capacity = dict(channel_capacity or {})
        self._capacities = Capacities(capacity, channel_capacity)
        # Looked up on the hot paths: `if channel not in self._good_channels: self.require_...`
        self._good_channels: set[str] = set()
        self._good_groups: set[str] = set()

    # Names.

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """
        Raises:
            TypeError: as Channels has it, for names of the wrong type and for wrong names.
        """
        if not isinstance(name, str) or len(name) >= self.MAX_NAME_LENGTH or not _CHANNEL.fullmatch(name):
            raise TypeError(f"not a channel name: {name!r}; one {_WHAT_A_NAME_IS}; at most one '!'")
        _remember(self._good_channels, name)
        return True

    def require_valid_group_name(self, name: str) -> bool:
        """
        Raises:
            TypeError: as Channels has it, for names of the wrong type and for wrong names.
        """
        if not isinstance(name, str) or len(name) >= self.MAX_NAME_LENGTH or not _GROUP.fullmatch(name):
            raise TypeError(f"not a group name: {name!r}; one {_WHAT_A_NAME_IS}")
        _remember(self._good_groups, name)
        return True

    def non_local_name(self, name: str) -> str:
        """The part of a name that capacity is counted on: up to and with the "!", or all of it."""
        cut = name.find("!")
        return name if cut < 0 else name[: cut + 1]

    def get_capacity(self, channel: str) -> int:
        """How many messages *channel* may hold."""
        return self._capacities.of(channel)

    # Channels.

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """
        Raises:
            ChannelFull: it holds as many messages as it may.
            MessageTooLarge: over 1 MiB packed.
            InvalidMessage: not a dict of the types that travel.
            LayerUnavailable: the layer is out of reach.
            TypeError: not a channel name.
        """
        raise NotImplementedError

    async def receive(self, channel: str) -> dict[str, Any]:
        """
        The next message of *channel*, waited for.

        Raises:
            LayerUnavailable: the layer was closed meanwhile.
            TypeError: not a channel name.
            ValueError: a channel of another process.
        """
        raise NotImplementedError

    async def new_channel(self, prefix: str = "specific") -> str:
        """A name that nothing else has, for receive() in this process."""
        raise NotImplementedError

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        """Make *channel* a member, for `group_expiry` seconds from now. What it is already is renewed."""
        raise NotImplementedError

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership. Where there is none nothing happens."""
        raise NotImplementedError

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send to all members of *group*; those that are full miss it. Raises as send() otherwise."""
        raise NotImplementedError

    # The whole.

    async def flush(self) -> None:
        """Forget all messages and groups, in all processes. Who waits in receive() waits on."""
        raise NotImplementedError

    async def open(self) -> None:
        """
        Join now, on the running event loop, where there is something to join. Else the first use does.

        Raises:
            LayerUnavailable: the layer is out of reach.
        """

    async def close(self) -> None:
        """Leave the layer. Who waits in receive() gets LayerUnavailable."""
        raise NotImplementedError

    # For the relay.

    def port(self) -> Port:
        """
        A door for envelopes: see `daphne_like.layers.port`.

        Raises:
            NotImplementedError: the layer has none; the relay makes one of send() and receive().
        """
        raise NotImplementedError

    def stream_leaving(self, stream: str) -> None:
        """
        A stream of this process is being given away: keep its group messages for its next instance.

        Called before the application hears of it, so that what it discards on its way out is kept all the same.
        Layers that cannot do it do nothing.
        """

    def stream_left(self, stream: str) -> None:
        """
        The session of a stream is over: hand over what its channels hold, if it was leaving.

        Called for every session that ends, and before others learn of the end.
        """

    def stream_inherited(self, stream: str, will: Mapping[str, str]) -> None:
        """
        A stream comes here because the process that had it has died, and this is what its layer has left.

        Called before the application runs. See `stream_will`; layers whose hub sees members die need none.
        """


def _remember(names: set[str], name: str) -> None:
    if len(names) >= _MAX_REMEMBERED:
        names.clear()
    names.add(name)
