"""What a process keeps: nothing is lost between a message's arrival and the receive() that returns it."""

import asyncio
import contextlib
import threading

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers.hub import Hub
from daphne_like.layers.mailbox import Mailbox
from tests.layers.hub_members import Clock, Member

CHANNEL = "specific.me!1"
STREAM = "server.1"


class Door:
    """A hub that a socket lies before: writes down what it is asked, answers nothing."""

    def __init__(self):
        self.asked = []

    def take(self, channel):
        return None

    def __getattr__(self, name):
        return lambda *args: self.asked.append((name, *(arg for arg in args if not isinstance(arg, Mailbox))))

    def since(self):
        asked, self.asked = self.asked, []
        return asked


def make(door=None, *, clock=None, capacity=3):
    return Mailbox("me", door or Door(), capacity_of=lambda channel: capacity, clock=clock or Clock())


def take(mailbox, channel):
    """What receive() returns at once; None where it would wait."""
    receiving = mailbox.receive(channel)
    try:
        receiving.send(None)
    except StopIteration as found:
        return found.value
    receiving.close()
    return None


@contextlib.asynccontextmanager
async def receiving(mailbox, channel):
    """A receive() that waits already."""
    task = asyncio.ensure_future(mailbox.receive(channel))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_has_arrived_is_received_in_order():
    mailbox = make()
    for payload in (b"1", b"2"):
        mailbox.deliver(CHANNEL, payload, 2000, True)
    assert [await mailbox.receive(CHANNEL), await mailbox.receive(CHANNEL)] == [b"1", b"2"]
    assert mailbox.door.since() == [("took", "specific.me!", 1)] * 2


async def test_what_arrives_wakes_who_waits():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as first, receiving(mailbox, CHANNEL) as second:
        mailbox.deliver(CHANNEL, b"1", 2000, True)
        mailbox.deliver(CHANNEL, b"2", 2000, True)
        assert [await first, await second] == [b"1", b"2"]


async def test_cancelled_before_anything_arrived():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as task:
        await cancel(task)
    mailbox.deliver(CHANNEL, b"1", 2000, True)
    assert take(mailbox, CHANNEL) == b"1"


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancelled_in_the_turn_of_arrival(turns):
    """Whatever the order: the message was received, or is still there."""
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as task:
        mailbox.deliver(CHANNEL, b"1", 2000, True)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        received = await asyncio.gather(task, return_exceptions=True)
    assert (received[0] == b"1") != (take(mailbox, CHANNEL) == b"1")


async def test_cancelled_first_then_arrival_in_the_same_turn():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as first, receiving(mailbox, CHANNEL) as second:
        first.cancel()
        mailbox.deliver(CHANNEL, b"1", 2000, True)
        assert await second == b"1"


async def test_the_next_one_is_woken_instead():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as first, receiving(mailbox, CHANNEL) as second:
        mailbox.deliver(CHANNEL, b"1", 2000, True)
        first.cancel()
        assert await second == b"1"


async def test_whose_message_was_taken_waits_on():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as task:
        mailbox.deliver(CHANNEL, b"1", 2000, True)
        assert take(mailbox, CHANNEL) == b"1"
        await asyncio.sleep(0)
        assert not task.done()
        mailbox.deliver(CHANNEL, b"2", 2000, True)
        assert await task == b"2"


async def test_too_old_is_not_received():
    clock = Clock()
    mailbox = make(clock=clock)
    mailbox.deliver(CHANNEL, b"old", clock.now + 1, True)
    mailbox.deliver(CHANNEL, b"young", clock.now + 2, True)
    clock.now += 1
    assert take(mailbox, CHANNEL) == b"young"
    assert mailbox.expired == 1
    assert mailbox.door.since() == [("took", "specific.me!", 1)] * 2


def test_too_old_is_counted_as_taken():
    clock = Clock()
    mailbox = make(clock=clock)
    mailbox.deliver(CHANNEL, b"old", clock.now + 1, True)
    mailbox.expire()
    assert mailbox.door.since() == []
    clock.now += 1
    mailbox.expire()
    assert mailbox.door.since() == [("took", "specific.me!", 1)]
    mailbox.expire()
    assert mailbox._boxes == {}


