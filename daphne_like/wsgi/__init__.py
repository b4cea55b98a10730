"""
WSGI beside ASGI: WSGI applications served by us, and our relay as a WSGI application.

    WSGIHost      an ASGI application that runs a WSGI one in threads: what --interface wsgi makes
    RelayWSGI     a WSGI application that puts requests onto a channel layer, for workers to answer
"""

from __future__ import annotations

import functools

from daphne_like.importing import import_application
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication
from daphne_like.wsgi.host import WSGIHost
from daphne_like.wsgi.relay import RelayWSGI

__all__ = ["RelayWSGI", "WSGIHost", "load_application"]


def load_application(path: str, settings: Settings) -> ASGIApplication:
    """
    The application that *path* names, whichever interface it has, for a process that *settings* describe.

    Raises:
        ConfigurationError, StartupFailed: as import_application().
    """
    return import_application(
        path,
        factory=settings.factory,
        app_dir=settings.app_dir,
        interface=settings.interface,
        host_wsgi=functools.partial(WSGIHost, multiprocess=settings.workers > 1),
    )
