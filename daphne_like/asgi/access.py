"""What the access log says of a request, taken from its scope."""

import logging
from collections.abc import Callable
from typing import Any

from daphne_like import logs

__all__ = ["write_record"]

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
