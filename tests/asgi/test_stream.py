"""Waiting for a change: nobody is forgotten, and nothing is kept of who gave up."""

import asyncio
import gc

from daphne_like.asgi.stream import Wakeup


async def test_wake_ends_all_waits():
    wakeup = Wakeup()
    waits = [asyncio.ensure_future(wakeup.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    wakeup.wake()
    await asyncio.gather(*waits)


async def test_wake_without_waits_is_not_remembered():
    """Who waits looks first, and again afterwards."""
    wakeup = Wakeup()
    wakeup.wake()
    wait = asyncio.ensure_future(wakeup.wait())
    await asyncio.sleep(0)
    assert not wait.done()
    wakeup.wake()
    await wait


async def test_cancelled_wait_leaves_the_others_alone():
    wakeup = Wakeup()
    first, second = (asyncio.ensure_future(wakeup.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    wakeup.wake()
    await second


async def test_waits_that_were_given_up_leave_nothing_behind():
    """
    An event stream that polls is_disconnected() every second does so for days.

    Starlette's Request.is_disconnected() cancels a receive() each time; so does wait_for() with a timeout.
    """

    def futures():
        return sum(type(each).__name__ == "Future" for each in gc.get_objects())

    wakeup = Wakeup()
    gc.collect()
    before = futures()
    for _ in range(1000):
        wait = asyncio.ensure_future(wakeup.wait())
        await asyncio.sleep(0)
        wait.cancel()
        await asyncio.sleep(0)
    gc.collect()
    assert futures() - before < 100
