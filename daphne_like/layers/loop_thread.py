"""Event loops of other threads: one for what must go on while nobody's loop runs, and the way into any."""

import asyncio
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from daphne_like.errors import LayerUnavailable

__all__ = ["LoopThread", "in_loop"]

_T = TypeVar("_T")


async def in_loop(
    function: Callable[[], Coroutine[Any, Any, _T]], loop: asyncio.AbstractEventLoop | None
) -> _T:
    """
    Await *function* in *loop*, from whichever one.

    Raises:
        LayerUnavailable: that loop is no more.
    """
    if loop is running_loop():
        return await function()
    if loop is None or loop.is_closed():
        raise LayerUnavailable("the event loop of the layer's connection was closed")
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(function(), loop))


class LoopThread:
    """
    Runs from its making until stop(). A daemon thread: it keeps no process alive.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Run *function* in the loop, and wait for that."""

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result()

    def stop(self) -> None:
        """End loop and thread; what is still to be done in the loop is not."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()
