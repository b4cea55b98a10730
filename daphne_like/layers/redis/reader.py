"""
Reads lists of one tag, on a connection of its own that blocks until there is something (BLMPOP).

What the engine has popped is delivered in the same turn in which it is read from the socket, by plain calls: no
task holds anything that its cancellation could lose. To stop without losing what is just being popped, the
engine is asked to unblock us (CLIENT UNBLOCK); where that is not possible, the block ends by itself after two
seconds. What the wire carries when a connection breaks is lost.

A reader never takes more than it is told to: it asks `count` before each pop, and waits for wake() while that is
0.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from .connection import NEVER_DONE, Refused, pack
from .hosts import Host
from .tether import Tether
from .topology import Topology

__all__ = ["Reader", "ReaderUser", "surviving"]

log = logging.getLogger(logs.LAYERS)

# Seconds that the engine blocks us.
BLOCK = 2

# Seconds beyond that after which a reply says that somebody stood still: we, or the engine.
LATE = 1.0

# Seconds until it is asked once more to unblock us: what we sent may not have reached it then.
UNBLOCK_AGAIN = 0.01


class ReaderUser(Protocol):
    """The engine, to its readers."""

    topology: Topology
    send_timeout: float

    def node_command(self, node: str, *words: Any) -> "asyncio.Future[Any]": ...

    def reaches(self, tag: str) -> bool: ...

    def reader_ended(self, reader: "Reader") -> None:
        """It was stopped."""


class Reader:
    """
    Made by Engine.reader().

    Args:
        keys: of lists, all of *tag*; the first that has something is read.
        count: how many elements may come.
        deliver: gets the key and its elements, the oldest first.
        back: called when the connection is there again after it was lost, and something popped with it maybe.

    Attributes:
        behind: 0, or the connection is to another engine than the one before, or to one that was started again,
            and the list has not been read to its end since: what comes may have been there, and been read,
            before. Another number each time. Means nothing with several keys.
    """

    def __init__(
        self,
        engine: ReaderUser,
        tag: str,
        keys: Sequence[str],
        count: Callable[[], int],
        deliver: Callable[[bytes, list[bytes]], None],
        back: Callable[[], None],
    ) -> None:
        self.tag = tag
        self.node: str | None = None
        self.behind = 0
        self._engine = engine
        self._words = ("BLMPOP", BLOCK, len(keys), *keys, "LEFT", "COUNT")
        self._count = count
        self._deliver = deliver
        self._back = back
        self._loop = asyncio.get_running_loop()
        # What the engine calls the connection; None: we may not know.
        self._client: int | None = None
        self._asks_soon = False
        # A BLMPOP is out, since this loop time, for so many.
        self._asked = False
        self._asked_at = 0.0
        self._asked_for = 0
        # When that was asked which was not answered in time, and is waited for a little longer.
        self._overdue = 0.0
        # The tag is on its way to this node: an ASK said so.
        self._asking: str | None = None
        # The connection ends because the tag has another node.
        self._following = False
        # Nothing more is asked; set at the end. And set when what is out has been answered.
        self._stopping: asyncio.Future[None] | None = None
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        # How often it has been connected before, and the name of that life of an engine, if we know it.
        self._connections = 0
        self._life = b""
        self._said = ""
        self._tether = Tether(self, f"redis reader {tag}")

    @property
    def doubtful(self) -> bool:
        """Within a delivery: whether what comes may have been read before, or have been given to us long ago."""
        return bool(self.behind) or self._loop.time() - self._asked_at > BLOCK + LATE

    def wake(self) -> None:
        """`count` is no longer 0, maybe."""
        if not self._asked and not self._asks_soon:
            self._ask()

    async def stop(self) -> None:
        """Read no more. What comes with the end is still delivered. May be called again."""
        self._tether.stop()
        if self._stopping is not None:
            await asyncio.wait([self._stopping])
            return
        self._stopping = self._loop.create_future()
        try:
            if self._asked:
                await self._unblock()
        finally:
            self._tether.drop("stopped")
            self._engine.reader_ended(self)
            self._stopping.set_result(None)
        await self._tether.stopped()

    def relocate(self) -> None:
        """The node is elsewhere now."""
        self._tether.drop("the node is elsewhere now")

    def abandon(self) -> None:
        """See Engine.abandon()."""
        self._tether.abandon()

    # -- reading -----------------------------------------------------------------------------------

    def _ask_soon(self) -> None:
        """When those who were woken have had their turn, and what they say has left: somebody waits for it."""
        if not self._asks_soon:
            self._asks_soon = True
            self._loop.call_soon(self._loop.call_soon, self._ask_now)

    def _ask_now(self) -> None:
        self._asks_soon = False
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        connection = self._tether.connection
        if connection is None or self._stopping is not None:
            return
        count = self._count()
        if count > 0:
            self._asked = True
            self._asked_at = self._loop.time()
            self._asked_for = count
            asking = ASKING if self._asking is not None else b""
            connection.write(asking + pack((*self._words, count)))

    def replied(self, replies: list[Any]) -> None:
        """See TetherUser."""
        for reply in replies:
            if type(reply) is Refused:
                self._refused(reply)
                return
            if reply == b"OK":
                # To ASKING.
                continue
            self._asked = False
            # Before anybody is woken by what comes, and asks for another number.
            asked_for = self._asked_for
            if reply is not None:
                with surviving("deliver"):
                    self._deliver(*reply)
                if self.behind and len(reply[1]) < asked_for:
                    self.behind = 0
            elif self._engine.topology.node_of(self.tag) == self.node:
                self._asking = None
                self.behind = 0
        if not self._asked:
            if self._stopping is None:
                self._ask_soon()
            elif not self._answered.done():
                self._answered.set_result(None)

    def _refused(self, refused: Refused) -> None:
        words = str(refused).split()
        node = self.node or ""
        try:
            if refused.code == "MOVED":
                self._asking = None
                self._engine.topology.moved(int(words[1]), words[2], told_by=node)
            elif refused.code == "ASK":
                self._asking = self._engine.topology.asked(words[2], told_by=node)
        except LayerUnavailable as error:
            self._tether.drop(str(error))
        else:
            self._following = refused.code in ("MOVED", "ASK")
            self._tether.drop(NEVER_DONE.get(refused.code, str(refused)))

    async def _unblock(self) -> None:
        """Wait for the answer to the BLMPOP that is out."""
        answered = self._answered
        until = self._loop.time() + BLOCK + 1
        while not answered.done() and (left := until - self._loop.time()) > 0:
            if self._client is not None and self.node is not None:
                told = self._engine.node_command(self.node, "CLIENT", "UNBLOCK", self._client)
                await asyncio.wait([answered, told], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                # 0: it was not blocked at that moment; and whoever may not do this waits.
                if told.done() and (told.exception() is not None):
                    self._client = None
                left = UNBLOCK_AGAIN
            await asyncio.wait([answered], timeout=left)

    def _look_after(self) -> None:
        """An engine that does not even say that there is nothing is waited for no longer."""
        limit = BLOCK + self._engine.send_timeout
        wait = self._asked_at + limit - self._loop.time() if self._asked else limit
        if wait <= 0 and self._overdue == self._asked_at:
            self._tether.drop(f"no answer in {limit:g} s")
            return
        if wait <= 0:
            # Once more: where it was this process that stood still, the answer lies in the socket.
            self._overdue, wait = self._asked_at, LATE
        self._watch = self._loop.call_later(wait, self._look_after)

    # -- staying connected: see TetherUser -----------------------------------------------------------

    def first_words(self) -> Sequence[tuple[Any, ...]]:
        return [("CLIENT", "ID"), ("INFO", "server")]

    async def where(self) -> Host:
        topology = self._engine.topology
        self.node = self._asking or topology.node_of(self.tag)
        if self.node is None:
            await topology.refresh()
            raise LayerUnavailable("nobody is known to have the keys")
        return await topology.host(self.node)

    async def look_around(self) -> None:
        """The lane to the same node does."""

    def begin(self, replies: Sequence[Any], asked_at: float) -> None:
        self._client = replies[0] if isinstance(replies[0], int) else None
        life = _life_of(replies[1])
        if self._connections:
            if not life or life != self._life:
                self.behind = self._connections
            with surviving("back"):
                self._back()
        self._connections += 1
        self._life = life
        self._look_after()
        self._ask()

    def unreachable(self, reason: str) -> None:
        # The lane to the same node says so, too, and more often than not first.
        if reason != self._said and self._engine.reaches(self.tag):
            self._said = reason
            log.warning("cannot read from layer", extra={"layer": f"redis:{self.node}", "reason": reason})

    def lost(self, reason: str) -> None:
        self._asked = False
        if self._watch is not None:
            self._watch.cancel()
        following, self._following = self._following, False
        if self._stopping is None and not following:
            self.unreachable(reason)
        if self._stopping is not None and not self._answered.done():
            self._answered.set_result(None)


def _life_of(reply: Any) -> bytes:
    """The run_id in a reply to INFO; b"" from an engine that does not say."""
    found = re.search(rb"run_id:(\w+)", reply) if isinstance(reply, bytes) else None
    return found[1] if found else b""


@contextlib.contextmanager
def surviving(call: str) -> Iterator[None]:
    """What goes wrong in a user of ours ends no connection."""
    try:
        yield
    except Exception:
        log.exception("error in a user of the engine", extra={"call": call})


ASKING = pack(("ASKING",))
