"""
`daphne-like layer stats --layer URL`: what a layer knows of its channels, as a table or as JSON.

The layer counts what was sent since a channel came to be; messages per second are the difference of two looks.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

from .errors import ConfigurationError, LayerError, StartupFailed
from .layers.base import BaseChannelLayer
from .layers.foreign import ForeignLayer
from .layers.loading import open_layer
from .layers.memory import MemoryChannelLayer

__all__ = ["read_statistics"]

Figures = dict[str, dict[str, float]]


def read_statistics(url: str, seconds: float, *, as_json: bool) -> str:
    """
    The statistics of the layer at *url*, to be printed.

    Args:
        seconds: between the two looks; 0 for one look, and no messages per second.

    Raises:
        ConfigurationError: a layer that has none.
        StartupFailed: it cannot be reached.
    """
    layer = open_layer(url)
    if isinstance(layer, MemoryChannelLayer):
        raise ConfigurationError("--layer: memory is one process' own: name a layer that several have")
    if isinstance(layer, ForeignLayer) or not hasattr(layer, "statistics"):
        raise ConfigurationError("--layer: a layer of somebody else's, which keeps no statistics")
    try:
        found = asyncio.run(_look_twice(layer, seconds))
    except LayerError as error:
        raise StartupFailed(f"--layer: {error}") from error
    return json.dumps(found, indent=2, sort_keys=True) if as_json else _table(found)


async def _look_twice(layer: BaseChannelLayer, seconds: float) -> Figures:
    try:
        await layer.open()
        before = await _look(layer)
        if not seconds:
            return before
        await asyncio.sleep(seconds)
        found = await _look(layer)
    finally:
        await layer.close()
    for channel, figures in found.items():
        sent_before = before.get(channel, {}).get("messages_count", 0)
        # A channel that was forgotten in between begins again at 0.
        sent = max(0.0, figures["messages_count"] - sent_before)
        figures["messages_per_second"] = round(sent / seconds, 3)
    return found


async def _look(layer: Any) -> Figures:
    answer = layer.statistics()
    found: Figures = await answer if inspect.isawaitable(answer) else answer
    return {channel: dict(figures) for channel, figures in found.items()}


# Key -> what stands above it, how it is shown.
_COLUMNS = {
    "messages_per_second": ("per second", "{:.1f}"),
    "messages_pending": ("pending", "{:.0f}"),
    "messages_max_age": ("oldest, s", "{:.1f}"),
    "channel_full_count": ("refused", "{:.0f}"),
    "messages_count": ("sent", "{:.0f}"),
}


def _table(found: Figures) -> str:
    if not found:
        return "no channel has been used"
    columns = [key for key in _COLUMNS if any(key in figures for figures in found.values())]
    rows = [["channel", *(_COLUMNS[key][0] for key in columns)]]
    for channel in sorted(found):
        figures = found[channel]
        rows.append([channel, *(_COLUMNS[key][1].format(figures.get(key, 0)) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
