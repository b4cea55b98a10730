"""
What every test may rely on.

* `async def test_...` runs on one event loop for the whole session, because Twisted allows one reactor per
  process and that reactor belongs to one loop. The loop is uvloop's where installed, as in production.
* Every test has a bound (120 s, or `@pytest.mark.time_limit(seconds)`), so that a hang is one failure with a
  traceback and not the end of the run.
* An async test must leave no task behind, and fails when an exception reached the loop's handler: what a
  callback raises would go unseen otherwise.
* `@pytest.mark.needs("nginx", "curl")` skips a test, saying why, where a program is missing.
* `@pytest.mark.usefixtures("hosting")` has a test run three times: with its application in the server, and
  relayed over two layers (tests/asgi/hosting.py). `@pytest.mark.embedded_only("why")` leaves it at the first.

There are no async fixtures: use an async context manager inside the test, which shows where it ends.
"""

import asyncio
import inspect
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import pytest
from asgiref.sync import SyncToAsync

from tests.asgi.hosting import HOSTINGS, set_hosting

try:
    import uvloop
except ImportError:  # Windows
    NEW_LOOP: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    NEW_LOOP = uvloop.new_event_loop

DEFAULT_TIME_LIMIT = 120.0
# An async test is cancelled at its limit; only where that does not help is it interrupted.
INTERRUPT_GRACE = 10.0
# How long tasks that are about to end anyway (a connection just closed) may take to do so.
TASK_GRACE = 2.0

# How long one example takes says nothing on a machine that several test runs share.
hypothesis.settings.register_profile("daphne_like", deadline=None)
hypothesis.settings.load_profile("daphne_like")


def pytest_configure() -> None:
    """A suite that runs in a shell's background ignores SIGINT, and what it starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def event_loop_runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=NEW_LOOP) as runner:
        yield runner


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hosting" in metafunc.fixturenames:
        embedded_only = metafunc.definition.get_closest_marker("embedded_only")
        metafunc.parametrize("hosting", ["embedded"] if embedded_only else list(HOSTINGS), indirect=True)


@pytest.fixture
def hosting(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where applications run."""
    set_hosting(request.param)
    yield request.param
    set_hosting("embedded")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_async(item):
            item.fixturenames.append("event_loop_runner")  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not is_async(pyfuncitem):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    runner: asyncio.Runner = pyfuncitem.funcargs["event_loop_runner"]
    runner.run(run_test(pyfuncitem.obj(**arguments), time_limit_of(pyfuncitem)))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Interrupt a test that blocks its thread for too long; forget the event loop of an earlier one."""
    # asgiref notes the loop that has called into a thread, and async_to_sync() goes there, even when that loop
    # has stopped without being closed: then it waits for ever.
    vars(SyncToAsync.threadlocal).pop("main_event_loop_pid", None)
    if not hasattr(signal, "setitimer"):  # Windows
        return (yield)
    limit = time_limit_of(item) + (INTERRUPT_GRACE if is_async(item) else 0)

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"not done within {limit:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def time_limit_of(item: pytest.Item) -> float:
    mark = item.get_closest_marker("time_limit")
    return mark.args[0] if mark else DEFAULT_TIME_LIMIT


def is_async(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)


async def run_test(test: Coroutine[Any, Any, None], time_limit: float) -> None:
    async with nothing_left_behind():
        async with asyncio.timeout(time_limit):
            await test


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    try:
        yield
        left = asyncio.all_tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=TASK_GRACE)
        assert not left, f"tasks left behind: {left}"
        assert not reported, f"exceptions in callbacks: {reported}"
    finally:
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        loop.set_exception_handler(None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        missing = [program for program in mark.args if shutil.which(program) is None]
        if missing:
            because = os.environ.get("MISSING_PROGRAMS_BECAUSE")
            pytest.skip(f"not installed: {', '.join(missing)}" + (f" ({because})" if because else ""))
