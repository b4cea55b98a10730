"""
The relay's door to an own layer: envelopes and offers between the members of a hub.

What is posted within a turn of the event loop leaves at its end, one payload for each address. Each envelope
is packed when it is posted: what its sender does to its objects afterwards changes nothing, and a message that
cannot be packed is the sender's error, raised to it.

What arrives waits for a turn of the port's own loop, so that a user is never called from within a call of its
own, whichever thread or turn it came from. The bound of what waits is the relay's credit.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .codec import join, pack, unpack_tuples
from .member import End
from .port import Envelope, PortUser

__all__ = ["MemberPort", "PortDoor"]

log = logging.getLogger(logs.LAYERS)

# Envelopes to one address that leave before the turn's end, so that the other process has something to do
# meanwhile: else the two would take turns, each idle while the other works.
EAGER = 16


class PortDoor(Protocol):
    """What a port asks of the hub: its own methods. They must not wait."""

    def post(self, sender: str, to: str, payload: bytes) -> bool: ...

    def offer(self, end: End, channel: str, ref: int, payload: bytes, limit: int) -> str | None: ...

    def withdraw(self, end: End, channel: str, ref: int) -> None: ...

    def serve(self, end: End, channel: str, places: int) -> None: ...


class MemberPort:
    """
    A port (`daphne_like.layers.port.Port`) on a member of a hub; the member gives it what it gets of the
    relay's traffic: deliver_post(), deliver_offer(), claimed(), refused(), member_gone(), in any thread.

    Args:
        end: the member.
        door: the way to the hub.
        lock: held in every call of the door.
    """

    knows_claims = True

    def __init__(self, end: End, door: PortDoor, lock: "threading.RLock") -> None:
        self.address = ""
        self._end = end
        self._door = door
        self._lock = lock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._user: PortUser | None = None
        # address -> envelopes packed one by one
        self._outgoing: dict[str, list[bytes]] = {}
        self._flush_scheduled = False
        self._arrived: list[Callable[[PortUser], None]] = []
        self._arrival_scheduled = False

    async def open(self, user: PortUser) -> None:
        """See Port."""
        if self._user is not None:
            raise LayerUnavailable("the port is open already")
        self._loop = asyncio.get_running_loop()
        self._user = user
        self.address = self._end.name

    async def close(self) -> None:
        """See Port."""
        self.flush()
        self._user = None
        self.address = ""
        with self._lock:
            self._arrived.clear()

    # From the user.

    def post(self, to: str, envelope: Envelope) -> None:
        """
        Raises:
            InvalidMessage: the envelope holds what does not travel.
        """
        packed = pack(envelope)
        waiting = self._outgoing.get(to)
        if waiting is None:
            self._outgoing[to] = [packed]
            if not self._flush_scheduled and self._loop is not None:
                self._flush_scheduled = True
                self._loop.call_soon(self.flush)
        else:
            waiting.append(packed)
            if len(waiting) >= EAGER:
                self.flush()

    def flush(self) -> None:
        """See Port."""
        self._flush_scheduled = False
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, {}
            with self._lock:
                for to, packed in outgoing.items():
                    self._door.post(self._end.name, to, join(packed))

    def offer(self, channel: str, ref: int, opening: list[Any], limit: int) -> str:
        """
        See Port.

        Raises:
            InvalidMessage: the opening holds what does not travel.
        """
        payload = pack(opening)
        with self._lock:
            by = self._door.offer(self._end, channel, ref, payload, limit)
            if by is None:
                self.refused(ref)
                return ""
        return by

    def withdraw(self, channel: str, ref: int) -> None:
        """See Port."""
        with self._lock:
            self._door.withdraw(self._end, channel, ref)

    def serve(self, channel: str, places: int) -> None:
        """See Port."""
        with self._lock:
            self._door.serve(self._end, channel, places)

    def member_ended(self, address: str) -> None:
        """Its connection has told the hub."""

    def member_suspended(self, address: str, suspended: bool) -> None:
        """The hub's host has told it."""

    # From the member.

    def deliver_post(self, sender: str, payload: bytes) -> None:
        self._arrive(lambda user: user.envelopes_received(sender, unpack_tuples(payload)))

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None:
        self._arrive(lambda user: user.offer_received(channel, sender, ref, unpack_tuples(payload)))

    def claimed(self, ref: int, by: str) -> None:
        self._arrive(lambda user: user.offer_claimed(ref, by))

    def refused(self, ref: int) -> None:
        self._arrive(lambda user: user.offer_refused(ref))

    def member_gone(self, name: str) -> None:
        self._arrive(lambda user: user.member_gone(name))

    def _arrive(self, call: Callable[[PortUser], None]) -> None:
        with self._lock:
            if self._user is None or self._loop is None:
                return
            self._arrived.append(call)
            if not self._arrival_scheduled:
                self._arrival_scheduled = True
                try:
                    if asyncio._get_running_loop() is self._loop:
                        self._loop.call_soon(self._hand_in)
                    else:
                        self._loop.call_soon_threadsafe(self._hand_in)
                except RuntimeError:
                    # Its loop is closed without it: nobody is there any more.
                    self._user = None
                    self._arrived.clear()

    def _hand_in(self) -> None:
        with self._lock:
            self._arrival_scheduled = False
            arrived, self._arrived = self._arrived, []
        for call in arrived:
            user = self._user
            if user is None:
                return
            try:
                call(user)
            except Exception:
                # One stream's trouble is not the others'.
                log.exception("relay envelope failed", extra={"address": self.address})
