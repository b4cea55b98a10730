"""
WSGIHost: an ASGI application that runs a WSGI one in threads.

Nothing below the seam knows of it, so that a WSGI application is served like any other: in the server, in
workers, with --reload, behind the relay.

A small body is collected before a thread is taken, so that a client that is slow to send does not hold one. A
larger one, one of unknown length, and one that a client sends only when told to (Expect: 100-continue) is
read by the application itself, which may refuse it first.
"""

from __future__ import annotations

import asyncio

from daphne_like.thread_pools import pool_for
from daphne_like.typing import Receive, Scope, Send
from daphne_like.wsgi.environ import build_environ, declared_length
from daphne_like.wsgi.exchange import Exchange, WSGIApplication

__all__ = ["COLLECTED", "WSGIHost"]

# Bodies up to this many octets are collected: forms and JSON nearly always, uploads not.
COLLECTED = 64 * 1024


class WSGIHost:
    """
    Args:
        application: a WSGI application (PEP 3333).
        multiprocess: what environ["wsgi.multiprocess"] says.
    """

    def __init__(self, application: WSGIApplication, *, multiprocess: bool = False) -> None:
        self._application = application
        self._multiprocess = multiprocess

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        kind = scope["type"]
        if kind == "http":
            body = await _begin_body(scope, receive)
            if body is not None:
                environ = build_environ(scope, multiprocess=self._multiprocess)
                pool = pool_for(asyncio.get_running_loop())
                exchange = Exchange(self._application, environ, scope, body, pool)
                await exchange.pump(receive, send)
        elif kind == "websocket":
            # WSGI has no WebSockets: as for a path that an ASGI application does not know.
            await receive()
            await send({"type": "websocket.close"})
        elif kind == "lifespan":
            await _live(receive, send)
        else:
            raise ValueError(f"WSGI knows no {kind} scopes")


async def _begin_body(scope: Scope, receive: Receive) -> tuple[bytes, bool] | None:
    """
    What of the request's body the application gets to begin with, and whether more follows.

    None: the client has left meanwhile.
    """
    length, expects = declared_length(scope)
    if length == 0:
        return b"", False
    if length is None or expects or length > COLLECTED:
        return b"", True
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces), False


async def _live(receive: Receive, send: Send) -> None:
    """Lifespan: there is nothing to start, and saying so is quieter than raising."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
