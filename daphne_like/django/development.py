"""
A server for development and tests: on an event loop of its own, in whichever thread, gone at once when told.

Django's autoreloader wants the main thread, so that `runserver` serves in another. When it is time to go,
WebSockets are told 1012 and requests get a moment; what is left then is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import Callable

from daphne_like.django.reloading import STOP_WITHIN
from daphne_like.errors import StartupFailed
from daphne_like.layers.loading import ENVIRONMENT, allow_memory, open_layer
from daphne_like.net.sockets import bind_tcp
from daphne_like.reactor import run_in_reactor
from daphne_like.run import ServerWithLayer
from daphne_like.server import Server, Service, serve_until_told
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["DevelopmentServer", "choose_layer", "open_sockets", "settings_for_development"]

# What stop() gives connections, and what the application's lifespan.
GRACEFUL_TIMEOUT = 1.0
SHUTDOWN_TIMEOUT = 1.0


def settings_for_development(settings: Settings, descriptors: tuple[int, ...]) -> Settings:
    """*settings* for a server that a developer restarts all day, on sockets that are open already."""
    return dataclasses.replace(
        settings,
        bind=(),
        port=None,
        unix_socket=(),
        endpoint=(),
        file_descriptor=descriptors,
        workers=0,
        reload=False,
        graceful_timeout=min(settings.graceful_timeout, GRACEFUL_TIMEOUT),
        shutdown_timeout=min(settings.shutdown_timeout or SHUTDOWN_TIMEOUT, SHUTDOWN_TIMEOUT),
    )


def open_sockets(host: str, port: int, *, ipv6: bool, backlog: int) -> list[socket.socket]:
    """
    Listen at *host*: on IPv4, unless *ipv6*, as Django's own server does.

    Raises:
        StartupFailed: the address is in use, or none of this machine.
    """
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartupFailed(f"cannot listen on {host}: {error.strerror or error}") from None
    sockets = bind_tcp(str(found[0][4][0]), port)
    for sock in sockets:
        try:
            sock.listen(backlog)
        except OSError:  # bound, but somebody else listens
            sock.close()
            raise StartupFailed(f"cannot listen on {host}:{port}: address in use") from None
    return sockets


class DevelopmentServer:
    """
    A server wherever run() is called; stop() ends it from another thread.

    Args:
        application: ASGI 3.
        settings: where to listen, and all else; see settings_for_development().
        listening: called in the event loop once clients are served.
    """

    def __init__(
        self, application: ASGIApplication, settings: Settings, listening: Callable[[], None]
    ) -> None:
        self._settings = settings
        server = Server(application, settings)
        service: Service = server
        if settings.layer is not None:
            service = ServerWithLayer(server, open_layer(settings.layer))
        self._service = _Telling(service, listening)
        self._lock = threading.Lock()
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """
        Serve until stop(); in the main thread also until a signal.

        Raises:
            StartupFailed, ConfigurationError: it could not start.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        try:
            run_in_reactor(self._serve_with_signals if in_main_thread else self._serve)
        finally:
            self._ended.set()

    async def _serve_with_signals(self) -> None:
        await serve_until_told(self._service, self._settings, {})

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_debug(self._settings.verbosity >= 3)
        self._stopping = stopping = asyncio.Event()
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._told:
                stopping.set()
        starting = asyncio.ensure_future(self._service.start())
        told = asyncio.ensure_future(stopping.wait())
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
            await self._service.stop()

    def stop(self) -> None:
        """End a run() in another thread, and wait for that, but not for ever."""
        with self._lock:
            self._told = True
            loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not self._ended.is_set():
            try:
                loop.call_soon_threadsafe(stopping.set)
            except RuntimeError:  # it has ended meanwhile
                return
            self._ended.wait(STOP_WITHIN)


class _Telling:
    """A service that says when it serves."""

    def __init__(self, service: Service, listening: Callable[[], None]) -> None:
        self._service = service
        self._listening = listening
        self.stop = service.stop
        self.hurry = service.hurry

    async def start(self) -> None:
        await self._service.start()
        self._listening()


def choose_layer(settings: Settings) -> None:
    """Settle what the site's CHANNEL_LAYERS gets, before the site asks."""
    if settings.layer is None:
        allow_memory()  # this process is all there is
    else:
        os.environ[ENVIRONMENT] = settings.layer
