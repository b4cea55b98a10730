"""Results that are read part by part keep their thread: daphne_like.django.cursors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from django.db import connection

from daphne_like.django.cursors import watch_new_connections
from daphne_like.django.receivers import close_connections, in_hand, start_in_leased_thread
from daphne_like.thread_jobs import CLEAN, OPEN, READING, Lease
from daphne_like.threads import ThreadPool
from tests.django import handler_site

assert handler_site  # importing it has configured Django

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT i FROM n"


@asynccontextmanager
async def lease_of_a_pool() -> AsyncIterator[tuple[ThreadPool, Lease]]:
    pool = ThreadPool(asyncio.get_running_loop(), 1, 1)
    pool.in_hand, pool.at_lease, pool.at_end = in_hand, start_in_leased_thread, close_connections
    watch_new_connections()
    lease = pool.lease()
    try:
        yield pool, lease
    finally:
        lease.end()
        pool.close()


async def level_after(lease: Lease, function: Callable[[], Any]) -> int:
    await lease.submit(function)
    return lease.level


def begin_reading() -> Any:
    cursor = connection.chunked_cursor()
    cursor.execute(NUMBERS)
    return cursor


def query() -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(NUMBERS)
        return cursor.fetchall()


async def test_from_the_first_part_to_the_last():
    async with lease_of_a_pool() as (_, lease):
        assert await level_after(lease, int) == CLEAN
        cursor = await lease.submit(begin_reading)
        assert lease.level == READING
        assert await lease.submit(cursor.fetchmany, 10) == [(number,) for number in range(1, 11)]
        assert lease.level == READING
        del cursor
        assert await level_after(lease, query) == OPEN
        assert await level_after(lease, close_connections) == CLEAN


async def test_query_that_fails_leaves_nothing():
    def fail() -> None:
        with connection.cursor() as cursor:
            try:
                cursor.execute("SELECT nothing FROM nowhere")
            except Exception:
                pass

    async with lease_of_a_pool() as (_, lease):
        assert await level_after(lease, query) == OPEN
        assert await level_after(lease, fail) == OPEN


async def test_what_an_earlier_request_has_kept_does_not_count():
    """A cursor in a traceback that somebody collects, for instance; the connection is the next request's now."""
    async with lease_of_a_pool() as (pool, lease):
        kept = await lease.submit(begin_reading)
        assert lease.level == READING
        lease.end()
        later = pool.lease()
        try:
            assert await level_after(later, query) == OPEN
        finally:
            later.end()
        del kept


async def test_connections_are_watched_once():
    async with lease_of_a_pool() as (pool, lease):
        await lease.submit(query)
        await lease.submit(close_connections)
        await lease.submit(query)
        lease.end()
        later = pool.lease()
        await later.submit(query)
        assert await later.submit(lambda: len(connection.execute_wrappers)) == 1
        later.end()


async def test_a_wrapper_of_somebody_elses_around_the_connecting_goes_with_its_block():
    """execute_wrapper() takes off the last one: ours must not be that."""

    def count_queries() -> int:
        counted = []

        def count(execute: Any, *args: Any) -> Any:
            counted.append(args)
            return execute(*args)

        with connection.execute_wrapper(count):
            query()
        return len(counted)

    async with lease_of_a_pool() as (_, lease):
        await lease.submit(close_connections)
        assert await lease.submit(count_queries) == 1
        left = await lease.submit(lambda: [type(each).__name__ for each in connection.execute_wrappers])
        assert left == ["_Cursors"]
