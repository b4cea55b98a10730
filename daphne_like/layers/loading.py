"""
From words to a layer: URLs, dotted paths, and what Django's CHANNEL_LAYERS names.

    memory:                           in this process; memory:NAME for one that is apart from it
    ipc:/run/site.sock                processes of this machine; ipc:///run/site.sock is the same
    redis://10.0.0.1:6379/0           machines that share a Redis; also rediss (TLS), unix, redis+sentinel and
                                      redis+cluster: see daphne_like.layers.redis.hosts
    package.module.Class              a third-party layer for Channels
    scheme://...                      what an installed package offers as entry point of `daphne_like.layers`

Options follow as a query: `ipc:/run/site.sock?mode=660&capacity=1000`. For a dotted path they are the class'
arguments, each JSON or else text: `channels_redis.core.RedisChannelLayer?hosts=["redis://localhost"]`.

A layer object is shared by all of a process that name the same URL, so that the relay's worker and the site's
CHANNEL_LAYERS are one member of it. Whoever names it first gives its options. Passwords are in no message.
"""

import importlib
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from daphne_like import logs
from daphne_like.errors import ConfigurationError

from .base import BaseChannelLayer
from .foreign import ForeignLayer
from .memory import MemoryChannelLayer

__all__ = ["ENTRY_POINTS", "ENVIRONMENT", "ChannelLayer", "allow_memory", "forget_layers", "open_layer"]

log = logging.getLogger(logs.LAYERS)

# What the server sets for its children.
ENVIRONMENT = "DAPHNE_LIKE_LAYER"
ENTRY_POINTS = "daphne_like.layers"

# sockaddr_un.sun_path with its final zero octet; 104 on the BSDs, 108 on Linux.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103


def open_layer(url: str, **options: Any) -> BaseChannelLayer:
    """
    The layer that *url* names: this process' object of it, made at the first call. Connects nowhere.

    Args:
        options: as in the URL's query, which they go before: expiry, group_expiry, capacity, channel_capacity,
            for ipc also mode and send_timeout, for redis send_timeout, prefix and symmetric_encryption_keys; for
            a dotted path whatever its class takes.

    Raises:
        ConfigurationError: it names no layer, or a class that does not take these options.
    """
    key, make = _understand(url)
    with _registry.lock:
        found = _registry.layers.get(key)
        if found is not None:
            if options and options != found.options:
                log.warning("layer is open already, with other options", extra={"layer": key})
            return found.layer
        layer = make(options)
        _registry.layers[key] = _Opened(layer, options)
        return layer


def ChannelLayer(url: str | None = None, **options: Any) -> BaseChannelLayer:
    """
    What a site names in CHANNEL_LAYERS: `{"default": {"BACKEND": "daphne_like.layers.ChannelLayer"}}`.

    Args:
        url: from CONFIG. Without it the environment's DAPHNE_LIKE_LAYER counts, which the server sets for
            its workers; without that it is memory, but only where that can be meant: in the embedded server,
            which is one process, and under tests, where each call makes a layer of its own.
        options: as open_layer() has them.

    Raises:
        ConfigurationError: none of them says which layer.
    """
    chosen = url or os.environ.get(ENVIRONMENT)
    if chosen:
        return open_layer(chosen, **options)
    if _registry.memory_allowed:
        return open_layer("memory:", **options)
    if _under_tests():
        return _make_memory(options, "memory:")
    raise ConfigurationError(
        'CHANNEL_LAYERS does not say which layer: name it in CONFIG ({"url": "ipc:/run/site.sock"}) or in the '
        f"environment ({ENVIRONMENT}); memory is used inside of the embedded server and under tests only"
    )


def allow_memory(allowed: bool = True) -> None:
    """Say that this process is all there is, as the embedded server does: CHANNEL_LAYERS may mean memory."""
    _registry.memory_allowed = allowed


def forget_layers() -> None:
    """Make open_layer() begin anew, for tests. Closes nothing."""
    with _registry.lock:
        _registry.layers.clear()


@dataclass(frozen=True, slots=True)
class _Opened:
    layer: BaseChannelLayer
    options: dict[str, Any]


