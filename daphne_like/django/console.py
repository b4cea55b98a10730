"""
What a developer sees of a server or worker that a management command has started.

Requests are logged as Django's development server does: on `django.server`, with the same arguments, which sites
filter by. What else we have to say goes to stderr, unless the site's LOGGING says what becomes of it.
"""

from __future__ import annotations

import logging
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from daphne_like import logs
from daphne_like.settings import Settings

__all__ = ["log_to_console", "log_to_stderr"]

# Colours a request whose client did not wait for the response; the status is NGINX's.
CLIENT_HAS_LEFT = 499


def log_to_console(settings: Settings) -> None:
    """
    Write requests to `django.server`, and what else we have to say to stderr, unless the site's LOGGING has it.

    Lines about starting and stopping are left out: the command has its own.
    """
    if log_to_stderr(settings) and settings.verbosity < 2:
        logging.getLogger(logs.SERVER).setLevel(logging.WARNING)
    logging.getLogger(logs.PROTOCOL).addFilter(_tell_of_https)
    access = logging.getLogger(logs.ACCESS)
    access.addHandler(_RequestLog())
    access.setLevel(logging.INFO)
    access.propagate = False


def log_to_stderr(settings: Settings) -> bool:
    """Write what we have to say to stderr, unless the site's LOGGING says what becomes of it; whether we do."""
    logs.enable_loggers()
    ours = logging.getLogger("daphne_like")
    if ours.hasHandlers():
        return False
    handler = logging.StreamHandler()
    handler.setFormatter(logs.FieldsFormatter("%(levelname)s %(message)s"))
    ours.addHandler(handler)
    ours.setLevel((logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG)[settings.verbosity])
    ours.propagate = False
    return True


def _tell_of_https(record: logging.LogRecord) -> bool:
    if getattr(record, "reason", "") != "TLS, not HTTP":
        return True
    logging.getLogger("django.server").error(
        "You're accessing the development server over HTTPS, but it only supports HTTP "
        "(--certificate and --private-key would have it speak HTTPS).",
        extra={"status_code": 500, "server_time": _server_time()},
    )
    return False


def _server_time() -> str:
    """The time as Django's server writes it, whatever the locale."""
    year, month, day, hour, minute, second = time.localtime()[:6]
    name = BaseHTTPRequestHandler.monthname[month]
    return f"{day:02d}/{name}/{year} {hour:02d}:{minute:02d}:{second:02d}"


class _RequestLog(logging.Handler):
    """Records of the access log, as Django's development server would have written them."""

    def __init__(self) -> None:
        super().__init__()
        self._log = logging.getLogger("django.server")

    def emit(self, record: logging.LogRecord) -> None:
        facts = record.__dict__
        client = f"{facts['client']}:{facts['client_port']}" if facts["client"] else "unix"
        match facts["event"]:
            case "http":
                self._write_response(facts)
            case "websocket.open":
                self._write(logging.INFO, "WebSocket CONNECT %s [%s]", facts["path"], client)
            case "websocket.close":
                code = str(facts["code"])
                self._write(logging.INFO, "WebSocket DISCONNECT %s [%s] %s", facts["path"], client, code)

    def _write_response(self, facts: dict[str, Any]) -> None:
        status = facts["status"]
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
        self._write(
            level,
            # Filters look at the arguments: the request line, the status and the size, all text.
            '"%s" %s %s',
            f"{facts['method']} {facts['path']} HTTP/{facts['http_version']}",
            str(status or "-"),
            str(facts["bytes_sent"]),
            status_code=status or CLIENT_HAS_LEFT,
        )

    def _write(self, level: int, sentence: str, *arguments: str, **fields: Any) -> None:
        self._log.log(level, sentence, *arguments, extra={"server_time": _server_time(), **fields})
