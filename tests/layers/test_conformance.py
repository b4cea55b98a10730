"""The suite over memory, and over layers that do not keep what they promise."""

import asyncio
import unittest
import uuid

import pytest

from daphne_like.layers.base import ChannelFull
from daphne_like.layers.memory import MemoryChannelLayer
from daphne_like.testing.layer_conformance import LayerConformance, run_conformance
from daphne_like.testing.lossy import LossyLayer
from tests.layers.hub_members import Clock


class CountingLayer(MemoryChannelLayer):
    """Counts what its mailbox is given for groups."""

    def __init__(self, **options):
        super().__init__(**options)
        self.deliveries = 0
        deliver_group = self._mailbox.deliver_group

        def count(*args):
            self.deliveries += 1
            deliver_group(*args)

        self._mailbox.deliver_group = count


class TestMemory(LayerConformance):
    async def open_layer(self, **options):
        self.clock = Clock()
        return CountingLayer(clock=self.clock, **options)

    async def pass_time(self, layer, seconds):
        self.clock.now += seconds

    def deliveries(self, layer):
        return layer.deliveries


# What a layer does wrong -> guarantees that must be found broken (there may be more).
ORDER = "test_first_in_first_out"
ONCE = "test_a_message_goes_to_one_receiver"
CANCELLED = "test_receive_cancelled_as_the_message_arrives_eats_nothing"
ISOLATED = "test_message_is_the_receiver_s_alone"


def lossy(**faults):
    return lambda options: LossyLayer(MemoryChannelLayer(**options), **faults)


class Greedy(MemoryChannelLayer):
    """A receive() that asks in a task of its own; who cancels it loses what that has got."""

    async def receive(self, channel):
        self.require_valid_channel_name(channel)
        task = asyncio.ensure_future(super().receive(channel))
        self.tasks = [*(task for task in getattr(self, "tasks", []) if not task.done()), task]
        return await asyncio.shield(task)

    async def close(self):
        for task in getattr(self, "tasks", []):
            task.cancel()
        await super().close()


class Sharing(MemoryChannelLayer):
    """Within one process: why pack?"""

    async def group_send(self, group, message):
        payload = {"type": "shared", "key": uuid.uuid4().hex}
        self.kept = {**getattr(self, "kept", {}), payload["key"]: message}
        await super().group_send(group, payload)

    async def receive(self, channel):
        message = await super().receive(channel)
        return self.kept[message["key"]] if message["type"] == "shared" else message


class Roomy(MemoryChannelLayer):
    """No capacity, no expiry, names as they come."""

    def __init__(self, *, expiry=60, capacity=100, channel_capacity=None, group_expiry=86400, **options):
        super().__init__(expiry=10**6, capacity=10**6, group_expiry=10**6, **options)

    def require_valid_channel_name(self, name, receive=False):
        return True

    def require_valid_group_name(self, name):
        return True


class Raising(MemoryChannelLayer):
    """Tells the sender to a group of a full member."""

    async def group_send(self, group, message):
        await super().group_send(group, message)
        if self.hub.groups.dropped:
            raise ChannelFull(group)


class Forgetful(MemoryChannelLayer):
    """Neither leaves groups nor forgets."""

    async def group_discard(self, group, channel):
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)

    async def flush(self):
        pass


BROKEN = [
    (lossy(drop=0.3), {ORDER, ONCE, "test_group_message_reaches_all_members", "test_loops_at_the_same_time"}),
    (lossy(double=0.3), {ORDER, ONCE, "test_full_channel_refuses"}),
    (lossy(delay=0.3), {ORDER, "test_group_messages_keep_their_order"}),
    (lossy(full=0.3), {ORDER, "test_first_in_first_out_for_one_who_waits"}),
    (lambda options: Greedy(**options), {CANCELLED, "test_cancelled_receive_eats_nothing"}),
    (lambda options: Sharing(**options), {ISOLATED}),
    (
        lambda options: Roomy(**options),
        {
            "test_names_are_checked",
            "test_full_channel_refuses",
            "test_capacity_counts_the_part_up_to_the_mark",
            "test_capacity_by_pattern",
            "test_messages_expire",
            "test_messages_expire_one_by_one",
            "test_memberships_expire",
            "test_group_messages_expire",
        },
    ),
    (lambda options: Raising(**options), {"test_full_member_is_nobody_s_trouble"}),
    (
        lambda options: Forgetful(**options),
        {"test_discarded_member_receives_nothing_more", "test_flush_forgets_messages_and_groups"},
    ),
]


@pytest.mark.parametrize(
    ("make", "expected"),
    BROKEN,
    ids=["drop", "double", "delay", "full", "greedy", "sharing", "roomy", "raising", "forgetful"],
)
def test_the_suite_can_fail(make, expected):
    class Broken(LayerConformance):
        patience = 0.2

        async def open_layer(self, **options):
            self.clock = Clock()
            return make({"clock": self.clock, **options})

        async def pass_time(self, layer, seconds):
            self.clock.now += seconds

    outcome = run_conformance(Broken())
    failed = {name for name, error in outcome.items() if error is not None}
    assert expected <= failed
    assert "test_new_channel_is_new" in outcome


def test_what_is_not_claimed_is_skipped():
    class Modest(TestMemory):
        not_kept = frozenset({ORDER})

    suite = Modest()
    assert ORDER not in run_conformance(suite)
    with pytest.raises(unittest.SkipTest):
        suite.test_first_in_first_out()


def test_the_lossy_layer_without_losses_keeps_everything():
    """A fake is tested by the tests of the real thing."""

    class Lossless(TestMemory):
        async def open_layer(self, **options):
            return LossyLayer(await super().open_layer(**options))

    outcome = run_conformance(Lossless())
    assert len(outcome) > 30
    assert [error for error in outcome.values() if error is not None] == []
