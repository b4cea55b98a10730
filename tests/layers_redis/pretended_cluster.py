"""
A cluster that a test decides about: who has which slot, what a node answers, and when.

Nodes understand one command of keys, PUSH number key..., and what an engine says when it connects. A node does
what one read brings without letting anybody else in between, as Redis does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import hiredis

from daphne_like.layers.redis.cluster import SLOTS, slot_of
from daphne_like.layers.redis.engine import Engine
from tests.layers_redis.redis_engines import engine_on, until

__all__ = ["PretendedCluster", "PretendedNode", "pretended_cluster", "push"]


class PretendedNode:
    """
    Attributes:
        keys: that are there.
        refusal: what every PUSH is answered that would be done here; "" for none.
        answering, welcoming: while not set, what comes is not answered; or what comes first on a connection.
        connections: how many there are.
        unanswered: how many of them have asked for what is not answered.
    """

    def __init__(self, cluster: "PretendedCluster") -> None:
        self.keys: set[str] = set()
        self.refusal = ""
        self.answering, self.welcoming = asyncio.Event(), asyncio.Event()
        self.answering.set()
        self.welcoming.set()
        self.connections = self.unanswered = 0
        self._cluster = cluster

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self.welcoming.wait()
            while data := await reader.read(1 << 16):
                self.unanswered += 1
                await self.answering.wait()
                self.unanswered -= 1
                parser.feed(data)
                writer.write(b"".join(self._answers(parser)))
        self.connections -= 1
        writer.close()

    def _answers(self, parser: hiredis.Reader) -> Iterator[bytes]:
        asking = False
        while (words := parser.gets()) is not False:
            command = words[0].upper()
            if command == b"PUSH":
                number, *keys = (word.decode() for word in words[1:])
                yield self._push(int(number), keys, asking)
            elif command == b"CLUSTER":
                yield self._cluster.info() if words[1] == b"INFO" else self._cluster.slots()
            else:
                yield b"*2\r\n:1\r\n:1\r\n" if command == b"TIME" else b"+OK\r\n"
            asking = command == b"ASKING"

    def _push(self, number: int, keys: list[str], asking: bool) -> bytes:
        tag = keys[0].partition("{")[2].partition("}")[0]
        slot = slot_of(tag)
        owner, target = self._cluster.owners[slot], self._cluster.moving.get(slot)
        found = [key in self.keys for key in keys]
        if owner is self and target is not None and not all(found):
            return b"-TRYAGAIN so\r\n" if any(found) else b"-ASK %d %s\r\n" % (slot, target.address.encode())
        if owner is not self and not (target is self and asking):
            return b"-MOVED %d %s\r\n" % (slot, owner.address.encode())
        if self.refusal:
            return f"-{self.refusal} so\r\n".encode()
        self.keys.update(keys)
        self._cluster.done.setdefault(tag, []).append(number)
        return b":1\r\n"


class PretendedCluster:
    """
    Attributes:
        owners: of each slot. Change them with give().
        moving: by slot: the node that it is on its way to.
        done: by tag, the numbers that were pushed, in order.
    """

    def __init__(self, size: int) -> None:
        self.nodes = [PretendedNode(self) for _ in range(size)]
        self.owners = [self.nodes[0]] * SLOTS
        self.moving: dict[int, PretendedNode] = {}
        self.done: dict[str, list[int]] = {}
        self._epoch = 1

    def give(self, tag: str, target: PretendedNode) -> None:
        """The slot of *tag*, with the keys in it, is *target*'s now, and no longer on its way."""
        slot = slot_of(tag)
        source = self.owners[slot]
        for key in [key for key in source.keys if slot_of(key.partition("{")[2].partition("}")[0]) == slot]:
            source.keys.remove(key)
            target.keys.add(key)
        self.moving.pop(slot, None)
        self.owners[slot] = target
        self._epoch += 1

    def info(self) -> bytes:
        text = b"cluster_state:ok\r\ncluster_current_epoch:%d\r\n" % self._epoch
        return b"$%d\r\n%s\r\n" % (len(text), text)

    def slots(self) -> bytes:
        rows, first = [], 0
        for slot in range(1, SLOTS + 1):
            if slot == SLOTS or self.owners[slot] is not self.owners[first]:
                port = self.owners[first].port
                rows.append(b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % (first, slot - 1, port))
                first = slot
        return b"*%d\r\n" % len(rows) + b"".join(rows)


@contextlib.asynccontextmanager
async def pretended_cluster(
    size: int, *, send_timeout: float = 10.0
) -> AsyncIterator[tuple[PretendedCluster, Engine]]:
    """With an engine that is connected to it, and that ends with nothing pending."""
    cluster = PretendedCluster(size)
    servers = [await node.start() for node in cluster.nodes]
    try:
        url = f"redis+cluster://{cluster.nodes[0].address}"
        async with engine_on(url, scripts=[], send_timeout=send_timeout) as engine:
            yield cluster, engine
    finally:
        for node in cluster.nodes:
            node.answering.set()
            node.welcoming.set()
        for server in servers:
            server.close()
        await until(lambda: not any(node.connections for node in cluster.nodes))


def push(engine: Engine, tag: str, number: int, *names: str) -> "asyncio.Future[object]":
    """PUSH of *number* to keys of *tag*, "k" if none is named."""
    return engine.command(tag, "PUSH", number, *(f"{name}{{{tag}}}" for name in names or ("k",)))
