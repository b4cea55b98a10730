"""Ipc within one process: hosting, joining, losing the host, threads and loops. The rest is in the suite."""

import asyncio
import contextlib
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from daphne_like.errors import LayerUnavailable
from daphne_like.layers import ipc
from daphne_like.layers.base import ChannelFull
from daphne_like.layers.frames import MAGIC, VERSION, FrameReader, Op, encode
from daphne_like.layers.ipc import IPCChannelLayer
from tests.layers.hub_members import Clock
from tests.layers.ipc_layers import open_layers

THREAD = "daphne_like ipc member"


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


@contextlib.asynccontextmanager
async def broker_that(path, answer):
    """Welcomes whoever comes; then *answer* is called with the writer for each frame."""

    async def serve(reader, writer):
        frames = FrameReader()
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                for frame in frames.receive_data(data):
                    if frame[0] == Op.HELLO:
                        writer.write(encode(Op.WELCOME, (MAGIC, VERSION, 1), b"", 0))
                    else:
                        answer(writer, frame)

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()


# -- hosting ---------------------------------------------------------------------------------------


async def test_the_first_that_serves_hosts_the_others_join(tmp_path):
    first, second = (IPCChannelLayer(str(tmp_path / "s")) for _ in range(2))
    assert await first.serve()
    assert not await second.serve()
    assert await first.serve()
    channel = await second.new_channel()
    await first.send(channel, {"type": "t"})
    assert await second.receive(channel) == {"type": "t"}
    await second.close()
    await first.close()


async def test_who_serves_takes_the_place_of_the_host(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        heir = IPCChannelLayer(host.path)
        await heir.serve()
        channel = await heir.new_channel()
        await heir.group_add("g", channel)
        await host.close()
        await member.group_send("g", {"type": "to the heir"})
        assert await heir.receive(channel) == {"type": "to the heir"}
        assert heir.hub is not None
        await heir.close()


async def test_a_layer_used_before_it_is_served(tmp_path):
    """A site's code may send while it is imported, before the server has started."""
    layer = IPCChannelLayer(str(tmp_path / "s"))
    sending = asyncio.ensure_future(layer.send("early", {"type": "t"}))
    await asyncio.sleep(0)
    assert threads()
    await layer.serve()
    await sending
    assert await layer.receive("early") == {"type": "t"}
    assert not threads()
    await layer.close()


async def test_the_host_looks_for_what_is_too_old_once_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(ipc, "TICK", 0.001)
    expired = asyncio.Event()
    async with open_layers(tmp_path, members=0, expiry=0.001) as (layer,):
        await layer.send("channel", {"type": "t"})
        expire = layer.hub.expire

        def expire_and_look():
            expire()
            if layer.hub.expired:
                expired.set()

        layer.hub.expire = expire_and_look
        await asyncio.wait_for(expired.wait(), 10)


async def test_statistics_are_the_hub_s(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        await member.send("channel", {"type": "t"})
        for layer in (host, member):
            assert (await layer.statistics())["channel"]["messages_pending"] == 1


async def test_capacity_is_the_host_s_expiry_the_sender_s(tmp_path):
    clock = Clock()
    async with open_layers(tmp_path, members=0, capacity=1, clock=clock) as (host,):
        member = IPCChannelLayer(host.path, capacity=100, expiry=1, clock=clock)
        await member.send("channel", {"type": "old"})
        with pytest.raises(ChannelFull):
            await member.send("channel", {"type": "t"})
        clock.now += 1.5
        await host.send("channel", {"type": "young"})
        assert await member.receive("channel") == {"type": "young"}
        await member.close()


# -- without a host --------------------------------------------------------------------------------


async def test_nobody_there(tmp_path):
    layer = IPCChannelLayer(str(tmp_path / "s"), send_timeout=0.05)
    for attempt in (
        layer.send("c", {"type": "t"}),
        layer.group_send("g", {"type": "t"}),
        layer.group_add("g", "c"),
        layer.group_discard("g", "c"),
        layer.flush(),
        layer.statistics(),
        layer.open(),
    ):
        with pytest.raises(LayerUnavailable, match=r"no way to the layer in 0.05 s: there is no such socket"):
            await attempt
    await layer.close()


async def test_what_is_asked_meanwhile_waits_for_the_host(tmp_path):
    host, member = (IPCChannelLayer(str(tmp_path / "s")) for _ in range(2))
    waiting = [
        asyncio.ensure_future(work)
        for work in (member.open(), member.send("c", {"type": "t"}), member.receive("c"))
    ]
    await asyncio.sleep(0)
    await host.serve()
    assert (await asyncio.gather(*waiting))[2] == {"type": "t"}
    await member.close()
    await host.close()


async def test_closing_ends_the_waiting(tmp_path):
    layer = IPCChannelLayer(str(tmp_path / "s"))
    waiting = [
        asyncio.ensure_future(work)
        for work in (layer.open(), layer.send("c", {"type": "t"}), layer.receive("c"))
    ]
    await asyncio.sleep(0)
    await layer.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LayerUnavailable] * 3
    assert not threads()


async def test_a_host_of_another_version(tmp_path, caplog):
    async def serve(reader, writer):
        with contextlib.closing(writer):
            await reader.read(65536)
            text = b"it speaks version 1 of the frames, not 7"
            writer.write(encode(Op.REFUSED, (MAGIC, 7, 1), b"", len(text)) + text)

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    layer = IPCChannelLayer(str(tmp_path / "s"), send_timeout=0.2)
    with pytest.raises(LayerUnavailable, match="the broker refused us: it speaks version 1"):
        await layer.open()
    await layer.close()
    server.close()
    assert caplog.messages.count("layer out of reach") == 1


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the broker sent a frame longer than a frame can be"),
        (encode(Op.FLUSH, (), b"", 0), "the broker sent what only members send"),
        (encode(Op.WELCOME, (MAGIC, 9, 1), b"", 0), "the broker speaks version 9 of the frames"),
        (encode(Op.ACK, (1,), b"", 0), "the broker answered what nobody asked"),
        (encode(Op.ANSWER, (), b"", 0), "the broker answered what nobody asked"),
    ],
)
async def test_something_else_listens_there(tmp_path, octets, reason):
    async def serve(reader, writer):
        with contextlib.closing(writer):
            writer.write(octets)
            await reader.read()

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    layer = IPCChannelLayer(str(tmp_path / "s"), send_timeout=0.2)
    with pytest.raises(LayerUnavailable, match=reason):
        await layer.open()
    await layer.close()
    server.close()


