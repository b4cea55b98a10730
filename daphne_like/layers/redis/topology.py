"""
Which engine has which key.

The part of a key in braces is its *tag*; all keys of one tag are on one *node*. Who has a tag depends on what
`hosts=` named:

    Standalone   one engine
    Sharded      several independent ones: the crc32 of the tag decides, as in asgi_redis and channels_redis
    Cluster      a Redis Cluster: the slot of the tag decides, and slots move

An engine may have a fixed address or one that sentinels know. That is asked for again each time that a
connection is made, as it changes with every failover, and so is whether what answers there is a master: an old
one that comes back is a replica soon, but not at once.
"""

import binascii
from collections.abc import Callable, Sequence
from typing import Protocol

from daphne_like.errors import LayerUnavailable

from .cluster import Cluster
from .hosts import AnyHost, ClusterHost, Host, SentinelHost
from .sentinels import Sentinels

__all__ = ["Sharded", "Standalone", "Topology", "topology_of"]


class Topology(Protocol):
    """
    Belongs to one engine, and with it to one event loop.

    A node is something that has a part of the keys: what it is called in logs and errors, and a dict's key:
    "127.0.0.1:6379", "/run/redis.sock", "site of 10.0.0.1:26379".

    Attributes:
        name: the whole, for logs and errors: "redis:127.0.0.1:6379".
        parts: over how many keys a shared channel is spread.
        changed: called when tags have other nodes than before, or nodes came or went: look at nodes() again,
            and ask node_of() again for all that waits. Within refresh() or moved().
        relocated: called with a node that is elsewhere now: drop its connections. host() tells where.
    """

    name: str
    parts: int
    changed: Callable[[], None]
    relocated: Callable[[str], None]

    def nodes(self) -> Sequence[str]:
        """All that have keys. None yet before the first refresh() of a cluster."""
        ...

    def node_of(self, tag: str) -> str | None:
        """Who has the keys of *tag*; None: nobody is known to, and refresh() may tell."""
        ...

    async def host(self, node: str) -> Host:
        """
        Where *node* is now. Asked before each connect.

        Raises:
            LayerUnavailable: nobody knows, or it is no node any longer.
        """
        ...

    async def refresh(self) -> None:
        """
        Ask who has what. After start, when a node is lost or does not let itself be connected, on CLUSTERDOWN.

        May be called at any time by anybody: it is limited in its rate, and calls at the same time are one.

        Raises:
            LayerUnavailable: nobody has answered; what was known stays.
        """
        ...

    def refresh_soon(self) -> None:
        """The same, without waiting for it."""
        ...

    def moved(self, slot: int, address: str, told_by: str) -> str:
        """*slot* is at *address*, says a node's MOVED: the node there. Asks for other slots by itself."""
        ...

    def asked(self, address: str, told_by: str) -> str:
        """The node at the *address* that a node's ASK names. It need not be in nodes()."""
        ...

    async def close(self) -> None:
        """End what goes on in the background."""
        ...

    def abandon(self) -> None:
        """Let go of all sockets without a word: the loop has ended, or this is the child of a fork."""
        ...


class Sharded:
    """
    Engines that know nothing of each other.

    Args:
        hosts: their order matters: all processes of a site must give the same.
    """

    def __init__(self, hosts: Sequence[Host | SentinelHost]) -> None:
        self.name = f"redis:{','.join(map(str, hosts))}"
        self.parts = len(hosts)
        self.changed: Callable[[], None] = lambda: None
        self.relocated: Callable[[str], None] = lambda _: None
        self._hosts = {str(host): host for host in hosts}
        # By the hosts' places: one that is named twice has two.
        self._ring = [str(host) for host in hosts]
        self._sentinels: dict[str, Sentinels] = {}

    def nodes(self) -> Sequence[str]:
        return tuple(self._hosts)

    def node_of(self, tag: str) -> str | None:
        ring = self._ring
        if len(ring) == 1:
            return ring[0]
        # channels_redis' hash: 4096 places, divided among the hosts.
        return ring[int((binascii.crc32(tag.encode()) & 0xFFF) / (4096 / len(ring)))]

    async def host(self, node: str) -> Host:
        host = self._hosts[node]
        if isinstance(host, Host):
            return host
        sentinels = self._sentinels.get(node)
        if sentinels is None:
            sentinels = self._sentinels[node] = Sentinels(host, lambda: self.relocated(node))
        return await sentinels.master()

    async def refresh(self) -> None:
        """Nothing changes."""

    def refresh_soon(self) -> None:
        """Nothing changes."""

    def moved(self, slot: int, address: str, told_by: str) -> str:
        raise LayerUnavailable(f"{told_by} is a node of a cluster: write redis+cluster://")

    def asked(self, address: str, told_by: str) -> str:
        return self.moved(0, address, told_by)

    async def close(self) -> None:
        for sentinels in self._sentinels.values():
            await sentinels.close()
        self._sentinels.clear()

    def abandon(self) -> None:
        for sentinels in self._sentinels.values():
            sentinels.abandon()


class Standalone(Sharded):
    """One engine."""

    def __init__(self, host: Host | SentinelHost) -> None:
        super().__init__([host])


def topology_of(hosts: Sequence[AnyHost]) -> Topology:
    """The topology of what hosts.parse() returned; one per engine, as it belongs to the engine's event loop."""
    first, *more = hosts
    if isinstance(first, ClusterHost):
        return Cluster(first)
    return Sharded([first, *(host for host in more if not isinstance(host, ClusterHost))])
