"""
Consumers close old database connections without a thread hop where there is nothing to close, and with one where
there is. Each program runs in a process of its own: Django is configured once in each.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.processes import ROOT

PROLOGUE = """
import asyncio
import threading

import django
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["daphne_like.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3", **OPTIONS}},
    **SETTINGS,
)
django.setup()

import channels.consumer
from django.db import connection, connections
from daphne_like.django import channels_patch

closings = []
theirs = channels_patch.close_old_connections


def close_old_connections():
    closings.append(threading.get_ident())
    theirs()


channels_patch.close_old_connections = close_old_connections


def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return threading.get_ident()


def is_open():
    return connection.connection is not None


async def event():
    # As AsyncConsumer.dispatch() does.
    before = len(closings)
    await channels.consumer.aclose_old_connections()
    return len(closings) - before
"""


def run(directory: Path, program: str, *, options: str = "{}", settings: str = "{}") -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"OPTIONS, SETTINGS = {options}, {settings}\n{PROLOGUE}\n{program}"],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_no_hop_while_nothing_is_open(tmp_path):
    run(
        tmp_path,
        """
async def main():
    assert await event() == 1  # the first one learns whose thread it is
    assert [await event() for _ in range(5)] == [0] * 5

asyncio.run(main())
""",
    )


def test_what_is_open_and_old_is_closed_in_its_own_thread(tmp_path):
    """CONN_MAX_AGE 0, Django's default: a connection is old at once."""
    run(
        tmp_path,
        """
async def main():
    await event()
    owner = await sync_to_async(query)()
    assert await sync_to_async(is_open)()
    assert await event() == 1
    assert closings[-1] == owner != threading.get_ident()
    assert not await sync_to_async(is_open)()
    assert await event() == 0

asyncio.run(main())
""",
    )


def test_what_was_open_before_the_first_event_is_known(tmp_path):
    run(
        tmp_path,
        """
async def main():
    await sync_to_async(query)()
    assert await event() == 1
    assert not await sync_to_async(is_open)()
    await sync_to_async(query)()
    assert await event() == 1

asyncio.run(main())
""",
    )


def test_persistent_connections_cost_no_hop_until_they_are_old(tmp_path):
    run(
        tmp_path,
        """
async def main():
    await event()
    await sync_to_async(query)()
    assert [await event() for _ in range(3)] == [0] * 3
    assert await sync_to_async(is_open)()
    [reference] = channels_patch._Owner.connections
    reference().close_at = 0  # its time is over
    assert await event() == 1
    assert not await sync_to_async(is_open)()

asyncio.run(main())
""",
        options="{'CONN_MAX_AGE': 600}",
    )


@pytest.mark.parametrize(
    "broken", ["errors_occurred = True", "autocommit = False", "health_check_enabled = True"]
)
def test_connections_that_django_would_look_at_are_looked_at(tmp_path, broken):
    run(
        tmp_path,
        f"""
async def main():
    await event()
    await sync_to_async(query)()
    assert await event() == 0
    [reference] = channels_patch._Owner.connections
    reference().{broken}
    assert await event() == 1

asyncio.run(main())
""",
        options="{'CONN_MAX_AGE': None}",
    )


def test_connections_of_other_threads_are_not_a_consumers_business(tmp_path):
    """Those of the threads that run sync views may stay open for ever."""
    run(
        tmp_path,
        """
async def main():
    await event()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, query)
    assert await event() == 0

asyncio.run(main())
""",
    )


def test_where_asgiref_would_use_another_thread_everything_is_as_it_was(tmp_path):
    run(
        tmp_path,
        """
async def main():
    await event()
    async with ThreadSensitiveContext():
        owner = await sync_to_async(query)()
        assert await event() == 1
        assert closings[-1] == owner

asyncio.run(main())

async def called():
    assert await event() == 1
    assert closings[-1] == threading.main_thread().ident

query()
async_to_sync(called)()
assert not is_open()
""",
    )


def test_opt_out(tmp_path):
    run(
        tmp_path,
        """
import channels.db

assert not channels_patch.is_applied()
assert channels.consumer.aclose_old_connections is channels.db.aclose_old_connections
""",
        settings="{'DAPHNE_LIKE_PATCH_CHANNELS': False}",
    )


def test_nothing_else_of_channels_is_replaced(tmp_path):
    run(
        tmp_path,
        """
import channels.db, channels.generic.http, channels.generic.websocket

assert channels_patch.is_applied()
for module in (channels.db, channels.generic.http, channels.generic.websocket):
    assert module.aclose_old_connections.__module__ == "channels.db"
channels_patch.apply()  # twice is once
assert channels_patch.is_applied()
""",
    )
