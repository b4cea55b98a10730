"""
A port through a channel layer that has none: send(), receive() and new_channel() are all that is needed.

    offers      messages on the shared channel itself, {"type": "relay.offer", "from", "ref", "opening"}
    envelopes   messages on the other's own channel, {"type": "relay.envelopes", "from", "batch"}
    life        {"type": "relay.alive", "from"} to everybody heard of, each second; "relay.gone" at the end

Such layers do not tell who has taken an offer (workers say BOUND), cannot take an offer back, and may lose
messages (sequence numbers and KEEPALIVE notice). They may be full: then a message is tried again for a while.
What is posted to one address while a message to it is on its way leaves together with the next.

A member that is not heard of for MEMBER_TIMEOUT is gone. Members that know of each other keep each other alive,
so that this costs one message per pair and second, whatever the number of streams.
"""

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any

from daphne_like import logs
from daphne_like.errors import ChannelFull, ConfigurationError, LayerUnavailable
from daphne_like.layers.foreign import ForeignLayer
from daphne_like.layers.port import Envelope, Port, PortUser
from daphne_like.relay.envelope import BOUND, END, EVENTS, item_cost

__all__ = ["ForeignPort", "port_of"]

log = logging.getLogger(logs.SERVER)

ALIVE_EVERY = 1.0
MEMBER_TIMEOUT = 15.0

# For how long a message is tried again where its channel is full, and how often.
FULL_TIMEOUT = 10.0
FULL_PAUSE = 0.05

# How often a layer that cannot be reached is tried again.
UNREACHABLE_PAUSE = 1.0

# A receive() that fails after so long has most likely only been waiting.
LONG_WAIT = 1.0

# How long what a member has said before its end may be on its way.
LAST_WORDS = 1.0

# What goes into one message, in octets as credit counts them; layers carry 1 MB.
MAX_BATCH = 384 * 1024


def port_of(layer_or_port: Any) -> Port:
    """
    The way to others through a port, which it is, a layer of ours, which has one, or any other layer.

    Raises:
        ConfigurationError: a layer over which work cannot be shared out.
    """
    if hasattr(layer_or_port, "offer"):
        port: Port = layer_or_port
        return port
    if callable(getattr(layer_or_port, "port", None)):
        try:
            made: Port = layer_or_port.port()
            return made
        except NotImplementedError:
            layer = layer_or_port
    else:
        layer = ForeignLayer(layer_or_port)
    if getattr(layer, "broadcasts", False):
        raise ConfigurationError(
            f"--layer: {type(layer.layer).__name__} gives a message to every process, so that each worker would"
            " run each request; channels_redis.core does not"
        )
    return ForeignPort(layer)