# -- losing the host -------------------------------------------------------------------------------


async def test_what_was_being_sent_when_the_host_went(tmp_path):
    """Nobody knows whether it arrived."""
    path = str(tmp_path / "s")
    async with broker_that(path, lambda writer, frame: writer.close()):
        layer = IPCChannelLayer(path)
        await layer.open()
        outcomes = await asyncio.gather(
            layer.send("c", {"type": "t"}),
            layer.group_send("g", {"type": "t"}),
            layer.statistics(),
            return_exceptions=True,
        )
        assert [str(outcome) for outcome in outcomes] == [f"ipc:{path}: the broker has gone"] * 3
        assert {type(outcome) for outcome in outcomes} == {LayerUnavailable}
        await layer.close()


async def test_a_host_that_does_not_answer(tmp_path):
    """Stopped, or stuck: senders are not kept forever, and late answers go to whom they belong."""
    path = str(tmp_path / "s")
    writers = []

    def note(writer, frame):
        writers.append(writer)
        if len(writers) == 2:
            writer.write(encode(Op.ACK, (2,), b"", 0))

    async with broker_that(path, note):
        layer = IPCChannelLayer(path, send_timeout=0.05)
        await layer.open()
        with pytest.raises(LayerUnavailable, match=r"no answer in 0\.05 s"):
            await layer.send("c", {"type": "first"})
        await layer.send("c", {"type": "second"})
        await layer.close()


