"""
System checks: what about a site's settings would make it fail, or fail silently, under this server.

`manage.py check` and every other command that checks gets those of register(). A server process runs no
commands; what matters there is logged once, while its apps are loaded: warn_server_process().

    daphne_like.E001   runserver is another app's, which serves no ASGI
    daphne_like.E002   a channel layer that cannot be made
    daphne_like.W001   runserver is that of an app that may have meant it
    daphne_like.W002   a layer in memory where there will be several processes            (deploy)
    daphne_like.W003   Django reads forwarding headers that this server has read already  (deploy)
    daphne_like.W004   any host is allowed, and the host comes from a header              (deploy)
    daphne_like.W005   only local hosts are allowed behind a proxy                        (deploy)
    daphne_like.W006   DEBUG in a server process                                          (server processes only)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings as site_settings
from django.core import checks
from django.core.management import get_commands, load_command_class
from django.utils.module_loading import import_string

from daphne_like import logs
from daphne_like.configuration import resolve
from daphne_like.errors import ConfigurationError
from daphne_like.layers.loading import open_layer
from daphne_like.serving import serving, supervisor_told
from daphne_like.settings import Settings

__all__ = ["check_deployment", "check_layers", "check_runserver", "register", "warn_server_process"]

log = logging.getLogger(logs.SERVER)

OUR_APP = "daphne_like.django"
OUR_BACKEND = "daphne_like.layers.ChannelLayer"
MEMORY_BACKEND = "channels.layers.InMemoryChannelLayer"
OUR_COMMAND = "daphne_like.django.management.commands.runserver"

_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]", ".localhost"}


def register() -> None:
    """Have Django run the checks."""
    checks.register(check_runserver, checks.Tags.staticfiles)
    checks.register(check_layers, checks.Tags.compatibility)
    checks.register(check_deployment, checks.Tags.security, deploy=True)


# -- runserver -------------------------------------------------------------------------------------


def check_runserver(app_configs: Sequence[Any] | None, **_: object) -> list[checks.CheckMessage]:
    """Of several apps with a `runserver` the first in INSTALLED_APPS gives it."""
    app = get_commands().get("runserver")
    if app is None or app == OUR_APP:
        return []
    try:
        command = app if not isinstance(app, str) else load_command_class(app, "runserver")
    except (ImportError, AttributeError):
        return []  # whatever is wrong there is said when it runs
    # One that wraps the next app's, as WhiteNoise's, has ours inside.
    if any(each.__module__ == OUR_COMMAND for each in type(command).__mro__):
        return []
    hint = f'Put "{OUR_APP}" before "{app}" in INSTALLED_APPS.'
    if app == "django.contrib.staticfiles":
        sentence = (
            f'"{OUR_APP}" must be listed before "{app}" in INSTALLED_APPS: runserver would serve WSGI, '
            "without WebSockets."
        )
        return [checks.Error(sentence, hint=hint, id="daphne_like.E001")]
    sentence = f'runserver is that of "{app}", which is listed before "{OUR_APP}" in INSTALLED_APPS.'
    hint += f" To have both, its Command can inherit that of {OUR_COMMAND}."
    return [checks.Warning(sentence, hint=hint, id="daphne_like.W001")]


# -- layers ----------------------------------------------------------------------------------------


def check_layers(app_configs: Sequence[Any] | None, **_: object) -> list[checks.CheckMessage]:
    """Each of CHANNEL_LAYERS names a class that is there, and ours a layer that it can be."""
    found: list[checks.CheckMessage] = []
    layers = getattr(site_settings, "CHANNEL_LAYERS", {})
    for alias, described in layers.items():
        wrong = _wrong_about(described)
        if wrong is not None:
            hint = "docs/reference/channel-layers.md has what a layer can be."
            found.append(
                checks.Error(f"CHANNEL_LAYERS[{alias!r}]: {wrong}.", hint=hint, id="daphne_like.E002")
            )
    return found


def _wrong_about(described: Any) -> str | None:
    backend = described.get("BACKEND") if isinstance(described, dict) else None
    if not isinstance(backend, str):
        return "it has no BACKEND"
    try:
        import_string(backend)
    except ImportError as error:
        return f"BACKEND {backend!r} cannot be imported ({error})"
    if backend == OUR_BACKEND:
        options = dict(described.get("CONFIG") or {})
        url = options.pop("url", None)
        # Without a URL the server brings the layer along.
        if url is not None:
            try:
                open_layer(url, **options)  # connects nowhere
            except ConfigurationError as error:
                return str(error)
            except TypeError as error:
                return f"CONFIG: {error}"
    return None


# -- deployment ------------------------------------------------------------------------------------


def check_deployment(app_configs: Sequence[Any] | None, **_: object) -> list[checks.CheckMessage]:
    """For `check --deploy`: the server's settings are those of the environment there."""
    try:
        settings = serving() or resolve({}).settings
    except ConfigurationError:
        settings = Settings()  # the server itself says what is wrong
    found = list(_about_proxies(settings))
    if not site_settings.DEBUG:
        found += _about_memory(settings)
    return found


