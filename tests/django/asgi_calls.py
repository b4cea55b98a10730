"""Calls an ASGI application as a server would, and keeps what it says."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daphne_like.typing import ASGIApplication, Message

__all__ = ["Answer", "Call", "call", "http_scope"]


def http_scope(path: str = "/", method: str = "GET", **more: Any) -> dict[str, Any]:
    """Of a request; `headers` as a dict of text."""
    headers = [(name.lower().encode(), value.encode()) for name, value in more.pop("headers", {}).items()]
    target, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"site.example"), *headers],
        "client": ("192.0.2.1", 1234),
        "server": ("192.0.2.2", 80),
        "extensions": {},
        **more,
    }


@dataclass
class Answer:
    """
    What the application said.

    Attributes:
        error: what it raised.
    """

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    error: BaseException | None = None

    def seen(self) -> tuple[Any, ...]:
        return (
            self.status,
            sorted(self.headers),
            self.body,
            self.complete,
            type(self.error).__name__,
            str(self.error),
        )


class Call:
    """One request, in a task of its own."""

    def __init__(self, application: ASGIApplication, scope: dict[str, Any], body: Sequence[bytes] = (b"",)):
        self.answer = Answer()
        self.said = asyncio.Event()
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        for number, piece in enumerate(body, 1):
            self.inbox.put_nowait({"type": "http.request", "body": piece, "more_body": number < len(body)})
        self.task = asyncio.get_running_loop().create_task(self._run(application, scope))

    async def _run(self, application: ASGIApplication, scope: dict[str, Any]) -> None:
        # Not bound methods: these calls are somebody else's server.
        async def receive() -> Message:
            return await self.inbox.get()

        async def send(message: Message) -> None:
            answer = self.answer
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = list(message["headers"])
            else:
                answer.body += message.get("body", b"")
                answer.complete = not message.get("more_body", False)
            self.said.set()
            await self.taken()

        try:
            await application(scope, receive, send)
        except Exception as error:
            self.answer.error = error

    async def taken(self) -> None:
        """Returns when the client has taken what was sent."""

    def disconnect(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def end(self) -> Answer:
        async with asyncio.timeout(60):
            await self.task
        return self.answer


async def call(application: ASGIApplication, scope: dict[str, Any], body: Sequence[bytes] = (b"",)) -> Answer:
    return await Call(application, scope, body).end()
