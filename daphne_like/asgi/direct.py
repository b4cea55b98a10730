"""
A private way around coroutines, for applications that answer from elsewhere: a thread, or another process.

A task, a scope's journey through coroutines, receive() and two send()s cost more than a small view. An
application that has the method `daphne_like_direct` is asked first, for each request that has come whole:

    daphne_like_direct(exchange) -> bool     False: call me as ASGI has it.
                                             True: it has taken the exchange. Later, and in the event loop, it
                                             will answer() and then end it, by ended(); or hand it on, by
                                             proceed(). It does not raise.

The exchange is the stream itself (HTTPStream, or a worker's HTTPSession). Called as ASGI has it, the
application can find it too, if nobody has come between: exchange_of(send).
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from daphne_like.typing import ASGIApplication, Headers, Message, Send

__all__ = ["Direct", "Exchange", "direct_of", "exchange_of"]


class Exchange(Protocol):
    """
    A request, and the way for its response.

    Attributes:
        scope: as for ASGI.
    """

    is_exchange: bool
    scope: dict[str, Any]

    @property
    def is_over(self) -> bool:
        """The response is complete, or never will be: after a departure, the server has answered instead."""

    async def send(self, message: Message) -> None:
        """ASGI's."""

    def receive_arrived(self) -> Message | None:
        """What of the request's body receive() has at once, or None."""

    def tell_departure(self, callback: Callable[[bool], None] | None) -> None:
        """Have *callback* called when the client leaves: asgi.departure."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """
        The whole response; as send() with its messages, but without waiting for the client.

        Raises:
            ClientDisconnected, UnexpectedMessage, InvalidMessage: nothing is sent.
        """

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Of a direct exchange: the same, but what is wrong with it is seen to. Nobody may wait any more."""

    def ended(self, error: BaseException | None) -> None:
        """End a direct exchange, as if the application had returned, or raised *error*."""

    def proceed(self, conversation: Coroutine[Any, Any, None]) -> None:
        """Go on with a coroutine, which uses receive() and send() and ends the exchange with its end."""


Direct = Callable[[Exchange], bool]


def direct_of(application: ASGIApplication) -> Direct | None:
    """
    The application's way around coroutines, if it has one.

    Channels' ProtocolTypeRouter, which only looks at the scope's type, is looked through.
    """
    asked: Any = application
    kind = type(application)
    if kind.__name__ == "ProtocolTypeRouter" and kind.__module__ == "channels.routing":
        asked = asked.application_mapping.get("http")
    direct: Direct | None = getattr(asked, "daphne_like_direct", None)
    return direct


def exchange_of(send: Send) -> Exchange | None:
    """The exchange that *send* belongs to; None where it is somebody else's."""
    owner = getattr(send, "__self__", None)
    return owner if getattr(owner, "is_exchange", False) else None
