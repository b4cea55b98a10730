"""Ipc layers for tests: a host and members of it, all in this process."""

import contextlib

from daphne_like.layers.ipc import IPCChannelLayer


@contextlib.asynccontextmanager
async def open_layers(folder, members=1, **options):
    """(host, member, ...), joined in the running loop."""
    path = str(folder / "s")
    layers = [IPCChannelLayer(path, **options) for _ in range(1 + members)]
    try:
        assert await layers[0].serve()
        for layer in layers[1:]:
            await layer.open()
        yield layers
    finally:
        for layer in reversed(layers):
            await layer.close()
