"""Waiting for a change: nobody is forgotten, and nothing is kept of who gave up."""

import asyncio
import contextlib
import gc

from daphne_like.asgi.stream import Wakeup, task_starter


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


async def test_tasks_are_started_by_a_factory_that_was_set_late_and_never_at_once():
    """An eager task, as Python 3.12 has them, would end before anybody knows of its stream."""
    loop = asyncio.get_running_loop()
    start = task_starter(loop)
    begun = []

    async def work():
        begun.append(asyncio.current_task().get_name())

    await start(work())

    def eager(loop, coroutine, **options):
        with contextlib.suppress(StopIteration):
            assert coroutine.send(None) is None  # asyncio.sleep(0)
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, name="the factory's")

    made = []
    loop.set_task_factory(eager)
    try:
        task = start(work())
        assert (len(made), len(begun)) == (1, 1)
        await task
        assert begun == ["daphne_like application", "the factory's"]
        cancelled = start(work())
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert len(begun) == 2
    finally:
        loop.set_task_factory(None)
