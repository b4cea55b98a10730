"""
What the engine knows of channels, across all processes.

Counts live in the engine beside the lists and end some time after the last message. Of shared channels they are
per part and are added up here; of channels with "!" per part up to it, as capacity is.
"""

import asyncio

from .door import expiry_of
from .engine import Engine
from .keys import Keys
from .scanning import scan

__all__ = ["read_statistics"]


async def read_statistics(engine: Engine, keys: Keys, expiry: float) -> dict[str, dict[str, float]]:
    """
    Per channel, as Hub.statistics() has it.

    Args:
        expiry: seconds that messages live: tells age from what is left of it.

    Raises:
        LayerUnavailable: not all of the engine could be asked.
    """
    found: dict[str, dict[str, float]] = {}
    await engine.ready()
    names: set[tuple[str, str]] = set()
    for node in engine.nodes():
        async for key in scan(engine, node, keys):
            kind, tag = keys.split(key)
            if kind == "n":
                names.add(("n", tag))
            elif kind in ("ch", "st", "offers"):
                names.add(("ch", tag))
    asked = [
        (_read_inbox(engine, keys, tag) if kind == "n" else _read_channel(engine, keys, tag, expiry))
        for kind, tag in sorted(names)
    ]
    for figures in await asyncio.gather(*asked):
        for channel, (count, pending, age, full) in figures.items():
            sums = found.setdefault(
                channel,
                {
                    "messages_count": 0,
                    "messages_pending": 0,
                    "messages_max_age": 0.0,
                    "channel_full_count": 0,
                },
            )
            sums["messages_count"] += count
            sums["messages_pending"] += pending
            sums["messages_max_age"] = max(age, sums["messages_max_age"])
            sums["channel_full_count"] += full
    return found


# Channel -> sent, pending, seconds of the oldest, refused.
_Figures = dict[str, tuple[int, int, float, int]]


async def _read_inbox(engine: Engine, keys: Keys, member: str) -> _Figures:
    fields = _as_dict(await engine.command(member, "HGETALL", keys.counts(member)))
    figures = {}
    for name in {field.partition("#")[0] for field in fields}:
        if name.endswith("!"):
            pending = max(0, fields.get(name, 0))
            figures[name] = (
                pending + fields.get(f"{name}#took", 0),
                pending,
                0.0,
                fields.get(f"{name}#full", 0),
            )
    return figures


async def _read_channel(engine: Engine, keys: Keys, part: str, expiry: float) -> _Figures:
    fields, waiting, offers, oldest = await asyncio.gather(
        engine.command(part, "HGETALL", keys.statistics(part)),
        engine.command(part, "LLEN", keys.channel(part)),
        engine.command(part, "LLEN", keys.offers(part)),
        engine.command(part, "LINDEX", keys.channel(part), 0),
    )
    counts = _as_dict(fields)
    age = max(0.0, expiry - (expiry_of(oldest) - engine.time(part))) if oldest else 0.0
    channel = part.rpartition(".")[0]
    return {channel: (counts.get("sent", 0), waiting + offers, age, counts.get("full", 0))}


def _as_dict(reply: list[bytes]) -> dict[str, int]:
    return {reply[place].decode(): int(reply[place + 1]) for place in range(0, len(reply), 2)}
