"""
Server: an application, its listening sockets, and the order of starting and stopping.

Starting: lifespan startup, then sockets. An application that cannot start has never refused a client.

Stopping, within `graceful_timeout`:
1. The listening sockets close; new clients go to whoever else listens.
2. Idle connections close. Requests in course go on, and their responses say ``Connection: close``.
3. WebSockets are told 1012, spread over the time so that their clients do not all come back at once.
4. What is left at the end is cut, then its applications are cancelled, and each is named in the log.
5. Lifespan shutdown, once nobody can ask for anything any more.
"""

import asyncio
import contextlib
import functools
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from daphne_like import logs
from daphne_like.asgi.direct import Exchange, direct_of
from daphne_like.asgi.lifespan import Lifespan
from daphne_like.asgi.stream import ServerContext, Wakeup, task_starter
from daphne_like.asgi.websocket import WebSocketStream
from daphne_like.http.identity import Identity
from daphne_like.net.deadlines import Deadlines, resolution_for
from daphne_like.net.factory import ServerFactory
from daphne_like.net.listeners import Listeners
from daphne_like.net.tls import TLSCertificate
from daphne_like.reactor import collect_garbage_seldom, current_reactor, run_in_reactor
from daphne_like.settings import Settings
from daphne_like.thread_pools import open_pool
from daphne_like.threads import ThreadPool
from daphne_like.typing import ASGIApplication, Receive, Scope, Send

__all__ = ["Server", "Service", "serve_until_told"]

log = logging.getLogger(logs.SERVER)

# Goodbyes a second, when there is time: what a site that has just restarted can take in handshakes.
GOODBYES_PER_SECOND = 500
# Of the graceful time, at most this much for goodbyes: the last told needs some time to answer.
GOODBYE_SHARE = 0.8
# After the graceful time: for applications to notice that their clients are gone, and to end when cancelled.
NOTICE_TIME = 1.0
CANCEL_TIME = 2.0


