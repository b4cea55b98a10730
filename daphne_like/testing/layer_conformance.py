"""
Does a channel layer keep what the channel layer spec promises? A suite for the authors of layers.

    from daphne_like.testing.layer_conformance import LayerConformance

    class TestMyLayer(LayerConformance):
        async def open_layer(self, **options):
            return MyLayer(**options)

Under pytest that is all; run_conformance(TestMyLayer()) gives the outcome without it. Each guarantee is checked
on a layer of its own, in an event loop of its own. A check never waits to see that nothing comes: it sends
another message behind, and sees what comes first.

What several processes see is checked if open_peer() gives the layer as another process has it. What a layer
does not claim is named in `not_kept`, so that a reader of the tests sees it.

Source: Channels, "Channel Layer Specification"; `daphne_like.layers.base` says the guarantees in words. What is
sent between processes and loops, and groups, is in `daphne_like.testing.group_conformance`.
"""

import asyncio
import inspect
from typing import Any

from daphne_like.layers.base import FULL_ERRORS, TOO_LARGE_ERRORS

from .conformance_runner import guarantee, run_suite
from .conformance_steps import Steps
from .group_conformance import GroupConformance
from .process_conformance import ProcessConformance

__all__ = ["ChannelConformance", "LayerConformance", "run_conformance"]

run_conformance = run_suite

BAD_CHANNELS = ["", "a b", "a!b!c", "!a", "ä", "a?b", "n" * 100, None, 3, b"bytes"]
BAD_GROUPS = ["", "a b", "a!b", "ä", "g" * 100, None, 3, b"bytes"]

EVERY_TYPE = {
    "type": "every.type",
    "none": None,
    "bools": [True, False],
    "integers": [0, -1, 2**63 - 1, -(2**63)],
    "floats": [0.5, -1e300],
    "text": "Grüße, 世界, \x00, 🙂",
    "bytes": bytes(range(256)),
    "list": [1, [2, [3]], {"deep": {"deeper": b"x"}}],
    "empty": [{}, [], "", b""],
}


