"""
daphne_like: a protocol server for ASGI applications.

What is public is what the documentation names: `Server`, `Settings` and the errors, here, and the modules of
docs/reference. Names are looked up when first used, so that importing the package loads nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daphne_like.errors import (
        ApplicationError,
        ClientDisconnected,
        ConfigurationError,
        DaphneLikeError,
        InvalidMessage,
        LocalProtocolError,
        ProtocolError,
        RemoteProtocolError,
        StartupFailed,
        UnexpectedMessage,
    )
    from daphne_like.server import Server
    from daphne_like.settings import Settings

__all__ = [
    "ApplicationError",
    "ClientDisconnected",
    "ConfigurationError",
    "DaphneLikeError",
    "InvalidMessage",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "Server",
    "Settings",
    "StartupFailed",
    "UnexpectedMessage",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {"Server": "daphne_like.server", "Settings": "daphne_like.settings"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "daphne_like.errors")), name)
