"""From the words of a command line to a server that runs: what `daphne-like APPLICATION` does."""

import logging
import os

from daphne_like import logs
from daphne_like.errors import LayerError, StartupFailed
from daphne_like.layers.base import BaseChannelLayer
from daphne_like.layers.loading import ENVIRONMENT, allow_memory, open_layer
from daphne_like.reactor import collect_garbage_seldom, run_in_reactor
from daphne_like.reporting import leave_threads_behind
from daphne_like.server import Server, serve_until_told
from daphne_like.serving import announce
from daphne_like.settings import Settings
from daphne_like.wsgi import load_application

__all__ = ["ServerWithLayer", "run"]

log = logging.getLogger(logs.SERVER)


def run(settings: Settings, application: str | None) -> int:
    """
    Serve until told to stop; return the exit code.

    Args:
        application: import string; None for a relay, whose workers join by themselves.

    Raises:
        ConfigurationError, StartupFailed: for the command line to report.
    """
    logs.configure(settings)
    if application is None or settings.workers or settings.reload:
        from daphne_like import relayed

        code = relayed.run(settings, application)
    else:
        code = _run_embedded(settings, application)
    leave_threads_behind()
    return code


def _run_embedded(settings: Settings, application: str) -> int:
    layer = None
    if settings.layer is None:
        allow_memory()  # this process is all there is
    else:
        layer = open_layer(settings.layer)
        os.environ[ENVIRONMENT] = settings.layer  # by which the site's CHANNEL_LAYERS gets the same object
    announce(settings)
    if settings.limit_max_requests or settings.workers_lifetime:
        log.warning("nothing is replaced: --limit-max-requests and --workers-lifetime are for --workers")
    found = load_application(application, settings)
    logs.enable_loggers()
    server = Server(found, settings)
    if layer is None:
        server.run()
    else:
        service = ServerWithLayer(server, layer)
        collect_garbage_seldom()
        signals = {"SIGHUP": server.reload_certificate}
        run_in_reactor(lambda: serve_until_told(service, settings, signals))
    return 0


class ServerWithLayer:
    """A server with the application inside, and the layer by which others reach that application's channels."""

    def __init__(self, server: Server, layer: BaseChannelLayer) -> None:
        self._server = server
        self._layer = layer
        self.hurry = server.hurry

    async def start(self) -> None:
        from daphne_like.layers.ipc import IPCChannelLayer  # needs what Windows lacks

        try:
            if isinstance(self._layer, IPCChannelLayer):
                await self._layer.serve()
            else:
                await self._layer.open()
        except LayerError as error:
            await self._layer.close()
            raise StartupFailed(f"--layer: {error}") from error
        try:
            await self._server.start()
        except BaseException:
            await self._layer.close()
            raise

    async def stop(self) -> None:
        await self._server.stop()
        await self._layer.close()