def _about_memory(settings: Settings) -> Iterator[checks.CheckMessage]:
    for alias, described in getattr(site_settings, "CHANNEL_LAYERS", {}).items():
        if isinstance(described, dict) and described.get("BACKEND") == MEMORY_BACKEND:
            yield checks.Warning(
                f"CHANNEL_LAYERS[{alias!r}]: InMemoryChannelLayer reaches the consumers of one process only.",
                hint=f"With workers, name {OUR_BACKEND!r}, which needs no further service.",
                id="daphne_like.W002",
            )


def _about_proxies(settings: Settings) -> Iterator[checks.CheckMessage]:
    hosts = set(site_settings.ALLOWED_HOSTS)
    reads_host = site_settings.USE_X_FORWARDED_HOST
    if settings.proxy_headers and (reads_host or site_settings.SECURE_PROXY_SSL_HEADER is not None):
        yield checks.Warning(
            "With --proxy-headers, host and scheme of a request are those that trusted proxies have told. "
            "USE_X_FORWARDED_HOST and SECURE_PROXY_SSL_HEADER read fields that nobody has checked.",
            hint="Leave both unset.",
            id="daphne_like.W003",
        )
    if "*" in hosts and (settings.proxy_headers or reads_host):
        yield checks.Warning(
            "ALLOWED_HOSTS has '*' while the host comes from a header of the request: links that the site makes "
            "of it, such as in mails for a new password, lead where a client says.",
            hint="Name the hosts of the site, as its clients know them.",
            id="daphne_like.W004",
        )
    if hosts and hosts <= _LOCAL_HOSTS and settings.proxy_headers and not site_settings.DEBUG:
        yield checks.Warning(
            "ALLOWED_HOSTS has local names only, and the server stands behind a proxy: requests for the site's "
            "public name are answered with 400.",
            hint="Add the hosts of the site, as its clients know them.",
            id="daphne_like.W005",
        )


# -- server processes ------------------------------------------------------------------------------


def warn_server_process() -> None:
    """
    In a server or worker: log what of this should not be in production. Nothing in any other process.

    Workers of one supervisor say the same; it is logged once while that lives, however many they are.
    """
    settings = serving()
    if settings is None or settings.reload:
        return
    logs.enable_loggers()  # LOGGING may have switched off those that it does not name
    messages = list(_about_proxies(settings))
    if site_settings.DEBUG:
        messages.append(
            checks.Warning(
                "DEBUG is on in a server process: errors show the site's code and settings to clients, and "
                "every database query is kept in memory.",
                id="daphne_like.W006",
            )
        )
    for message in messages:
        if not supervisor_told(message.msg, check=message.id):
            log.warning(message.msg, extra={"check": message.id, "pid": os.getpid()})