class ChannelConformance(Steps):
    """Names, messages, order, cancellation, capacity, expiry of one process' channels."""

    # The API.

    @guarantee()
    async def test_api(self, layer: Any) -> None:
        """What Channels, and what is built on it, expects of a layer."""
        for name in ("send", "receive", "new_channel", "group_add", "group_discard", "group_send", "flush"):
            assert inspect.iscoroutinefunction(getattr(layer, name)), f"{name} is no coroutine function"
        assert {"groups", "flush"} <= set(layer.extensions)
        assert layer.expiry > 0
        assert layer.capacity > 0
        assert layer.group_expiry > 0

    @guarantee()
    async def test_names_are_checked(self, layer: Any) -> None:
        """Wrong names raise TypeError, as Channels has it."""
        for name in BAD_CHANNELS:
            await self.refuses(layer.send(name, {"type": "t"}), TypeError, f"send({name!r})")
            await self.refuses(layer.receive(name), TypeError, f"receive({name!r})")
            await self.refuses(layer.group_add("g", name), TypeError, f"group_add(channel={name!r})")
        for name in BAD_GROUPS:
            await self.refuses(layer.group_add(name, "c"), TypeError, f"group_add({name!r})")
            await self.refuses(layer.group_discard(name, "c"), TypeError, f"group_discard({name!r})")
            await self.refuses(layer.group_send(name, {"type": "t"}), TypeError, f"group_send({name!r})")

    @guarantee()
    async def test_new_channel_is_new(self, layer: Any) -> None:
        """Names with a "!", valid, never the same."""
        names = [await layer.new_channel() for _ in range(100)]
        assert len(set(names)) == 100
        for name in names:
            process, mark, own = name.partition("!")
            assert process and mark and own and len(name) < 100, name
        await self.send(layer, names[0], 1)
        assert await self.receive(layer, names[0]) == 1

    # Messages.

    @guarantee()
    async def test_message_comes_out_as_it_went_in(self, layer: Any) -> None:
        """All types of the spec."""
        channel = await layer.new_channel()
        await layer.send(channel, dict(EVERY_TYPE))
        received = await self.receive_message(layer, channel)
        assert received == EVERY_TYPE
        assert [type(value) for value in received.values()] == [type(v) for v in EVERY_TYPE.values()]

    @guarantee()
    async def test_message_of_another_type_is_refused(self, layer: Any) -> None:
        """What is no dict is no message."""
        for message in (None, "text", ["list"], 3):
            await self.refuses(layer.send("c", message), Exception, f"send({message!r})")
            await self.refuses(layer.group_send("g", message), Exception, f"group_send({message!r})")

    @guarantee()
    async def test_message_is_the_sender_s_no_more(self, layer: Any) -> None:
        """What a sender does to its message after send() changes nothing."""
        channel = await layer.new_channel()
        message: dict[str, Any] = {"type": "t", "list": [1]}
        await layer.send(channel, message)
        message["list"].append(2)
        message["new"] = True
        assert await self.receive_message(layer, channel) == {"type": "t", "list": [1]}

    @guarantee()
    async def test_message_is_the_receiver_s_alone(self, layer: Any) -> None:
        """What one receiver of a group message does to it, another one does not see."""
        channels = [await layer.new_channel() for _ in range(2)]
        for channel in channels:
            await layer.group_add("g", channel)
        await layer.group_send("g", {"type": "t", "list": [1]})
        first = await self.receive_message(layer, channels[0])
        first["list"].append(2)
        assert await self.receive_message(layer, channels[1]) == {"type": "t", "list": [1]}

    @guarantee()
    async def test_large_message_travels(self, layer: Any) -> None:
        """The spec's limit is 1 MB."""
        channel = await layer.new_channel()
        for message in ({"type": "t", "data": b"x" * 1_000_000}, {"type": "t", "data": "y" * 1_000_000}):
            await layer.send(channel, message)
            assert await self.receive_message(layer, channel) == message

    @guarantee()
    async def test_message_over_the_limit_is_refused(self, layer: Any) -> None:
        """MessageTooLarge for the sender, and nothing harmed."""
        channel = await layer.new_channel()
        message = {"type": "t", "data": b"x" * (1024 * 1024 + 1)}
        await self.refuses(layer.send(channel, message), TOO_LARGE_ERRORS, "send() of 1 MiB and more")
        await self.refuses(layer.group_send("g", message), TOO_LARGE_ERRORS, "group_send() of as much")
        await self.send(layer, channel, "after")
        assert await self.receive(layer, channel) == "after"

    # Order.

    @guarantee()
    async def test_first_in_first_out(self, layer: Any) -> None:
        """What waits is received in the order in which it was sent, once; shared channels and own ones."""
        for channel in ("shared", await layer.new_channel()):
            for number in range(50):
                await self.send(layer, channel, number)
            assert await self.receive_until_end(layer, channel) == list(range(50))

    @guarantee()
    async def test_first_in_first_out_for_one_who_waits(self, layer: Any) -> None:
        """Messages that come while the reader waits, one by one and in bursts."""
        for channel in ("shared", await layer.new_channel()):
            reader = asyncio.ensure_future(self.receive_until(layer, channel, 60))
            try:
                for number in range(60):
                    await self.send(layer, channel, number)
                    if number % 3:
                        await asyncio.sleep(0)
                assert await self.within_patience(reader, f"60 messages on {channel}") == list(range(60))
            finally:
                await self.end(reader)

    @guarantee()
    async def test_a_message_goes_to_one_receiver(self, layer: Any) -> None:
        """Several wait on one channel: each message is received once."""
        for channel in ("shared", await layer.new_channel()):
            readers = [asyncio.ensure_future(layer.receive(channel)) for _ in range(8)]
            try:
                await asyncio.sleep(0)
                for number in range(8):
                    await self.send(layer, channel, number)
                got = await self.within_patience(asyncio.gather(*readers), f"8 messages on {channel}")
                assert sorted(message["number"] for message in got) == list(range(8))
                assert await self.receive_until_end(layer, channel) == []
            finally:
                await self.end(*readers)

    @guarantee()
    async def test_channels_are_apart(self, layer: Any) -> None:
        """A message is received on the channel it was sent to."""
        channels = ["a", "b", await layer.new_channel(), await layer.new_channel()]
        for number, channel in enumerate(channels):
            await self.send(layer, channel, number)
        for number, channel in reversed(list(enumerate(channels))):
            assert await self.receive_until_end(layer, channel) == [number]

    # Cancellation.

    @guarantee()
    async def test_cancelled_receive_eats_nothing(self, layer: Any) -> None:
        """A receive() that was cancelled while it waited; Channels' consumers do that all the time."""
        for channel in ("shared", await layer.new_channel()):
            for number in range(5):
                waiting = asyncio.ensure_future(layer.receive(channel))
                for _ in range(number):
                    await asyncio.sleep(0)
                await self.end(waiting)
                await self.send(layer, channel, number)
                assert await self.receive_until_end(layer, channel) == [number]

    @guarantee()
    async def test_receive_cancelled_as_the_message_arrives_eats_nothing(self, layer: Any) -> None:
        """Cancelled in the turn of the arrival, and some turns around it: received, or still there."""
        for channel in ("shared", await layer.new_channel()):
            for turns in range(12):
                waiting = asyncio.ensure_future(layer.receive(channel))
                for _ in range(turns % 3):
                    await asyncio.sleep(0)
                await self.send(layer, channel, turns)
                for _ in range(turns // 3):
                    await asyncio.sleep(0)
                got = await self.end(waiting)
                got += await self.receive_until_end(layer, channel)
                assert got == [turns], f"{got} received of one message, cancelled after {turns // 3} turns"

    @guarantee()
    async def test_cancelled_receive_leaves_the_message_to_another(self, layer: Any) -> None:
        """Of two that wait one is cancelled as the message arrives: the other one gets it."""
        for channel in ("shared", await layer.new_channel()):
            first, second = (asyncio.ensure_future(layer.receive(channel)) for _ in range(2))
            try:
                await asyncio.sleep(0)
                await self.send(layer, channel, 1)
                got = await self.end(first)
                await self.send(layer, channel, 2)
                got.append((await self.within_patience(second, f"a message on {channel}"))["number"])
                got += await self.receive_until_end(layer, channel)
                assert sorted(got) == [1, 2]
            finally:
                await self.end(first, second)

    # Capacity.

    @guarantee(capacity=3)
    async def test_full_channel_refuses(self, layer: Any) -> None:
        """ChannelFull beyond `capacity`; received messages make room again."""
        for channel in ("shared", await layer.new_channel()):
            for number in range(3):
                await self.send(layer, channel, number)
            await self.refuses(layer.send(channel, {"type": "t"}), FULL_ERRORS, f"send() to full {channel}")
            assert [await self.receive(layer, channel), await self.receive(layer, channel)] == [0, 1]
            await self.settle(layer)
            await self.send(layer, channel, 3)
            await self.send(layer, channel, 4)
            await self.refuses(layer.send(channel, {"type": "t"}), FULL_ERRORS, f"send() to full {channel}")
            assert [await self.receive(layer, channel) for _ in range(3)] == [2, 3, 4]
            await self.settle(layer)

    @guarantee(capacity=3)
    async def test_capacity_counts_the_part_up_to_the_mark(self, layer: Any) -> None:
        """The channels of one process and prefix have one capacity."""
        channels = [await layer.new_channel() for _ in range(4)]
        for channel in channels[:3]:
            await self.send(layer, channel, 1)
        await self.refuses(layer.send(channels[3], {"type": "t"}), FULL_ERRORS, "send() to a full process")
        await self.receive(layer, channels[0])
        await self.settle(layer)
        await self.send(layer, channels[3], 2)
        assert await self.receive(layer, channels[3]) == 2

    @guarantee(capacity=5, channel_capacity={"narrow.*": 1, "narrow*": 2, "specific.*": 3})
    async def test_capacity_by_pattern(self, layer: Any) -> None:
        """`channel_capacity`: globs, the first that matches counts."""
        for channel, capacity in (
            ("narrow.a", 1),
            ("narrow", 2),
            ("wide", 5),
            (await layer.new_channel("specific"), 3),
        ):
            for number in range(capacity):
                await self.send(layer, channel, number)
            await self.refuses(layer.send(channel, {"type": "t"}), FULL_ERRORS, f"send() to full {channel}")

    @guarantee(capacity=1)
    async def test_capacity_is_for_what_waits(self, layer: Any) -> None:
        """Any number of messages passes, one at a time."""
        for channel in ("shared", await layer.new_channel()):
            for number in range(5):
                await self.send(layer, channel, number)
                assert await self.receive(layer, channel) == number
                await self.settle(layer)

    # Expiry.

    @guarantee(expiry=1)
    async def test_messages_expire(self, layer: Any) -> None:
        """What is too old is not received, neither by one who comes late nor after something younger."""
        for channel in ("shared", await layer.new_channel()):
            await self.send(layer, channel, "old")
            await self.pass_time(layer, 1.05)
            assert await self.receive_until_end(layer, channel) == []

    @guarantee(expiry=2)
    async def test_messages_expire_one_by_one(self, layer: Any) -> None:
        """A younger message behind keeps an older one neither alive, nor is it dropped with it."""
        for channel in ("shared", await layer.new_channel()):
            await self.send(layer, channel, "old")
            await self.pass_time(layer, 1.5)
            await self.send(layer, channel, "young")
            await self.pass_time(layer, 0.6)
            assert await self.receive_until_end(layer, channel) == ["young"]

    @guarantee(expiry=1, capacity=2)
    async def test_expired_messages_make_room(self, layer: Any) -> None:
        """They do not count."""
        for channel in ("shared", await layer.new_channel()):
            await self.send(layer, channel, "old")
            await self.send(layer, channel, "old")
            # An own channel's are counted by its process, which may look only once a second.
            await self.pass_time(layer, 2.1)
            await self.settle(layer)
            await self.send(layer, channel, "young")
            assert await self.receive(layer, channel) == "young"

    # The whole.

    @guarantee()
    async def test_flush_forgets_messages_and_groups(self, layer: Any) -> None:
        """And the layer is as new."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        for each in ("shared", channel):
            await self.send(layer, each, "before")
        await layer.flush()
        await self.send_group(layer, "g", "to nobody")
        for each in ("shared", channel):
            assert await self.receive_until_end(layer, each) == []
        await layer.group_add("g", channel)
        await self.send_group(layer, "g", "after")
        assert await self.receive(layer, channel) == "after"

    @guarantee()
    async def test_close_twice(self, layer: Any) -> None:
        """Closing what is closed does nothing."""
        await self.send(layer, "shared", 1)
        await layer.close()
        await layer.close()


class LayerConformance(ChannelConformance, GroupConformance, ProcessConformance):
    """The whole suite. See the module's docstring, and Suite for what a subclass may say."""
