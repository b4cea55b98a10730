"""
A worker process: the application, and the layer that its work comes from.

    started by a supervisor     python -m daphne_like.worker_process FD
    started by itself           daphne-like worker APPLICATION --layer URL

Starting: import, lifespan startup, join the layer, and only then say that it is ready. Stopping, at SIGTERM:
take nothing new, finish what is unanswered, have the server hand its WebSockets to others, then lifespan
shutdown and exit code 0. A second signal leaves the rest undone.

A worker of a supervisor has a line to it (worker_link), gets its orders there and says there why it could not
start. It does not hear SIGINT, which a terminal sends to both, and ends when its supervisor has. One that was
started by itself waits for the layer and joins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable

from . import logs
from .asgi.lifespan import Lifespan
from .errors import ConfigurationError, LayerUnavailable, StartupFailed
from .layers.base import BaseChannelLayer
from .layers.loading import ENVIRONMENT, open_layer
from .reactor import collect_garbage_seldom, new_event_loop
from .relay.worker import Worker
from .reporting import leave_threads_behind
from .serving import announce
from .settings import Settings
from .thread_pools import pool_for
from .typing import ASGIApplication
from .worker_link import SupervisorLink
from .wsgi import load_application

__all__ = ["run", "work"]

log = logging.getLogger(logs.SERVER)

# Seconds that the applications of an orphan get to notice that their clients are gone.
ORPHAN_GRACE = 2.0


def run(settings: Settings, application: str, link: SupervisorLink | None = None) -> int:
    """
    Work until told to stop; the exit code.

    Args:
        settings: `layer` says where.
        application: import string.
        link: to the supervisor, if there is one.

    Raises:
        ConfigurationError, StartupFailed: for the command line, or the supervisor, to report.
    """
    url = settings.layer
    assert url is not None
    os.environ[ENVIRONMENT] = url  # for the site's CHANNEL_LAYERS
    # The access log is the server's.
    logs.configure(dataclasses.replace(settings, access_log=""))
    announce(settings, link.say_warning if link is not None else None)
    found = load_application(application, settings)
    logs.enable_loggers()
    return work(settings, found, lambda: open_layer(url), link)


def work(
    settings: Settings,
    application: ASGIApplication,
    open_layer: Callable[[], BaseChannelLayer],
    link: SupervisorLink | None = None,
) -> int:
    """
    The part of run() that is left once the application is there.

    Args:
        open_layer: gives the layer; `settings.layer` is only a name for the log then.

    Raises:
        StartupFailed: the application does not start, or the layer of the supervisor is gone.
    """
    collect_garbage_seldom()
    loop = new_event_loop()
    loop.set_debug(settings.verbosity >= 3)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_WorkerProcess(settings, application, open_layer, link).run())
        pool_for(loop).close()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    leave_threads_behind()
    return 0


class _WorkerProcess:
    def __init__(
        self,
        settings: Settings,
        application: ASGIApplication,
        open_layer: Callable[[], BaseChannelLayer],
        link: SupervisorLink | None,
    ) -> None:
        self._settings = settings
        self._application = application
        self._open_layer = open_layer
        self._link = link
        self._told = asyncio.Event()
        self._hurry = asyncio.Event()
        self._worker: Worker | None = None
        self._layer: BaseChannelLayer | None = None
        self._grace = settings.graceful_timeout
        self._lifespan = Lifespan(
            application, settings.lifespan, settings.startup_timeout, settings.shutdown_timeout
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        if self._link is None:
            loop.add_signal_handler(signal.SIGINT, self._stop)
        starting = loop.create_task(self._start())
        told = loop.create_task(self._told.wait())
        await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await starting
            except BaseException:
                told.cancel()
                raise
            await told
            await self._end()

    @property
    def _layer_name(self) -> str:
        return self._settings.layer or type(self._layer).__name__

    def _stop(self) -> None:
        if self._told.is_set():
            self._hurry.set()
        self._told.set()

    def _orphaned(self) -> None:
        self._grace = min(self._grace, ORPHAN_GRACE)
        self._told.set()

    async def _start(self) -> None:
        await self._lifespan.startup()
        try:
            await self._join()
        except BaseException:
            await self._lifespan.shutdown()
            raise

    async def _join(self) -> None:
        settings = self._settings
        self._layer = layer = self._open_layer()
        self._worker = worker = Worker(self._application, layer, settings, state=self._lifespan.state)
        waiting = False
        while True:
            try:
                await layer.open()  # on this event loop: the site's own use of it needs no other thread
                await worker.start()
                break
            except LayerUnavailable as error:
                if self._link is not None:
                    raise StartupFailed(f"--layer: {error}") from error
                if not waiting:
                    log.warning("no server at the layer, waiting for one", extra={"layer": self._layer_name})
                    waiting = True
        if self._link is not None:
            loop = asyncio.get_running_loop()
            self._link.say_ready(worker.address, loop, lambda: worker.served, self._orphaned, worker.in_hand)
        else:
            log.info("worker ready", extra={"layer": self._layer_name, "address": worker.address})

    async def _end(self) -> None:
        assert self._worker is not None and self._layer is not None
        log.debug("draining", extra={"sessions": sum(self._worker.sessions.values())})
        ending = asyncio.ensure_future(self._drain())
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((ending, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ending.done():
            log.info("second signal, stopping at once")
            ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ending

    async def _drain(self) -> None:
        assert self._worker is not None and self._layer is not None
        if not await self._worker.drain(self._grace) and any(self._worker.sessions.values()):
            log.warning(
                "cut what outlasted the graceful time",
                extra={"sessions": sum(self._worker.sessions.values()), "graceful_timeout": self._grace},
            )
        await self._worker.stop()
        await self._lifespan.shutdown()
        await self._layer.close()


# -- started by a supervisor ----------------------------------------------------------------------


def _run_supervised(descriptor: int) -> int:
    # A handler, not SIG_IGN, which programs that the application starts would inherit.
    signal.signal(signal.SIGINT, _not_for_us)
    signal.signal(signal.SIGHUP, _not_for_us)
    link = SupervisorLink(descriptor)
    try:
        orders = link.receive_orders()
    except EOFError:
        return 1
    sys.path[:] = orders["path"]
    try:
        return run(Settings(**orders["settings"]), orders["application"], link)
    except (ConfigurationError, StartupFailed) as error:
        link.say_failed(error.exit_code, str(error), getattr(error, "details", ""))
        return error.exit_code


def _not_for_us(*_: object) -> None:
    """The supervisor hears it, too, and decides."""


if __name__ == "__main__":
    sys.exit(_run_supervised(int(sys.argv[1])))
