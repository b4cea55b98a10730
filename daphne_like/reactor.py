"""
Event loops of our own processes, and the one place that installs a reactor: Twisted's asyncio reactor on one.

uvloop where it is installed, asyncio's own loop elsewhere (Windows). Nothing happens on import.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from daphne_like.errors import StartupFailed

__all__ = ["collect_garbage_seldom", "current_reactor", "new_event_loop", "run_in_reactor"]

# Objects that may be made before Python looks for cycles among the youngest; 700 by default.
GC_THRESHOLD = 20_000


def collect_garbage_seldom() -> None:
    """
    For a process of our own, once the application is imported.

    Half a thousand requests in flight make more young objects than Python's first threshold, and each
    collection looks at all of them for nothing. Sites that have set thresholds keep theirs.
    """
    if gc.get_threshold()[0] <= 2000:
        gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    gc.freeze()  # the application's modules are here to stay


def new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        if sys.platform == "win32":
            return asyncio.SelectorEventLoop()  # the kind that Twisted's asyncio reactor takes there
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_in_reactor(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """
    Install a reactor, run it until the coroutine of *main* ends, and raise what that raised.

    Raises:
        StartupFailed: this process has a reactor of another kind already.
    """
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    if "twisted.internet.reactor" in sys.modules:
        reactor: Any = sys.modules["twisted.internet.reactor"]
        if getattr(reactor, "_asyncioEventloop", None) is None:
            raise StartupFailed(
                f"Twisted's {type(reactor).__name__} is installed already; asyncio's is needed"
            )
        loop = reactor._asyncioEventloop
    else:
        from twisted.internet import asyncioreactor

        asyncioreactor.install(loop)
        from twisted.internet import reactor
    _send_twisted_log_to_logging()

    async def run_and_stop() -> None:
        try:
            await main()
        finally:
            reactor.stop()

    tasks: list[asyncio.Task[None]] = []
    reactor.callWhenRunning(lambda: tasks.append(loop.create_task(run_and_stop())))
    reactor.run(installSignalHandlers=False)
    tasks[0].result()


def current_reactor() -> Any:
    """
    The reactor that runs on the current event loop.

    Raises:
        StartupFailed: there is none, so that Twisted's own endpoints cannot be served.
    """
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if getattr(reactor, "_asyncioEventloop", None) is not asyncio.get_running_loop():
        raise StartupFailed("endpoint strings need Twisted's asyncio reactor on the running event loop")
    return reactor


def _send_twisted_log_to_logging() -> None:
    """What Twisted says of errors in its callbacks must not vanish."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    logging.getLogger("twisted").setLevel(logging.WARNING)
    globalLogBeginner.beginLoggingTo(
        [STDLibLogObserver("twisted")], discardBuffer=True, redirectStandardIO=False
    )
