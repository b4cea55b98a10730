"""
The relay's door to a layer on Redis.

A port is a member of its own, with a name, a lease and an inbox (presence.py). All of its keys are its own, too,
so that flush() of the layer leaves streams alone; the names of shared channels are

    {P}:offers:{<channel>.<k>}    list: offers that wait, part k

**Envelopes** are numbered and kept until they are confirmed (pair.py). So nothing of them is lost, and nothing
comes twice, when the engine is restarted, empty or not, or fails over: what was on its way is pushed again.
While it is away, posts wait, and streams with them; the user is told port_stalled(), and begins no new ones.

**Offers** are pushed on the list of their channel, and taken by whoever serves it (offering.py): as many at once
as it has places for, but not all, for others to get some. Who takes one claims it at once, before its
application runs. An offer that is not in the list any more and that nobody claims went down with a worker, or
with the engine: its user is told that somebody unknown had it, and died.

A port that others take for dead, since its process stood still for long, comes back as somebody else:
port_lost(), port_regained().

What when full: a list of offers has the limit given with each offer; of what is posted, credit is the bound.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from daphne_like import logs
from daphne_like.errors import LayerError, LayerUnavailable

from ..codec import pack, unpack_tuples
from ..encryption import Encryption
from ..memory import new_name
from ..port import Envelope, PortUser
from .doubts import GRANT_AFTER, TROUBLED, Doubts
from .engine import Engine
from .offering import Offering, Serving, give_back
from .port_scripts import ALL_OF_PORTS
from .presence import Presence
from .topology import Topology

__all__ = ["RedisPort"]

log = logging.getLogger(logs.LAYERS)

# Seconds.
TICK = 1.0
# A tick that is so late says that this process stood still, and may be taken for dead.
STOOD_STILL = 10.0
# For an engine that is away: not worth a word to the user before.
STALLED_AFTER = 1.0
# For what was posted to leave, at the end.
FAREWELL = 2.0
# For which no offers are taken, once somebody has said so; it is said each second.
HOLD_FOR = 3.0

# As whom an offer was taken that nobody claims.
UNKNOWN = "unknown"


class RedisPort:
    """
    See Port.

    Args:
        make_topology: gives a new one.
        prefix: of the layer's keys.
        send_timeout: seconds to wait for the engine.
        encryption: of what is written there.
        make_engine: tests have engines of their own.
    """

    knows_claims = True

    def __init__(
        self,
        make_topology: Callable[[], Topology],
        *,
        prefix: str = "asgi",
        send_timeout: float = 10.0,
        encryption: Encryption | None = None,
        make_engine: Callable[..., Engine] = Engine,
    ) -> None:
        self.address = ""
        self._make_topology = make_topology
        self._prefix = prefix
        self._send_timeout = send_timeout
        self._encryption = encryption
        self._make_engine = make_engine
        self._user: PortUser | None = None
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Under the present name; None while there is none.
        self._presence: Presence | None = None
        self._offering: Offering | None = None
        self._serving: dict[str, Serving] = {}
        # Offers of somebody of whom nothing is known yet.
        self._meeting: dict[bytes, list[tuple[str, int, bytes]]] = {}
        # Those that may have been taken before, by the present name.
        self._doubts: Doubts | None = None
        self._holding: asyncio.TimerHandle | None = None
        self._stalled = False
        self._stalling: asyncio.TimerHandle | None = None

    # -- Port --------------------------------------------------------------------------------------

    async def open(self, user: PortUser) -> None:
        """See Port."""
        if self._engine is not None:
            raise LayerUnavailable("the port is open already")
        self._loop = asyncio.get_running_loop()
        engine = self._make_engine(
            self._make_topology(), send_timeout=self._send_timeout, user=self, scripts=ALL_OF_PORTS
        )
        self._engine = engine
        self._user = user
        try:
            await engine.start()
            await engine.ready()
            await self._join(engine)
        except BaseException:
            self._user = self._engine = None
            await engine.close()
            raise
        self._start(self._live())

    def post(self, to: str, envelope: Envelope) -> None:
        """
        Raises:
            InvalidMessage: the envelope holds what does not travel.
        """
        packed = pack(envelope)
        if self._presence is None:
            return
        if to == self.address:
            assert self._loop is not None
            self._loop.call_soon(self._hand_in_own, to, packed)
        else:
            self._presence.post(to, packed)

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """
        Raises:
            InvalidMessage: the opening holds what does not travel.
        """
        payload = pack(opening)
        if self._encryption is not None:
            payload = self._encryption.seal(payload)
        if self._offering is not None:
            self._offering.offer(channel, ref, payload, limit)
        return ""

    def withdraw(self, channel: str, ref: int) -> None:
        """See Port."""
        if self._offering is not None:
            self._offering.withdraw(channel, ref)

    def serve(self, channel: str, places: int) -> None:
        """See Port."""
        if self._engine is None or self._presence is None:
            return
        serving = self._serving.get(channel)
        if serving is None:
            serving = self._serving[channel] = Serving(
                self._engine, self._prefix, channel, lambda *offer: self._taken(channel, *offer)
            )
            serving.hold(self._holding is not None)
        serving.add(places)

    def flush(self) -> None:
        """What was posted leaves at the end of the turn, or with the engine's next batch."""

    async def close(self) -> None:
        """See Port."""
        engine = self._engine
        if engine is None:
            return
        presence = self._presence
        self._user = self._presence = self._offering = self._doubts = None
        self.address = ""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._stop_stalling()
        self._release()
        try:
            async with asyncio.timeout(FAREWELL):
                # What was read already goes back before anybody is told.
                await self._stop_serving()
                for name, offers in self._meeting.items():
                    for offer in offers:
                        self._give_back(name, *offer)
                if presence is not None:
                    await presence.leave()
        except (TimeoutError, LayerError) as error:
            log.debug("left the layer without a word", extra={"reason": str(error)})
        finally:
            self._engine = None
            self._meeting.clear()
            if presence is not None:
                await presence.stop()
            await engine.close()

    async def _stop_serving(self) -> None:
        serving, self._serving = self._serving, {}
        await asyncio.gather(*(each.stop() for each in serving.values()))

    def member_ended(self, address: str) -> None:
        """Who knows it says that the process of the member at *address* has ended."""
        if self._presence is not None:
            self._presence.member_ended(address)
        if self._offering is not None:
            self._offering.hurry()

    def member_suspended(self, address: str, suspended: bool) -> None:
        """See Port."""
        if self._presence is not None:
            self._presence.member_suspended(address, suspended)

    # -- coming and going --------------------------------------------------------------------------

    async def _join(self, engine: Engine) -> None:
        """Be somebody new. Raises LayerUnavailable."""
        name = new_name()
        for _ in range(100):
            # In a cluster some names are where nobody is at the moment.
            if engine.reaches(name):
                break
            name = new_name()
        presence = Presence(engine, self._prefix, name, self._encryption, self)
        await presence.begin()
        self._presence = presence
        self._offering = Offering(engine, self._prefix, name, self._offer_refused, self._offer_lost)
        self._doubts = Doubts(presence.ask, self._offered, lambda channel: self.serve(channel, 1))
        self.address = name

    async def _live(self) -> None:
        assert self._loop is not None
        while True:
            asleep = self._loop.time()
            await asyncio.sleep(TICK)
            stood_still = self._loop.time() - asleep > STOOD_STILL
            try:
                if stood_still and self._presence is not None and not await self._presence.lives():
                    self.given_up("this process stood still")
                await self._look()
            except LayerError as error:
                log.debug("could not look after the port", extra={"reason": str(error)})

    async def _look(self) -> None:
        if self._presence is not None and self._offering is not None:
            self._offering.look()
            if self._doubts:
                self._doubts.look()
            await self._presence.look()

    def given_up(self, reason: str) -> None:
        """See PresenceUser."""
        presence, self._presence = self._presence, None
        if presence is None or self._engine is None:
            return
        presence.end()
        self._offering = self._doubts = None
        log.warning(
            "others take this port for dead, it joins again",
            extra={"address": self.address, "reason": reason},
        )
        self._tell(lambda user: user.port_lost())
        self._start(self._join_again(self._engine, presence))

    async def _join_again(self, engine: Engine, before: Presence) -> None:
        await self._stop_serving()
        try:
            await before.leave()
        except LayerError as error:
            log.debug("left the layer without a word", extra={"reason": str(error)})
        await before.stop()
        while self._presence is None:
            try:
                await self._join(engine)
            except LayerUnavailable as error:
                log.debug("could not join again", extra={"reason": str(error)})
                await asyncio.sleep(random.uniform(TICK / 2, TICK))
        self._tell(lambda user: user.port_regained())

    # -- EngineUser --------------------------------------------------------------------------------

    def engine_back(self) -> None:
        """See EngineUser."""
        if self._presence is None or self._engine is None:
            return
        self._presence.engine_back()
        if self._offering is not None:
            self._offering.hurry()
        if self._engine.reaches(self.address):
            self._stop_stalling()
            if self._stalled:
                self._stalled = False
                self._tell(lambda user: user.port_resumed())

    def engine_lost(self, reason: str) -> None:
        """See EngineUser."""
        if self._presence is None or self._engine is None or self._engine.reaches(self.address):
            return
        if self._stalling is None and not self._stalled:
            assert self._loop is not None
            self._stalling = self._loop.call_later(STALLED_AFTER, self._stall)

    def _stall(self) -> None:
        self._stalling = None
        self._stalled = True
        self._tell(lambda user: user.port_stalled())

    def _stop_stalling(self) -> None:
        if self._stalling is not None:
            self._stalling.cancel()
            self._stalling = None

    # -- PresenceUser ------------------------------------------------------------------------------

    def envelopes_arrived(self, sender: str, payload: bytes) -> None:
        """See PresenceUser."""
        batch = unpack_tuples(payload)
        self._tell(lambda user: user.envelopes_received(sender, batch))

    def claim_arrived(self, sender: str, ref: int) -> None:
        """See PresenceUser."""
        if self._offering is not None:
            self._offering.claimed(ref)
        self._tell(lambda user: user.offer_claimed(ref, sender))

    def claim_asked(self, sender: str, ref: int) -> None:
        """See PresenceUser."""
        presence = self._presence
        if presence is None or self._loop is None:
            return
        if self._loop.time() < presence.troubled_at + TROUBLED:
            self._loop.call_later(GRANT_AFTER, self._grant, presence, sender, ref)
        else:
            self._grant(presence, sender, ref)

    def _grant(self, presence: Presence, sender: str, ref: int) -> None:
        if presence is self._presence and self._offering is not None and self._offering.grant(ref, sender):
            presence.grant(sender, ref)

    def claim_granted(self, name: bytes, ref: int) -> None:
        """See PresenceUser."""
        if self._doubts is not None:
            self._doubts.grant(name, ref)

    def hold_asked(self, hold: bool) -> None:
        """See PresenceUser."""
        assert self._loop is not None
        self._release()
        if hold:
            self._holding = self._loop.call_later(HOLD_FOR, self._release)
            for serving in self._serving.values():
                serving.hold(True)

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
            for serving in self._serving.values():
                serving.hold(False)

    def member_left(self, name: str) -> None:
        """See PresenceUser."""
        if self._offering is not None:
            # What it had taken and not claimed is found soon.
            self._offering.hurry()
        self._tell(lambda user: user.member_gone(name))

    def _hand_in_own(self, address: str, packed: bytes) -> None:
        if address == self.address:
            self._tell(lambda user: user.envelopes_received(address, [unpack_tuples(packed)]))

    # -- offers ------------------------------------------------------------------------------------

    def _offer_refused(self, ref: int) -> None:
        self._tell(lambda user: user.offer_refused(ref))

    def _offer_lost(self, ref: int) -> None:
        """Somebody took it, and does not live to tell."""
        log.warning("an offer was taken and not claimed", extra={"address": self.address})
        self._tell(lambda user: user.offer_claimed(ref, UNKNOWN))
        self._tell(lambda user: user.member_gone(UNKNOWN))

    def _taken(self, channel: str, name: bytes, ref: int, sealed: bytes, doubtful: bool) -> None:
        if doubtful and self._doubts is not None:
            self._doubts.put(channel, name, ref, sealed)
        else:
            self._offered(channel, name, ref, sealed)

    def _offered(self, channel: str, name: bytes, ref: int, sealed: bytes) -> None:
        """An offer that is ours. Of somebody unknown: first see whether that one lives."""
        presence = self._presence
        if presence is None:
            self._give_back(name, channel, ref, sealed)
        elif name in self._meeting:
            self._meeting[name].append((channel, ref, sealed))
        elif presence.knows(name):
            self._take(presence, name, channel, ref, sealed)
        else:
            self._meeting[name] = [(channel, ref, sealed)]
            self._start(self._meet(presence, name))

    async def _meet(self, presence: Presence, name: bytes) -> None:
        try:
            lives = await presence.meet(name)
        except LayerError:
            lives = True
        offers = self._meeting.pop(name)
        for channel, ref, sealed in offers:
            if presence is not self._presence:
                self._give_back(name, channel, ref, sealed)
            elif lives:
                self._take(presence, name, channel, ref, sealed)
            else:
                self.serve(channel, 1)

    def _take(self, presence: Presence, name: bytes, channel: str, ref: int, sealed: bytes) -> None:
        payload = sealed if self._encryption is None else self._encryption.open(sealed)
        if payload is None:
            log.error("a stream is offered under a key that this process has not", extra={"channel": channel})
            self.serve(channel, 1)
            return
        # Said before the application can do anything.
        sender = presence.claim(name, ref)
        opening = unpack_tuples(payload)
        self._tell(lambda user: user.offer_received(channel, sender, ref, opening))

    def _give_back(self, name: bytes, channel: str, ref: int, sealed: bytes) -> None:
        if self._engine is not None:
            give_back(self._engine, self._prefix, channel, name, ref, sealed)

    # -- helpers -----------------------------------------------------------------------------------

    def _tell(self, call: Callable[[PortUser], None]) -> None:
        user = self._user
        if user is not None:
            try:
                call(user)
            except Exception:
                # One stream's trouble is not the others'.
                log.exception("relay envelope failed", extra={"address": self.address})

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
