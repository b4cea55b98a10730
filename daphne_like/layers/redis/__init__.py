"""The layer between machines, on Redis: see `daphne_like.layers.redis.layer`."""
