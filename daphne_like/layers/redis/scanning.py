"""
All keys of a layer, over all nodes.

What is of ports is no part of what flush() deletes: streams go on.
"""

from collections.abc import AsyncIterator

from .engine import Engine
from .keys import Keys

__all__ = ["delete_everything", "scan"]

# Kinds of keys, see Keys.
_LEASE = "up"
_DELETED = {"in", "n", "ch", "st", "gr", "gap", "gapn", "gaps"}


async def delete_everything(engine: Engine, keys: Keys) -> set[str]:
    """
    Delete messages, groups and counts.

    Returns:
        the members that there are, who are to be told.

    Raises:
        LayerUnavailable: not all could be reached.
    """
    members = set()
    deleted = []
    await engine.ready()
    for node in engine.nodes():
        async for key in scan(engine, node, keys):
            kind, tag = keys.split(key)
            if kind == _LEASE:
                members.add(tag)
            elif kind in _DELETED:
                deleted.append(engine.command(tag, "UNLINK", key))
    for each in deleted:
        await each
    return members


async def scan(engine: Engine, node: str, keys: Keys) -> AsyncIterator[str]:
    """The layer's keys on a node, each at least once; for `async for`."""
    cursor = b"0"
    while True:
        cursor, found = await engine.node_command(
            node, "SCAN", cursor, "MATCH", keys.everything(), "COUNT", 1000
        )
        for octets in found:
            key = octets.decode(errors="replace")
            try:
                keys.split(key)
            except ValueError:
                # Somebody else's, that begins as ours do.
                continue
            yield key
        if cursor == b"0":
            return
