"""
What does the work: one Redis, or several, as one thing to ask.

An engine lives on one event loop, the layer's home, and has a lane to each node (lane.py says what is promised
of a call) and a reader for each tag whose lists are read (reader.py). Where a tag is, the topology knows.

The octets that wait in all lanes together are bounded: a call beyond that fails at once with LayerUnavailable.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from daphne_like.errors import LayerUnavailable

from .backlog import Call, Words
from .connection import pack
from .lane import Lane
from .lane_user import ReplyLost
from .reader import Reader, surviving
from .scripts import Script
from .topology import Topology

__all__ = ["MAX_PENDING", "Engine", "EngineUser", "ReplyLost"]

MULTI = pack(("MULTI",))
EXEC = pack(("EXEC",))

CLOSED = "redis: the layer was closed"

# Octets of calls that wait.
MAX_PENDING = 64 * 1024 * 1024

# Seconds that what is on its way may take when an engine is closed.
LEAVE_TIMEOUT = 1.0


class EngineUser(Protocol):
    """Who uses an engine. Plain calls in the engine's event loop."""

    def engine_back(self) -> None:
        """
        A node is there, maybe for the first time, maybe empty. Say all that it should know: what is asked within
        this call goes before anything else.
        """

    def engine_lost(self, reason: str) -> None:
        """A node is out of reach."""