async def test_other_processes_channels():
    mailbox = make()
    with pytest.raises(ValueError, match="another process"):
        await mailbox.receive("specific.other!1")


# Shared channels: what is wanted of the hub.


async def test_shared_channel_is_wanted_once_per_receive():
    mailbox = make()
    async with receiving(mailbox, "c") as first, receiving(mailbox, "c") as second:
        assert mailbox.wants() == {"c": 2}
        mailbox.deliver("c", b"1", 2000, False)
        assert await first == b"1"
        assert mailbox.wants() == {"c": 1}
        await cancel(second)
    assert mailbox.door.since() == [("want", "c", 1), ("want", "c", 1), ("unwant", "c", 1)]


async def test_what_nobody_waits_for_goes_back():
    """The delivery crossed with the receive()'s end."""
    mailbox = make()
    async with receiving(mailbox, "c") as task:
        await cancel(task)
    mailbox.door.since()
    mailbox.deliver("c", b"1", 2000, False)
    assert mailbox.door.since() == [("put_back", "c", b"1", 2000)]


async def test_cancelled_after_delivery_it_goes_back_in_order():
    mailbox = make()
    async with receiving(mailbox, "c") as first, receiving(mailbox, "c") as second:
        mailbox.door.since()
        mailbox.deliver("c", b"1", 2000, False)
        mailbox.deliver("c", b"2", 2000, False)
        first.cancel()
        second.cancel()
    assert mailbox.door.since() == [("put_back", "c", b"2", 2000), ("put_back", "c", b"1", 2000)]


async def test_one_of_two_cancelled_after_one_delivery():
    mailbox = make()
    async with receiving(mailbox, "c") as first, receiving(mailbox, "c") as second:
        mailbox.door.since()
        mailbox.deliver("c", b"1", 2000, False)
        first.cancel()
        assert await second == b"1"
    assert mailbox.door.since() == [("unwant", "c", 1)]


# Several loops and threads.


