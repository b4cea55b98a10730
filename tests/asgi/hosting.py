"""
Where the application that a test serves runs: in the server itself, or in a worker behind a channel layer.

    embedded   as ever
    memory     relayed over a MemoryChannelLayer
    ipc        relayed over a real Unix socket, both ends of which are in this process

A module whose tests hold in each of these ways says

    pytestmark = pytest.mark.usefixtures("hosting")

and nothing more: `serving()` asks for `server_class()`. A test that cannot hold relayed says why:

    @pytest.mark.embedded_only("a worker's application has a scope of its own")

One whose figures are of buffers adds `window()` to them: what is under way between a server and its workers.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from daphne_like.layers.base import BaseChannelLayer
from daphne_like.layers.ipc import IPCChannelLayer
from daphne_like.layers.memory import MemoryChannelLayer
from daphne_like.relay.application import RelayApplication
from daphne_like.relay.envelope import WINDOW
from daphne_like.relay.worker import Worker
from daphne_like.settings import Settings
from daphne_like.testing.wire import MemoryServer
from daphne_like.typing import ASGIApplication

__all__ = [
    "HOSTINGS",
    "OverIPC",
    "OverMemory",
    "RelayedMemoryServer",
    "server_class",
    "set_hosting",
    "window",
]


class RelayedMemoryServer(MemoryServer):
    """
    A MemoryServer whose application is in a worker, on the same event loop.

    Attributes:
        relay: the application of the server itself.
        worker: has the test's.
    """

    def __init__(
        self,
        application: ASGIApplication,
        settings: Settings | None = None,
        *,
        state: dict[str, Any] | None = None,
    ) -> None:
        settings = settings if settings is not None else Settings(verbosity=0)
        self._reported: list[dict[str, Any]] = []
        near, far = self._layers()
        self.relay = RelayApplication(near)
        super().__init__(self.relay, settings)
        self.loop.set_exception_handler(lambda _loop, context: self._reported.append(context))
        self.worker = Worker(application, far, settings, state=state)
        for step in (self._open_layers, self.relay.start, self.worker.start):
            self._complete(step())

    def _layers(self) -> tuple[BaseChannelLayer, BaseChannelLayer]:
        """The server's and the worker's. The loop is not there yet."""
        raise NotImplementedError

    async def _open_layers(self) -> None:
        """Before anything uses them."""

    async def _close_layers(self) -> None:
        """After everything has left them."""

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* to its end, moving the clock if that does not come by itself."""
        task = self.loop.create_task(coroutine)
        self.loop.settle()
        for _ in range(60):
            if task.done():
                break
            self.advance(1)
        task.result()

    def assert_at_rest(self) -> None:
        """Nothing is left of any stream, in the relay or in its worker."""
        assert self.relay.streams == 0
        assert not any(self.worker.sessions.values())
        assert self.worker._sessions == {}
        assert self.worker._watched == set()

    def close(self) -> None:
        try:
            for step in (self.worker.stop, self.relay.stop, self._close_layers):
                self._complete(step())
            left = asyncio.all_tasks(self.loop)
        finally:
            super().close()
        assert not left, f"tasks left behind: {left}"
        assert not self._reported, f"exceptions in callbacks: {self._reported}"


class OverMemory(RelayedMemoryServer):
    """Over a layer within the process."""

    def _layers(self) -> tuple[BaseChannelLayer, BaseChannelLayer]:
        layer = MemoryChannelLayer()
        return layer, layer


class OverIPC(RelayedMemoryServer):
    """
    Over a Unix socket: the server hosts the hub, the worker joins it.

    Attributes:
        near, far: the server's layer and the worker's.
    """

    def _layers(self) -> tuple[BaseChannelLayer, BaseChannelLayer]:
        self._directory = tempfile.TemporaryDirectory(prefix="relayed-")
        path = str(Path(self._directory.name) / "layer.sock")
        self.near = IPCChannelLayer(path)
        self.far = IPCChannelLayer(path)
        return self.near, self.far

    async def _open_layers(self) -> None:
        await self.near.serve()

    async def _close_layers(self) -> None:
        await self.far.close()
        await self.near.close()
        self._directory.cleanup()


HOSTINGS: dict[str, type[MemoryServer]] = {"embedded": MemoryServer, "memory": OverMemory, "ipc": OverIPC}

_hosting = "embedded"


def set_hosting(name: str) -> None:
    """What serving() makes from now on."""
    global _hosting
    _hosting = name


def server_class() -> type[MemoryServer]:
    """Of the servers of the present test."""
    return HOSTINGS[_hosting]


def window() -> int:
    """Octets that may be between the server and the application, each way, beside both sides' buffers."""
    return 0 if _hosting == "embedded" else WINDOW
