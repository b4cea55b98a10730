"""The conformance suite over a real redis-server: in one loop, from a thread, with other processes."""

import asyncio
import itertools
import os

import pytest

from daphne_like.layers.redis import RedisChannelLayer
from daphne_like.testing.layer_conformance import LayerConformance
from tests.conftest import NEW_LOOP
from tests.layers_redis.redis_servers import redis_server

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server_url(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


class OverRedis(LayerConformance):
    """Each layer has a prefix of its own; time passes as it does."""

    loop_factory = staticmethod(NEW_LOOP)
    on_this_loop = True
    keys = None

    @pytest.fixture(autouse=True)
    def url_of_server(self, server_url):
        self.url = server_url

    async def open_layer(self, **options):
        self.given = {
            "hosts": [self.url],
            "prefix": f"t{os.getpid()}-{next(_numbers)}",
            "symmetric_encryption_keys": self.keys,
            **options,
        }
        self.tested = await self.join()
        self.delivered = 0
        return self.tested

    async def join(self):
        layer = RedisChannelLayer(**self.given)
        if self.on_this_loop:
            await layer.open()
        return layer

    async def open_peer(self, layer):
        return await self.join()

    def deliveries(self, layer):
        return layer._member.group_messages


class TestHere(OverRedis):
    pass


class TestOnItsOwnThread(OverRedis):
    """As with async_to_sync(): the home is a thread's loop, and every call comes from another one."""

    on_this_loop = False
    loop_factory = None

    async def join(self):
        layer = RedisChannelLayer(**self.given)
        await asyncio.to_thread(layer.send_sync, "first", {"type": "use"})
        return layer


class TestEncrypted(OverRedis):
    keys = ("new", "old")