class ForeignPort:
    """
    A port (layers.port.Port).

    Args:
        layer: errors translated to ours (layers.foreign).
    """

    knows_claims = False

    def __init__(self, layer: Any) -> None:
        self.address = ""
        self._layer = layer
        self._user: PortUser | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes: dict[str, _Lane] = {}
        self._servers: dict[str, asyncio.Task[None]] = {}  # who receives offers, by channel
        self._places: dict[str, int] = {}
        self._heard: dict[str, float] = {}  # by address, when
        self._reachable = False
        self._ticked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ---- layers.port.Port

    async def open(self, user: PortUser) -> None:
        """See Port."""
        self._user = user
        self._loop = asyncio.get_running_loop()
        # With the default prefix: channels_redis reads one at a time, and consumers' channels have this one.
        self.address = await self._layer.new_channel()
        self._reachable = True
        self._begin()

    def _begin(self) -> None:
        assert self._loop is not None
        self._start(self._receive_envelopes())
        self._ticked = self._loop.time()
        self._timer = self._loop.call_later(ALIVE_EVERY, self._tick)

    def post(self, to: str, envelope: Envelope) -> None:
        """See Port."""
        if self._reachable:
            self._lane(to).add(envelope)

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """See Port. The limit is the layer's own."""
        if self._reachable:
            message = {"type": "relay.offer", "from": self.address, "ref": ref, "opening": opening}
            self._start(self._send_offer(channel, ref, message))
        return ""

    def withdraw(self, channel: str, ref: int) -> None:
        """Not possible. Who takes it all the same is told by the offerer that it is over."""

    def serve(self, channel: str, places: int) -> None:
        """See Port."""
        self._places[channel] = self._places.get(channel, 0) + places
        if self._places[channel] > 0 and channel not in self._servers and self._reachable:
            self._servers[channel] = self._start(self._receive_offers(channel))

    def member_suspended(self, address: str, suspended: bool) -> None:
        """Not possible. A worker that is stuck takes nothing by itself."""

    def member_ended(self, address: str) -> None:
        """See Port."""
        if self._loop is not None and address in self._heard:
            self._loop.call_later(LAST_WORDS, self._gone, address)

    def flush(self) -> None:
        """Nothing waits here for the end of a turn, but for the layer."""

    async def close(self) -> None:
        """See Port: what was posted is sent first, if the layer takes it."""
        user, self._user = self._user, None
        if user is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._reachable:
            for address in self._heard:
                self._lane(address).say_last({"type": "relay.gone", "from": self.address})
            sending = [lane.task for lane in self._lanes.values() if lane.task is not None]
            if sending:
                await asyncio.wait(sending, timeout=FULL_TIMEOUT)
        self._reachable = False
        await self._end_tasks()
        self.address = ""

    # ---- tasks

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end_tasks(self) -> None:
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._lanes.clear()
        self._servers.clear()

    # ---- sending

    def _lane(self, to: str) -> "_Lane":
        lane = self._lanes.get(to)
        if lane is None:
            lane = self._lanes[to] = _Lane(self, to)
        return lane

    async def _send_offer(self, channel: str, ref: int, message: dict[str, Any]) -> None:
        try:
            await self._layer.send(channel, message)
        except LayerUnavailable as error:
            self._lost(error)
        except ChannelFull:
            if self._user is not None:
                self._user.offer_refused(ref)
        except Exception:
            log.exception("the channel layer did not take an offer", extra={"channel": channel})
            if self._user is not None:
                self._user.offer_refused(ref)

    async def send_in_time(self, to: str, message: dict[str, Any]) -> bool:
        """Send *message*, trying again while its channel is full; False when that took too long."""
        assert self._loop is not None
        give_up_at = self._loop.time() + FULL_TIMEOUT
        pause = FULL_PAUSE
        while True:
            try:
                await self._layer.send(to, message)
            except ChannelFull:
                if self._loop.time() > give_up_at:
                    log.warning("a member does not read, gave it up", extra={"member": to})
                    return False
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, 1.0)
            except LayerUnavailable as error:
                self._lost(error)
                return True
            except Exception:  # a third party's: nobody knows which
                log.exception("the channel layer did not take envelopes", extra={"member": to})
                return False
            else:
                return True

    # ---- receiving

    async def _receive_envelopes(self) -> None:
        while True:
            message = await self._receive(self.address)
            user = self._user
            if message is None or user is None:
                return
            sender = message.get("from")
            if not isinstance(sender, str) or not sender:
                continue
            self._hear(sender)
            kind = message.get("type")
            if kind == "relay.envelopes" and isinstance(message.get("batch"), (list, tuple)):
                user.envelopes_received(sender, list(message["batch"]))
            elif kind == "relay.gone":
                self._gone(sender)

    def _hear(self, sender: str) -> None:
        assert self._loop is not None
        self._heard[sender] = self._loop.time()

    async def _receive_offers(self, channel: str) -> None:
        try:
            while self._places[channel] > 0:
                message = await self._receive(channel)
                if message is None or self._user is None:
                    return
                sender, ref, opening = map(message.get, ("from", "ref", "opening"))
                if not (isinstance(sender, str) and isinstance(ref, int) and isinstance(opening, list)):
                    log.warning("a message that is no offer", extra={"channel": channel})
                elif self._places[channel] <= 0:
                    # Places were taken back meanwhile. Cancelling receive() could have lost the message.
                    await self._layer.send(channel, message)
                else:
                    self._places[channel] -= 1
                    if sender not in self._heard:
                        self._hear(sender)
                    self._user.offer_received(channel, sender, ref, opening)
        except ChannelFull:
            log.warning("could not give an offer back; it will be made again", extra={"channel": channel})
        except LayerUnavailable as error:
            self._lost(error)
        finally:
            if self._servers.get(channel) is asyncio.current_task():
                del self._servers[channel]

    async def _receive(self, channel: str) -> dict[str, Any] | None:
        """The next message; None when the layer is lost."""
        assert self._loop is not None
        while True:
            began = self._loop.time()
            try:
                message: dict[str, Any] = await self._layer.receive(channel)
            except LayerUnavailable as error:
                if self._loop.time() - began >= LONG_WAIT:
                    continue  # a client library that does not wait for ever; one out of reach fails at once
                self._lost(error)
                return None
            except Exception:  # a third party's: nobody knows which
                log.exception("the channel layer failed to receive", extra={"channel": channel})
                await asyncio.sleep(UNREACHABLE_PAUSE)
            else:
                return message

    # ---- life

    def _tick(self) -> None:
        """Tell the others that we live, and look who has not told us."""
        assert self._loop is not None
        now = self._loop.time()
        late = now - self._ticked - ALIVE_EVERY
        self._ticked = now
        if late > ALIVE_EVERY:
            # It was we who stood still; what they have said meanwhile is still to be read.
            for address in self._heard:
                self._heard[address] += late
        for address, heard in list(self._heard.items()):
            if now - heard > MEMBER_TIMEOUT:
                self._gone(address)
            else:
                self._lane(address).say_alive()
        self._timer = self._loop.call_later(ALIVE_EVERY, self._tick)

    def _gone(self, address: str) -> None:
        self._heard.pop(address, None)
        lane = self._lanes.pop(address, None)
        if lane is not None:
            lane.drop()
        if self._user is not None:
            self._user.member_gone(address)

    def given_up(self, lane: "_Lane") -> None:
        """The channel of a member stays full, or what is for it cannot be sent."""
        if self._lanes.get(lane.to) is lane:
            self._gone(lane.to)

    def _lost(self, error: LayerUnavailable) -> None:
        """The layer is out of reach: try it until it is there again."""
        if not self._reachable or self._user is None:
            return
        self._reachable = False
        log.error("the channel layer is lost", extra={"reason": str(error)})
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes.values():
            lane.drop()
        self._heard.clear()
        self._places.clear()
        self._user.port_lost()
        self._start(self._regain())

    async def _regain(self) -> None:
        await self._end_tasks()
        while True:
            try:
                self.address = await self._layer.new_channel()
                await self._layer.send(self.address, {"type": "relay.alive", "from": ""})
            except LayerUnavailable:
                await asyncio.sleep(UNREACHABLE_PAUSE)
            else:
                break
        if self._user is not None:
            self._reachable = True
            self._begin()
            self._user.port_regained()


