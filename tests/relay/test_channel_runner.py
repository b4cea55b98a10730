"""Named channels: the application gets their messages one by one, and loses none to a drain."""

import asyncio
from typing import Any

import pytest

from daphne_like.errors import LayerUnavailable, UnexpectedMessage
from daphne_like.layers.codec import pack, unpack
from tests.asgi.conversation import Puppet, sentences
from tests.relay.workers import Workshop, at_work


class QueueLayer:
    """A layer of which only receive() is real, and cannot lose a message."""

    def __init__(self) -> None:
        self.messages: dict[str, list[bytes]] = {}
        self.waiters: dict[str, Any] = {}
        self.down = False

    def put(self, shop: Workshop, channel: str, message: dict[str, Any]) -> None:
        self.messages.setdefault(channel, []).append(pack(message))
        waiter = self.waiters.pop(channel, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        shop.loop.settle()

    async def receive(self, channel: str) -> dict[str, Any]:
        if self.down:
            raise LayerUnavailable("down")
        while not self.messages.get(channel):
            self.waiters[channel] = asyncio.get_running_loop().create_future()
            await self.waiters[channel]
        found: dict[str, Any] = unpack(self.messages[channel].pop(0))
        return found


JOB = {"type": "make.thumbnail", "id": 1}


def test_named_channel_runs_an_instance_of_the_application():
    layer, puppet = QueueLayer(), Puppet()
    with at_work(puppet, layer=layer, channels=("thumbnails",)) as shop:
        assert puppet.calls == [], "made for its first message"
        layer.put(shop, "thumbnails", JOB)
        assert puppet.call.scope == {"type": "channel", "channel": "thumbnails"}
        assert puppet.call.receive() == JOB
        waiting = puppet.call.begin_receive()
        layer.put(shop, "thumbnails", {**JOB, "id": 2})
        assert waiting.result() == {**JOB, "id": 2}
        assert len(puppet.calls) == 1


def test_instance_that_raises_is_logged_and_made_anew(caplog):
    layer, puppet = QueueLayer(), Puppet()
    with at_work(puppet, layer=layer, channels=("thumbnails",)) as shop:
        layer.put(shop, "thumbnails", JOB)
        puppet.call.receive()
        puppet.call.raises(ZeroDivisionError())
        assert len(puppet.calls) == 1
        layer.put(shop, "thumbnails", {**JOB, "id": 2})
        assert puppet.calls[1].receive() == {**JOB, "id": 2}
    assert sentences(caplog) == ["application failed"]


def test_drain_finishes_the_message_in_hand():
    layer, puppet = QueueLayer(), Puppet()
    with at_work(puppet, layer=layer, channels=("thumbnails",)) as shop:
        layer.put(shop, "thumbnails", JOB)
        puppet.call.receive()
        draining = shop.begin_drain()
        layer.put(shop, "thumbnails", {**JOB, "id": 2})
        assert not draining.done()
        waiting = puppet.call.begin_receive()
        assert draining.result() is True
        assert puppet.call.cancelled
        assert len(layer.messages["thumbnails"]) == 1, "left for another worker"
        waiting.cancel()
        shop.loop.settle()


def test_drain_ends_instances_that_wait():
    layer, puppet = QueueLayer(), Puppet()
    with at_work(puppet, layer=layer, channels=("a", "b")) as shop:
        layer.put(shop, "a", JOB)
        puppet.call.receive()
        waiting = puppet.call.begin_receive()
        assert shop.begin_drain().result() is True
        assert puppet.call.cancelled
        waiting.cancel()
        shop.loop.settle()


def test_layer_that_fails_is_tried_again(caplog):
    layer, puppet = QueueLayer(), Puppet()
    layer.down = True
    with at_work(puppet, layer=layer, channels=("thumbnails",)) as shop:
        assert sentences(caplog) == ["channel cannot be received from now"]
        layer.down = False
        shop.advance(2)
        layer.put(shop, "thumbnails", JOB)
        assert puppet.call.receive() == JOB


def test_nothing_can_be_sent_on_a_channel():
    layer, puppet = QueueLayer(), Puppet()
    with at_work(puppet, layer=layer, channels=("thumbnails",)) as shop:
        layer.put(shop, "thumbnails", JOB)
        with pytest.raises(UnexpectedMessage, match=r"websocket\.send in channel"):
            puppet.call.send("websocket.send")
