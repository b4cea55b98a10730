"""
How a guarantee of a suite is checked: in an event loop of its own, on a layer of its own, within a time.

A guarantee is a coroutine method `(self, layer)` under @guarantee. What comes out is a plain method without
arguments, so that any test runner takes it, with no plug-in for coroutines.
"""

import asyncio
import threading
import unittest
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["Suite", "guarantee", "in_other_loop", "run_suite"]

SuiteT = TypeVar("SuiteT", bound="Suite")
Result = TypeVar("Result")


class Suite:
    """
    What a suite says about the layer under test; subclasses change it.

    Attributes:
        patience: how long (seconds) anything may take that the layer does at once.
        loop_factory: makes the event loops; None for asyncio's own.
        not_kept: names of guarantees that this layer does not claim to keep: skipped.
    """

    patience = 5.0
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    not_kept: frozenset[str] = frozenset()

    async def open_layer(self, **options: Any) -> Any:
        """
        A fresh layer, empty, opened in the running loop.

        Args:
            options: any of `expiry`, `group_expiry` (seconds), `capacity`, `channel_capacity`.
        """
        raise NotImplementedError

    async def close_layer(self, layer: Any) -> None:
        """End of a check. What open_layer() began ends here."""
        await layer.close()

    async def open_peer(self, layer: Any) -> Any:
        """*layer* as another process sees it; None if there cannot be another one."""
        return None

    async def pass_time(self, layer: Any, seconds: float) -> None:
        """Let the layer grow older. Layers with a clock of the test's move it."""
        await asyncio.sleep(seconds)

    def deliveries(self, layer: Any) -> int | None:
        """How many group messages have come to *layer* from beyond its process; None if it cannot be seen."""
        return None

    async def within_patience(self, work: Awaitable[Result], what: str) -> Result:
        """The result of *work*, which must not take long; an AssertionError that says *what* if it does."""
        try:
            async with asyncio.timeout(self.patience):
                return await work
        except TimeoutError:
            raise AssertionError(f"{what}: not within {self.patience:g} s") from None


def guarantee(
    **options: Any,
) -> Callable[[Callable[[SuiteT, Any], Coroutine[Any, Any, None]]], Callable[[SuiteT], None]]:
    """
    Args:
        options: what the layer is opened with.
    """

    def decorate(check: Callable[[SuiteT, Any], Coroutine[Any, Any, None]]) -> Callable[[SuiteT], None]:
        def test(self: SuiteT) -> None:
            if check.__name__ in self.not_kept:
                raise unittest.SkipTest("not claimed by this layer")
            with asyncio.Runner(loop_factory=self.loop_factory) as runner:
                runner.run(_check(self, check, options))

        # Not functools.wraps(): runners would look through it, at the layer's argument.
        test.__name__ = check.__name__
        test.__qualname__ = check.__qualname__
        test.__doc__ = check.__doc__
        test.__module__ = check.__module__
        return test

    return decorate


async def _check(
    suite: SuiteT, check: Callable[[SuiteT, Any], Coroutine[Any, Any, None]], options: dict[str, Any]
) -> None:
    layer = await suite.open_layer(**options)
    try:
        await check(suite, layer)
    finally:
        await suite.close_layer(layer)


def run_suite(suite: Suite) -> dict[str, BaseException | None]:
    """
    Check all guarantees, without a test runner.

    Returns:
        name of the guarantee -> what was raised, None if it is kept. Skipped ones are left out.
    """
    found: dict[str, BaseException | None] = {}
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except unittest.SkipTest:
                continue
            except Exception as error:
                found[name] = error
            else:
                found[name] = None
    return found


async def in_other_loop(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """
    Run a coroutine to its end as async_to_sync() does: in a thread and an event loop of its own.

    When this is cancelled, so is what runs there.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()
    inner: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    def finish(result: Result | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    async def main() -> Result:
        inner.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await work()

    def run() -> None:
        try:
            result = asyncio.run(main())
        except BaseException as error:
            loop.call_soon_threadsafe(finish, None, error)
        else:
            loop.call_soon_threadsafe(finish, result, None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return await outcome
    except asyncio.CancelledError:
        for inner_loop, task in inner:
            try:
                inner_loop.call_soon_threadsafe(task.cancel if task is not None else inner_loop.stop)
            except RuntimeError:
                # It has ended meanwhile.
                continue
        raise
    finally:
        thread.join()
