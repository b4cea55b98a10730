"""A hub under a clock that stands still, and members that write down what they are told."""

from typing import Any

from daphne_like.layers.hub import Hub


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Member:
    """An End; `told` is every call but member_gone, in order."""

    def __init__(self, name: str, hub: Hub | None = None) -> None:
        self.name = name
        self.told: list[tuple[Any, ...]] = []
        self.gone: list[str] = []
        if hub is not None:
            hub.join(self)

    def take(self) -> list[tuple[Any, ...]]:
        """What it was told since the last time."""
        told, self.told = self.told, []
        return told

    def messages(self) -> list[bytes]:
        """Payloads of channels and groups since the last time."""
        return [call[2] for call in self.take() if call[0] in ("deliver", "group", "kept")]

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None:
        self.told.append(("deliver", channel, payload, counted))

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None:
        self.told.append(("group", group, payload))

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None:
        self.told.append(("kept", channel, payload, group))

    def group_added(self, group: str, channel: str) -> None:
        self.told.append(("added", group, channel))

    def group_discarded(self, group: str, channel: str) -> None:
        self.told.append(("discarded", group, channel))

    def stream_diverted(self, stream: str) -> None:
        self.told.append(("diverted", stream))

    def flushed(self) -> None:
        self.told.append(("flushed",))

    def deliver_post(self, sender: str, payload: bytes) -> None:
        self.told.append(("post", sender, payload))

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None:
        self.told.append(("offer", channel, sender, ref, payload))

    def claimed(self, ref: int, by: str) -> None:
        self.told.append(("claimed", ref, by))

    def member_gone(self, name: str) -> None:
        self.gone.append(name)
