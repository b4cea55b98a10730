"""
A port under one name: its lease, its inbox, and whom it talks with.

    {P}:port:{<name>}   "1" while it lives, "0" once it is known not to; expires after LEASE seconds
    {P}:post:{<name>}   list: its inbox, of notes (see pair.py)

**Who is gone**: who says goodbye; who is said to be dead, by its supervisor; whose lease is not there. The last
is believed only some time after the engine has come back, since that may have forgotten everybody. Whoever was
taken for dead, and speaks, is told so, and has to come back under another name.

Lives in one event loop.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from daphne_like import logs

from ..encryption import Encryption
from .engine import Engine
from .pair import BYE, CLAIMS, DEAD, ENVELOPES, HEAD, HOLD, QUESTION, TAKE_IT, Pair, sender_of
from .port_scripts import POST
from .reader import Reader

__all__ = ["Presence", "PresenceUser"]

log = logging.getLogger(logs.LAYERS)

# Seconds.
LEASE = 15
# For everybody to say again that they live, after an engine has come back.
SETTLE = 5.0
# So many looks at a lease that is not there, before its owner is gone.
LOOKS = 3

# How long notes wait in an inbox that nobody reads, milliseconds.
NOTE_LIFETIME = 120_000
# What an inbox is read with: notes at a time.
READ_AT_ONCE = 64

# Names of the dead that are remembered.
MAX_DEAD = 10_000


class PresenceUser(Protocol):
    """The port, to its presence. Must not raise."""

    def envelopes_arrived(self, sender: str, payload: bytes) -> None:
        """A packed list of them."""

    def claim_arrived(self, sender: str, ref: int) -> None:
        """*sender* has the offer that we called *ref*."""

    def claim_asked(self, sender: str, ref: int) -> None:
        """*sender* would have the offer that we called *ref*, if nobody else has it."""

    def claim_granted(self, name: bytes, ref: int) -> None:
        """Nobody else has the offer of that one that we have asked for."""

    def hold_asked(self, hold: bool) -> None:
        """Our process is said to be stuck: it is to take no offers for a while; or no longer."""

    def member_left(self, name: str) -> None:
        """It is gone."""

    def given_up(self, reason: str) -> None:
        """Another member takes us for dead."""


class Presence:
    """
    Args:
        engine: the port's.
        prefix: of the keys.
        name: nobody else's.
        encryption: of what is written.

    Attributes:
        troubled_at: when the engine was there again last, loop time.
    """

    def __init__(
        self, engine: Engine, prefix: str, name: str, encryption: Encryption | None, user: PresenceUser
    ) -> None:
        self.name = name
        self._engine = engine
        self._prefix = prefix
        self._encryption = encryption
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._inbox: Reader | None = None
        self._pairs: dict[bytes, Pair] = {}
        self._dead: dict[bytes, None] = {}
        # Those that live, as somebody knows, whether they say so or not.
        self._vouched: set[str] = set()
        # Told DEAD since the last look.
        self._scolded: set[bytes] = set()
        self._settled_at = self._loop.time() + SETTLE
        self.troubled_at = float("-inf")
        self._ended = False

    # -- beginning and end -------------------------------------------------------------------------

    async def begin(self) -> None:
        """
        Take the name.

        Raises:
            LayerUnavailable: the engine is away.
        """
        await self._renew()
        self._inbox = self._engine.reader(
            self.name, [self._post(self.name)], lambda: READ_AT_ONCE, self._received, self._inbox_back
        )

    async def leave(self) -> None:
        """
        Say goodbye, after all else has been said, and listen no more.

        Raises:
            LayerUnavailable: the engine is away.
        """
        pushes = []
        for pair in self._pairs.values():
            pair.say(BYE)
            pushes.append(self._pushed(pair))
        self.end()
        await asyncio.gather(*pushes)
        await self._engine.command(self.name, "DEL", self._lease(self.name), self._post(self.name))

    def end(self) -> None:
        """Hear and say nothing more."""
        self._ended = True

    async def stop(self) -> None:
        """Let go of the inbox."""
        self.end()
        if self._inbox is not None:
            await self._inbox.stop()

    def _lease(self, name: str) -> str:
        return f"{self._prefix}:port:{{{name}}}"

    def _post(self, name: str) -> str:
        return f"{self._prefix}:post:{{{name}}}"

    def _renew(self) -> "asyncio.Future[Any]":
        return self._engine.command(self.name, "SET", self._lease(self.name), b"1", "PX", LEASE * 1000)

    # -- who lives ---------------------------------------------------------------------------------

    async def look(self) -> None:
        """Once a second: say that we live, and see who does. Waits for the engine."""
        self._scolded.clear()
        asked = [self._renew()]
        looks = []
        for pair in self._pairs.values():
            pair.look()
            self._push(pair)
            looks.append((pair, self._engine.command(pair.other, "GET", self._lease(pair.other))))
        for other in self._vouched:
            asked += self._renew_for(other)
        asked += [answer for _, answer in looks]
        # All of them, whatever becomes of one: none may be left without somebody who looks at it.
        await asyncio.wait(asked)
        for pair, answer in looks:
            if not answer.cancelled() and answer.exception() is None:
                self._looked(pair, answer.result())
        for answer in asked:
            _nobody_waits(answer)

    def _looked(self, pair: Pair, lease: bytes | None) -> None:
        if lease == b"1":
            pair.missed = 0
        elif lease is not None:
            self._gone(pair.other.encode())
        elif self._settled:
            pair.missed += 1
            if pair.missed >= LOOKS:
                self._gone(pair.other.encode())

    @property
    def _settled(self) -> bool:
        """Whether a lease that is not there says something."""
        return self._loop.time() >= self._settled_at

    async def meet(self, name: bytes) -> bool:
        """Whether somebody lives of whom we may never have heard."""
        if name in self._dead:
            return False
        if name in self._pairs:
            return True
        other = name.decode()
        lease = await self._engine.command(other, "GET", self._lease(other))
        return name not in self._dead and lease != b"0" and (lease is not None or not self._settled)

    def knows(self, name: bytes) -> bool:
        """Whether we have heard of that one, and not of its end."""
        return name in self._pairs

    async def lives(self) -> bool:
        """
        Whether our lease is there, so that nobody can have taken us for dead.

        Raises:
            LayerUnavailable: the engine is away.
        """
        lease: bytes | None = await self._engine.command(self.name, "GET", self._lease(self.name))
        return lease == b"1"

    def member_suspended(self, other: str, suspended: bool) -> None:
        """Its process is stuck, says who knows, and lives: its lease is ours to renew. Or that is over."""
        if suspended and other.encode() not in self._dead:
            self._vouched.add(other)
            for answer in self._renew_for(other):
                _nobody_waits(answer)
        elif other in self._vouched:
            self._vouched.discard(other)
            _nobody_waits(self._tell(other, HOLD, b"-"))

    def _renew_for(self, other: str) -> list["asyncio.Future[Any]"]:
        lease, milliseconds = self._lease(other), LEASE * 1000
        # What says that it is dead stays.
        made = self._engine.command(other, "SET", lease, b"1", "PX", milliseconds, "NX")
        renewed = self._engine.command(other, "PEXPIRE", lease, milliseconds)
        return [made, renewed, self._tell(other, HOLD)]

    def member_ended(self, other: str) -> None:
        """Its process has ended, says who knows."""
        self._vouched.discard(other)
        name = other.encode()
        if name in self._dead:
            return
        if not self._engine.reaches(self.name):
            self._gone(name)
            return
        # For the others. And for ourselves, behind what it has said.
        _nobody_waits(self._engine.command(other, "SET", self._lease(other), b"0", "PX", LEASE * 1000))
        note = BYE + name + bytes(HEAD - 1 - len(name))
        _nobody_waits(self._engine.run(POST, self.name, [self._post(self.name)], [NOTE_LIFETIME, note]))

    def _gone(self, name: bytes) -> None:
        pair = self._pairs.pop(name, None)
        if pair is None:
            return
        pair.dead = True
        self._vouched.discard(pair.other)
        if len(self._dead) >= MAX_DEAD:
            self._dead.clear()
        self._dead[name] = None
        _nobody_waits(self._engine.command(pair.other, "UNLINK", self._post(pair.other)))
        self._user.member_left(pair.other)

    # -- the engine --------------------------------------------------------------------------------

    def engine_back(self) -> None:
        """A node is there again: it may have forgotten who we are, and what was said."""
        self.troubled_at = self._loop.time()
        self._settled_at = self.troubled_at + SETTLE
        if self._ended:
            return
        _nobody_waits(self._renew())
        for pair in self._pairs.values():
            pair.push_again()
            self._push(pair)

    def _inbox_back(self) -> None:
        """What the lost connection of the reader had is lost: the numbers will show it, and sooner so."""
        self.troubled_at = self._loop.time()
        for pair in self._pairs.values():
            pair.ask_again()
            self._push(pair)

    # -- out ---------------------------------------------------------------------------------------

    def post(self, other: str, packed: bytes) -> None:
        """Say an envelope. To somebody of whom we have never heard, or who is dead: nothing happens."""
        pair = self._pairs.get(other.encode())
        if pair is not None:
            pair.post(packed)
            if not pair.asked:
                self._push(pair)

    def claim(self, name: bytes, ref: int) -> str:
        """Say that we have an offer of that one; its name."""
        pair = self._pair_with(name)
        pair.claim(ref)
        self._push(pair)
        return pair.other

    def _pair_with(self, name: bytes) -> Pair:
        pair = self._pairs.get(name)
        if pair is None:
            pair = self._pairs[name] = Pair(self.name, name.decode(), self._seal)
        return pair

    def _push(self, pair: Pair) -> None:
        """Have the engine take what there is to say at the end of the turn, or with its next batch."""
        if not pair.asked and not self._ended and pair.wants_push:
            self._pushed(pair)

    def _pushed(self, pair: Pair) -> "asyncio.Future[Any]":
        pair.asked = True

        def arguments() -> Sequence[Any]:
            pair.asked = False
            notes, more = pair.notes()
            if more:
                self._loop.call_soon(self._push, pair)
            return [NOTE_LIFETIME, *notes]

        def answered(push: "asyncio.Future[Any]") -> None:
            if push.cancelled() or push.exception() is None or pair.dead:
                return
            # Not done, or nobody knows. The other drops what comes twice.
            pair.asked = False
            pair.push_again()
            self._push(pair)

        push = self._engine.run(POST, pair.other, [self._post(pair.other)], arguments)
        push.add_done_callback(answered)
        return push

    def ask(self, name: bytes, ref: int) -> None:
        """Ask that one whether its offer is ours to take."""
        _nobody_waits(self._tell(name.decode(), QUESTION, ref.to_bytes(8, "big")))

    def grant(self, other: str, ref: int) -> None:
        """Tell that one that it may take our offer."""
        _nobody_waits(self._tell(other, TAKE_IT, ref.to_bytes(8, "big")))

    def _tell(self, other: str, kind: bytes, rest: bytes = b"") -> "asyncio.Future[Any]":
        """Say a note without a number, once."""
        note = kind + self.name.encode() + bytes(16) + rest
        return self._engine.run(POST, other, [self._post(other)], [NOTE_LIFETIME, note])

    def _seal(self, payload: bytes) -> bytes:
        return self._encryption.seal(payload) if self._encryption is not None else payload

    # -- in ----------------------------------------------------------------------------------------

    def _received(self, key: bytes, notes: list[bytes]) -> None:
        for note in notes:
            if self._ended:
                return
            try:
                self._receive(sender_of(note), note)
            except ValueError as error:
                log.error("a note that cannot be read", extra={"reason": str(error)})

    def _receive(self, name: bytes, note: bytes) -> None:
        if name in self._dead:
            self._scold(name, note)
            return
        pair = self._pair_with(name)
        kind = pair.receive(note)
        if kind == ENVELOPES:
            payload = self._opened(note[HEAD:])
            if payload is not None:
                self._user.envelopes_arrived(pair.other, payload)
        elif kind == CLAIMS:
            for ref in _refs_of(note):
                self._user.claim_arrived(pair.other, ref)
        elif kind == QUESTION:
            for ref in _refs_of(note):
                self._user.claim_asked(pair.other, ref)
        elif kind == TAKE_IT:
            for ref in _refs_of(note):
                self._user.claim_granted(name, ref)
        elif kind == HOLD:
            self._user.hold_asked(len(note) == HEAD)
        elif kind == BYE:
            self._gone(name)
            return
        elif kind == DEAD:
            self._user.given_up("another member has given us up")
            return
        self._push(pair)

    def _scold(self, name: bytes, note: bytes) -> None:
        """Somebody whom we have given up speaks."""
        if name not in self._scolded and note[:1] not in (BYE, DEAD):
            self._scolded.add(name)
            _nobody_waits(self._tell(name.decode(), DEAD))

    def _opened(self, sealed: bytes) -> bytes | None:
        if self._encryption is None:
            return sealed
        payload = self._encryption.open(sealed)
        if payload is None:
            log.error("what another member says is sealed with a key that this one has not")
        return payload


def _refs_of(note: bytes) -> list[int]:
    return [int.from_bytes(note[place : place + 8], "big") for place in range(HEAD, len(note) - 7, 8)]


def _nobody_waits(answer: "asyncio.Future[Any]") -> None:
    """Whatever the answer is, somebody has looked at it."""
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