class Engine:
    """
    Args:
        topology: for this engine alone.
        user: told of comings and goings.
        scripts: to be loaded at each connect. Others are loaded when they are missed.
        send_timeout: seconds that a call waits for its answer.
        max_pending: octets of calls that wait.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        user: EngineUser,
        scripts: Iterable[Script] = (),
        send_timeout: float = 10.0,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self.topology = topology
        self.scripts = tuple(scripts)
        self.send_timeout = send_timeout
        self.max_pending = max_pending
        # Octets of calls that wait, and what users have reserved.
        self.pending = 0
        self.closed = False
        self._user = user
        # By node; None: for what nobody is known to have.
        self._lanes: dict[str | None, Lane] = {}
        # Lanes of nodes that are none any longer.
        self._ending: dict[asyncio.Task[None], Lane] = {}
        # Tags that have another node now, and calls under way on this lane yet.
        self._leaving: dict[str, Lane] = {}
        # Calls that an ASK has sent to another lane, with the lane that keeps back what follows them.
        self._away: dict[Call, Lane] = {}
        self._moving = self._changed_meanwhile = False
        # The user is saying what a node that is back should know: that has no bound.
        self._returning = False
        self._readers: set[Reader] = set()
        # Futures of ready().
        self._waiting: set[asyncio.Future[None]] = set()

    # -- beginning and end -------------------------------------------------------------------------

    async def start(self) -> None:
        """begin(), for those who await."""
        self.begin()

    def begin(self) -> None:
        """Begin to connect, in the running event loop, which stays the engine's until close()."""
        self._loop = asyncio.get_running_loop()
        self.topology.changed = self._changed
        self.topology.relocated = self._relocated
        self._changed()

    async def close(self) -> None:
        """End: stop reading, losing nothing, and let be done what was asked, for a second at most."""
        await asyncio.gather(*(reader.stop() for reader in list(self._readers)))
        self.closed = True
        await asyncio.gather(*(lane.close(LEAVE_TIMEOUT) for lane in self._lanes.values()))
        self._lanes.clear()
        for lane in self._ending.values():
            lane.relocate()
        await asyncio.gather(*self._ending)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(LayerUnavailable(f"{self.topology.name}: the layer was closed"))
        await self.topology.close()

    def abandon(self) -> None:
        """
        Let go of all connections without a word, from any thread: the loop has ended without close(), or this is
        the child of a fork.
        """
        self.closed = True
        for lane in (*self._lanes.values(), *self._ending.values()):
            lane.abandon()
        for reader in self._readers:
            reader.abandon()
        self.topology.abandon()

    async def ready(self) -> None:
        """
        Wait until all nodes are connected, or for `send_timeout` seconds where some are not.

        Raises:
            LayerUnavailable: none are then, or it was closed.
        """
        if self.connected:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(self.send_timeout):
                await waiter
        except TimeoutError:
            away = "; ".join(lane.reason for lane in self._lanes.values() if not lane.connected)
            name = self.topology.name
            raise LayerUnavailable(
                f"{name}: no way to the layer in {self.send_timeout:g} s: {away}"
            ) from None
        finally:
            self._waiting.discard(waiter)

    @property
    def connected(self) -> bool:
        """All nodes are."""
        nodes = self.topology.nodes()
        return bool(nodes) and all(node in self._lanes and self._lanes[node].connected for node in nodes)

    @property
    def trouble(self) -> str:
        """Why nodes are out of reach; "" where all are connected."""
        return "; ".join(lane.reason for lane in self._lanes.values() if not lane.connected)

    def reaches(self, tag: str) -> bool:
        """Whether the node that has *tag* is connected."""
        lane = self._lanes.get(self.topology.node_of(tag))
        return lane is not None and lane.connected

    def time(self, tag: str | None = None) -> float:
        """What time it is at the node that has *tag*, or at any: seconds since the epoch."""
        if tag is None:
            lane = next(iter(self._lanes.values()), None)
        else:
            lane = self._lanes.get(self.topology.node_of(tag))
        return lane.clock.now() if lane is not None else time.time()

    # -- asking ------------------------------------------------------------------------------------

    def run(
        self,
        script: Script,
        tag: str,
        keys: Sequence[str | bytes],
        args: Sequence[Any] | Callable[[], Sequence[Any]],
    ) -> "asyncio.Future[Any]":
        """
        Call *script* with *keys*, which all are of *tag*.

        Args:
            args: or what gives them, called once when they are written. Until then the octets of such are not
                counted: see reserve().

        Returns:
            a future of the reply. LayerUnavailable where it was surely not done in `send_timeout` seconds,
            ReplyLost where that is not known, LayerError where the engine has refused it for good. Cancelled
            before it is written, it is not done.
        """
        if callable(args):
            given = args

            def words() -> tuple[Any, ...]:
                return ("EVALSHA", script.sha, len(keys), *keys, *given())

            return self._ask(words, tag, script)
        return self._ask(("EVALSHA", script.sha, len(keys), *keys, *args), tag, script)

    def push(
        self,
        tag: str,
        keys: Sequence[str],
        script: Script,
        given: Callable[[], tuple[Sequence[bytes], Sequence[Any]]],
    ) -> "asyncio.Future[Any]":
        """
        Append elements to the list that is the first of *keys*, and have *script* admit them: see scripts.

        Args:
            given: gives elements and the script's arguments; called once when they are written. Until then their
                octets are not counted: see reserve().

        Returns:
            a future of the script's reply, as run() does. Where the engine has lost *script*, which is one of
            those that are loaded at each connect, all are admitted this once.
        """

        def words() -> bytes:
            elements, args = given()
            pushed = pack(("RPUSH", keys[0], *elements))
            return b"".join((MULTI, pushed, pack(("EVALSHA", script.sha, len(keys), *keys, *args)), EXEC))

        return self._ask(words, tag, script, in_transaction=True)

    def command(self, tag: str, *words: Any) -> "asyncio.Future[Any]":
        """The same for a command, whose keys are all of *tag*."""
        return self._ask(words, tag, None)

    def command_later(self, tag: str, words: Words) -> "asyncio.Future[Any]":
        """The same for one whose words are known when they are written: *words* is called once, then."""
        return self._ask(words, tag, None)

    def nodes(self) -> Sequence[str]:
        """All that have keys."""
        return self.topology.nodes()

    def node_command(self, node: str, *words: Any) -> "asyncio.Future[Any]":
        """The same for a command without keys, to one of nodes()."""
        return self._ask(words, "", None, node)

    def reserve(self, octets: int) -> None:
        """
        Count octets that wait elsewhere.

        Raises:
            LayerUnavailable: too much waits already; nothing was counted.
        """
        if self.pending + octets > self.max_pending:
            raise LayerUnavailable(self._overflow())
        self.pending += octets

    def release(self, octets: int) -> None:
        """They wait no longer."""
        self.pending -= octets

    def reader(
        self,
        tag: str,
        keys: Sequence[str],
        count: Callable[[], int],
        deliver: Callable[[bytes, list[bytes]], None],
        back: Callable[[], None] = lambda: None,
    ) -> Reader:
        """A reader of lists of *tag*, which begins at once: see Reader."""
        reader = Reader(self, tag, keys, count, deliver, back)
        self._readers.add(reader)
        return reader

    # -- lanes -------------------------------------------------------------------------------------

    def _ask(
        self,
        words: tuple[Any, ...] | Words,
        tag: str,
        script: Script | None,
        node: str | None = None,
        *,
        in_transaction: bool = False,
    ) -> "asyncio.Future[Any]":
        loop = self._loop
        deadline = loop.time() + self.send_timeout
        call = Call(words, tag, loop.create_future(), deadline, script, in_transaction)
        if self.closed:
            call.fail(LayerUnavailable(CLOSED))
        elif self.pending + call.octets > self.max_pending and not self._returning:
            call.fail(LayerUnavailable(self._overflow()))
        else:
            self.pending += call.octets
            self._route(call, node)
        return call.future

    def _overflow(self) -> str:
        return f"{self.topology.name}: more than {self.max_pending} octets wait already"

    def _route(self, call: Call, node: str | None = None) -> None:
        """To the lane where its tag is, or to *node*'s."""
        (self._lane_of(call) if node is None else self._lane(node)).ask(call)

    def _lane_of(self, call: Call) -> Lane:
        tag = call.tag or ""
        lane = self._leaving.get(tag) if self._leaving else None
        return lane or self._lane(self.topology.node_of(tag))

    def _lane(self, node: str | None) -> Lane:
        """None: nobody is known to have what is asked for."""
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = Lane(node, self)
        return lane

    def _changed(self) -> None:
        """The topology has."""
        if self.closed:
            return
        if self._moving:
            # moved() sees to it, in its time.
            self._changed_meanwhile = True
            return
        nodes: Sequence[str | None] = self.topology.nodes() or (None,)
        for node in nodes:
            self._lane(node)
        for lane in list(self._lanes.values()):
            self._reroute(lane)
        for node in [node for node in self._lanes if node not in nodes]:
            lane = self._lanes.pop(node)
            if lane.silent:
                self._forsake(lane)
            ending = self._loop.create_task(lane.close(self.send_timeout))
            self._ending[ending] = lane
            ending.add_done_callback(self._ending.pop)

    def _forsake(self, lane: Lane) -> None:
        """It does not answer, and is no node any longer."""
        lane.relocate()
        for reader in self._readers:
            if reader.node == lane.node:
                reader.relocate()

    def _reroute(self, lane: Lane) -> None:
        """
        Take what waits in *lane* to where its tag is now.

        Where calls of a tag are still under way on the old lane, later ones stay behind them until these are
        answered: they must not overtake.
        """
        node_of = self.topology.node_of
        calls, leaving = lane.take_others(lambda tag: node_of(tag) == lane.node)
        for tag in leaving:
            self._leaving[tag] = lane
        self._give(calls, self._lane_of)

    def _give(self, calls: Iterable[Call], lane_of: Callable[[Call], Lane]) -> None:
        """To the lanes that are theirs now."""
        if self.closed:
            for call in calls:
                self._end(call, LayerUnavailable(CLOSED))
            return
        by_lane: dict[Lane, list[Call]] = {}
        for call in calls:
            by_lane.setdefault(lane_of(call), []).append(call)
        for lane, found in by_lane.items():
            for call in found:
                if self._away.get(call) is lane:
                    self._come_back(call)
            lane.take_over(found)

    def _end(self, call: Call, error: LayerUnavailable) -> None:
        self.settled(call)
        call.fail(error)

    def _relocated(self, node: str) -> None:
        lane = self._lanes.get(node)
        if lane is not None:
            lane.relocate()
        for reader in self._readers:
            if reader.node == node:
                reader.relocate()

    # -- lanes' user -------------------------------------------------------------------------------

    def lane_back(self, lane: Lane) -> None:
        self._returning = True
        with surviving("engine_back"):
            self._user.engine_back()
        self._returning = False
        if self.connected:
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def lane_lost(self, lane: Lane, reason: str) -> None:
        if not self.closed:
            with surviving("engine_lost"):
                self._user.engine_lost(reason)

    def settled(self, call: Call) -> None:
        self.pending -= call.octets
        if self._away:
            self._come_back(call)

    def _come_back(self, call: Call) -> None:
        lane = self._away.pop(call, None)
        if lane is not None:
            lane.came_back(call.tag)

    def look_around(self, lane: Lane) -> None:
        if lane.silent and lane.node not in self.topology.nodes():
            self._forsake(lane)
        else:
            self.topology.refresh_soon()

    def left(self, lane: Lane, tags: Iterable[str]) -> None:
        for tag in tags:
            if self._leaving.get(tag) is lane:  # else another lane has some of it under way
                del self._leaving[tag]
        self._reroute(lane)

    def moved(self, lane: Lane, calls: Sequence[tuple[Call, str]]) -> None:
        told_by = lane.node or ""
        nodes = {}
        away: list[str | None] = []
        self._moving = True
        try:
            for call, text in calls:
                code, slot, address, *_ = text.split()
                call.asking = code == "ASK"
                try:
                    if call.asking:
                        nodes[call] = self.topology.asked(address, told_by)
                        if call not in self._away:
                            self._away[call] = lane
                            away.append(call.tag)
                    else:
                        nodes[call] = self.topology.moved(int(slot), address, told_by)
                        self._come_back(call)
                except LayerUnavailable as error:
                    self._end(call, error)
            lane.send_away(away)
            self._give(nodes, lambda call: self._lane(nodes[call]))
        finally:
            self._moving = False
        if self._changed_meanwhile:
            self._changed_meanwhile = False
            self._changed()

    def reader_ended(self, reader: Reader) -> None:
        """It was stopped."""
        self._readers.discard(reader)
