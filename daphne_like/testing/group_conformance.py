"""Groups: who gets what, who does not, and what a full member does to the others."""

import asyncio
from typing import Any

from .conformance_runner import guarantee
from .conformance_steps import Steps

__all__ = ["GroupConformance"]


class GroupConformance(Steps):
    """Groups of one process."""

    @guarantee()
    async def test_group_message_reaches_all_members(self, layer: Any) -> None:
        """Each member once, nobody else."""
        members = [await layer.new_channel() for _ in range(5)]
        other = await layer.new_channel()
        for channel in members:
            await layer.group_add("g", channel)
        await layer.group_add("h", other)
        for number in range(3):
            await self.send_group(layer, "g", number)
        for channel in members:
            assert await self.receive_until_end(layer, channel) == [0, 1, 2]
        assert await self.receive_until_end(layer, other) == []

    @guarantee()
    async def test_group_message_wakes_a_member_that_waits(self, layer: Any) -> None:
        """As any message does."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        waiting = asyncio.ensure_future(layer.receive(channel))
        try:
            await asyncio.sleep(0)
            await self.send_group(layer, "g", 1)
            assert (await self.within_patience(waiting, "a group's message"))["number"] == 1
        finally:
            await self.end(waiting)

    @guarantee()
    async def test_group_without_members(self, layer: Any) -> None:
        """Sending to it, and leaving it, does nothing."""
        await self.send_group(layer, "nobody", 1)
        await layer.group_discard("nobody", "shared")
        assert await self.receive_until_end(layer, "shared") == []

    @guarantee()
    async def test_added_twice_receives_once(self, layer: Any) -> None:
        """A membership is a membership."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_add("g", channel)
        await self.send_group(layer, "g", 1)
        assert await self.receive_until_end(layer, channel) == [1]
        await layer.group_discard("g", channel)
        await self.send_group(layer, "g", 2)
        assert await self.receive_until_end(layer, channel) == []

    @guarantee()
    async def test_discarded_member_receives_nothing_more(self, layer: Any) -> None:
        """But what was sent before is still there; and other groups go on."""
        gone, stays = await layer.new_channel(), await layer.new_channel()
        for channel in (gone, stays):
            await layer.group_add("g", channel)
        await layer.group_add("h", gone)
        await self.send_group(layer, "g", 1)
        await layer.group_discard("g", gone)
        await self.send_group(layer, "g", 2)
        await self.send_group(layer, "h", 3)
        assert await self.receive_until_end(layer, gone) == [1, 3]
        assert await self.receive_until_end(layer, stays) == [1, 2]

    @guarantee()
    async def test_added_again_after_discard(self, layer: Any) -> None:
        """A channel comes and goes."""
        channel = await layer.new_channel()
        for number in range(3):
            await layer.group_add("g", channel)
            await self.send_group(layer, "g", number)
            await layer.group_discard("g", channel)
            await self.send_group(layer, "g", "missed")
        assert await self.receive_until_end(layer, channel) == [0, 1, 2]

    @guarantee()
    async def test_shared_channels_in_a_group(self, layer: Any) -> None:
        """Any channel may be a member."""
        await layer.group_add("g", "shared")
        await self.send_group(layer, "g", 1)
        assert await self.receive_until_end(layer, "shared") == [1]
        await layer.group_discard("g", "shared")
        await self.send_group(layer, "g", 2)
        assert await self.receive_until_end(layer, "shared") == []

    @guarantee()
    async def test_group_messages_keep_their_order(self, layer: Any) -> None:
        """Also between messages to the group and to the channel."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        for number in range(0, 20, 2):
            await self.send_group(layer, "g", number)
            await self.send(layer, channel, number + 1)
        assert await self.receive_until_end(layer, channel) == list(range(20))

    @guarantee(capacity=2)
    async def test_full_member_is_nobody_s_trouble(self, layer: Any) -> None:
        """group_send() never raises ChannelFull, and who has room gets the message."""
        full, free = "full", "free"
        for channel in (full, free):
            await layer.group_add("g", channel)
        for number in range(3):
            await self.send_group(layer, "g", number)
            assert await self.receive(layer, free) == number
        assert [await self.receive(layer, full) for _ in range(2)] == [0, 1]
        await self.send(layer, full, "after")
        assert await self.receive(layer, full) == "after"

    @guarantee(capacity=2)
    async def test_full_own_channel_misses_group_messages(self, layer: Any) -> None:
        """The same with channels of the process: group_send() goes on, and room is room."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        for number in range(10):
            await self.send_group(layer, "g", number)
        got = [await self.receive(layer, channel) for _ in range(2)]
        assert got == [0, 1]
        await self.settle(layer)
        await self.send_group(layer, "g", "after")
        assert await self.receive(layer, channel) == "after"

    @guarantee(group_expiry=2)
    async def test_memberships_expire(self, layer: Any) -> None:
        """`group_expiry` after the last group_add()."""
        renewed, old = await layer.new_channel(), await layer.new_channel()
        for channel in (renewed, old):
            await layer.group_add("g", channel)
        await self.pass_time(layer, 1.2)
        await layer.group_add("g", renewed)
        await self.pass_time(layer, 1.2)
        await self.send_group(layer, "g", 1)
        assert await self.receive_until_end(layer, old) == []
        assert await self.receive_until_end(layer, renewed) == [1]

    @guarantee(expiry=1)
    async def test_group_messages_expire(self, layer: Any) -> None:
        """As all messages do."""
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await self.send_group(layer, "g", "old")
        await self.pass_time(layer, 1.05)
        assert await self.receive_until_end(layer, channel) == []
