"""A user of the engine with the rules of access that the how-to gives may do all that the layer does."""

import asyncio
import re
from pathlib import Path

import pytest

from daphne_like.layers.redis import RedisChannelLayer
from daphne_like.layers.redis.hosts import parse
from daphne_like.layers.redis.port import RedisPort
from daphne_like.layers.redis.topology import topology_of
from tests.layers.port_users import User
from tests.layers_redis.redis_servers import redis_server

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "many-machines.md"


@pytest.fixture
def url(tmp_path):
    (line,) = re.findall(r"^ACL SETUSER .*$", HOW_TO.read_text(), re.MULTILINE)
    words = line.split()
    user, password = words[2], next(word[1:] for word in words if word.startswith(">"))
    with redis_server(tmp_path) as server:
        server.cli(*words)
        yield server.url.replace("://", f"://{user}:{password}@", 1)


async def test_messages_groups_statistics_and_flush(url):
    sender, receiver = RedisChannelLayer([url], capacity=2), RedisChannelLayer([url], capacity=2)
    mine = await receiver.new_channel()
    for channel in (mine, "shared"):
        for _ in range(3):
            await sender.send(channel, {"type": "t", "channel": channel})
            assert await receiver.receive(channel) == {"type": "t", "channel": channel}
    await receiver.group_add("g", mine)
    await sender.group_send("g", {"type": "g"})
    assert await receiver.receive(mine) == {"type": "g"}
    await receiver.group_discard("g", mine)
    assert (await sender.statistics())["shared"]["messages_count"] == 3
    await sender.flush()
    for layer in (sender, receiver):
        await layer.close()


async def test_a_port(url):
    near, far = (RedisPort(lambda: topology_of(parse([url]))) for _ in range(2))
    near_user, far_user = User(), User()
    await near.open(near_user)
    await far.open(far_user)
    far.serve("c", 1)
    near.offer("c", 1, ["hello"], 5)
    async with asyncio.timeout(5):
        assert await far_user.until(1) == [("offer", "c", near.address, 1, ["hello"])]
        assert await near_user.until(1) == [("claimed", 1, far.address)]
    await near.close()
    await far.close()
