"""
A live server for tests: the site on a real socket, with WebSockets, in this process.

    class ChatTests(LiveServerTestCase):
        def test_it(self):
            with websockets.sync.client.connect(self.live_server_ws_url + "/ws/chat/") as socket: ...

`LiveServer` is the server by itself, for other frameworks; daphne_like.django.fixtures has it for pytest.

It runs in a thread, so that settings that a test overrides, and functions that it replaces, are the site's, too.
Databases are those of the test run. One in memory, as SQLite's is under test, is a single database for the whole
process, with a connection for each thread: transactions are each thread's own. SQLite does not wait for such a
neighbour's lock but raises at once; here statements are tried again, and readers pass by writers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import LiveServerTestCase as DjangosTestCase
from django.test.utils import modify_settings

from daphne_like.django import development, site
from daphne_like.errors import StartupFailed
from daphne_like.layers.loading import allow_memory
from daphne_like.reactor import new_event_loop
from daphne_like.server import Server
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["ChannelsLiveServerTestCase", "LiveServer", "LiveServerTestCase"]

# As SQLite's own for locks that it does wait for.
LOCK_TIMEOUT = 5.0
TRY_AGAIN = 0.002
START_WITHIN = 30.0
STOP_WITHIN = 10.0


class LiveServer:
    """
    Serves a site from start() to stop(), or inside of a `with`.

    Args:
        application: ASGI 3; the site's own where not given, looked for at the start.
        host: of the URLs, and allowed as a host meanwhile.
        port: 0 for a free one.
        static: serve the files of `django.contrib.staticfiles`; where that is not installed, of STATIC_ROOT.
        media: serve the files of MEDIA_ROOT at MEDIA_URL.
        settings: of the server. Where it listens is said by *host* and *port*.

    Attributes:
        port: once started, the real one.
    """

    def __init__(
        self,
        application: ASGIApplication | None = None,
        *,
        host: str = "localhost",
        port: int = 0,
        static: bool = True,
        media: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._application = application
        self._static = static
        self._media = media
        self._settings = settings if settings is not None else Settings(access_log="")
        self._until_stopped = ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.url

    def __add__(self, path: str) -> str:
        return self.url + path

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """
        Serve.

        Raises:
            StartupFailed: it cannot listen, or the application's lifespan does not start.
            ImproperlyConfigured: there is no such application; or a database is in memory in a way that no other
                thread can share.
        """
        with ExitStack() as stack:
            stack.enter_context(modify_settings(ALLOWED_HOSTS={"append": self.host}))
            shared = _SharedConnections()
            stack.callback(shared.close)
            shared.open()
            allow_memory()  # the site and its tests are one process
            application = self._with_files(self._application or site.default_application())
            sockets = development.open_sockets(self.host, self.port, ipv6=False, backlog=128)
            for sock in sockets:
                stack.callback(sock.close)
            descriptors = tuple(sock.fileno() for sock in sockets)
            settings = development.settings_for_development(self._settings, descriptors)
            server = Server(application, settings)
            self._thread = threading.Thread(target=self._run, args=(server,), name="live server", daemon=True)
            self._thread.start()
            stack.callback(self._end)
            if not self._started.wait(START_WITHIN):
                raise StartupFailed(f"the live server did not start within {START_WITHIN:g} s")
            if self._error is not None:
                raise self._error
            self.port = int(sockets[0].getsockname()[1])
            self._until_stopped = stack.pop_all()

    def _with_files(self, application: ASGIApplication) -> ASGIApplication:
        if self._media:
            application = site.with_media_files(application)
        if not self._static:
            return application
        if site.static_files_installed():
            return site.with_static_files(application)
        return site.with_collected_files(application)

    def stop(self) -> None:
        """Stop serving, and close the database connections that the site has opened."""
        self._until_stopped.close()

    def _run(self, server: Server) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            try:
                runner.run(self._serve(server))
            except BaseException as error:
                self._error = error
            finally:
                self._started.set()

    async def _serve(self, server: Server) -> None:
        self._told = told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        await server.start()
        self._started.set()
        await told.wait()
        await server.stop()

    def _end(self) -> None:
        assert self._thread is not None
        if self._loop is not None and self._told is not None:
            with suppress(RuntimeError):  # it has ended by itself, and closed the loop
                self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join(STOP_WITHIN)


class _SharedConnections:
    """
    Database connections while a live server runs.

    Made in the test's thread, whose own connection keeps a database in memory alive. Those of all other threads
    are closed at the end: they would keep a database from being dropped, and Django closes none that is in
    memory.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._ours: list[Any] = []
        # By identity. Kept, because a thread that ends drops those that are in memory without closing them.
        self._theirs: dict[int, Any] = {}

    def open(self) -> None:
        for connection in connections.all():
            if _in_memory(connection):
                if "cache=shared" not in str(connection.settings_dict["NAME"]):
                    raise ImproperlyConfigured(
                        f"The database {connection.alias!r} is in the memory of one thread. A live server needs "
                        "'file:NAME?mode=memory&cache=shared', as Django's test runner makes it, or a file."
                    )
                connection.ensure_connection()
                self._prepare(connection)
                self._ours.append(connection)
        connection_created.connect(self._created)

    def close(self) -> None:
        connection_created.disconnect(self._created)
        for connection in self._theirs.values():
            if connection.connection is not None:
                connection.inc_thread_sharing()
                try:
                    # SQLite's wrapper keeps a connection to a database in memory: here ours does.
                    BaseDatabaseWrapper.close(connection)
                finally:
                    connection.dec_thread_sharing()
        for connection in self._ours:
            while _try_again_while_locked in connection.execute_wrappers:
                connection.execute_wrappers.remove(_try_again_while_locked)
            if connection.connection is not None:
                connection.connection.execute("PRAGMA read_uncommitted = 0")

    def _created(self, connection: Any, **_: object) -> None:
        if threading.get_ident() != self._thread:
            self._theirs[id(connection)] = connection
        if _in_memory(connection):
            self._prepare(connection)

    def _prepare(self, connection: Any) -> None:
        connection.connection.execute("PRAGMA read_uncommitted = 1")
        if _try_again_while_locked not in connection.execute_wrappers:
            connection.execute_wrappers.append(_try_again_while_locked)


