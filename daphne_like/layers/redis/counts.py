"""
How many messages for a process are pending: what the engine counts, and what the process says of it.

Who sends counts, in the engine, by the part of the channel's name up to "!" (scripts.py); what is taken is said
here, behind what there is to send, and nobody waits for it. A count that has gone wrong, because a connection
broke or the engine lost its data, is set right with what waits there and what is held here.
"""

import asyncio
import functools
from typing import Any

from .door import RedisDoor, RedisMailbox
from .engine import Engine
from .keys import Keys
from .scripts import RECOUNT

__all__ = ["Counts"]

# Milliseconds that counts are kept after something was taken from them.
LIVE = 120_000


class Counts:
    """
    Args:
        name: of the process.
        door: knows what was taken.
        mailbox: knows what is held.
    """

    def __init__(self, name: str, engine: Engine, keys: Keys, mailbox: RedisMailbox, door: RedisDoor) -> None:
        self._name = name
        self._engine = engine
        self._inbox = keys.inbox(name)
        self._counts = keys.counts(name)
        self._mailbox = mailbox
        self._door = door
        self._loop = asyncio.get_running_loop()
        # Prefixes of which it is about to be said how much was taken; some of them a little later.
        self._saying: set[str] = set()
        self._later: set[str] = set()
        # For statistics: prefix -> taken since that was said.
        self._taken: dict[str, int] = {}

    def look(self) -> None:
        """Say what was taken, when those who took it have had their turn: what they send goes first."""
        for prefix in list(self._door.taken):
            if prefix not in self._saying:
                self._saying.add(prefix)
                self._later.add(prefix)
                self._loop.call_soon(self._say, prefix)

    def say_now(self) -> None:
        """What is sent next is for this process itself: what it has taken must not count against that."""
        for prefix in list(self._later):
            self._say(prefix)

    def _say(self, prefix: str) -> None:
        if prefix not in self._later:
            return
        self._later.discard(prefix)
        said = self._engine.command_later(self._name, functools.partial(self._take, prefix))
        said.add_done_callback(functools.partial(self._said, prefix))

    def _take(self, prefix: str) -> tuple[Any, ...]:
        """All that was taken until this is written."""
        self._saying.discard(prefix)
        with self._mailbox.lock:
            count = self._door.taken.pop(prefix, 0)
        self._taken[prefix] = self._taken.get(prefix, 0) + count
        return ("HINCRBY", self._counts, prefix, -count)

    def _said(self, prefix: str, said: "asyncio.Future[Any]") -> None:
        # Refused before it was written: the next look() says it.
        self._saying.discard(prefix)

    def recount(self) -> None:
        """What was said, and what was not, may be lost."""
        held = [word for prefix, count in self._mailbox.held().items() for word in (prefix, count)]
        with self._mailbox.lock:
            # Said by this.
            self._door.taken.clear()
        self._engine.run(RECOUNT, self._name, [self._inbox, self._counts], held)

    def keep(self) -> None:
        """Once a second: for statistics; and who takes from counts that have ended makes some without an end."""
        taken, self._taken = self._taken, {}
        for prefix, count in taken.items():
            self._engine.command(self._name, "HINCRBY", self._counts, f"{prefix}#took", count)
        if taken:
            self._engine.command(self._name, "PEXPIRE", self._counts, LIVE)
