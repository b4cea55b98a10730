"""
A request's ASGI scope as the environ of WSGI (PEP 3333), and what of the request's body goes with it.

Strings of an environ are octets decoded as latin-1 ("bytes in disguise"), so that the application can find out
itself what they mean. The path is therefore made of `raw_path`, whose octets are the client's.

Fields with "_" in their names are left out whatever the server does: CGI's names cannot tell X_A from X-A, and
a client could so write what a proxy sets (CVE-2015-0219).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from daphne_like.errors import ClientDisconnected
from daphne_like.typing import Scope

__all__ = ["BodyReader", "build_environ", "declared_length"]

VERSION = (1, 0)

# Header name -> key of environ. Clients may make names up: beyond this many they are worked out each time.
_KEYS: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_MAX_KEYS = 512
_MAX_KEY = 64

_DEFAULT_PORTS = {"https": "443", "http": "80"}


def build_environ(scope: Scope, *, multiprocess: bool) -> dict[str, Any]:
    """
    The environ of a scope of type "http", but for `wsgi.input`.

    Args:
        multiprocess: other processes may run the same application.

    Returns:
        a plain dict, as PEP 3333 demands. Beside what it names: REMOTE_ADDR, REMOTE_PORT ("" for clients on a
        Unix socket), REQUEST_URI (as the client wrote it) and `wsgi.input_terminated`: reading ends with the
        body, with or without a Content-Length.
    """
    raw_path = scope.get("raw_path")
    path = unquote_to_bytes(raw_path) if raw_path is not None else scope["path"].encode("utf-8", "replace")
    root = scope.get("root_path", "").encode()
    if root and (path == root or path.startswith(root + b"/")):
        path = path[len(root) :]
    query = scope.get("query_string", b"").decode("latin-1")
    target = raw_path if raw_path is not None else quote(path).encode("ascii")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.decode("latin-1"),
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": target.decode("latin-1") + ("?" + query if query else ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": VERSION,
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for name, value in scope["headers"]:
        key = _KEYS.get(name) or _key_of(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            # RFC 9110 §5.3; cookies that HTTP/2 has split belong together with "; " (RFC 9113 §8.2.3).
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    _add_addresses(environ, scope)
    return environ


def _key_of(name: bytes) -> str:
    if b"_" in name:
        return ""
    key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
    if len(_KEYS) < _MAX_KEYS and len(name) <= _MAX_KEY:
        _KEYS[name] = key
    return key


def _add_addresses(environ: dict[str, Any], scope: Scope) -> None:
    client = scope.get("client")
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = (client[0], str(client[1])) if client else ("", "")
    server = scope.get("server")
    if server is not None and server[1] is not None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
        return
    # A Unix socket has no port, and "SERVER_NAME and SERVER_PORT strings can never be empty".
    host, colon, port = environ.get("HTTP_HOST", "").rpartition(":")
    if not colon or not port.isdigit():
        host, port = environ.get("HTTP_HOST", ""), ""
    environ["SERVER_NAME"] = host or "localhost"
    environ["SERVER_PORT"] = port or _DEFAULT_PORTS.get(environ["wsgi.url_scheme"], "80")


def declared_length(scope: Scope) -> tuple[int | None, bool]:
    """
    What the head says about the request's body.

    Returns:
        its length, None where it is not told (chunked, HTTP/2); and whether the client waits for a 100 before
        it sends.
    """
    # Only HTTP/1 says with its fields whether there is a body.
    length: int | None = 0 if scope["http_version"].startswith("1") else None
    expects = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            return None, expects
        elif name == b"expect":
            expects = True
    return length, expects


class BodyReader(io.RawIOBase):
    """
    `wsgi.input` of a body that has not come whole: read() waits, in the application's thread, for the client.

    To be wrapped in io.BufferedReader. It keeps one message of the body at most; the next is asked for when
    that is used up, so that a slow reader holds its client back.

    Args:
        first: what has come already.
        more: something follows it.
        fetch: waits for the next piece: its octets, and whether more follows. None: the client has left.
    """

    def __init__(self, first: bytes, more: bool, fetch: Callable[[], tuple[bytes, bool] | None]) -> None:
        self._piece = memoryview(first)
        self._more = more
        self._fetch = fetch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            ClientDisconnected: an OSError: the rest will not come. Again at each further call.
        """
        while not self._piece:
            if not self._more:
                return 0
            fetched = self._fetch()
            if fetched is None:
                raise ClientDisconnected("the client has left before its request was whole")
            self._piece, self._more = memoryview(fetched[0]), fetched[1]
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size