def _in_memory(connection: Any) -> bool:
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())


def _try_again_while_locked(
    execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """
    Wait for another thread's transaction, as SQLite's busy timeout does for databases in files.

    A statement that finds a lock of the shared cache has done nothing yet.
    """
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return execute(sql, params, many, context)
        except OperationalError as error:
            if "is locked" not in str(error) or time.monotonic() >= until:
                raise
        time.sleep(TRY_AGAIN)


class LiveServerTestCase(DjangosTestCase):
    """
    Django's LiveServerTestCase, and Channels' ChannelsLiveServerTestCase, on this server.

    Attributes:
        host, port: where it listens; a free port by default.
        serve_static, serve_media: whether files are served, see LiveServer.
        application: ASGI 3; the site's own where None.
        server_thread: the LiveServer.
    """

    serve_static = True
    serve_media = True
    application: ASGIApplication | None = None
    server_thread: LiveServer

    @classmethod
    def setUpClass(cls) -> None:
        super(DjangosTestCase, cls).setUpClass()  # without the server that Django's would start
        application = cls.__dict__.get("application", cls.application)
        if isinstance(application, staticmethod):
            application = application.__func__
        cls.server_thread = LiveServer(
            application, host=cls.host, port=cls.port, static=cls.serve_static, media=cls.serve_media
        )
        cls.server_thread.start()
        cls.addClassCleanup(cls.server_thread.stop)

    @property
    def live_server_url(self) -> str:
        return self.server_thread.url

    @property
    def live_server_ws_url(self) -> str:
        return self.server_thread.ws_url


ChannelsLiveServerTestCase = LiveServerTestCase
