"""The layer between machines, on Redis: see `daphne_like.layers.redis.layer`."""

from .layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
