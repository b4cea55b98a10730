"""
Calls of a batch that were refused, and surely not done: what becomes of each.

Elsewhere, at once, or a little later: the reply says which. Of one tag none may go elsewhere, or be tried again,
before another that was asked earlier and has to wait.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from .backlog import Call
from .connection import NEVER_DONE
from .scripts import Script

__all__ = ["Refusals", "sort_out"]

# A call that is sent from node to node so often in a row waits a little: they do not agree yet.
MAX_HOPS = 5

# Replies after which the node is looked for again.
ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "NOAUTH", "UNBLOCKED"})


@dataclass(slots=True)
class Refusals:
    """
    Attributes:
        moved: got MOVED or ASK, as the text says, and are another node's.
        at_once: to be tried again when `missing` is loaded; calls, in order, as `held` are.
        held: to be tried again in a while.
        missing: scripts that the engine has lost, by their names.
        why: the reason of the last that is held; "" where none is.
        drops: why there should be another connection, or "".
        is_down: the cluster says so of itself.
    """

    moved: list[tuple[Call, str]] = field(default_factory=list)
    at_once: list[Call] = field(default_factory=list)
    held: list[Call] = field(default_factory=list)
    missing: dict[str, Script] = field(default_factory=dict)
    why: str = ""
    drops: str = ""
    is_down: bool = False


def sort_out(refused: Iterable[tuple[Call, str]], waiting: Container[str | None]) -> Refusals:
    """
    Args:
        refused: with the replies, in the order of the batch. Their hops are counted.
        waiting: tags of which something is held already.
    """
    found = Refusals()
    staying: set[str | None] = set()
    for call, text in refused:
        code = text.partition(" ")[0]
        is_elsewhere = code in ("MOVED", "ASK")
        call.hops += is_elsewhere
        if is_elsewhere and call.hops % MAX_HOPS and call.tag not in staying:
            found.moved.append((call, text))
            continue
        if code == "NOSCRIPT" and call.script is not None:
            found.missing[call.script.sha] = call.script
            if call.tag not in staying and call.tag not in waiting:
                found.at_once.append(call)
                continue
        else:
            found.why = NEVER_DONE[code]
        if code in ELSEWHERE:
            found.drops = found.why
        found.is_down |= code == "CLUSTERDOWN"
        found.held.append(call)
        staying.add(call.tag)
    return found
