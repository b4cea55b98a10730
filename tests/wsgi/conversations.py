"""A WSGI application on WSGIHost, in a conversation that a test plays the server of."""

import asyncio
from collections.abc import Callable
from typing import Any

from daphne_like.errors import ClientDisconnected
from daphne_like.wsgi import WSGIHost

__all__ = ["Conversation", "http_scope"]


def http_scope(path: str = "/", **changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"www.example.com")],
        "client": ("192.0.2.7", 4711),
        "server": ("127.0.0.1", 8000),
        "extensions": {"http.response.pathsend": {}},
        **changes,
    }


class Conversation:
    """
    Args:
        application: WSGI.
        scope: changes of http_scope().

    Attributes:
        sent: messages, as far as the server lets the application go: see `gate`.
        gate: while it is clear, send() waits, as for a slow client.
        receives: how often receive() was called.
    """

    def __init__(self, application: Callable[..., Any], **scope: Any) -> None:
        self.host = WSGIHost(application)
        self.scope = http_scope(**scope)
        self.sent: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.inbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.receives = 0
        self.left = False
        self.waits_in_send = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> "Conversation":
        await self.host(self.scope, self.receive, self.send)
        return self

    def feed(self, body: bytes, more: bool = False) -> None:
        self.inbound.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        """The client goes."""
        self.left = True
        self.inbound.put_nowait({"type": "http.disconnect"})
        self.gate.set()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until *holds*, which is looked at after each message and each question for one."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def receive(self) -> dict[str, Any]:
        self.receives += 1
        self._changed.set()
        return await self.inbound.get()

    async def send(self, message: dict[str, Any]) -> None:
        if not self.gate.is_set():
            self.waits_in_send.set()
            await self.gate.wait()
        if self.left:
            raise ClientDisconnected("the client has left")
        self.sent.append(message)
        self._changed.set()

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent[1:])

    @property
    def whole(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", False)
