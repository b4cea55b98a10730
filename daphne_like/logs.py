"""
Logger names, the access log, and what the command line makes of `-v`, `--log-fmt` and `--access-log`.

Everything goes through `logging`; importing this module configures nothing. A log line is a fixed
sentence with its facts as fields (`extra=`): any logging configuration gets the fields as attributes of
the record, and the formatter that the command line installs appends them as `name=value`.

Loggers:

* `daphne_like.server`       start, stop, sockets, signals
* `daphne_like.protocol`     what clients did wrong: refused requests and handshakes (information)
* `daphne_like.application`  exceptions of the application, with their traceback
* `daphne_like.access`       one record per finished response, opened and closed WebSocket
* `daphne_like.reload`       the supervisor of --reload

Text from clients never reaches a line as it came: control characters are written \\xHH everywhere, quotes
and backslashes too inside of the combined format. What is printed can neither forge a second line nor
drive the terminal that shows it.

The access log costs a condition while it is off (`AccessLog.enabled`). While it is on, its records are
made without `Logger._log`'s search for the calling line, and the time of day is formatted once a second.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
import time
from typing import Any, Literal

from .errors import StartupFailed
from .settings import Settings

__all__ = [
    "ACCESS",
    "APPLICATION",
    "PROTOCOL",
    "RELOAD",
    "SERVER",
    "AccessLog",
    "FieldsFormatter",
    "configure",
    "enable_loggers",
]

SERVER = "daphne_like.server"
PROTOCOL = "daphne_like.protocol"
APPLICATION = "daphne_like.application"
ACCESS = "daphne_like.access"
RELOAD = "daphne_like.reload"
LAYERS = "daphne_like.layers"

_LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG, 3: logging.DEBUG}


def configure(settings: Settings) -> None:
    """
    Set logging up for a process of our own: the command line's, never an embedding program's.

    As Daphne: the root logger writes to stderr in `log_fmt` at the level of `verbosity`, unless it has
    handlers already. The access log gets a handler of its own and does not reach the root logger.

    Raises:
        StartupFailed: the access log's file cannot be opened.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(FieldsFormatter(settings.log_fmt))
        root.addHandler(handler)
        root.setLevel(_LEVELS[settings.verbosity])
    access = logging.getLogger(ACCESS)
    for old in access.handlers[:]:
        access.removeHandler(old)
        old.close()
    target = settings.access_log_target
    if not target:
        return
    access.addHandler(_access_handler(target))
    access.setLevel(logging.INFO)
    access.propagate = False


def enable_loggers() -> None:
    """
    Undo what `logging.config.dictConfig` did to our loggers in passing. Call after importing the application.

    A Django site that sets LOGGING without `"disable_existing_loggers": False` silences every logger that
    existed before, the server's included. A site that wants silence sets the level.
    """
    for name in (SERVER, PROTOCOL, APPLICATION, ACCESS, RELOAD, LAYERS):
        logging.getLogger(name).disabled = False


