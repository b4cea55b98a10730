"""
Layers and os.fork(): the child is a process of its own, and begins with nothing.

Without this it would share its parent's connections: what either reads of them, the other one never sees.
"""

import functools
import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "forget_after_fork"]


class Forkable(Protocol):
    """A layer that has connections or threads."""

    def forked(self) -> None:
        """This process is the child of a fork: let go of the parent's connections, and begin anew."""


_layers: "weakref.WeakSet[Forkable]" = weakref.WeakSet()


def forget_after_fork(layer: Forkable) -> None:
    """Have *layer* told in children of this process, as long as it lives."""
    if hasattr(os, "register_at_fork"):
        _register()
    _layers.add(layer)


@functools.cache
def _register() -> None:
    os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for layer in list(_layers):
        layer.forked()
