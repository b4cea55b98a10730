"""
An engine that sentinels know the address of.

They are asked before each connect, all of them, and the one that has seen the latest failover is believed: a
sentinel that was cut off goes on naming the old master until somebody tells it. What answers at the address that
they name is asked for its role as well (Host.master_only).

While there is a connection they are listened to (+switch-master), and asked every other second, as what is said
once may be missed. For an old master goes on taking writes, ten seconds in a failover that somebody asked for,
and all of those are lost. Whoever is still connected to it must leave it as soon as the sentinels have chosen
another.
"""

import asyncio
import contextlib
from collections.abc import Callable

from daphne_like.errors import LayerUnavailable

from .asking import Line, newest_answer
from .connection import Connection, connect
from .hosts import Address, Host, SentinelHost

__all__ = ["Sentinels"]

# Seconds between questions while there is a connection, if they say nothing.
WATCH_PERIOD = 2.0


class Sentinels:
    """
    Those of one engine, in one event loop.

    Args:
        host: the engine.
        relocated: called when they name another master than they last did.
    """

    def __init__(self, host: SentinelHost, relocated: Callable[[], None]) -> None:
        self._host = host
        self._relocated = relocated
        self._lines = [Line(sentinel) for sentinel in host.sentinels]
        # Epoch of the failover, address: as last told.
        self._told: tuple[int, Address] | None = None
        # One line is for one question at a time.
        self._asking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        # Set when one of them says something.
        self._news = asyncio.Event()
        self._listeners = [_Listener(sentinel, self._news) for sentinel in host.sentinels]

    async def master(self) -> Host:
        """
        Where the engine is.

        Raises:
            LayerUnavailable: no sentinel can say.
        """
        self._told = await self._ask()
        if not self._tasks:
            name = f"daphne_like redis sentinels of {self._host.master_name}"
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(work(), name=name) for work in (self._watch, self._listen)]
        return self._host.at(self._told[1])

    async def close(self) -> None:
        """Ask no more."""
        tasks, self._tasks = self._tasks, []
        if tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for line in self._lines:
            line.close()
        for listener in self._listeners:
            listener.close()

    def abandon(self) -> None:
        """See Topology.abandon()."""
        for line in self._lines:
            line.abandon()
        for listener in self._listeners:
            listener.abandon()

    async def _listen(self) -> None:
        while True:
            await asyncio.gather(*(listener.listen() for listener in self._listeners))
            await asyncio.sleep(WATCH_PERIOD)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_PERIOD):
                    await self._news.wait()
            self._news.clear()
            try:
                epoch, address = await self._ask()
            except LayerUnavailable:
                # Without them it stays as it is.
                continue
            # Not to an older master: some may be behind.
            if self._told is not None and address != self._told[1] and epoch >= self._told[0]:
                self._told = epoch, address
                self._relocated()

    async def _ask(self) -> tuple[int, Address]:
        async with self._asking:
            return await newest_answer(self._lines, self._ask_one)

    async def _ask_one(self, line: Line) -> tuple[int, Address]:
        (reply,) = await line.ask(("SENTINEL", "MASTER", self._host.master_name))
        known = dict(zip(reply[::2], reply[1::2], strict=True))
        flags = known[b"flags"].split(b",")
        if b"s_down" in flags or b"o_down" in flags:
            raise LayerUnavailable(f"says that {self._host.master_name} is down")
        return int(known[b"config-epoch"]), (known[b"ip"].decode(), int(known[b"port"]))


class _Listener:
    """
    Hears of it when a sentinel names another master, of whichever engine.

    Args:
        news: set then.
    """

    def __init__(self, sentinel: Host, news: asyncio.Event) -> None:
        self._sentinel = sentinel
        self._news = news
        self._connection: Connection | None = None

    async def listen(self) -> None:
        """Begin to, if that is not so already. If it cannot be, there are others."""
        if self._connection is None:
            with contextlib.suppress(LayerUnavailable):
                connection, _, _ = await connect(self._sentinel, [("SUBSCRIBE", "+switch-master")])
                connection.tell(lambda _: self._news.set(), self._lost)
                self._connection = connection

    def close(self) -> None:
        """Listen no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end("heard enough")

    def abandon(self) -> None:
        """Let go of the socket without a word."""
        if self._connection is not None:
            self._connection.abandon()

    def _lost(self, reason: str) -> None:
        self._connection = None