class Service(Protocol):
    """Something that serve_until_told() starts and stops."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def hurry(self) -> None:
        """End the graceful time of a stop() in course now."""


async def serve_until_told(
    service: Service, settings: Settings, signals: Mapping[str, Callable[[], None]]
) -> None:
    """
    Start *service*, wait for SIGTERM or SIGINT, and stop it gracefully; at a second signal, at once.

    Args:
        signals: what else to do on which signal, such as SIGHUP. Those that the system lacks are passed over.
    """
    loop = asyncio.get_running_loop()
    loop.set_debug(settings.verbosity >= 3)
    told = asyncio.Event()

    def stop_signal() -> None:
        if told.is_set():
            log.info("second signal, stopping at once")
            service.hurry()
        else:
            log.info("stopping", extra={"graceful_timeout": settings.graceful_timeout})
        told.set()

    handlers: dict[str, Callable[[], None]] = dict.fromkeys(("SIGTERM", "SIGINT"), stop_signal)
    for name in ("SIGTTIN", "SIGTTOU"):  # by default, they stop a process until SIGCONT
        handlers[name] = functools.partial(log.info, "there are no workers here", extra={"signal": name})
    for name, handler in {**handlers, **signals}.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows

            def call_in_loop(*_: object, handler: Callable[[], None] = handler) -> None:
                loop.call_soon_threadsafe(handler)

            signal.signal(number, call_in_loop)
    starting = loop.create_task(service.start())
    stopping = loop.create_task(told.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()  # told to stop while the application starts
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    if not starting.cancelled():
        await stopping
        await service.stop()


class _Healthy:
    """
    Answers GET and HEAD of some paths itself; all else goes to the application.

    Args:
        checks: by path: 200 where it says True, else 503.
    """

    def __init__(self, application: ASGIApplication, checks: Mapping[str, Callable[[], bool]]) -> None:
        self._application = application
        self._checks = checks
        self.wants_departure = getattr(application, "wants_departure", False)
        self._direct = direct_of(application)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and (check := self._check_for(scope)) is not None:
            return self._answer(send, check())
        return self._application(scope, receive, send)

    def daphne_like_direct(self, exchange: Exchange) -> bool:
        """See asgi.direct."""
        return self._direct is not None and self._check_for(exchange.scope) is None and self._direct(exchange)

    def _check_for(self, scope: Scope) -> Callable[[], bool] | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        return self._checks.get(scope["path"].removeprefix(scope["root_path"]))

    async def _answer(self, send: Send, well: bool) -> None:
        status, body = (200, b"ok\n") if well else (503, b"not ready\n")
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Server:
    """
    Serves *application*. Use run() to own the process, or start() and stop() within a running event loop.

    Args:
        application: ASGI 3.
        settings: the defaults where not given.
        ready: whether requests can be served now, for --ready-path; beside that the server listens.

    Attributes:
        addresses: where it listens, once started: "http://127.0.0.1:8000", "unix:/run/site.sock".
    """

    def __init__(
        self,
        application: ASGIApplication,
        settings: Settings | None = None,
        *,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings = settings = settings if settings is not None else Settings()
        checks = {settings.health_path: lambda: True, settings.ready_path: lambda: self._listens and ready()}
        answered = {path: check for path, check in checks.items() if path is not None}
        if answered:
            application = _Healthy(application, answered)
        self._lifespan = Lifespan(
            application, settings.lifespan, settings.startup_timeout, settings.shutdown_timeout
        )
        self._application = application
        self._changed = Wakeup()
        self._listeners = Listeners(settings, current_reactor, self._changed.wake)
        self._certificate: TLSCertificate | None = None
        self._context: ServerContext | None = None
        self._factory: ServerFactory | None = None
        self._deadlines: Deadlines | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._pool: ThreadPool | None = None
        self._hurry = asyncio.Event()
        self._stopping = asyncio.Lock()

    @property
    def addresses(self) -> list[str]:
        return self._listeners.addresses

    def run(self) -> None:
        """
        Serve until SIGTERM or SIGINT, then stop gracefully; a second signal stops at once.

        Installs a Twisted reactor and owns the signals: not for use within a running event loop.

        Raises:
            StartupFailed, ConfigurationError: it could not start.
        """
        collect_garbage_seldom()
        run_in_reactor(lambda: serve_until_told(self, self.settings, {"SIGHUP": self.reload_certificate}))

    async def start(self) -> None:
        """
        Start the application and listen.

        Raises:
            StartupFailed, ConfigurationError: nothing listens, and the application was shut down again.
        """
        settings = self.settings
        loop = asyncio.get_running_loop()
        self._hurry.clear()
        if settings.certificate is not None:
            self._certificate = TLSCertificate(settings.certificate, settings.private_key)
        self._pool = open_pool(loop, settings.threads, settings.max_threads)
        await self._lifespan.startup()
        identity = Identity(settings.server_name, time.time())
        self._deadlines = Deadlines(lambda now: identity.update(time.time()))
        self._context = context = ServerContext(
            application=self._application,
            settings=settings,
            clock=loop.time,
            spawn=task_starter(loop),
            watch=self._deadlines.watch,
            unwatch=self._deadlines.unwatch,
            identity=identity,
            state=self._lifespan.state,
            idle=self._changed.wake,
        )
        self._factory = ServerFactory(context, loop.call_soon, self._changed.wake, self._certificate)
        try:
            await self._listeners.start(self._factory, self._certificate)
        except BaseException:
            self._context = None
            await self._lifespan.shutdown()
            raise
        self._tick(loop, resolution_for(settings))
        for address in self.addresses:
            log.info("listening", extra={"address": address})

    @property
    def _listens(self) -> bool:
        return self._context is not None and not self._context.draining

    def _tick(self, loop: asyncio.AbstractEventLoop, resolution: float) -> None:
        assert self._deadlines is not None
        self._ticker = loop.call_later(resolution, self._tick, loop, resolution)
        self._deadlines.tick(loop.time())

    def reload_certificate(self) -> None:
        """Read the certificate's files again, for new connections. A failure is logged, the old one stays."""
        if self._certificate is None:
            return
        try:
            self._certificate.load()
        except Exception as error:
            log.error("certificate not reloaded, the old one stays in use", extra={"reason": str(error)})
        else:
            log.info("certificate reloaded")

    def hurry(self) -> None:
        """End the graceful time of a stop() in course now."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop as the module's text says. Does nothing when not started, and waits where a stop is in course."""
        async with self._stopping:
            if self._context is not None:
                await self._stop()

    async def _stop(self) -> None:
        assert self._context is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.graceful_timeout
        await self._listeners.stop()
        self._context.draining = True
        await asyncio.sleep(0)  # connections that were accepted in this turn come to be
        goodbyes = self._drain_connections()
        goodbye_task = loop.create_task(self._say_goodbyes(goodbyes))
        finished = loop.create_task(self._finished())
        hurry = loop.create_task(self._hurry.wait())
        try:
            await asyncio.wait(
                (finished, hurry),
                timeout=max(0.0, deadline - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not finished.done():
                await self._cut(finished)
            goodbye_task.cancel()
            if self._ticker is not None:
                self._ticker.cancel()
            self._context = None
            await self._shut_down_application(hurry)
        finally:
            for task in (goodbye_task, finished, hurry):
                task.cancel()
        if self._pool is not None:
            self._pool.close()
        log.info("stopped")

    async def _shut_down_application(self, hurry: asyncio.Task[Any]) -> None:
        """Its lifespan's end, which is cut soon after *hurry* is over."""
        shutdown = asyncio.get_running_loop().create_task(self._lifespan.shutdown())
        await asyncio.wait((shutdown, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not shutdown.done():
            await asyncio.wait((shutdown,), timeout=CANCEL_TIME)
        if not shutdown.done():
            log.warning("told to hurry, cut the application's lifespan shutdown")
            shutdown.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await shutdown

    def _drain_connections(self) -> list[WebSocketStream]:
        assert self._factory is not None
        goodbyes = []
        for connection in list(self._factory.connections):
            if isinstance(connection.stream, WebSocketStream):
                goodbyes.append(connection.stream)
            connection.drain()
        return goodbyes

    async def _say_goodbyes(self, streams: list[WebSocketStream]) -> None:
        duration = min(len(streams) / GOODBYES_PER_SECOND, self.settings.graceful_timeout * GOODBYE_SHARE)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number, stream in enumerate(streams):
            due = begin + duration * number / len(streams)
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            stream.shutdown()

    async def _finished(self) -> None:
        """Wait until no connection is open or to be, and no application runs."""
        assert self._context is not None and self._factory is not None
        while self._factory.connections or self._context.running or self._listeners.handshakes:
            await self._changed.wait()

    async def _cut(self, finished: asyncio.Task[None]) -> None:
        """End what has not ended by itself: first tell applications that their clients are gone."""
        assert self._context is not None and self._factory is not None
        self._listeners.cut_handshakes()
        for connection in list(self._factory.connections):
            if connection.stream is not None:
                log.warning(
                    "cut a connection that outlasted the graceful time", extra=connection.stream.described
                )
            connection.reset("the server stops")
        await asyncio.wait((finished,), timeout=NOTICE_TIME)
        for stream in list(self._context.running):
            log.warning("cancelled an application that outlasted the graceful time", extra=stream.described)
            if stream.task is not None:
                stream.task.cancel()
        await asyncio.wait((finished,), timeout=CANCEL_TIME)
        for stream in self._context.running:
            log.error("an application does not end, leaving it behind", extra=stream.described)
