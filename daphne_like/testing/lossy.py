"""
A channel layer that loses, doubles, delays and refuses: what the relay must survive, a suite must notice.

    layer = LossyLayer(MemoryChannelLayer(), drop=0.01, seed=7)

Around any layer. Each message, and each envelope that is posted through port(), meets one fate by chance; the
same seed gives the same fates in the same order. What was done is counted in `dropped`, `doubled`, `delayed`
and `refused`.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Literal

from daphne_like.layers.base import ChannelFull
from daphne_like.layers.port import Envelope, Port, PortUser

__all__ = ["LossyLayer", "LossyPort"]

Fate = Literal["pass", "drop", "double", "delay", "full"]


class Chance:
    """What becomes of each thing that passes; see LossyLayer for the arguments."""

    def __init__(self, *, drop: float, double: float, delay: float, full: float, seed: int) -> None:
        if not 0 <= drop + double + delay + full <= 1:
            raise ValueError("drop, double, delay and full are shares of one whole")
        self._shares: list[tuple[Fate, float]] = [
            ("drop", drop),
            ("double", double),
            ("delay", delay),
            ("full", full),
        ]
        self._random = random.Random(seed)
        self.counts: dict[Fate, int] = {"pass": 0, "drop": 0, "double": 0, "delay": 0, "full": 0}

    def next(self) -> Fate:
        drawn = self._random.random()
        met: Fate = "pass"
        for fate, share in self._shares:
            drawn -= share
            if drawn < 0:
                met = fate
                break
        self.counts[met] += 1
        return met


class LossyLayer:
    """
    Args:
        layer: what does the work; all of its other attributes are this one's too.
        drop, double, delay, full: the share, from 0 to 1, of messages that are lost in silence, sent twice, sent
            later than what follows, and refused with ChannelFull (group messages: lost).
        delay_seconds: how much later.
        seed: of the chances.
    """

    def __init__(
        self,
        layer: Any,
        *,
        drop: float = 0.0,
        double: float = 0.0,
        delay: float = 0.0,
        full: float = 0.0,
        delay_seconds: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.layer = layer
        self.chance = Chance(drop=drop, double=double, delay=delay, full=full, seed=seed)
        self.delay_seconds = delay_seconds
        self._later: set[asyncio.Task[None]] = set()

    @property
    def dropped(self) -> int:
        return self.chance.counts["drop"]

    @property
    def doubled(self) -> int:
        return self.chance.counts["double"]

    @property
    def delayed(self) -> int:
        return self.chance.counts["delay"]

    @property
    def refused(self) -> int:
        return self.chance.counts["full"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """As the layer's, or not."""
        if await self._meet_fate(self.layer.send, channel, message) == "full":
            raise ChannelFull(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """As the layer's, or not."""
        await self._meet_fate(self.layer.group_send, group, message)

    # Not left to __getattr__: a class is looked at for coroutine functions, and for what it has.

    async def receive(self, channel: str) -> Any:
        """As the layer's."""
        return await self.layer.receive(channel)

    async def new_channel(self, prefix: str = "specific") -> Any:
        """As the layer's."""
        return await self.layer.new_channel(prefix)

    async def group_add(self, group: str, channel: str) -> None:
        """As the layer's."""
        await self.layer.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """As the layer's."""
        await self.layer.group_discard(group, channel)

    async def flush(self) -> None:
        """As the layer's."""
        await self.layer.flush()

    async def close(self) -> None:
        """What is still delayed is lost."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self.layer.close()

    def port(self) -> "LossyPort":
        """The layer's port, as lossy."""
        return LossyPort(self.layer.port(), self.chance, self.delay_seconds)

    async def _meet_fate(self, send: Callable[..., Any], target: str, message: dict[str, Any]) -> Fate:
        fate = self.chance.next()
        if fate == "delay":
            task = asyncio.create_task(self._send_later(send, target, message))
            self._later.add(task)
            task.add_done_callback(self._later.discard)
        elif fate in ("pass", "double"):
            await send(target, message)
            if fate == "double":
                await send(target, message)
        return fate

    async def _send_later(self, send: Callable[..., Any], target: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(self.delay_seconds)
        try:
            await send(target, message)
        except ChannelFull:
            # Nobody is there any more to be told.
            self.chance.counts["full"] += 1


class LossyPort:
    """
    A port whose posts and offers get lost, doubled, delayed, and refused.

    A doubled or refused post is a lost one: posts have no capacity, and are numbered. An offer is not doubled.
    """

    def __init__(self, port: Port, chance: Chance, delay_seconds: float) -> None:
        self._port = port
        self._chance = chance
        self._delay_seconds = delay_seconds
        self._user: PortUser | None = None
        self._later: set[asyncio.TimerHandle] = set()

    @property
    def address(self) -> str:
        return self._port.address

    @property
    def knows_claims(self) -> bool:
        return self._port.knows_claims

    async def open(self, user: PortUser) -> None:
        """See Port."""
        self._user = user
        await self._port.open(user)

    async def close(self) -> None:
        """What is still delayed is lost."""
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        await self._port.close()

    def post(self, to: str, envelope: Envelope) -> None:
        """See Port."""
        fate = self._chance.next()
        if fate == "pass":
            self._port.post(to, envelope)
        elif fate == "delay":
            self._do_later(lambda: self._port.post(to, envelope))

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """See Port."""
        fate = self._chance.next()
        if fate in ("pass", "double"):
            return self._port.offer(channel, ref, opening, limit)
        if fate == "delay":
            self._do_later(lambda: self._offer_late(channel, ref, opening, limit))
        elif fate == "full" and self._user is not None:
            asyncio.get_running_loop().call_soon(self._user.offer_refused, ref)
        return ""

    def _offer_late(self, channel: str, ref: int, opening: list[Any], limit: int) -> None:
        by = self._port.offer(channel, ref, opening, limit)
        if by and self._user is not None:
            self._user.offer_claimed(ref, by)

    def withdraw(self, channel: str, ref: int) -> None:
        """Never lost: it is about what has not been sent."""
        self._port.withdraw(channel, ref)

    def serve(self, channel: str, places: int) -> None:
        """Never lost."""
        self._port.serve(channel, places)

    def flush(self) -> None:
        """See Port."""
        self._port.flush()

    def _do_later(self, call: Callable[[], None]) -> None:
        def run() -> None:
            self._later.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(self._delay_seconds, run)
        self._later.add(timer)
