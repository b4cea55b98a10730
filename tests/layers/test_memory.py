"""The layer within one process: what the conformance suite does not ask. Its guarantees are checked there."""

import asyncio
import contextvars

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from daphne_like.errors import InvalidMessage, LayerUnavailable
from daphne_like.layers.base import current_stream
from daphne_like.layers.memory import MemoryChannelLayer
from tests.layers.hub_members import Clock
from tests.layers.port_users import User, open_ports

STREAM = "server.1"


async def receive_all(layer, channel):
    await layer.send(channel, {"type": "end"})
    found = []
    while (message := await layer.receive(channel))["type"] != "end":
        found.append(message["type"])
    return found


def in_stream(stream, coroutine):
    """A task whose context names a stream, as a session's does."""
    context = contextvars.copy_context()
    context.run(current_stream.set, stream)
    return asyncio.get_running_loop().create_task(coroutine, context=context)


async def test_channels_names_of_options():
    layer = MemoryChannelLayer(expiry=1, group_expiry=2, capacity=3, channel_capacity={"a": 4})
    assert (layer.expiry, layer.group_expiry, layer.capacity, layer.get_capacity("a")) == (1, 2, 3, 4)
    with pytest.raises(TypeError):
        MemoryChannelLayer(hosts=[("localhost", 6379)])


def test_through_async_to_sync():
    """From sync code without an event loop: each call has a loop of its own, and nothing depends on it."""
    layer = MemoryChannelLayer()
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("g", channel)
    async_to_sync(layer.send)(channel, {"type": "one"})
    async_to_sync(layer.group_send)("g", {"type": "two"})
    received = [async_to_sync(layer.receive)(channel)["type"] for _ in range(2)]
    assert received == ["one", "two"]
    async_to_sync(layer.close)()


async def test_from_a_sync_view_to_a_consumer():
    layer = MemoryChannelLayer()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    waiting = asyncio.ensure_future(layer.receive(channel))
    await sync_to_async(async_to_sync(layer.group_send))("g", {"type": "from a view"})
    assert (await waiting)["type"] == "from a view"


async def test_channels_consumer_over_this_layer():
    """Channels' own consumer, its groups and its dispatch of two sources."""
    pytest.importorskip("channels")
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from channels.consumer import AsyncConsumer
    from channels.layers import channel_layers

    class Consumer(AsyncConsumer):
        async def websocket_connect(self, message):
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send({"type": "websocket.accept"})

        async def chat_message(self, message):
            await self.send({"type": "websocket.send", "text": message["text"]})

    layer = MemoryChannelLayer()
    replaced = channel_layers.set("default", layer)
    to_application, from_application = asyncio.Queue(), asyncio.Queue()
    task = asyncio.ensure_future(
        Consumer.as_asgi()({"type": "websocket"}, to_application.get, from_application.put)
    )
    try:
        to_application.put_nowait({"type": "websocket.connect"})
        assert (await from_application.get())["type"] == "websocket.accept"
        for number in range(20):
            await layer.group_send("room", {"type": "chat.message", "text": str(number)})
        sent = [(await from_application.get())["text"] for _ in range(20)]
        assert sent == [str(number) for number in range(20)]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        channel_layers.set("default", replaced)
        if replaced is None:
            channel_layers.backends.pop("default")


async def test_close_ends_who_waits_and_leaves_an_empty_layer():
    layer = MemoryChannelLayer()
    waiting = asyncio.ensure_future(layer.receive("c"))
    own = await layer.new_channel()
    await layer.send(own, {"type": "lost"})
    await asyncio.sleep(0)
    await layer.close()
    with pytest.raises(LayerUnavailable):
        await waiting
    assert await receive_all(layer, "c") == await receive_all(layer, own) == []


async def test_statistics():
    layer = MemoryChannelLayer()
    await layer.send("c", {"type": "t"})
    assert layer.statistics()["c"]["messages_pending"] == 1