class _Registry:
    """This process' layers by what they are called, and whether memory may be meant by saying nothing."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.layers: dict[str, _Opened] = {}
        self.memory_allowed = False


_registry = _Registry()

# -- URLs ------------------------------------------------------------------------------------------

# Takes options, makes the layer.
_Make = Callable[[dict[str, Any]], BaseChannelLayer]


def _understand(url: str) -> tuple[str, _Make]:
    """What a URL is called in the registry, and how to make what it names."""
    if url.partition("://")[0] in _REDIS_SCHEMES:
        return _understand_redis(url)
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ConfigurationError(f"layer {url!r}: {error}") from None
    if parts.scheme == "memory":
        given = _read_options(url, query, _OPTIONS)
        return f"memory:{parts.netloc}{parts.path}", lambda more: _make_memory(given | more, url)
    if parts.scheme == "ipc":
        path = _socket_path(url, parts.netloc, unquote(parts.path))
        given = _read_options(url, query, _OPTIONS | _IPC_OPTIONS)
        return f"ipc:{path}", lambda more: _make_ipc(path, given | more, url)
    if parts.scheme:
        plugin = _find_plugin(parts.scheme, url)
        return url, lambda more: _adopted(_made(plugin, {"url": url, **more}, url))
    kind = _import_class(parts.path, url)
    given = {name: _json_or_text(value) for name, value in query}
    return url, lambda more: _adopted(_made(kind, given | more, url))


def _make_memory(options: dict[str, Any], url: str) -> BaseChannelLayer:
    return _adopted(_made(MemoryChannelLayer, options, url))


def _make_ipc(path: str, options: dict[str, Any], url: str) -> BaseChannelLayer:
    from .ipc import IPCChannelLayer  # needs what Windows lacks

    return _adopted(_made(IPCChannelLayer, {"path": path, **options}, url))


def _understand_redis(url: str) -> tuple[str, _Make]:
    """
    Words of the query that are the layer's are read here; those of its connections are left in the URL.

    Several symmetric_encryption_keys are so many words.
    """
    address, _, query = url.partition("?")
    own, keys, others = [], [], []
    for word in filter(None, query.split("&")):
        name, _, value = word.partition("=")
        if name in _OPTIONS or name in _REDIS_OPTIONS:
            own.append((name, unquote(value)))
        elif name == "symmetric_encryption_keys":
            keys.append(unquote(value))
        else:
            others.append(word)
    host = address + (f"?{'&'.join(others)}" if others else "")
    shown = _without_secrets(host)
    given = _read_options(shown, own, _OPTIONS | _REDIS_OPTIONS)
    if keys:
        given["symmetric_encryption_keys"] = keys
    key = shown if "prefix" not in given else f"{shown} {given['prefix']}"
    return key, lambda more: _make_redis(host, given | more, shown)


def _make_redis(host: str, options: dict[str, Any], shown: str) -> BaseChannelLayer:
    try:
        from .redis import RedisChannelLayer  # needs what is not always installed
    except ImportError as error:
        raise ConfigurationError(f"layer {shown!r}: {error}: install daphne-like[redis]") from error
    return _adopted(_made(RedisChannelLayer, {"hosts": [host], **options}, shown))


def _without_secrets(url: str) -> str:
    try:
        from .redis.hosts import without_secrets
    except ImportError:
        return re.sub(r"//.*@", "//***@", url)
    return without_secrets(url)


def _socket_path(url: str, host: str, path: str) -> str:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(f"layer {url!r}: this system has no Unix sockets")
    if host or not path or path.endswith("/"):
        raise ConfigurationError(f"layer {url!r}: write ipc:/path/of/a.sock")
    # Symbolic links too: two names of one socket are one layer.
    real = os.path.realpath(path)
    if len(os.fsencode(real)) > MAX_SOCKET_PATH:
        raise ConfigurationError(f"layer {url!r}: a socket's path has at most {MAX_SOCKET_PATH} octets")
    return real


def _mode(text: str) -> int:
    mode = int(text, 8)
    if not 0o600 <= mode <= 0o666 or mode & 0o111:
        raise ValueError
    return mode


def _number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


# Name -> how it is read from a URL, what it should be.
_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "expiry": (_number, "seconds"),
    "group_expiry": (_number, "seconds"),
    "capacity": (_count, "a number of messages"),
}
_IPC_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "mode": (_mode, "a file mode such as 660"),
    "send_timeout": (_number, "seconds"),
}


def _read_options(
    url: str, query: list[tuple[str, str]], known: dict[str, tuple[Callable[[str], Any], str]]
) -> dict[str, Any]:
    options = {}
    for name, text in query:
        if name not in known:
            raise ConfigurationError(f"layer {url!r}: no option {name!r}; there are {', '.join(known)}")
        read, meant = known[name]
        try:
            options[name] = read(text)
        except ValueError:
            raise ConfigurationError(f"layer {url!r}: {name}={text} should be {meant}") from None
    return options


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


_REDIS_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "prefix": (_text, "what all keys begin with"),
    "send_timeout": (_number, "seconds"),
}
_REDIS_SCHEMES = {
    *("redis", "rediss", "unix", "redis+unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


# -- third parties ---------------------------------------------------------------------------------


def _find_plugin(scheme: str, url: str) -> Callable[..., Any]:
    found = metadata.entry_points(group=ENTRY_POINTS, name=scheme)
    if not found:
        others = sorted(metadata.entry_points(group=ENTRY_POINTS).names)
        known = ", ".join(["memory", "ipc", "redis", *others])
        if scheme == "redis":
            raise ConfigurationError(f"layer {url!r}: a URL of it is redis://HOST[:PORT][/DATABASE]")
        raise ConfigurationError(
            f"layer {url!r}: nothing is called {scheme!r}; there are {known}, and dotted paths of classes"
        )
    try:
        plugin: Callable[..., Any] = next(iter(found)).load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"layer {url!r}: {error}") from error
    return plugin


def _import_class(path: str, url: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigurationError(
            f"layer {url!r}: write memory:, ipc:/path/of/a.sock, redis://host or a dotted path such as "
            "package.module.Class"
        )
    try:
        kind: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"layer {url!r}: {error}") from error
    if not callable(kind):
        raise ConfigurationError(f"layer {url!r}: {path} is no class")
    return kind


def _made(kind: Callable[..., Any], options: dict[str, Any], url: str) -> Any:
    try:
        return kind(**options)
    # Arguments that it does not take, or not with such values.
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"layer {url!r}: {error}") from error


def _adopted(layer: Any) -> BaseChannelLayer:
    return layer if isinstance(layer, BaseChannelLayer) else ForeignLayer(layer)


def _under_tests() -> bool:
    """Whether this process runs tests: pytest's, Django's, or unittest's own command."""
    if "pytest" in sys.modules and "PYTEST_VERSION" in os.environ:
        return True
    # What django.test.utils.setup_test_environment() puts there.
    if hasattr(sys.modules.get("django.core.mail"), "outbox"):
        return True
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] == "unittest"