def in_thread(work):
    """Run work() in a thread of its own, to its end."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_waiting_in_another_loop():
    mailbox = make()
    waiting = threading.Event()

    async def receive():
        task = asyncio.ensure_future(mailbox.receive(CHANNEL))
        asyncio.get_running_loop().call_soon(waiting.set)
        return await task

    thread, found = in_thread(lambda: asyncio.run(receive()))
    assert waiting.wait(10)
    mailbox.deliver(CHANNEL, b"1", 2000, True)
    thread.join(10)
    assert found == [b"1"]


@pytest.mark.parametrize("channel", [CHANNEL, "c"])
def test_waiting_in_a_loop_that_was_closed(channel):
    """Whoever waited there never runs again, and takes nothing from others."""
    mailbox = make()
    loop = asyncio.new_event_loop()
    abandoned = mailbox.receive(channel)

    async def begin():
        abandoned.send(None)

    loop.run_until_complete(begin())
    loop.close()
    mailbox.door.since()
    mailbox.deliver(channel, b"1", 2000, False)
    if channel == "c":
        assert mailbox.door.since() == [("put_back", "c", b"1", 2000)]
    else:
        assert take(mailbox, channel) == b"1"
    abandoned.close()
    assert mailbox._boxes[channel].readers == set()


async def test_many_threads_lose_and_double_nothing():
    mailbox = Mailbox("me", Hub(), capacity_of=lambda channel: 100)
    mailbox.door.join(mailbox)
    count, readers = 200, 4

    async def read():
        found = []
        while (payload := await mailbox.receive("c")) != b"end":
            found.append(int(payload))
        return found

    threads = [in_thread(lambda: asyncio.run(read())) for _ in range(readers)]
    for number in [*range(count), *[None] * readers]:
        payload = b"end" if number is None else b"%d" % number
        while True:
            with mailbox._lock:
                if mailbox.door.put("c", payload, 1e12):
                    break
            await asyncio.sleep(0)
    found = []
    for thread, read_there in threads:
        await asyncio.to_thread(thread.join, 10)
        assert sorted(read_there[0]) == read_there[0]
        found += read_there[0]
    assert sorted(found) == list(range(count))


async def test_close_ends_waiting():
    mailbox = make()
    async with receiving(mailbox, CHANNEL) as task:
        mailbox.close()
        with pytest.raises(LayerUnavailable):
            await task
    mailbox.deliver(CHANNEL, b"1", 2000, True)
    assert take(mailbox, CHANNEL) == b"1"


# Groups.


async def test_group_message_goes_to_all_channels_of_the_group():
    mailbox = make()
    for channel in ("specific.me!1", "specific.me!2"):
        mailbox.group_added("g", channel)
    mailbox.group_added("h", "specific.me!3")
    mailbox.deliver_group("g", b"m", 2000)
    assert [take(mailbox, f"specific.me!{n}") for n in (1, 2, 3)] == [b"m", b"m", None]
    mailbox.group_discarded("g", "specific.me!1")
    mailbox.discard("g", "specific.me!2")
    mailbox.discard("g", "specific.me!2")
    mailbox.deliver_group("g", b"m", 2000)
    assert [take(mailbox, f"specific.me!{n}") for n in (1, 2)] == [None, None]
    assert mailbox.memberships() == [("h", "specific.me!3", "")]


async def test_full_box_misses_group_messages(caplog):
    clock = Clock()
    mailbox = make(clock=clock, capacity=2)
    mailbox.group_added("g", CHANNEL)
    for payload in (b"1", b"2", b"3"):
        mailbox.deliver_group("g", payload, clock.now + 1)
    assert mailbox.dropped == 1
    mailbox.expire()
    mailbox.expire()
    [told] = [each for each in caplog.records if each.message == "group messages lost"]
    assert told.channel_full == 1
    clock.now += 1
    mailbox.deliver_group("g", b"4", clock.now + 1)
    assert (take(mailbox, CHANNEL), take(mailbox, CHANNEL)) == (b"4", None)


async def test_group_message_wakes_who_waits():
    mailbox = make()
    mailbox.group_added("g", CHANNEL)
    async with receiving(mailbox, CHANNEL) as task:
        mailbox.deliver_group("g", b"m", 2000)
        assert await task == b"m"


async def test_flushed():
    mailbox = make()
    mailbox.group_added("g", CHANNEL)
    mailbox.deliver(CHANNEL, b"1", 2000, True)
    mailbox.flushed()
    mailbox.deliver_group("g", b"2", 2000)
    assert take(mailbox, CHANNEL) is None


# Streams that are handed over.


@pytest.fixture
def leaving():
    """A mailbox with a stream in group g, over a hub that has not answered yet."""
    mailbox = make()
    assert mailbox.label(CHANNEL, STREAM) == STREAM
    mailbox.group_added("g", CHANNEL)
    return mailbox


def held(mailbox):
    return [
        [(group, payload) for group, payload, _ in call[2]]
        for call in mailbox.door.since()
        if call[0] == "stream_held"
    ]


def test_label():
    mailbox = make()
    assert mailbox.label(CHANNEL, "") == ""
    assert mailbox.label("specific.other!1", STREAM) == ""
    assert mailbox.label("shared", STREAM) == ""
    assert mailbox.label(CHANNEL, STREAM) == STREAM
    mailbox.stream_leaving(STREAM)
    assert mailbox.label("specific.me!2", STREAM) == ""


def test_what_is_held_is_handed_over(leaving):
    leaving.deliver_group("g", b"1", 2000)
    leaving.deliver(CHANNEL, b"direct", 2000, True)
    leaving.stream_leaving(STREAM)
    leaving.stream_leaving(STREAM)
    # Sent by the hub before it knew.
    leaving.deliver_group("g", b"2", 2000)
    leaving.stream_diverted(STREAM)
    leaving.deliver_group("g", b"not ours any more", 2000)
    leaving.stream_left(STREAM)
    assert held(leaving) == [[("g", b"1"), ("g", b"2")]]
    leaving.stream_left(STREAM)
    assert held(leaving) == []


def test_the_goodbye_of_a_stream_that_is_given_away_loses_nothing(leaving):
    """Channels' consumers leave their groups in disconnect(), maybe before the hub has answered."""
    leaving.stream_leaving(STREAM)
    leaving.discard("g", CHANNEL)
    leaving.deliver_group("g", b"1", 2000)
    leaving.stream_diverted(STREAM)
    leaving.deliver_group("g", b"not ours any more", 2000)
    leaving.stream_left(STREAM)
    assert held(leaving) == [[("g", b"1")]]
    assert leaving.memberships() == []


