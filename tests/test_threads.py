"""Threads for code that blocks: daphne_like.threads and thread_jobs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from daphne_like import threads
from daphne_like.thread_jobs import ATOMIC, CLEAN, OPEN, READING, Job, Lease
from daphne_like.thread_pools import open_pool, pool_for
from daphne_like.threads import ThreadPool


@asynccontextmanager
async def pool_of(kept: int = 2, most: int = 4) -> AsyncIterator[ThreadPool]:
    pool = ThreadPool(asyncio.get_running_loop(), kept, most)
    try:
        yield pool
    finally:
        pool.close()


class Steps:
    """A thread says how far it is, and waits to be told to go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.thread: int | None = None

    def __call__(self) -> int:
        self.thread = threading.get_ident()
        self.reached.set()
        assert self.go_on.wait(30)
        return self.thread


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.001)


async def test_result_and_error_come_back():
    async with pool_of() as pool:
        assert await pool.call(lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await pool.call(lambda: 1 / 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.call(next, iter(()))


async def test_threads_that_do_not_start_are_not_counted(monkeypatch, caplog):
    """The system is out of them for a while."""
    refusals = iter(range(5))
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("daphne-like") and next(refusals, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with pool_of() as pool:
        async with asyncio.timeout(10):
            assert await pool.call(lambda: 7) == 7
        assert pool.size == 1
        assert next(refusals, None) is None
    assert [record.msg for record in caplog.records] == ["could not start a thread"]


async def test_many_short_jobs_share_one_thread():
    async with pool_of() as pool:
        found = await asyncio.gather(*(pool.call(threading.get_ident) for _ in range(100)))
        assert len(set(found)) == 1
        assert pool.size == 1
        assert threading.get_ident() not in found


async def test_thread_that_lay_down_last_is_woken_first():
    async with pool_of() as pool:
        first, second = Steps(), Steps()
        running = [pool.call(first), pool.call(second)]
        await until(lambda: first.reached.is_set() and second.reached.is_set())
        first.go_on.set()
        await running[0]
        second.go_on.set()
        await running[1]
        assert await pool.call(threading.get_ident) == second.thread


async def test_another_thread_is_woken_while_one_waits():
    async with pool_of() as pool:
        blocked = Steps()
        running = pool.call(blocked)
        other = await asyncio.wait_for(pool.call(threading.get_ident), 10)
        assert other != blocked.thread
        blocked.go_on.set()
        await running
        assert pool.size == 2


async def test_when_all_threads_are_taken_jobs_wait_in_order():
    async with pool_of(1, 2) as pool:
        blocked = [Steps(), Steps()]
        running = [pool.call(each) for each in blocked]
        await until(lambda: all(each.reached.is_set() for each in blocked))
        order: list[int] = []
        waiting = [pool.call(order.append, number) for number in range(5)]
        await asyncio.sleep(0.02)  # time for a third thread to be made, wrongly
        assert (pool.size, pool.waiting, order) == (2, 5, [])
        blocked[0].go_on.set()
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4]
        blocked[1].go_on.set()
        await asyncio.gather(*running)


async def test_cancelled_call_does_not_run_when_it_has_not_begun():
    async with pool_of(1, 1) as pool:
        blocked = Steps()
        running = pool.call(blocked)
        ran: list[int] = []
        waiting = pool.call(ran.append, 1)
        waiting.cancel()
        blocked.go_on.set()
        await running
        await pool.call(lambda: None)
        assert ran == []


async def test_surplus_threads_end_after_a_while(monkeypatch):
    monkeypatch.setattr(threads, "IDLE_LIMIT", 0.02)
    ended: list[int] = []
    async with pool_of(1, 3) as pool:
        pool.at_end = lambda: ended.append(threading.get_ident())
        blocked = [Steps() for _ in range(3)]
        running = [pool.call(each) for each in blocked]
        await until(lambda: all(each.reached.is_set() for each in blocked))
        for each in blocked:
            each.go_on.set()
        kept = await asyncio.gather(*running)
        await until(lambda: pool.size == 1 and len(ended) == 2)
        assert len(set(kept) - set(ended)) == 1


async def test_close_ends_threads_but_finishes_jobs():
    async with pool_of() as pool:
        await pool.call(lambda: None)
        worker = next(iter(pool._workers))
        blocked = Steps()
        running = pool.call(blocked)
        await until(blocked.reached.is_set)
        pool.close()
        blocked.go_on.set()
        await running
        await until(lambda: not worker.is_alive())
        assert pool.size == 0


async def test_something_delivered_early_arrives_while_the_job_runs():
    async with pool_of() as pool:
        heard = asyncio.Event()
        blocked = Steps()

        def job() -> None:
            pool.deliver(heard.set)
            blocked()

        running = pool.call(job)
        await asyncio.wait_for(heard.wait(), 10)
        assert not running.done()
        blocked.go_on.set()
        await running


async def test_job_that_raises_is_logged_and_finished(caplog):
    class Broken(Job):
        __slots__ = ("done",)

        def run(self) -> None:
            raise KeyError("x")

        def finished(self) -> None:
            self.done.set_result(None)

    async with pool_of() as pool:
        job = Broken()
        job.done = asyncio.get_running_loop().create_future()
        pool.submit(job)
        await job.done
        assert "a job failed" in caplog.text
        assert await pool.call(lambda: 1) == 1


async def test_pools_of_a_loop():
    loop = asyncio.get_running_loop()
    pool_for(loop).close()  # which tests before this one have made
    pool = open_pool(loop, 1, 2)
    assert pool is not None
    try:
        assert pool_for(loop) is pool
        assert open_pool(loop, 1, 2) is None
    finally:
        pool.close()
    other = pool_for(loop)
    assert other is not pool
    other.close()


# -- leases ---------------------------------------------------------------------------------------


async def test_calls_of_a_lease_share_a_thread_that_nobody_else_has():
    async with pool_of() as pool:
        lease = pool.lease()
        mine = await lease.submit(threading.get_ident)
        others = {await pool.call(threading.get_ident) for _ in range(5)}
        assert mine not in others
        assert await lease.submit(threading.get_ident) == mine
        lease.end()
        assert await pool.call(threading.get_ident) == mine  # it lay down last


async def test_calls_of_a_lease_run_one_after_the_other():
    async with pool_of() as pool:
        lease = pool.lease()
        order: list[str] = []
        blocked = Steps()
        first = lease.submit(blocked)
        second = lease.submit(order.append, "second")
        await until(blocked.reached.is_set)
        assert await pool.call(lambda: "meanwhile") == "meanwhile"
        assert order == []
        blocked.go_on.set()
        await asyncio.gather(first, second)
        lease.end()


async def test_lease_is_told_when_it_takes_a_thread():
    async with pool_of() as pool:
        begun: list[int] = []
        pool.at_lease = lambda: begun.append(threading.get_ident())
        lease = pool.lease()
        mine = await lease.submit(threading.get_ident)
        await lease.submit(threading.get_ident)
        assert begun == [mine]
        lease.end()


async def test_loose_lease_keeps_its_thread_only_while_something_is_in_hand():
    async with pool_of() as pool:
        level = CLEAN
        pool.in_hand = lambda: level
        lease = pool.lease()
        await lease.submit(lambda: None)
        assert lease.worker is not None
        lease.loosen()
        assert lease.worker is None
        level = OPEN
        await lease.submit(lambda: None)
        assert lease.worker is not None
        level = CLEAN
        await lease.submit(lambda: None)
        assert lease.worker is None
        lease.end()


async def test_leases_cannot_wait_for_each_other():
    """All threads leased, and none of the leases goes on before somebody without one has been served."""
    async with pool_of(1, 2) as pool:
        leases = [pool.lease() for _ in range(2)]
        held = [await lease.submit(threading.get_ident) for lease in leases]
        assert await asyncio.wait_for(pool.call(threading.get_ident), 10) == held[0]
        assert [lease.worker is None for lease in leases] == [True, False]
        assert await lease_thread(leases[1]) == held[1]
        assert pool.size == 2
        for lease in leases:
            lease.end()


async def lease_thread(lease: Lease) -> int:
    found: int = await asyncio.wait_for(lease.submit(threading.get_ident), 10)
    return found


async def test_many_more_leases_than_threads_all_get_on():
    async with pool_of(1, 3) as pool:

        async def use() -> None:
            lease = pool.lease()
            for _ in range(5):
                await lease.submit(lambda: None)
            lease.end()

        await asyncio.wait_for(asyncio.gather(*(use() for _ in range(50))), 30)
        assert pool.size <= 3


@pytest.mark.parametrize("level", [READING, ATOMIC], ids=["reading", "atomic"])
async def test_what_cannot_be_taken_away_keeps_its_thread_and_there_is_one_more(caplog, monkeypatch, level):
    monkeypatch.setattr(threads, "STANDSTILL_AFTER", 2 * threads.FAMINE_AFTER)
    async with pool_of(1, 2) as pool:
        pool.in_hand = lambda: level
        leases = [pool.lease() for _ in range(2)]
        held = {await lease.submit(threading.get_ident) for lease in leases}
        pool.in_hand = lambda: CLEAN
        extra = await asyncio.wait_for(pool.call(threading.get_ident), 10)
        assert extra not in held
        assert pool.size <= 3
        assert "within transactions" in caplog.text
        assert {await lease_thread(lease) for lease in leases} == held
        for lease in leases:
            lease.end()
        await until(lambda: pool.size <= 2)


async def test_open_results_keep_their_thread_while_others_lose_theirs():
    """Longer at rest or not: who has something open that is not being read loses it first."""
    async with pool_of(1, 2) as pool:
        reading, resting = pool.lease(), pool.lease()
        pool.in_hand = lambda: READING
        kept = await reading.submit(threading.get_ident)
        pool.in_hand = lambda: OPEN
        lost = await resting.submit(threading.get_ident)
        assert await asyncio.wait_for(pool.call(threading.get_ident), 10) == lost
        assert await lease_thread(reading) == kept
        assert pool.size == 2
        # Afterwards it is like any other.
        reading.end()
        assert await asyncio.wait_for(pool.call(threading.get_ident), 10) in (kept, lost)


async def test_all_threads_with_open_results_are_waited_for():
    """Nearly all of them get on by themselves, so that no thread is made beyond the bound at once."""
    async with pool_of(1, 2) as pool:
        pool.in_hand = lambda: READING
        leases = [pool.lease() for _ in range(2)]
        held = {await lease.submit(threading.get_ident) for lease in leases}
        waiting = pool.call(threading.get_ident)
        await until(lambda: pool._famine)
        leases[0].end()
        assert await asyncio.wait_for(waiting, 10) in held
        assert pool.size == 2


async def test_thread_that_is_left_in_a_transaction_is_nobodys_any_more():
    async with pool_of() as pool:
        pool.in_hand = lambda: ATOMIC
        lease = pool.lease()
        mine = await lease.submit(threading.get_ident)
        worker = lease.worker
        lease.end()
        await until(lambda: not worker.is_alive())
        assert all(each.ident != mine for each in pool._workers)


async def test_job_can_keep_its_thread():
    async with pool_of() as pool:
        kept: list[Lease] = []

        def job() -> int:
            kept.append(pool.hold())
            return threading.get_ident()

        mine = await pool.call(job)
        assert await pool.call(threading.get_ident) != mine
        assert await kept[0].submit(threading.get_ident) == mine
        kept[0].end()


async def test_lease_that_is_ended_while_it_works_lets_go_afterwards():
    async with pool_of() as pool:
        lease = pool.lease()
        blocked = Steps()
        running = lease.submit(blocked)
        await until(blocked.reached.is_set)
        lease.end()
        blocked.go_on.set()
        await running
        await until(lambda: lease.worker is None)
        assert await pool.call(threading.get_ident) == blocked.thread
