"""
What becomes of a stream's memberships when its process dies: the engine cannot know, so the server is told.

Each membership of a relayed stream goes, as it comes and goes, to the stream's server, which keeps it as the
*will* of the process (MQTT's word): a group, and the channels of the stream that are in it. It travels with the
stream's other envelopes. When the process has died, the server gives the will along with the stream, and the
process that gets it finds the messages in the inbox that nobody reads any more (estates.py).

So the engine holds nothing for it, and has nothing to forget.

Called in any thread.
"""

import threading
from collections.abc import Callable, Iterator, Mapping

from ..groups import owner_name

__all__ = ["Wills", "read_will"]

# Tells the server; see `stream_will` in base.
Tell = Callable[[str, str | None], None]


class _Stream:
    __slots__ = ("groups", "tell")

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        # group -> channels
        self.groups: dict[str, dict[str, None]] = {}


class Wills:
    """The wills of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        # channel -> label of its stream
        self._labels: dict[str, str] = {}

    def added(self, label: str, group: str, channel: str, tell: Tell) -> None:
        """A channel of a stream is being added to a group."""
        with self._lock:
            stream = self._streams.get(label)
            if stream is None:
                stream = self._streams[label] = _Stream(tell)
            channels = stream.groups.setdefault(group, {})
            if channel in channels:
                return
            channels[channel] = None
            self._labels[channel] = label
            tell(group, " ".join(channels))

    def discarded(self, group: str, channel: str) -> None:
        """A channel leaves a group; of no stream: nothing happens."""
        label = self._labels.get(channel)
        if label is None:
            return
        with self._lock:
            stream = self._streams.get(label)
            channels = stream.groups.get(group) if stream is not None else None
            if stream is not None and channels is not None and channel in channels:
                del channels[channel]
                if not channels:
                    del stream.groups[group]
                stream.tell(group, " ".join(channels) or None)

    def over(self, label: str) -> None:
        """The stream's session has ended here."""
        with self._lock:
            stream = self._streams.pop(label, None)
            if stream is not None:
                for channels in stream.groups.values():
                    for channel in channels:
                        self._labels.pop(channel, None)


def read_will(will: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """(the member that died, a group, its channels in it), of each group."""
    for group, value in will.items():
        channels = value.split()
        if channels:
            yield owner_name(channels[0][: channels[0].find("!") + 1]), group, channels