class _Lane:
    """What is on its way to one address: in order, a message at a time."""

    def __init__(self, port: ForeignPort, to: str) -> None:
        self.to = to
        self.task: asyncio.Task[None] | None = None
        self._port = port
        self._envelopes: list[Envelope] = []
        self._alive = False
        self._last: dict[str, Any] | None = None

    def add(self, envelope: Envelope) -> None:
        """Send *envelope* after those before it."""
        self._envelopes.append(envelope)
        self._go()

    def say_alive(self) -> None:
        """Send something, if nothing else is on its way."""
        if self.task is None:
            self._alive = True
            self._go()

    def say_last(self, message: dict[str, Any]) -> None:
        """Send *message* after all else."""
        self._last = message
        self._go()

    def drop(self) -> None:
        """Send nothing more."""
        self._envelopes.clear()
        self._alive = False
        self._last = None

    def _go(self) -> None:
        if self.task is None:
            self.task = self._port._start(self._send())

    async def _send(self) -> None:
        try:
            while True:
                if self._envelopes:
                    batch = self._take_batch()
                    message = {"type": "relay.envelopes", "from": self._port.address, "batch": batch}
                elif self._last is not None:
                    message, self._last = self._last, None
                elif self._alive:
                    message = {"type": "relay.alive", "from": self._port.address}
                else:
                    return
                self._alive = False
                if not await self._port.send_in_time(self.to, message):
                    self.drop()
                    self._port.given_up(self)
                    return
        finally:
            self.task = None

    def _take_batch(self) -> list[Envelope]:
        """
        What goes into the next message.

        BOUND goes alone: with the answer it would say nothing about a worker that dies in between.
        """
        envelopes = self._envelopes
        count = 1
        if envelopes[0][0] == BOUND:
            while count < len(envelopes) and envelopes[count][0] == BOUND:
                count += 1
        else:
            size = _size(envelopes[0])
            while count < len(envelopes) and envelopes[count][0] != BOUND:
                size += _size(envelopes[count])
                if size > MAX_BATCH:
                    break
                count += 1
        batch = envelopes[:count]
        del envelopes[:count]
        return batch


def _size(envelope: Envelope) -> int:
    if envelope[0] == EVENTS:
        return sum(map(item_cost, envelope[4]))
    return sum(map(item_cost, envelope[6])) if envelope[0] == END else 0
