"""Engines for tests: one that starts and ends with a block, and what its user was told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from daphne_like.layers.redis.engine import Engine
from daphne_like.layers.redis.hosts import parse
from daphne_like.layers.redis.scripts import Script
from daphne_like.layers.redis.topology import topology_of

__all__ = ["PUSH", "Told", "engine_on", "until"]

WAIT = 20.0

# Gives the new length.
PUSH = Script("PUSH", "return redis.call('RPUSH', KEYS[1], unpack(ARGV))")


class Told:
    """
    An engine's user.

    Attributes:
        back: how often engine_back() was called.
        lost: the reasons of engine_lost().
        say: called in engine_back().
    """

    def __init__(self) -> None:
        self.back = 0
        self.lost: list[str] = []
        self.say: Callable[[], None] = lambda: None

    def engine_back(self) -> None:
        self.back += 1
        self.say()

    def engine_lost(self, reason: str) -> None:
        self.lost.append(reason)


@contextlib.asynccontextmanager
async def engine_on(
    *hosts: Any,
    told: Told | None = None,
    scripts: Iterable[Script] = (PUSH,),
    ready: bool = True,
    **options: Any,
) -> AsyncIterator[Engine]:
    """An engine, connected unless it is not to be *ready*."""
    engine = Engine(topology_of(parse(hosts)), user=told or Told(), scripts=scripts, **options)
    await engine.start()
    try:
        if ready:
            await engine.ready()
        yield engine
    finally:
        await engine.close()
        assert engine.pending == 0


async def until(condition: Callable[[], bool], timeout: float = WAIT) -> None:
    """Wait for what nothing tells of."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)
