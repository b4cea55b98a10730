"""What the access log says of a request, taken from its scope."""

import logging
from collections.abc import Callable
from typing import Any

from daphne_like import logs
from daphne_like.asgi.stream import ServerContext

__all__ = ["write_record", "write_refusal", "write_websocket_close"]

log = logging.getLogger(logs.APPLICATION)


def write_record(record: Callable[..., None], scope: dict[str, Any], /, **fields: Any) -> None:
    """
    Call *record*, a method of AccessLog, with *fields* and what the scope says.

    Scopes are the applications' to change. One that cannot be read any more costs its record, and not the
    connection, whose stream is in the middle of ending.
    """
    try:
        record(**fields, **_request_fields(scope))
    except Exception:
        log.exception("no access log record: the application has changed its scope beyond reading")


def write_refusal(
    context: ServerContext, scope: dict[str, Any], *, status: int, bytes_sent: int, asked: float
) -> None:
    """A WebSocket handshake was answered with *status*; *asked*: when it came."""
    if context.access_log.enabled:
        write_record(
            context.access_log.http,
            scope,
            method="GET",
            status=status,
            bytes_sent=bytes_sent,
            duration=context.clock() - asked,
        )


def write_websocket_close(
    context: ServerContext,
    scope: dict[str, Any],
    *,
    code: int,
    opened: float,
    received: tuple[int, int],
    sent: tuple[int, int],
) -> None:
    """A WebSocket is over; *received* and *sent*: messages and their octets."""
    if context.access_log.enabled:
        write_record(
            context.access_log.websocket_close,
            scope,
            code=code,
            duration=context.clock() - opened,
            bytes_received=received[1],
            bytes_sent=sent[1],
            messages_received=received[0],
            messages_sent=sent[0],
        )


def _request_fields(scope: dict[str, Any]) -> dict[str, Any]:
    """The arguments that all methods of AccessLog have in common."""
    agent = referer = b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value
        elif name == b"referer":
            referer = value
    query = scope["query_string"]
    return {
        "client": scope["client"],
        "target": scope["raw_path"] + b"?" + query if query else scope["raw_path"],
        "http_version": scope["http_version"],
        "user_agent": agent,
        "referer": referer,
    }
