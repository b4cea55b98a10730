"""Several event loops and threads on one layer, and several processes on it."""

import asyncio
import unittest
from functools import partial
from typing import Any

from daphne_like.layers.base import FULL_ERRORS

from .conformance_runner import guarantee, in_other_loop
from .conformance_steps import Steps

__all__ = ["ProcessConformance"]

LOOPS = 4
EACH = 25


class ProcessConformance(Steps):
    """What is so for everybody who uses the layer, wherever they are."""

    # Event loops: what async_to_sync() does in a thread, it does in a loop of its own.

    @guarantee()
    async def test_sending_from_another_loop(self, layer: Any) -> None:
        """A view in a thread sends to a consumer that waits here."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        reader = asyncio.ensure_future(self.receive_until(layer, channel, 4))
        try:
            await asyncio.sleep(0)
            await in_other_loop(partial(self.send, layer, channel, 1))
            await in_other_loop(partial(self.send_group, layer, "g", 2))
            await in_other_loop(partial(self.send, layer, channel, 3))
            await self.send(layer, channel, 4)
            assert await self.within_patience(reader, "what other loops sent") == [1, 2, 3, 4]
        finally:
            await self.end(reader)

    @guarantee()
    async def test_receiving_in_another_loop(self, layer: Any) -> None:
        """What waits is received there; so is what comes while it waits there."""
        for channel in ("shared", await layer.new_channel()):
            await self.send(layer, channel, 1)
            assert await in_other_loop(partial(self.receive, layer, channel)) == 1
            waiting = asyncio.ensure_future(in_other_loop(partial(self.receive, layer, channel)))
            await self.send(layer, channel, 2)
            assert await self.within_patience(waiting, "a message in another loop") == 2

    @guarantee()
    async def test_a_loop_that_ended_takes_nothing_along(self, layer: Any) -> None:
        """A receive() that was cancelled with its loop, and then another loop."""

        async def give_up(channel: str) -> None:
            waiting = asyncio.ensure_future(layer.receive(channel))
            await asyncio.sleep(0)
            await self.end(waiting)

        for channel in ("shared", await layer.new_channel()):
            await in_other_loop(partial(give_up, channel))
            await self.send(layer, channel, 1)
            assert await self.receive_until_end(layer, channel) == [1]

    @guarantee(capacity=LOOPS * EACH)
    async def test_loops_at_the_same_time(self, layer: Any) -> None:
        """Several loops send to one channel: nothing lost, nothing doubled, each sender in its order."""

        async def send_all(sender: int) -> None:
            for number in range(EACH):
                await self.send(layer, channel, [sender, number])

        for channel in ("shared", await layer.new_channel()):
            reader = asyncio.ensure_future(self.receive_until(layer, channel, LOOPS * EACH))
            try:
                await asyncio.gather(*(in_other_loop(partial(send_all, sender)) for sender in range(LOOPS)))
                got = await self.within_patience(reader, "what several loops sent")
            finally:
                await self.end(reader)
            for sender in range(LOOPS):
                assert [number for by, number in got if by == sender] == list(range(EACH))

    # Processes.

    async def peer_of(self, layer: Any) -> Any:
        """
        Raises:
            unittest.SkipTest: there cannot be another process.
        """
        peer = await self.open_peer(layer)
        if peer is None:
            raise unittest.SkipTest("this layer is within one process")
        return peer

    @guarantee()
    async def test_processes_have_channels_of_their_own(self, layer: Any) -> None:
        """A message reaches the process whose channel it is."""
        peer = await self.peer_of(layer)
        try:
            here, there = await layer.new_channel(), await peer.new_channel()
            assert here.partition("!")[0] != there.partition("!")[0]
            await self.send(layer, there, 1)
            await self.send(peer, here, 2)
            assert await self.receive(peer, there) == 1
            assert await self.receive(layer, here) == 2
            await self.refuses(layer.receive(there), Exception, "receive() of another process' channel")
        finally:
            await self.close_layer(peer)

    @guarantee()
    async def test_processes_share_shared_channels(self, layer: Any) -> None:
        """Both wait on it: each message is received by one of them."""
        peer = await self.peer_of(layer)
        readers: list[asyncio.Future[Any]] = []
        try:
            readers = [asyncio.ensure_future(each.receive("shared")) for each in (layer, peer) * 5]
            for number in range(10):
                await self.send((layer, peer)[number % 2], "shared", number)
            got = await self.within_patience(asyncio.gather(*readers), "10 messages for two processes")
            assert sorted(message["number"] for message in got) == list(range(10))
        finally:
            await self.end(*readers)
            await self.close_layer(peer)

    @guarantee()
    async def test_process_that_gave_up_eats_nothing(self, layer: Any) -> None:
        """A receive() is cancelled there as the message is sent from here."""
        peer = await self.peer_of(layer)
        try:
            for turns in range(12):
                waiting = asyncio.ensure_future(peer.receive("shared"))
                for _ in range(turns % 4):
                    await asyncio.sleep(0)
                await self.send(layer, "shared", turns)
                for _ in range(turns // 2):
                    await asyncio.sleep(0)
                got = await self.end(waiting)
                got += await self.receive_until_end(peer, "shared")
                assert got == [turns]
        finally:
            await self.close_layer(peer)

    @guarantee(capacity=3)
    async def test_full_process_refuses_others(self, layer: Any) -> None:
        """ChannelFull is told across processes."""
        peer = await self.peer_of(layer)
        try:
            channels = [await peer.new_channel() for _ in range(4)]
            for channel in channels[:3]:
                await self.send(layer, channel, 1)
            await self.refuses(
                layer.send(channels[3], {"type": "t"}), FULL_ERRORS, "send() to a full process"
            )
        finally:
            await self.close_layer(peer)

    @guarantee()
    async def test_groups_across_processes(self, layer: Any) -> None:
        """Members in both, sent from both; either may end a membership of the other's."""
        peer = await self.peer_of(layer)
        try:
            here, there = await layer.new_channel(), await peer.new_channel()
            await layer.group_add("g", here)
            # By the process whose channel it is not.
            await layer.group_add("g", there)
            await self.send_group(layer, "g", 1)
            await self.send_group(peer, "g", 2)
            assert sorted(await self.receive_until_end(layer, here)) == [1, 2]
            assert sorted(await self.receive_until_end(peer, there)) == [1, 2]
            await peer.group_discard("g", here)
            await peer.group_add("g", there)
            await layer.group_discard("g", there)
            await self.send_group(layer, "g", 3)
            assert await self.receive_until_end(layer, here) == []
            assert await self.receive_until_end(peer, there) == []
        finally:
            await self.close_layer(peer)

    @guarantee()
    async def test_one_message_for_all_members_in_a_process(self, layer: Any) -> None:
        """However many of a process' channels are in a group, a message to it crosses once."""
        if self.deliveries(layer) is None:
            raise unittest.SkipTest("cannot be seen of this layer")
        channels = [await layer.new_channel() for _ in range(10)]
        for channel in channels:
            await layer.group_add("g", channel)
        before = self.deliveries(layer) or 0
        for number in range(3):
            await self.send_group(layer, "g", number)
        for channel in channels:
            assert await self.receive_until_end(layer, channel) == [0, 1, 2]
        assert (self.deliveries(layer) or 0) - before == 3

    @guarantee()
    async def test_process_that_left_is_no_member(self, layer: Any) -> None:
        """The others go on."""
        peer = await self.peer_of(layer)
        here, there = await layer.new_channel(), await peer.new_channel()
        await layer.group_add("g", here)
        await peer.group_add("g", there)
        await self.close_layer(peer)
        await self.send_group(layer, "g", 1)
        assert await self.receive_until_end(layer, here) == [1]
