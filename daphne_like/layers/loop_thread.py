"""An event loop in a thread of its own, for what must go on while nobody's loop runs."""

import asyncio
import threading
from collections.abc import Callable

__all__ = ["LoopThread"]


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
