"""
The types that cross floors: ASGI's callables, header lists, addresses.

ASGI messages and scopes are plain dictionaries (asgiref's TypedDicts describe them one by one); what passes
through this package as "some message" is a mapping with a ``type``.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["ASGIApplication", "Address", "Headers", "Message", "Receive", "Scope", "Send", "ServerAddress"]

Headers = list[tuple[bytes, bytes]]
"""Header fields in order; names in lower case where they come from a client."""

Address = tuple[str, int]
"""``(host, port)``."""

ServerAddress = tuple[str, int | None]
"""``(host, port)``, or ``(path, None)`` for a Unix socket (ASGI HTTP spec, "Connection Scope")."""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
