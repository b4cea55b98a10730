"""
`manage.py runserver`: Django's development server, over ASGI.

Its own words, options and habits are Django's (autoreload, system checks, static files while DEBUG is on), and
Daphne's options are taken as well. What else the server can do is said in the environment or a file, as for the
`daphne-like` command: DAPHNE_LIKE_PING_INTERVAL=5, or --config.

`--noasgi` is Django's own WSGI server.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
from typing import Any

from django.conf import settings as site_settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.runserver import Command as DjangosCommand
from django.db import connections
from django.utils import autoreload

from daphne_like import __version__
from daphne_like.configuration import resolve
from daphne_like.django import console, development, reloading, site
from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.reporting import leave_threads_behind
from daphne_like.serving import announce
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["Command"]

# Ours, and where the site's own settings say the same for Daphne.
_DAPHNES = {
    "websocket_max_message_size": "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE",
    "websocket_max_frame_size": "DAPHNE_WEBSOCKET_MAX_FRAME_SIZE",
}


class Command(DjangosCommand):
    help = "Starts a lightweight web server for development, over ASGI: HTTP and WebSockets."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Run Django's WSGI-based runserver rather than this ASGI-based one.",
        )
        parser.add_argument(
            "--http_timeout",
            "--http-timeout",
            dest="http_timeout",
            metavar="SECONDS",
            help="Whole time of an HTTP request (default: no limit).",
        )
        parser.add_argument(
            "--websocket_handshake_timeout",
            "--websocket-handshake-timeout",
            dest="websocket_handshake_timeout",
            metavar="SECONDS",
            help="Time for the application to accept or reject a WebSocket (default: 5).",
        )
        parser.add_argument(
            "--websocket-max-message-size",
            metavar="BYTES",
            help="Largest message of a WebSocket (default: 1m). 0 for no limit.",
        )
        parser.add_argument(
            "--websocket-max-frame-size",
            metavar="BYTES",
            help="Largest single frame of a WebSocket (default: 1m). 0 for no limit.",
        )
        parser.add_argument("--certificate", metavar="FILE", help="PEM certificate chain: serve https.")
        parser.add_argument("--private-key", metavar="FILE", help="PEM private key of --certificate.")
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="Read settings of the daphne-like command from this TOML file. "
            "Its environment variables (DAPHNE_LIKE_...) count, too.",
        )
        if site.static_files_installed():
            parser.add_argument(
                "--nostatic",
                action="store_false",
                dest="use_static_handler",
                help="Tells Django to NOT automatically serve static files at STATIC_URL.",
            )
            parser.add_argument(
                "--insecure",
                action="store_true",
                dest="insecure_serving",
                help="Allows serving static files even if DEBUG is False.",
            )

    def handle(self, *args: Any, **options: Any) -> None:
        self._server: development.DevelopmentServer | None = None
        self._sockets: list[socket.socket] = []
        self._asgi = options.get("use_asgi", True)
        if self._asgi:
            try:
                self._settings = self._read_settings(options)
            except ConfigurationError as error:
                raise CommandError(str(error)) from None
            self.protocol = "http" if self._settings.certificate is None else "https"
        super().handle(*args, **options)

    def _read_settings(self, options: dict[str, Any]) -> Settings:
        given = {
            "http_timeout": options.get("http_timeout"),
            "websocket_connect_timeout": options.get("websocket_handshake_timeout"),
            "websocket_max_message_size": options.get("websocket_max_message_size"),
            "websocket_max_frame_size": options.get("websocket_max_frame_size"),
            "certificate": options.get("certificate"),
            "private_key": options.get("private_key"),
            "verbosity": options.get("verbosity"),
        }
        for name, setting in _DAPHNES.items():
            if given[name] is None:
                given[name] = getattr(site_settings, setting, None)
        mount = (getattr(site_settings, "FORCE_SCRIPT_NAME", None) or "").rstrip("/")
        if mount:
            given["root_path"] = mount
        if not options.get("use_threading", True):
            given["threads"] = given["max_threads"] = "1"
        arguments = {name: str(value) for name, value in given.items() if value is not None}
        return resolve(arguments, config=options.get("config")).settings

    # -- the two processes of the autoreloader ----------------------------------------------------

    def run(self, **options: Any) -> None:
        if not self._asgi:
            super().run(**options)
        elif not options["use_reloader"]:
            self._open_sockets()
            self.inner_run(None, **options)
            # As Django's server, whose threads are daemons.
            leave_threads_behind()
        elif os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
            self._run_parent(options)
        else:
            self._run_child(options)

    def _run_parent(self, options: dict[str, Any]) -> None:
        """Start the site as often as it asks for that, on sockets that stay open."""
        if sys.platform != "win32":  # there, children inherit no sockets in this way
            self._open_sockets()
            reloading.hand_over(self._sockets)
        environment = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true"}
        sys.exit(reloading.run_children(autoreload.get_child_arguments(), environment))

    def _run_child(self, options: dict[str, Any]) -> None:
        """Serve in a thread while the main one looks for changes; then end what is being served."""
        self._sockets = reloading.inherited()
        if not self._sockets:
            self._open_sockets()
        reloading.look_back()
        exit_code: Any = 0
        try:
            autoreload.run_with_reloader(self.inner_run, **options)
        except SystemExit as leaving:
            exit_code = leaving.code
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way
            with contextlib.suppress(KeyboardInterrupt):  # the second one: at once
                if self._server is not None:
                    self._server.stop()
            leave_threads_behind(exit_code if isinstance(exit_code, int) else 1)

    def _open_sockets(self) -> None:
        try:
            self._sockets = development.open_sockets(
                self.addr, int(self.port), ipv6=self.use_ipv6, backlog=self._settings.backlog
            )
        except StartupFailed as error:
            self.stderr.write(f"Error: {error}")
            sys.exit(1)

    # -- one run of the site ----------------------------------------------------------------------

    def inner_run(self, *args: Any, **options: Any) -> None:
        if not self._asgi:
            super().inner_run(*args, **options)
            return
        # An exception of django.setup(), kept by Django so that the autoreloader lives to see it mended.
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        for connection in connections.all(initialized_only=True):  # opened to look at the migrations
            connection.close()

        descriptors = tuple(sock.fileno() for sock in self._sockets)
        settings = development.settings_for_development(self._settings, descriptors)
        announce(settings)
        development.choose_layer(settings)
        application = self.get_application(options)
        console.log_to_console(settings)
        port = int(self._sockets[0].getsockname()[1])
        self._server = development.DevelopmentServer(application, settings, lambda: self.on_bind(port))
        try:
            self._server.run()
        except (StartupFailed, ConfigurationError) as error:
            self.stderr.write("\n".join(filter(None, [getattr(error, "details", ""), f"Error: {error}"])))
            # sys.exit() would end this thread alone.
            os._exit(error.exit_code)
        message = options.get("shutdown_message", "")
        if message and threading.current_thread() is threading.main_thread():
            self.stdout.write(message)

    def get_application(self, options: dict[str, Any]) -> ASGIApplication:
        """The site's application; with static files in front of it, if they should be served."""
        application = site.default_application()
        return site.with_static_files(application) if self._serves_static(options) else application

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """For --noasgi: the same as WSGI."""
        handler = super().get_handler(*args, **options)
        if not self._serves_static(options):
            return handler
        from django.contrib.staticfiles.handlers import StaticFilesHandler

        return StaticFilesHandler(handler)

    def _serves_static(self, options: dict[str, Any]) -> bool:
        wanted = options.get("use_static_handler", site.static_files_installed())
        return bool(wanted and (site_settings.DEBUG or options.get("insecure_serving")))

    def on_bind(self, server_port: int) -> None:
        if not self._asgi:
            super().on_bind(server_port)
            return
        addr = f"[{self.addr}]" if self._raw_ipv6 else "0.0.0.0" if self.addr == "0" else self.addr
        quit_command = "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
        now = datetime.datetime.now().strftime("%B %d, %Y - %X")
        self.stdout.write(
            f"{now}\n"
            f"Django version {self.get_version()}, using settings {site_settings.SETTINGS_MODULE!r}\n"
            f"Starting ASGI/daphne-like version {__version__} development server "
            f"at {self.protocol}://{addr}:{server_port}/\n"
            f"Quit the server with {quit_command}."
        )
        if os.environ.get("DJANGO_RUNSERVER_HIDE_WARNING") != "true":
            self.stdout.write(
                self.style.WARNING(
                    "WARNING: This is a development server. In production, run: "
                    f"daphne-like {_import_string()}"
                )
            )
        self.stdout.flush()


def _import_string() -> str:
    name = site.application_name() or "mysite.asgi.application"
    return ":".join(name.rpartition(".")[::2])
