"""
Real arrangements of Redis on loopback, in folders of their own: a cluster of six, an engine with a replica and
sentinels, an engine that speaks TLS.

    with redis_cluster() as cluster:
        node = cluster.master_of("tag")
        node.kill()

Everything begins as quickly as Redis allows: nodes.conf and sentinel.conf are written beforehand, so that nobody
has to be introduced to anybody, and time-outs are short. A cluster takes two seconds, as a master that starts
waits so long before it says that all is well. Leaving a block kills whatever is left.
"""

import contextlib
import functools
import itertools
import random
import shutil
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.processes import eventually

pytest.importorskip("redis", reason="redis is not installed: pip install -e '.[redis]'")

import redis

from tests.layers_redis.redis_servers import RedisServer

if TYPE_CHECKING:
    from tests.end_to_end.certificates import Certificate

__all__ = [
    "Engine",
    "Member",
    "RedisCluster",
    "SentinelSite",
    "engine",
    "redis_cluster",
    "sentinel_site",
    "shard_of",
]

# Seconds.
START_WITHIN = 15.0
# What a node of the cluster may be silent for; a replica is a master about as long after that.
NODE_TIMEOUT = 1.0
# The same for the sentinels.
DOWN_AFTER = 0.5

# Below those that Linux gives to connections.
QUIET_PORTS = (12000, 32000)

SLOTS = 16384
MASTERS = 3


_taken: set[int] = set()


def quiet_port() -> int:
    """
    A port that stays free until it is used, and while its server is down.

    Those that the system gives are given to every client's connection as well, and an arrangement chooses a
    dozen before it begins.
    """
    while True:
        port = random.randrange(*QUIET_PORTS)
        if port in _taken:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _taken.add(port)
            return port


class Engine(RedisServer):
    """
    One redis-server.

    Args:
        words: of its command line.
        tls: its certificate, and its CA's; over TCP it speaks nothing but TLS then.

    Attributes:
        address: host:port.
        url: without user and password.
    """

    def __init__(self, folder: Path, *words: str, tls: "Certificate | None" = None) -> None:
        self.certificate = tls
        if tls is None:
            super().__init__(folder, *words, port=quiet_port())
        else:
            tls_port = quiet_port()
            files = ("--tls-cert-file", tls.chain, "--tls-key-file", tls.key, "--tls-ca-cert-file", tls.chain)
            spoken = ("--tls-port", str(tls_port), "--tls-auth-clients", "no", *map(str, files))
            super().__init__(folder, *spoken, *words, tcp=False)
            self.tls_port = tls_port
        # Lists, as the wire has them.
        self.client_options["protocol"] = 2
        if "--requirepass" in words:
            self.client_options["password"] = words[words.index("--requirepass") + 1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.tls_port if self.certificate else self.port}"

    def role(self) -> str:
        """What it takes itself for: "master" or "slave"; "" while it does not answer."""
        with contextlib.suppress(redis.RedisError):
            return str(self.cli("ROLE")[0].decode())
        return ""


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Shorter than pytest's, since a Unix socket's path has a limit."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_certificate(folder: Path) -> "Certificate":
    # Imported here, as it skips the whole module where there is no cryptography.
    from tests.end_to_end.certificates import make_certificate

    return make_certificate(folder)


@contextlib.contextmanager
def engine(*words: str, tls: bool = False) -> Iterator[Engine]:
    """One engine, if wanted with a certificate of its own: *words* are of its command line."""
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        server = Engine(folder, *words, tls=make_certificate(folder) if tls else None)
        stack.callback(server.stop)
        server.start()
        yield server


# -- cluster -----------------------------------------------------------------------------------------