def _access_handler(target: str) -> logging.Handler:
    handler: logging.Handler
    if target == "-":
        handler = logging.StreamHandler(sys.stdout)
    else:
        try:
            # Looks whether the file is still the one of that name, so that logrotate needs no signal.
            handler = logging.handlers.WatchedFileHandler(target, encoding="utf-8")
        except OSError as error:
            raise StartupFailed(f"--access-log {target}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


# -- text from strangers ---------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Inside of the quotes of a combined line: ASCII only, as nginx and Apache write it.
_QUOTED_UNSAFE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


def _hex(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _safe(text: str) -> str:
    """Without characters that a terminal or a line reader acts upon; otherwise as it is."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(_hex, text)


def _quoted(text: str) -> str:
    return _QUOTED_UNSAFE.sub(_hex, text) if _QUOTED_UNSAFE.search(text) else text


# -- ordinary lines --------------------------------------------------------------------------------

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_BARE_WORD = re.compile(r"[!#-\[\]-~]+")


class FieldsFormatter(logging.Formatter):
    """
    Appends a record's fields to its sentence: `handshake refused client=192.0.2.1:4711 status=403`.

    Only our own records; those of other packages are formatted as ever. A value with spaces, quotes or
    control characters is quoted and escaped.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        if not record.name.startswith("daphne_like."):
            return text
        fields = [
            f"{name}={_value(value)}" for name, value in record.__dict__.items() if name not in _STANDARD
        ]
        return " ".join([text, *fields]) if fields else text


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int):
        host = f"[{value[0]}]" if ":" in str(value[0]) else str(value[0])
        value = f"{host}:{value[1]}"  # an address
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text if _BARE_WORD.fullmatch(text) else f'"{_quoted(text)}"'


# -- the access log --------------------------------------------------------------------------------


class AccessLog:
    """
    Writes one record per finished response and per opened and closed WebSocket to `daphne_like.access`.

    The record's message is the line in the format chosen; its attributes are the fields: `event` ("http",
    "websocket.open", "websocket.close"), `client` (host, or "" for a Unix socket), `client_port`, `method`,
    `path` (query included), `http_version`, `status`, `bytes_sent`, `duration` (seconds), `user_agent`,
    `referer`; a closed WebSocket has `code`, `bytes_received`, `messages_received` and `messages_sent`, too.

    Attributes:
        enabled: False while nothing would be written. Callers look at it before they collect arguments.

    Made after logging has been configured and the application imported, because that settles `enabled`.
    """

    __slots__ = ("_date", "_format", "_logger", "_second", "_skip", "enabled")

    def __init__(self, settings: Settings) -> None:
        self._logger = logging.getLogger(ACCESS)
        self.enabled: bool = (
            settings.access_log_target != ""
            and self._logger.isEnabledFor(logging.INFO)
            and self._logger.hasHandlers()
        )
        self._format: Literal["combined", "json"] = settings.access_log_format
        self._skip = frozenset(path.encode() for path in settings.access_log_skip)
        self._second = 0
        self._date = ""

    def http(
        self,
        *,
        client: tuple[str, int] | None,
        method: str,
        target: bytes,
        http_version: str,
        status: int,
        bytes_sent: int,
        duration: float,
        user_agent: bytes = b"",
        referer: bytes = b"",
    ) -> None:
        """
        A response has ended, however it ended.

        Args:
            client: (host, port) as in the scope; None for a Unix socket's peer.
            target: path and query as the request line had them.
            status: 0 where the client left before a response began.
            bytes_sent: of the response's body.
            duration: seconds from the end of the request's head to the end of the response.
        """
        if not self.enabled or (self._skip and 0 < status < 400 and target.partition(b"?")[0] in self._skip):
            return
        self._write(
            "http",
            method,
            client,
            target,
            {
                "method": method,
                "http_version": http_version,
                "status": status,
                "bytes_sent": bytes_sent,
                "duration": duration,
            },
            user_agent,
            referer,
        )

    def websocket_open(
        self,
        *,
        client: tuple[str, int] | None,
        target: bytes,
        http_version: str,
        duration: float,
        user_agent: bytes = b"",
        referer: bytes = b"",
    ) -> None:
        """
        The application has accepted a WebSocket. A refused handshake is an `http()` response instead.

        Args:
            duration: seconds from the end of the request's head to the acceptance.
        """
        if not self.enabled or (self._skip and target.partition(b"?")[0] in self._skip):
            return
        self._write(
            "websocket.open",
            "WSCONNECT",
            client,
            target,
            {
                "method": "GET",
                "http_version": http_version,
                "status": 101,
                "bytes_sent": 0,
                "duration": duration,
            },
            user_agent,
            referer,
        )

    def websocket_close(
        self,
        *,
        client: tuple[str, int] | None,
        target: bytes,
        http_version: str,
        code: int,
        duration: float,
        bytes_received: int,
        bytes_sent: int,
        messages_received: int,
        messages_sent: int,
        user_agent: bytes = b"",
        referer: bytes = b"",
    ) -> None:
        """
        A WebSocket that was open has ended.

        Args:
            code: the close code; 1006 where the connection broke without one.
            duration: seconds that it was open.
            bytes_received, bytes_sent: of messages' payloads, uncompressed.
        """
        if not self.enabled or (self._skip and target.partition(b"?")[0] in self._skip):
            return
        self._write(
            "websocket.close",
            "WSDISCONNECT",
            client,
            target,
            {
                "method": "GET",
                "http_version": http_version,
                "status": 101,
                "code": code,
                "bytes_sent": bytes_sent,
                "duration": duration,
                "bytes_received": bytes_received,
                "messages_received": messages_received,
                "messages_sent": messages_sent,
            },
            user_agent,
            referer,
        )

    def _write(
        self,
        event: str,
        verb: str,
        client: tuple[str, int] | None,
        target: bytes,
        facts: dict[str, Any],
        user_agent: bytes,
        referer: bytes,
    ) -> None:
        fields: dict[str, Any] = {
            "event": event,
            "client": _safe(client[0]) if client else "",
            "client_port": client[1] if client else 0,
            "path": _text(target),
            "user_agent": _text(user_agent),
            "referer": _text(referer),
            **facts,
        }
        now = time.time()
        if self._format == "json":
            line = _JSON.encode({"time": self._iso_time(now), **fields})
        else:
            line = self._combined(now, verb, target, user_agent, referer, fields)
        record = logging.LogRecord(ACCESS, logging.INFO, __file__, 0, line, None, None, "access")
        record.__dict__.update(fields)
        self._logger.handle(record)

    def _combined(
        self, now: float, verb: str, target: bytes, user_agent: bytes, referer: bytes, fields: dict[str, Any]
    ) -> str:
        line = (
            f"{fields['client'] or '-'} - - [{self._ncsa_time(now)}] "
            f'"{_quoted(verb)} {_quoted(target.decode("latin-1"))} HTTP/{fields["http_version"]}" '
            f"{fields.get('code') or fields['status'] or '-'} {fields['bytes_sent'] or '-'} "
            f'"{_quoted(referer.decode("latin-1")) or "-"}" "{_quoted(user_agent.decode("latin-1")) or "-"}" '
            f"{fields['duration']:.6f}"
        )
        if fields["event"] != "websocket.close":
            return line
        return line + (
            f" received={fields['messages_received']}/{fields['bytes_received']}"
            f" sent={fields['messages_sent']}/{fields['bytes_sent']}"
        )

    def _ncsa_time(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            # English month names whatever the locale: strftime would translate them.
            local = time.localtime(second)
            offset = local.tm_gmtoff // 60
            self._date = (
                f"{local.tm_mday:02d}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year}:"
                f"{local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d} "
                f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{abs(offset) % 60:02d}"
            )
            self._second = second
        return self._date

    def _iso_time(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._date}.{int((now - second) * 1000):03d}Z"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_JSON = json.JSONEncoder(separators=(",", ":"))


def _text(value: bytes) -> str:
    """What a client sent, for a field: UTF-8 where it is, without control characters."""
    return _safe(value.decode("utf-8", "backslashreplace")) if value else ""