async def test_a_new_host_is_told_what_the_old_one_knew(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        channel = await member.new_channel()
        await member.group_add("g", channel)
        await member.group_add("left", channel)
        waiting = asyncio.ensure_future(member.receive("shared"))
        given_up = asyncio.ensure_future(member.receive("shared"))
        await asyncio.sleep(0)
        lost = member._link._connection.gone
        await host.close()
        await asyncio.wait([lost])
        given_up.cancel()
        await member.group_discard("left", channel)
        await host.serve()
        await member.open()
        await host.send("shared", {"type": "1"})
        await host.send("shared", {"type": "2"})
        await host.group_send("left", {"type": "to nobody"})
        await host.group_send("g", {"type": "to the group"})
        await host.send(channel, {"type": "by name"})
        assert await waiting == {"type": "1"}
        assert [(await member.receive(channel))["type"] for _ in range(2)] == ["to the group", "by name"]
        assert await host.receive("shared") == {"type": "2"}


async def test_what_has_arrived_outlives_the_host(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        channel = await member.new_channel()
        await host.send(channel, {"type": "t"})
        await host.close()
        assert await member.receive(channel) == {"type": "t"}


async def test_leaving_in_order_loses_nothing(tmp_path):
    """What had been sent to a member as it moved to another event loop waits for it."""
    async with open_layers(tmp_path, members=0, capacity=1000) as (host,):
        member = IPCChannelLayer(host.path, capacity=1000)
        channel = await member.new_channel()
        await member.group_add("any", channel)
        assert threads()
        sent = []

        async def keep_sending():
            for number in range(300):
                await host.send(channel, {"type": "t", "number": number})
                sent.append(number)
                await asyncio.sleep(0)

        sending = asyncio.ensure_future(keep_sending())
        await member.open()
        assert not threads()
        await sending
        received = [(await member.receive(channel))["number"] for _ in sent]
        assert sorted(received) == sent
        await member.close()


# -- event loops and threads -----------------------------------------------------------------------


async def test_sync_code_beside_a_running_loop(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        channel = await member.new_channel()
        await sync_to_async(async_to_sync(member.group_add), thread_sensitive=False)("g", channel)
        await sync_to_async(async_to_sync(host.group_send), thread_sensitive=False)("g", {"type": "t"})
        received = await sync_to_async(async_to_sync(member.receive), thread_sensitive=False)(channel)
        assert received == {"type": "t"}
        assert not threads()


def test_sync_code_without_a_loop(tmp_path):
    """As in `manage.py shell`: each call has an event loop of its own, the connection outlives them."""
    host = IPCChannelLayer(str(tmp_path / "s"))
    stop = threading.Event()
    ready = threading.Event()

    async def serve():
        await host.serve()
        ready.set()
        await asyncio.to_thread(stop.wait)
        await host.close()

    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    assert ready.wait(10)
    layer = IPCChannelLayer(host.path)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("g", channel)
    for number in range(5):
        async_to_sync(layer.group_send)("g", {"type": "t", "number": number})
    assert [async_to_sync(layer.receive)(channel)["number"] for _ in range(5)] == list(range(5))
    assert len(threads()) == 1
    async_to_sync(layer.close)()
    assert not threads()
    stop.set()
    server.join()


async def test_the_loop_of_the_connection_is_closed_without_it(tmp_path):
    async with open_layers(tmp_path) as (host, _):
        layer = IPCChannelLayer(host.path)

        def use_and_forget():
            loop = asyncio.new_event_loop()
            channel = loop.run_until_complete(layer.new_channel())
            loop.run_until_complete(layer.open())
            loop.run_until_complete(layer.group_add("g", channel))
            link = layer._link
            # The loop's own way of ending what was left in it.
            link._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(link._task)
            link._connection.transport.abort()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            return channel

        channel = await asyncio.to_thread(use_and_forget)
        await layer.send("c", {"type": "t"})
        await host.group_send("g", {"type": "still a member"})
        assert await layer.receive(channel) == {"type": "still a member"}
        await layer.close()


async def test_used_again_after_close(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        await member.close()
        await member.send("c", {"type": "t"})
        assert await host.receive("c") == {"type": "t"}