async def test_age_is_looked_at_in_passing():
    """There is no timer: whoever sends drops what is too old anywhere."""
    clock = Clock()
    layer = MemoryChannelLayer(clock=clock, expiry=5)
    for channel in ("c", await layer.new_channel()):
        await layer.send(channel, {"type": "old"})
    clock.now += 5
    await layer.send("d", {"type": "t"})
    assert layer.hub.expired == 1
    assert layer._mailbox.expired == 1
    clock.now += 5
    await layer.group_send("nobody", {"type": "t"})
    assert layer.hub.expired == 2


# A stream is handed over.


async def test_group_messages_of_a_handoff():
    """Nothing is lost between two instances of a stream; the second adds itself under the same label."""
    layer = MemoryChannelLayer()
    old, new = await layer.new_channel(), await layer.new_channel()
    await in_stream(STREAM, layer.group_add("g", old))
    for name in ("received", "dropped", "waiting"):
        await layer.group_send("g", {"type": name})
    assert [(await layer.receive(old))["type"] for _ in range(2)] == ["received", "dropped"]
    layer.stream_leaving(STREAM)
    await layer.group_send("g", {"type": "gap"})
    await in_stream(STREAM, layer.group_discard("g", old))
    layer.stream_left(STREAM)
    await layer.group_send("g", {"type": "later"})
    await in_stream(STREAM, layer.group_add("g", new))
    await layer.group_send("g", {"type": "live"})
    assert await receive_all(layer, new) == ["dropped", "waiting", "gap", "later", "live"]
    assert await receive_all(layer, old) == []


async def test_discard_before_leaving_is_a_discard():
    layer = MemoryChannelLayer()
    old, new = await layer.new_channel(), await layer.new_channel()
    await in_stream(STREAM, layer.group_add("g", old))
    await layer.group_discard("g", old)
    layer.stream_leaving(STREAM)
    await layer.group_send("g", {"type": "not for it"})
    layer.stream_left(STREAM)
    await in_stream(STREAM, layer.group_add("g", new))
    assert await receive_all(layer, new) == []


async def test_sync_code_of_a_session_carries_the_label():
    """Sync consumers call the layer through threads."""
    layer = MemoryChannelLayer()
    old, new = await layer.new_channel(), await layer.new_channel()
    add = sync_to_async(async_to_sync(layer.group_add))
    await in_stream(STREAM, add("g", old))
    layer.stream_leaving(STREAM)
    await layer.group_send("g", {"type": "gap"})
    layer.stream_left(STREAM)
    await in_stream(STREAM, add("g", new))
    assert await receive_all(layer, new) == ["gap"]


async def test_sessions_that_end_leave_nothing_behind():
    layer = MemoryChannelLayer()
    for number in range(20):
        channel = await layer.new_channel()
        stream = f"server.{number}"
        await in_stream(stream, layer.group_add("g", channel))
        await layer.group_send("g", {"type": "t"})
        await layer.receive(channel)
        await layer.group_discard("g", channel)
        layer.stream_left(stream)
    layer.tick()
    assert layer._mailbox._streams == {}
    assert layer._mailbox._boxes == {}


# The port.


async def test_what_is_posted_in_a_turn_leaves_together():
    layer = MemoryChannelLayer()
    async with open_ports(layer) as ((a, _), (b, user)):
        envelope = [1, 7, 1, 1, [b"data"], 0]
        a.post(b.address, envelope)
        a.post(b.address, [2, 7, 1, 100, 0])
        a.post("nobody", [2, 7, 1, 100, 0])
        # It has been packed.
        envelope[4].append(b"changed afterwards")
        assert await user.until(1) == [
            ("envelopes", a.address, [[1, 7, 1, 1, [b"data"], 0], [2, 7, 1, 100, 0]])
        ]
        a.post(b.address, [3, 7, 1])
        a.flush()
        a.post(b.address, [3, 8, 1])
        assert await user.until(2) == [
            ("envelopes", a.address, [[3, 7, 1]]),
            ("envelopes", a.address, [[3, 8, 1]]),
        ]


