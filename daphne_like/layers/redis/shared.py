"""
Reading shared channels: as many messages as somebody here waits for, and no more.

Each part of a channel has a reader of its own, while anybody waits. What comes and is wanted by nobody any
more goes back to where it was, before anything more is read from there; so the order stays.

Lives in the member's event loop.
"""

import asyncio
import functools
import time
from collections.abc import Callable

from daphne_like.errors import LayerUnavailable

from ..encryption import Encryption
from .door import Fetched, RedisDoor, RedisMailbox, expiry_of
from .engine import Engine
from .keys import STAMP, Keys
from .lane_user import ReplyLost
from .reader import Reader
from .rereading import Rereading
from .scripts import PUT_BACK

__all__ = ["SharedChannels"]

# Messages that are asked for at a time: as of an inbox.
MAX_COUNT = 32

# Seconds that a channel nobody waits for keeps its connections.
IDLE = 10.0

_MESSAGE = ord("M")


class _Channel:
    __slots__ = ("idle_since", "read", "readers", "returning", "wanted")

    def __init__(self) -> None:
        # receive()s that wait, less what was delivered to them.
        self.wanted = 0
        # Messages that are on their way back.
        self.returning = 0
        self.readers: list[Reader] = []
        # By part.
        self.read: dict[str, Rereading] = {}
        self.idle_since = 0.0


class SharedChannels:
    """
    Args:
        lost: told how many messages could not be given to anybody, and why: a name for the log.
        max_age: seconds that messages live.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        mailbox: RedisMailbox,
        door: RedisDoor,
        encryption: Encryption | None,
        lost: Callable[[str, int], None],
        max_age: float,
    ) -> None:
        self._max_age = max_age
        self._engine = engine
        self._keys = keys
        self._mailbox = mailbox
        self._door = door
        self._encryption = encryption
        self._lost = lost
        self._channels: dict[str, _Channel] = {}
        self._puts: set[asyncio.Future[object]] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._ended = False
        self._place = 0

    def want(self, channel: str, count: int) -> None:
        """See DoorUser."""
        state = self._channels.get(channel)
        if state is None:
            if self._ended or count <= 0:
                return
            state = self._channels[channel] = _Channel()
        state.wanted = max(0, state.wanted + count)
        if not state.wanted:
            state.idle_since = time.monotonic()
        elif not state.readers:
            self._begin(channel, state)
        else:
            for reader in state.readers:
                reader.wake()

    def give_back(self) -> None:
        """Put what the door has got back to where it was."""
        with self._mailbox.lock:
            returned, self._door.returned = self._door.returned, []
        by_part: dict[str, list[Fetched]] = {}
        # The last first: each goes before the one before it.
        for payload in sorted(returned, key=_place, reverse=True):
            by_part.setdefault(payload.part, []).append(payload)
        for part, payloads in by_part.items():
            state = self._channels.get(part.rpartition(".")[0])
            if state is not None:
                state.returning += len(payloads)
                for payload in payloads:
                    state.read[part].returned(payload.element)
            now = self._engine.time(part)
            lifetime = max(1, *(int(1000 * (expiry_of(each.element) - now)) for each in payloads))
            answer = self._engine.run(
                PUT_BACK, part, [self._keys.channel(part)], [lifetime, *(each.element for each in payloads)]
            )
            self._puts.add(answer)
            answer.add_done_callback(functools.partial(self._put, payloads))

    def tick(self) -> None:
        """About once a second."""
        now = time.monotonic()
        for name, state in list(self._channels.items()):
            if not state.wanted and not state.returning and state.idle_since + IDLE < now:
                del self._channels[name]
                for reader in state.readers:
                    task = asyncio.get_running_loop().create_task(reader.stop())
                    self._stopping.add(task)
                    task.add_done_callback(self._stopping.discard)

    async def stop(self) -> None:
        """Read no more. What was read on the way is in the mailbox, or back where it was."""
        self._ended = True
        readers = [reader for state in self._channels.values() for reader in state.readers]
        await asyncio.gather(*(reader.stop() for reader in readers), *self._stopping)
        self._channels.clear()

    async def given_back(self) -> None:
        """Wait until what was to be given back is, or cannot be."""
        self.give_back()
        while self._puts:
            await asyncio.wait(self._puts)

    def _begin(self, channel: str, state: _Channel) -> None:
        def count() -> int:
            return 0 if state.returning or self._door.returned else min(state.wanted, MAX_COUNT)

        for part in self._keys.all_parts(channel):

            def deliver(key: bytes, elements: list[bytes], part: str = part) -> None:
                self._deliver(channel, state, part, elements)

            read = state.read[part] = Rereading(part, self._max_age, deliver)
            read.reader = reader = self._engine.reader(part, [self._keys.channel(part)], count, read.deliver)
            state.readers.append(reader)

    def _deliver(self, channel: str, state: _Channel, part: str, elements: list[bytes]) -> None:
        ahead = self._engine.time(part) - time.monotonic()
        encryption = self._encryption
        here = asyncio.get_running_loop()
        with self._mailbox.lock:
            for element in elements:
                cut = element.find(0, STAMP)
                if element[STAMP] != _MESSAGE or cut < 0:
                    self._lost("malformed", 1)
                    continue
                data = element[cut + 1 :]
                if encryption is not None:
                    opened = encryption.open(data)
                    if opened is None:
                        self._lost("undecipherable", 1)
                        continue
                    data = opened
                payload = Fetched(data)
                payload.part = part
                payload.element = element
                self._place += 1
                payload.place = self._place
                state.wanted = max(0, state.wanted - 1)
                if not state.wanted:
                    state.idle_since = time.monotonic()
                self._mailbox.deliver(channel, payload, expiry_of(element) - ahead, False, here)

    def _put(self, payloads: list[Fetched], answer: "asyncio.Future[object]") -> None:
        self._puts.discard(answer)
        state = self._channels.get(payloads[0].part.rpartition(".")[0])
        if state is not None:
            state.returning -= len(payloads)
        if not answer.cancelled():
            error = answer.exception()
            if isinstance(error, ReplyLost):
                self._lost("put_back_unknown", len(payloads))
            elif isinstance(error, LayerUnavailable) and not self._ended:
                # Not there for long: again with the next tick.
                with self._mailbox.lock:
                    self._door.returned[:0] = payloads
            elif error is not None:
                self._lost("put_back", len(payloads))
        if state is not None:
            for reader in state.readers:
                reader.wake()


def _place(payload: Fetched) -> int:
    return payload.place
