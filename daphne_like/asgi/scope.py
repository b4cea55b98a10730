"""
Scopes: what an application is told of a connection before anything else (ASGI HTTP & WebSocket spec 2.5).

`path` is the whole path, the root path included, as uvicorn and asgiref's specification have it. A proxy may
have stripped the root path, or may not (Daphne's users do both): where a path does not begin with it, it is
put back. Frameworks take it off again either way.
"""

import logging
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from daphne_like import logs
from daphne_like.asgi import forwarded
from daphne_like.asgi.stream import ServerContext, StreamTransport
from daphne_like.http.events import RequestReceived
from daphne_like.typing import Headers

__all__ = ["http_scope", "websocket_scope"]

log = logging.getLogger(logs.SERVER)


def _template(kind: str, http_version: str, *extensions: str) -> dict[str, Any]:
    """What all scopes of a kind have in common. To copy a dict costs a fifth of making one key by key."""
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": http_version,
        "method": "",
        "scheme": "",
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": None,
        "server": None,
        "extensions": {extension: {} for extension in extensions},
    }


_HTTP = {
    "1.1": _template(
        "http", "1.1", "http.response.trailers", "http.response.pathsend", "http.response.early_hint"
    ),
    "1.0": _template("http", "1.0", "http.response.trailers", "http.response.pathsend"),
}
_WEBSOCKET = _template("websocket", "1.1", "websocket.http.response")

_PERCENT = ord("%")


def http_scope(
    event: RequestReceived, transport: StreamTransport, template: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Scope of a request; *template*: what there is in it of another kind of scope."""
    if template is None:
        template = _HTTP[event.http_version]
    context = transport.context
    raw_path = event.raw_path
    if _PERCENT in raw_path:  # b"%" in raw_path asks first whether b"%" is a number, and fails slowly
        # What is not UTF-8 shows as U+FFFD; raw_path has the octets.
        path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    else:
        path = raw_path.decode("ascii")
    # The application may change these, and what is in them, but for the empty dicts of extensions.
    scope = template.copy()
    scope["asgi"] = scope["asgi"].copy()
    scope["extensions"] = extensions = scope["extensions"].copy()
    scope["method"] = event.method
    scope["scheme"] = transport.scheme
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = event.query_string
    scope["headers"] = event.headers.copy()
    scope["client"] = transport.client
    scope["server"] = transport.server
    if transport.tls is not None:
        extensions["tls"] = transport.tls
    if context.state is not None:
        scope["state"] = context.state.copy()
    root_path = context.root_path
    if root_path:
        scope["root_path"] = root_path
    if context.proxy_headers:
        _apply_forwarded(scope, context)
        root_path = scope["root_path"]
    if root_path and path not in (root_path, "*") and not path.startswith(root_path + "/"):
        scope["path"] = root_path + path
        scope["raw_path"] = quote(root_path).encode("ascii") + raw_path
    return scope


def websocket_scope(
    event: RequestReceived, transport: StreamTransport, subprotocols: list[str]
) -> dict[str, Any]:
    """Scope of a WebSocket handshake; *subprotocols* as the client offers them."""
    scope = http_scope(event, transport, _WEBSOCKET)
    del scope["method"]
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols
    return scope


def _apply_forwarded(scope: dict[str, Any], context: ServerContext) -> None:
    """Believe a trusted proxy about the client; take Daphne-Root-Path out, as Daphne does, believed or not."""
    settings = context.settings
    headers: Headers = scope["headers"]
    host_header = settings.proxy_headers_host.lower().encode("latin-1")
    port_header = settings.proxy_headers_port.lower().encode("latin-1") or None
    trusted = context.trusted_by(scope["server"])
    told = forwarded.apply(
        headers, scope["client"], trusted=trusted, host_header=host_header, port_header=port_header
    )
    if told is None:
        if not context.warned_of_proxy and not trusted.trusts(scope["client"]):
            name = forwarded.first_forwarding_header(
                headers, host_header=host_header, port_header=port_header
            )
            if name is not None:
                context.warned_of_proxy = True
                log.warning(
                    "ignored forwarding headers: peer is not in --forwarded-allow-ips (said once)",
                    extra={"peer": scope["client"], "header": name.decode("latin-1")},
                )
    else:
        if told.client is not None:
            scope["client"] = told.client
        if told.scheme is not None:
            scope["scheme"] = told.scheme
        if told.root_path is not None:
            scope["root_path"] = told.root_path
        if told.host is not None:
            scope["headers"] = [(b"host", told.host), *(field for field in headers if field[0] != b"host")]
    if any(name == b"daphne-root-path" for name, _ in headers):
        scope["headers"] = [field for field in scope["headers"] if field[0] != b"daphne-root-path"]