async def test_what_cannot_be_packed_is_told_to_who_posts():
    layer = MemoryChannelLayer()
    async with open_ports(layer) as ((a, _), (b, user)):
        with pytest.raises(InvalidMessage):
            a.post(b.address, [1, object()])
        with pytest.raises(InvalidMessage):
            a.offer("c", 1, {"scope": object()}, 0)
        a.post(b.address, [2])
        assert await user.until(1) == [("envelopes", a.address, [[2]])]


async def test_offers():
    layer = MemoryChannelLayer()
    async with open_ports(layer) as ((server, user), (worker, at_worker)):
        server.offer("http.request", 1, [1], 1)
        server.offer("http.request", 2, [1], 1)
        assert await user.until(1) == [("refused", 2)]
        worker.serve("http.request", 2)
        assert await at_worker.until(1) == [("offer", "http.request", server.address, 1, [1])]
        assert await user.until(1) == [("claimed", 1, worker.address)]
        worker.serve("http.request", -1)
        server.offer("http.request", 3, [1], 1)
        server.withdraw("http.request", 3)
        worker.serve("http.request", 1)
        server.offer("http.request", 4, [1], 1)
        assert [call[3] for call in await at_worker.until(1)] == [4]


async def test_users_are_never_called_within_their_own_calls():
    """Whatever a user does in a call, the answer comes in another turn."""
    layer = MemoryChannelLayer()
    async with open_ports(layer) as ((server, user), (worker, at_worker)):
        worker.serve("c", 1)
        server.offer("c", 1, {}, 0)
        server.flush()
        assert (user.told, at_worker.told) == ([], [])
        await at_worker.until(1)


async def test_who_closes_is_gone():
    layer = MemoryChannelLayer()
    async with open_ports(layer, 3) as ((a, _), (b, user), (_c, at_c)):
        address = a.address
        a.post(b.address, [1])
        await a.close()
        assert a.address == ""
        assert await user.until(2) == [("envelopes", address, [[1]]), ("gone", address)]
        assert await at_c.until(1) == [("gone", address)]
        b.post(address, [1])


async def test_a_port_is_opened_once():
    layer = MemoryChannelLayer()
    async with open_ports(layer, 1) as ((port, _),):
        with pytest.raises(LayerUnavailable):
            await port.open(User())


async def test_ports_in_several_loops():
    """A worker in a thread with a loop of its own."""
    layer = MemoryChannelLayer()

    async def echo(address, asked):
        port, user = layer.port(), User()
        await port.open(user)
        asked(port.address)
        try:
            ((_, sender, batch),) = await user.until(1)
            port.post(sender, batch[0])
        finally:
            await port.close()

    async with open_ports(layer, 1) as ((port, user),):
        loop = asyncio.get_running_loop()
        there = loop.create_future()
        thread = asyncio.ensure_future(
            asyncio.to_thread(
                asyncio.run,
                echo(port.address, lambda address: loop.call_soon_threadsafe(there.set_result, address)),
            )
        )
        address = await there
        port.post(address, [5, b"x"])
        assert await user.until(2) == [("envelopes", address, [[5, b"x"]]), ("gone", address)]
        await thread


async def test_a_user_that_raises_harms_nobody_else(caplog):
    class Raising(User):
        def envelopes_received(self, sender, batch):
            super().envelopes_received(sender, batch)
            if [*batch[0]] == [1]:
                raise ValueError("one stream's trouble")

    layer = MemoryChannelLayer()
    async with open_ports(layer, 1) as ((a, _),):
        b, user = layer.port(), Raising()
        await b.open(user)
        try:
            a.post(b.address, [1])
            a.flush()
            a.post(b.address, [2])
            assert len(await user.until(2)) == 2
        finally:
            await b.close()
    assert [record.message for record in caplog.records] == ["relay envelope failed"]


async def test_messages_and_relay_are_apart():
    """flush() forgets messages; streams that are offered stay."""
    layer = MemoryChannelLayer()
    async with open_ports(layer) as ((server, _), (worker, at_worker)):
        server.offer("c", 1, {}, 0)
        await layer.send("c", {"type": "t"})
        await layer.flush()
        worker.serve("c", 1)
        assert len(await at_worker.until(1)) == 1
        assert await receive_all(layer, "c") == []