def test_handed_over_only_when_nothing_more_can_come(leaving):
    """The session ends before the hub has answered: what it sent until then belongs to it."""
    leaving.stream_leaving(STREAM)
    leaving.stream_left(STREAM)
    leaving.deliver_group("g", b"1", 2000)
    assert held(leaving) == []
    leaving.stream_diverted(STREAM)
    assert held(leaving) == [[("g", b"1")]]
    leaving.expire()
    assert leaving._boxes == {}


def test_last_message_given_out_counts_as_held(leaving):
    """
    await_many_dispatch() of Channels drops what receive() returned in the turn of websocket.disconnect.
    """
    leaving.deliver_group("g", b"1", 2000)
    leaving.deliver_group("g", b"2", 2000)
    assert [take(leaving, CHANNEL), take(leaving, CHANNEL)] == [b"1", b"2"]
    leaving.stream_leaving(STREAM)
    leaving.stream_diverted(STREAM)
    leaving.stream_left(STREAM)
    assert held(leaving) == [[("g", b"2")]]


async def test_asking_for_the_next_says_that_the_last_was_dealt_with(leaving):
    leaving.deliver_group("g", b"1", 2000)
    assert [take(leaving, CHANNEL), take(leaving, CHANNEL)] == [b"1", None]
    leaving.stream_leaving(STREAM)
    leaving.stream_diverted(STREAM)
    leaving.stream_left(STREAM)
    assert held(leaving) == [[]]


def test_two_channels_of_a_stream_in_one_group_count_once(leaving):
    other = "specific.me!2"
    leaving.label(other, STREAM)
    leaving.group_added("g", other)
    leaving.deliver_group("g", b"1", 2000)
    leaving.stream_leaving(STREAM)
    leaving.stream_diverted(STREAM)
    leaving.stream_left(STREAM)
    assert held(leaving) == [[("g", b"1")]]


def test_leaving_stream_may_hold_more(leaving):
    for number in range(5):
        leaving.deliver_group("g", b"%d" % number, 2000)
    assert leaving.dropped == 2
    leaving.stream_leaving(STREAM)
    for number in range(5):
        leaving.deliver_group("g", b"%d" % number, 2000)
    assert leaving.dropped == 2


def test_session_that_ends_without_leaving(leaving):
    leaving.deliver_group("g", b"1", 2000)
    leaving.stream_left(STREAM)
    leaving.stream_left("unknown")
    assert held(leaving) == [[]]
    assert leaving.memberships() == [("g", CHANNEL, "")]


def test_stream_without_groups_asks_nothing():
    mailbox = make()
    mailbox.stream_leaving(STREAM)
    mailbox.stream_left(STREAM)
    assert mailbox.door.since() == []
    assert mailbox._streams == {}


async def test_rejoining_tells_all(leaving):
    async with receiving(leaving, "c"), receiving(leaving, "c"):
        leaving.stream_leaving(STREAM)
        door = Door()
        leaving.rejoin(door)
        assert door.since() == [
            ("want", "c", 2),
            ("group_add", "g", CHANNEL, STREAM),
            ("stream_leaving", STREAM),
        ]


def test_a_mailbox_has_no_relay():
    mailbox = make()
    mailbox.deliver_post("a", b"")
    mailbox.deliver_offer("c", "a", 1, b"")
    mailbox.claimed(1, "a")
    mailbox.member_gone("a")
    assert mailbox.door.since() == []


def test_members_of_the_tests_are_ends():
    hub = Hub()
    Member("a", hub)
    hub.flush()
