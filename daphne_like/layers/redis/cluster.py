"""
A Redis Cluster: 16384 slots, which move.

Any node tells which has which slot. Several are asked, and the one that knows of the latest change is believed:
one that was cut off goes on telling what it knew. They are asked after start, whenever a node is lost, and after
a MOVED, which besides counts at once for the slot it names. A cluster that says of itself that it is down has
nothing to tell: what was known stays, since that is what is going to be.
"""

import asyncio
import binascii
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from daphne_like.errors import LayerUnavailable

from .asking import Line, newest_answer
from .hosts import Address, ClusterHost, Host, show_address

__all__ = ["Cluster", "Layout", "read_layout", "slot_of"]

SLOTS = 16384

# Over how many keys a shared channel is spread: as many nodes can carry it.
PARTS = 4

# Seconds between two rounds of questions, and how many nodes are asked at once.
MIN_PERIOD = 0.1
ASKED_AT_ONCE = 3

# Seconds that a node counts which an ASK has named: a slot is on its way to it, and maybe it has none yet.
GUEST_TIME = 10.0


def slot_of(tag: str) -> int:
    """
    The slot of the keys that have *tag* in braces.

    Source: Redis Cluster specification, "Key distribution model".
    """
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


class Cluster:
    """See topology.Topology. A node is called by its address."""

    def __init__(self, host: ClusterHost) -> None:
        self.name = f"redis:{host}"
        self.parts = PARTS
        self.changed: Callable[[], None] = lambda: None
        self.relocated: Callable[[str], None] = lambda _: None
        self._host = host
        # slot -> node
        self._slots: list[str | None] = [None] * SLOTS
        self._nodes: tuple[str, ...] = ()
        # Named by an ASK -> loop time until which they count.
        self._guests: dict[str, float] = {}
        # Of every node that was heard of, replicas too: whom to ask.
        self._addresses: dict[str, Address] = {}
        self._refreshing: asyncio.Task[None] | None = None
        # Loop time of the last round of questions.
        self._asked_at = float("-inf")

    def nodes(self) -> Sequence[str]:
        return self._nodes

    def node_of(self, tag: str) -> str | None:
        return self._slots[binascii.crc_hqx(tag.encode(), 0) % SLOTS]

    async def host(self, node: str) -> Host:
        address = self._addresses.get(node)
        if address is None:
            raise LayerUnavailable(f"the cluster has no node {node} any longer")
        return self._host.at(address)

    async def refresh(self) -> None:
        # Shared with others, so that who is cancelled here cancels nobody else.
        task = self._refresh()
        await asyncio.wait([task])
        if task.cancelled():
            raise LayerUnavailable("the layer was closed")
        task.result()

    def refresh_soon(self) -> None:
        self._refresh()

    def moved(self, slot: int, address: str, told_by: str) -> str:
        node = self._named(address, told_by)
        self.refresh_soon()
        if self._slots[slot] != node:
            self._slots[slot] = node
            self._take_in(node)
            self.changed()
        return node

    def asked(self, address: str, told_by: str) -> str:
        node = self._named(address, told_by)
        self._guests[node] = asyncio.get_running_loop().time() + GUEST_TIME
        if node not in self._nodes:
            self._take_in(node)
            self.changed()
        return node

    def _named(self, address: str, told_by: str) -> str:
        host, _, port = address.rpartition(":")
        known = self._addresses.get(told_by)
        # As CLUSTER SLOTS has it: the one that said so does not know its own name.
        if host in ("", "?") and known is not None:
            host = known[0]
        found = host, int(port)
        node = show_address(found)
        self._addresses[node] = found
        return node

    def _take_in(self, node: str) -> None:
        if node not in self._nodes:
            self._nodes = (*self._nodes, node)

    async def close(self) -> None:
        task = self._refreshing
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    def abandon(self) -> None:
        """A question that is out at that moment keeps its socket; it is one, and of no consequence."""

    # -- asking ------------------------------------------------------------------------------------

    def _refresh(self) -> "asyncio.Task[None]":
        """The round of questions that is under way, or a new one."""
        task = self._refreshing
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._ask_soon(), name=f"daphne_like {self.name}")
            # Nobody may be waiting for it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._refreshing = task
        return task

    async def _ask_soon(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._asked_at + MIN_PERIOD - loop.time())
        self._asked_at = loop.time()
        try:
            self._adopt(await self._ask())
        finally:
            self._asked_at = loop.time()

    async def _ask(self) -> "Layout":
        known = list(self._addresses.values())
        random.shuffle(known)
        # All that we know may have gone since, and others come in the places that we were told of.
        whom = [self._host.at(address) for address in dict.fromkeys((*known, *self._host.startup))]
        reasons = []
        for begin in range(0, len(whom), ASKED_AT_ONCE):
            try:
                _, layout = await newest_answer(whom[begin : begin + ASKED_AT_ONCE], self._ask_one)
            except LayerUnavailable as error:
                reasons.append(str(error))
            else:
                return layout
        raise LayerUnavailable("; ".join(reasons))

    async def _ask_one(self, host: Host) -> "tuple[int, Layout]":
        line = Line(host)
        try:
            text, slots = await line.ask(("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
        finally:
            line.close()
        info = dict(row.partition(b":")[::2] for row in text.split(b"\r\n"))
        if info.get(b"cluster_state") != b"ok":
            raise LayerUnavailable("says that the cluster is down")
        epoch = int(info.get(b"cluster_current_epoch", 0))
        return epoch, read_layout(slots, str(host.address[0]))

    def _adopt(self, layout: "Layout") -> None:
        now = asyncio.get_running_loop().time()
        self._guests = {node: until for node, until in self._guests.items() if until > now}
        nodes = tuple(dict.fromkeys((*layout.nodes, *self._guests)))
        self._addresses = layout.addresses | {
            node: address for node, address in self._addresses.items() if node in self._guests
        }
        if layout.slots != self._slots or set(nodes) != set(self._nodes):
            self._slots = layout.slots
            self._nodes = nodes
            self.changed()


@dataclass(frozen=True, slots=True)
class Layout:
    """What a node knows: masters in the order of their slots, and the addresses of all."""

    slots: list[str | None]
    nodes: tuple[str, ...]
    addresses: dict[str, Address]


def read_layout(reply: Iterable[list[Any]], told_by: str) -> Layout:
    """
    Understand CLUSTER SLOTS.

    Args:
        reply: rows of first slot, last slot, master, replica...; these are [host, port, id...].
        told_by: name of the host that says so. If that does not know its own name, none, a null or a question
            mark stands there.
    """
    slots: list[str | None] = [None] * SLOTS
    masters: dict[str, None] = {}
    addresses: dict[str, Address] = {}
    for first, last, *members in reply:
        names = []
        for host, port, *_ in members:
            address = (told_by if host in (b"", b"?", None) else host.decode()), port
            names.append(show_address(address))
            addresses[names[-1]] = address
        masters[names[0]] = None
        slots[first : last + 1] = [names[0]] * (last + 1 - first)
    return Layout(slots, tuple(masters), addresses)
