"""
`manage.py runworker`: this site's worker, for the server at a channel layer.

    manage.py runworker                       all that the server has: HTTP and WebSockets
    manage.py runworker thumbnails mails      background jobs for the site's ChannelNameRouter, as Channels' own
    manage.py runworker websocket.connect     one kind of what the server has

The layer is one of CHANNEL_LAYERS, or a URL (--layer ipc:/run/site.sock). The first is the same as
`daphne-like worker mysite.asgi:application --layer URL`, with its settings in the environment or in --config.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings as site_settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.module_loading import import_string

from daphne_like.configuration import resolve
from daphne_like.django import console, site
from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.layers.base import BaseChannelLayer
from daphne_like.layers.foreign import ForeignLayer
from daphne_like.layers.loading import ENVIRONMENT, open_layer
from daphne_like.layers.memory import MemoryChannelLayer
from daphne_like.relay.envelope import HTTP_CHANNEL, WEBSOCKET_CHANNEL
from daphne_like.serving import announce
from daphne_like.settings import Settings
from daphne_like.worker_process import work

__all__ = ["Command"]

DEFAULT_ALIAS = "default"
_SHARED = (HTTP_CHANNEL, WEBSOCKET_CHANNEL)


class Command(BaseCommand):
    help = "Runs a worker for the server at a channel layer, or for the channels that are named."
    leave_locale_alone = True

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "channels",
            nargs="*",
            help=f"Channels to listen on. {' and '.join(_SHARED)} are what a server offers; "
            "without any name, both.",
        )
        parser.add_argument(
            "--layer",
            default=None,
            help="Alias in CHANNEL_LAYERS (default: 'default'), or a URL such as ipc:/run/site.sock.",
        )
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="Read settings of the daphne-like command from this TOML file. "
            "Its environment variables (DAPHNE_LIKE_...) count, too.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            settings = self._read_settings(options)
            open_own_layer = _layer_opener(options["layer"], settings)
            announce(settings)
            layer = open_own_layer()
        except ConfigurationError as error:
            raise CommandError(str(error), returncode=error.exit_code) from None
        if isinstance(layer, MemoryChannelLayer) or _is_channels_memory(layer):
            raise CommandError(
                "This layer is in the memory of one process: nobody would ever reach this worker. Name another "
                "in CHANNEL_LAYERS, or with --layer."
            )
        application = site.default_application()
        console.log_to_stderr(settings)
        try:
            code = work(settings, application, lambda: layer)
        except (ConfigurationError, StartupFailed) as error:
            raise CommandError(str(error), returncode=error.exit_code) from error
        if code:
            sys.exit(code)

    def _read_settings(self, options: dict[str, Any]) -> Settings:
        arguments: dict[str, Any] = {"verbosity": str(options["verbosity"])}
        if options["channels"]:
            shared = [name for name in options["channels"] if _is_shared(name)]
            others = [name for name in options["channels"] if name not in shared]
            # A name that fits none of the shared channels leaves them all out.
            arguments["only"] = shared or [others[0]]
            if others:
                arguments["channels"] = others
        return resolve(arguments, config=options["config"]).settings


def _is_shared(name: str) -> bool:
    return any(fnmatch.fnmatchcase(channel, name) for channel in _SHARED)


def _layer_opener(named: str | None, settings: Settings) -> Callable[[], BaseChannelLayer]:
    """
    How to open the layer that *named* is: an alias, a URL, or None for what the site has as its default.

    Raises:
        CommandError: there is none.
    """
    described = getattr(site_settings, "CHANNEL_LAYERS", {})
    alias = named if named is not None else DEFAULT_ALIAS
    if alias in described:
        return lambda: _layer_of_site(alias)
    url = named if named is not None else settings.layer
    if url is None:
        raise CommandError(
            "You do not have any CHANNEL_LAYERS configured. Name the server's: --layer ipc:PATH, or redis://HOST."
        )
    if ":" not in url and "." not in url:
        known = ", ".join(map(repr, described)) or "none"
        raise CommandError(f"--layer {url}: CHANNEL_LAYERS has no such alias ({known}), and a URL it is not.")
    os.environ[ENVIRONMENT] = url  # the site's own use of it, where its settings leave that open
    return lambda: open_layer(url)


def _layer_of_site(alias: str) -> BaseChannelLayer:
    """The object that the site's own code gets, too."""
    try:
        from channels.layers import get_channel_layer
    except ImportError:
        described = site_settings.CHANNEL_LAYERS[alias]
        found = import_string(described["BACKEND"])(**described.get("CONFIG", {}))
    else:
        found = get_channel_layer(alias)
    return found if isinstance(found, BaseChannelLayer) else ForeignLayer(found)


def _is_channels_memory(layer: BaseChannelLayer) -> bool:
    return isinstance(layer, ForeignLayer) and type(layer.layer).__name__ == "InMemoryChannelLayer"
