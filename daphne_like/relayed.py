"""
A server whose application runs in workers: sockets, relay and supervisor in one process.

    daphne-like APP --workers 4              our own workers, at a private socket unless --layer names one
    daphne-like --layer ipc:/run/site.sock   none of our own: those that join

Starting: the layer, then workers, and only when the first is ready the sockets: who connects is served.
Stopping: the server drains its connections, as it would with the application inside; then the workers end; then
the layer.

The application itself is never imported here. What it breaks, it breaks in a worker.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import shutil
import signal
import sys
import tempfile

from .child import orders_for
from .errors import LayerError, StartupFailed
from .layers.base import BaseChannelLayer
from .layers.ipc import IPCChannelLayer
from .layers.loading import ENVIRONMENT, open_layer
from .reactor import collect_garbage_seldom, run_in_reactor
from .relay.application import RelayApplication
from .relay.keeper import Terms
from .reload import settings_for_development, watch
from .server import Server, serve_until_told
from .settings import Settings
from .supervisor import Supervisor
from .worker_link import InHand

__all__ = ["RelayedServer", "run"]

# Of the graceful time, how much the goodbyes of WebSockets that are not resumed are spread over.
SPREAD_SHARE = 0.5
# Of the time for a handshake, how much it may wait for a worker: the rest is for an answer.
CONNECT_SHARE = 0.8


def run(settings: Settings, application: str | None) -> int:
    """
    Serve until told to stop; the exit code.

    Args:
        application: import string; None where all workers come from elsewhere.

    Raises:
        ConfigurationError, StartupFailed: for the command line to report.
    """
    if sys.platform == "win32":
        raise StartupFailed("--workers: handing sockets to other processes needs a Unix")
    if settings.reload:
        settings = settings_for_development(settings)
    service = RelayedServer(settings, application)
    collect_garbage_seldom()
    signals = {"SIGHUP": service.reload, "SIGTTIN": service.add_worker, "SIGTTOU": service.remove_worker}
    if settings.reload and sys.stdin is not None and sys.stdin.isatty():
        signals["SIGHUP"] = lambda: os.kill(os.getpid(), signal.SIGTERM)  # the terminal was closed
    run_in_reactor(lambda: serve_until_told(service, settings, signals))
    return 0


class RelayedServer:
    """
    Args:
        application: import string for workers of our own; None for none.

    Attributes:
        server: has the sockets, once started.
        supervisor: of our own workers, once started.
    """

    def __init__(self, settings: Settings, application: str | None) -> None:
        self._settings = settings
        self._application = application
        self._directory: str | None = None
        self._layer: BaseChannelLayer | None = None
        self._relay: RelayApplication | None = None
        self._watching: asyncio.Task[None] | None = None
        self._hurried = False
        self.supervisor: Supervisor | None = None
        self.server: Server | None = None

    async def start(self) -> None:
        """
        Start layer, workers and server, in this order.

        Raises:
            ConfigurationError, StartupFailed: nothing of them is left then.
        """
        try:
            await self._start_layer()
            await self._start_workers()
            assert self._relay is not None
            # The relay's own lifespan is meant here; the application's is in the workers.
            settings = dataclasses.replace(self._settings, lifespan="on")
            self.server = Server(self._relay, settings, ready=self._is_ready)
            await self.server.start()
        except BaseException:
            self._hurried = True
            await self.stop()
            raise

    def _is_ready(self) -> bool:
        assert self._relay is not None
        return self._relay.reachable and (self.supervisor is None or self.supervisor.serving > 0)

    async def _start_layer(self) -> None:
        settings = self._settings
        if settings.layer is None:
            self._directory = tempfile.mkdtemp(prefix="daphne-like-")  # its mode is 0700
            settings = dataclasses.replace(settings, layer=f"ipc:{self._directory}/layer.sock")
            self._settings = settings
        assert settings.layer is not None
        self._layer = open_layer(settings.layer)
        self._relay = RelayApplication(
            self._layer,
            terms=Terms(
                queue_timeout=settings.queue_timeout or math.inf,
                queue_limit=settings.queue_size,
                connect_timeout=settings.websocket_connect_timeout * CONNECT_SHARE or math.inf,
                resume_timeout=settings.resume_timeout,
            ),
            restart_rules=settings.restart_rules,
            restart_spread=settings.graceful_timeout * SPREAD_SHARE,
        )
        try:
            if isinstance(self._layer, IPCChannelLayer):
                await self._layer.serve()
            await self._relay.start()
        except LayerError as error:
            raise StartupFailed(f"--layer: {error}") from error

    async def _start_workers(self) -> None:
        settings = self._settings
        if self._application is None:
            return
        assert settings.layer is not None and self._layer is not None and self._relay is not None
        self.supervisor = Supervisor(
            settings,
            orders_for(settings, self._application, self._directory),
            {**os.environ, ENVIRONMENT: settings.layer},
            _Places(self._layer, self._relay),
            patient=settings.reload,
        )
        if settings.reload:
            self._watching = asyncio.ensure_future(watch(settings, self.supervisor.reload))
        await self.supervisor.start()

    def reload(self) -> None:
        """Read the certificate again, then have new workers take over."""
        if self.server is not None:
            self.server.reload_certificate()
        if self.supervisor is not None:
            self.supervisor.reload()

    def add_worker(self) -> None:
        if self.supervisor is not None:
            self.supervisor.add()

    def remove_worker(self) -> None:
        if self.supervisor is not None:
            self.supervisor.remove()

    def hurry(self) -> None:
        """End the graceful time of a stop() in course now."""
        self._hurried = True
        if self.server is not None:
            self.server.hurry()
        if self.supervisor is not None and self.supervisor.stopping:
            self.supervisor.kill()

    async def stop(self) -> None:
        """Stop as the module's text says."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        if self.server is not None:
            await self.server.stop()
        if self.supervisor is not None:
            await self.supervisor.stop(gracefully=not self._hurried)
        if self._relay is not None:
            await self._relay.stop()
        if self._layer is not None:
            await self._layer.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


class _Places:
    """Who gets new work, as the supervisor has it; a layer that is not our own cannot be told."""

    def __init__(self, layer: BaseChannelLayer, relay: RelayApplication) -> None:
        self._layer = layer
        self._relay = relay

    def suspend(self, name: str) -> None:
        layer = self._layer
        if isinstance(layer, IPCChannelLayer) and layer.hub is not None:
            with layer.lock:
                layer.hub.suspend(name)
        self._relay.worker_suspended(name, True)

    def resume(self, name: str) -> None:
        layer = self._layer
        if isinstance(layer, IPCChannelLayer) and layer.hub is not None:
            with layer.lock:
                layer.hub.resume(name)
        self._relay.worker_suspended(name, False)

    def ended(self, name: str) -> None:
        self._relay.worker_ended(name)

    def condemned(self, name: str, in_hand: InHand | None) -> None:
        self._relay.worker_condemned(name, in_hand)