class Member(Engine):
    """
    A node of a cluster.

    Attributes:
        id: what the cluster calls it.
        slots: first and last that a master begins with; None for a replica.
    """

    def __init__(self, folder: Path, number: int, *words: str, tls: "Certificate | None") -> None:
        bus = quiet_port()
        if tls is not None:
            words = ("--tls-cluster", "yes", "--tls-replication", "yes", *words)
        super().__init__(
            folder,
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-port", str(bus), "--cluster-node-timeout", str(int(NODE_TIMEOUT * 1000))),
            # However long ago it heard of its master: what is in it is not the point.
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
            *words,
            tls=tls,
        )
        self.bus = bus
        self.id = f"{number:040x}"
        self.slots: tuple[int, int] | None = None


class RedisCluster:
    """
    Attributes:
        members: all six; the first three begin as masters, the others as their replicas, in order.
    """

    def __init__(self, folder: Path, *words: str, tls: "Certificate | None" = None) -> None:
        numbers = range(1, 2 * MASTERS + 1)
        self.members = [Member(folder / str(number), number, *words, tls=tls) for number in numbers]
        bounds = [SLOTS * place // MASTERS for place in range(MASTERS + 1)]
        for member, (first, after) in zip(self.members, itertools.pairwise(bounds), strict=False):
            member.slots = first, after - 1

    def start(self) -> None:
        for member in self.members:
            (member.folder / "nodes.conf").write_text(self._nodes_conf(member))
            member.start()
        self.wait()

    def _nodes_conf(self, of: Member) -> str:
        """What a node remembers of the cluster, as if it had been part of it before."""
        rows = []
        for number, member in enumerate(self.members):
            master = self.members[number % MASTERS]
            flags = ["myself"] if member is of else []
            flags.append("master" if member.slots else "slave")
            slots = "{}-{}".format(*member.slots) if member.slots else ""
            rows.append(
                f"{member.id} {member.address}@{member.bus} {','.join(flags)} "
                f"{'-' if member.slots else master.id} 0 0 {number % MASTERS + 1} connected {slots}".rstrip()
            )
        return "\n".join([*rows, f"vars currentEpoch {len(rows)} lastVoteEpoch 0", ""])

    def wait(self, without: Sequence[Member] = ()) -> None:
        """Until all but *without* say that all is well, and each replica follows."""
        for member in self.members:
            if member not in without:
                eventually(functools.partial(self._is_well, member), START_WITHIN)

    @staticmethod
    def _is_well(member: Member) -> bool:
        try:
            info, role = member.cli("CLUSTER INFO"), member.cli("ROLE")
        except redis.RedisError:
            return False
        return info["cluster_state"] == "ok" and (role[0] == b"master" or role[3] == b"connected")

    @property
    def url(self) -> str:
        """Of all members, without user and password."""
        scheme = "rediss" if self.members[0].certificate else "redis"
        return f"{scheme}+cluster://{','.join(member.address for member in self.members)}"

    def slot_of(self, tag: str) -> int:
        return int(self.members[-1].cli("CLUSTER", "KEYSLOT", f"{{{tag}}}"))

    def master_of(self, tag: str) -> Member:
        """Who begins with the keys of *tag*."""
        slot = self.slot_of(tag)
        return next(member for member in self.members if member.slots and slot <= member.slots[1])

    def replica_of(self, member: Member) -> Member:
        """Who begins as its replica."""
        return self.members[self.members.index(member) + MASTERS]

    def tag_of(self, member: Member) -> str:
        """Some tag that *member* begins with."""
        return next(tag for tag in map(str, itertools.count()) if self.master_of(tag) is member)

    def migrate(
        self, slot: int, source: Member, target: Member, between: Callable[[], None] = lambda: None
    ) -> None:
        """
        Move a slot while others use it, as `redis-cli --cluster reshard` does it.

        Args:
            between: called when the slot is on its way: new keys are made at the target by then.
        """
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        between()
        while keys := source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.cli("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for member in (target, source, *(one for one in self.members if one not in (source, target))):
            with contextlib.suppress(redis.ResponseError):  # a replica hears of it from its master
                member.cli("CLUSTER", "SETSLOT", slot, "NODE", target.id)


@contextlib.contextmanager
def redis_cluster(*words: str, tls: bool = False) -> Iterator[RedisCluster]:
    """Three masters with a replica each; *words* are for all of them. With TLS they share a certificate."""
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        cluster = RedisCluster(folder, *words, tls=make_certificate(folder) if tls else None)
        for member in cluster.members:
            stack.callback(member.stop)
        cluster.start()
        yield cluster


# -- sentinels ---------------------------------------------------------------------------------------


class Sentinel(Engine):
    """One sentinel, which finds its configuration in its folder."""

    def start(self) -> None:
        words = ["redis-server", str(self.folder / "sentinel.conf"), "--sentinel", "--port", str(self.port)]
        words += ["--bind", "127.0.0.1", "--unixsocket", self.path, "--dir", str(self.folder), *self.options]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log)
        eventually(self._answers, START_WITHIN)


class SentinelSite:
    """
    An engine called "site", its replica, and those who watch them.

    Attributes:
        engines: the first begins as master.
        sentinels: any two of them can decide.
    """

    NAME = "site"

    def __init__(self, folder: Path, sentinels: int, *words: str) -> None:
        common = ("--repl-diskless-sync-delay", "0", *words)
        master = Engine(folder / "master", *common)
        replica = Engine(folder / "replica", "--replicaof", "127.0.0.1", str(master.port), *common)
        self.engines = [master, replica]
        self.sentinels = [Sentinel(folder / f"sentinel{number}") for number in range(sentinels)]
        self._quorum = sentinels // 2 + 1

    def start(self) -> None:
        for server in self.engines:
            server.start()
        master, replica = self.engines
        # A sentinel looks for replicas when it comes, and then every ten seconds.
        eventually(lambda: replica.cli("ROLE")[3] == b"connected", START_WITHIN)
        eventually(lambda: len(master.cli("ROLE")[2]) == 1, START_WITHIN)
        for number, sentinel in enumerate(self.sentinels):
            (sentinel.folder / "sentinel.conf").write_text(self._sentinel_conf(number))
            sentinel.start()
        for sentinel in self.sentinels:
            eventually(functools.partial(self._is_well, sentinel), START_WITHIN)

    def _sentinel_conf(self, number: int) -> str:
        """What a sentinel remembers, as if it had met the others before."""
        name = self.NAME
        rows = [
            f"sentinel myid {number + 1:040x}",
            f"sentinel monitor {name} 127.0.0.1 {self.engines[0].port} {self._quorum}",
            f"sentinel down-after-milliseconds {name} {int(DOWN_AFTER * 1000)}",
            f"sentinel failover-timeout {name} 3000",
            f"sentinel known-replica {name} 127.0.0.1 {self.engines[1].port}",
        ]
        rows += [
            f"sentinel known-sentinel {name} 127.0.0.1 {other.port} {index + 1:040x}"
            for index, other in enumerate(self.sentinels)
            if index != number
        ]
        return "\n".join([*rows, ""])

    def _is_well(self, sentinel: Engine) -> bool:
        """It sees the replica, and enough of the others."""
        replicas = [pairs(row) for row in sentinel.cli("SENTINEL", "REPLICAS", self.NAME)]
        others = [pairs(row) for row in sentinel.cli("SENTINEL", "SENTINELS", self.NAME)]
        return [(replica["flags"], replica["master-link-status"]) for replica in replicas] == [
            ("slave", "ok")
        ] and [other["flags"] for other in others] == ["sentinel"] * (len(self.sentinels) - 1)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{self.NAME}"


def pairs(row: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in row]
    return dict(zip(words[::2], words[1::2], strict=True))


@contextlib.contextmanager
def sentinel_site(*words: str, sentinels: int = 3) -> Iterator[SentinelSite]:
    """A master, its replica, and sentinels; *words* are for the two engines."""
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        site = SentinelSite(folder, sentinels, *words)
        for server in (*site.engines, *site.sentinels):
            stack.callback(server.stop)
        site.start()
        yield site


def shard_of(tag: str, shards: int) -> int:
    """Which of several hosts channels_redis takes; written down again, to compare with."""
    return int((zlib.crc32(tag.encode()) & 0xFFF) / (4096 / shards))
