"""Redis layers for tests: members of one layer, all in this process."""

import contextlib
import uuid

from daphne_like.layers.redis import RedisChannelLayer


@contextlib.asynccontextmanager
async def open_layers(url, members=2, **options):
    """(member, ...), joined in the running loop, with a prefix of their own."""
    options.setdefault("prefix", f"t{uuid.uuid4().hex}")
    layers = [RedisChannelLayer([url], **options) for _ in range(members)]
    try:
        for layer in layers:
            await layer.open()
        yield layers
    finally:
        for layer in layers:
            await layer.close()
