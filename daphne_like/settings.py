"""
Every option of the server, once: default, unit, flag, help and the reason for its default.

`Settings` is the whole truth. The command line, the environment (`DAPHNE_LIKE_MAX_HEAD_SIZE`), the
keys of a TOML file (`max_head_size`) and docs/reference/settings.md are all made from its fields, so
an option cannot exist in one place and not in another. Its groups are spread over three files, each a base
of the next: settings_processes, settings_clients and this one.

Rules that hold for all options:

* Times are seconds (int or float), sizes are bytes. As text, a size may end in k, m or g (powers of 1024).
* Where a limit or a time may be switched off, 0 does it; the few options where Daphne says -1 for
  "never" take -1 too, and the field then holds 0 (None for `http_timeout`).
* A `Settings` that exists is valid: construction raises ConfigurationError, naming the option, the
  value and what would be right. It only judges words: whether a file can be read or a port is free
  is found out by whoever opens it.
* Lists replace each other: a list given on the command line leaves nothing of the file's.

Daphne's options keep Daphne's names and meaning; where a default differs, docs/reference/
daphne-differences.md says why.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigurationError
from .options import (
    Option,
    check_field_name,
    check_field_value,
    check_log_format,
    check_path,
    check_trusted,
    option,
    options_of,
    split_address,
)
from .settings_clients import ClientSettings

__all__ = ["GROUPS", "Settings", "options", "options_by_name", "split_address"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

GROUPS: Mapping[str, str] = {
    "Sockets": "Where to listen. Everything may be given several times and combined.",
    "Application": "What to serve, and how it starts and stops.",
    "Workers": "Processes that run the application, while the server keeps the sockets.",
    "HTTP limits": "What a client may ask for. Beyond a limit: the status named, then the connection closes.",
    "Timeouts": "How long a client, or the application, may take. Seconds.",
    "WebSocket": "Handshake, keep-alive and size limits of WebSocket connections.",
    "Proxies": "Whose word about the client's address is taken.",
    "Logs": "What is written, where, and how.",
    "Identity": "What the server says about itself.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ClientSettings):
    """All options of one server. Immutable; `dataclasses.replace()` makes a changed copy."""

    proxy_headers: bool = option(
        False,
        group="Proxies",
        help="Take client address, port, scheme and host from X-Forwarded-* or Forwarded of trusted peers.",
        why="Off, as Daphne: without a proxy in front any client could write them. "
        "On, it also trusts peers on Unix sockets that we listen on.",
    )
    proxy_headers_host: str = option(
        "X-Forwarded-For",
        flags="NAME",
        check=check_field_name,
        help="Header with the client's address; needs --proxy-headers. Forwarded: RFC 7239 and nothing else.",
        why="The common name. X-Real-IP is another; once it is named, nothing stands in for it.",
    )
    proxy_headers_port: str = option(
        "X-Forwarded-Port",
        flags="NAME",
        check=check_field_name,
        help="Header with the client's port; needs --proxy-headers.",
        why="Daphne's name and meaning: the client's port, not the server's.",
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        ("127.0.0.1", "::1"),
        flags="PEERS",
        listed=True,
        check=check_trusted,
        help="Peers whose forwarding headers are believed: IP addresses, networks, 'unix' for Unix sockets that "
        "--unix-socket has not opened, or '*' for all; between commas.",
        why="A proxy on the same machine. Daphne believed everybody, which lets a client choose its address.",
    )

    verbosity: int = option(
        1,
        flags="-v LEVEL",
        within=(0, 3),
        group="Logs",
        help="0: warnings; 1: information and the access log; 2: debug; 3: asyncio's debug mode too.",
        why="Daphne's levels.",
    )
    access_log: str | None = option(
        None,
        flags="FILE",
        off_flag="--no-access-log",
        help="Where the access log goes: a file (followed when rotated), or - for stdout. Empty for none.",
        why="Not given: stdout from verbosity 1 on, none at 0, as Daphne.",
    )
    access_log_format: Literal["combined", "json"] = option(
        "combined",
        help="NCSA combined lines with a duration, or one JSON object a line.",
        why="combined is what log analysers read without being told.",
    )
    access_log_skip: tuple[str, ...] = option(
        (),
        flags="PATHS",
        listed=True,
        check=check_path,
        help="Paths left out of the access log while they succeed, such as /healthz; between commas.",
        why="Nothing is left out unasked. Failures (4xx, 5xx) of these paths are still written.",
    )
    log_fmt: str = option(
        "%(asctime)-15s %(levelname)-8s %(message)s",
        flags="FORMAT",
        check=check_log_format,
        help="Format of log lines, as logging.Formatter takes it.",
        why="Daphne's.",
    )

    server_name: str = option(
        "daphne-like",
        flags="-s NAME",
        off_flag="--no-server-name",
        group="Identity",
        check=check_field_value,
        help="Value of the Server response header; empty for none.",
        why="The program's name without its version.",
    )

    def __post_init__(self) -> None:
        for each in options():
            given = getattr(self, each.name)
            value = each.checked(given, each.name)
            if value is not given:
                object.__setattr__(self, each.name, value)
        if self.private_key is not None and self.certificate is None:
            raise ConfigurationError(f"--private-key {self.private_key}: needs --certificate")
        if self.limit_max_requests_jitter and not self.limit_max_requests:
            raise ConfigurationError(
                f"--limit-max-requests-jitter {self.limit_max_requests_jitter}: needs --limit-max-requests"
            )
        if not self.proxy_headers:
            for name, common in _FORWARDING_NAMES:
                value = getattr(self, name)
                if value != common:
                    raise ConfigurationError(f"{options_by_name()[name].flag} {value}: needs --proxy-headers")

    @property
    def sockets_named(self) -> bool:
        """Whether any option says where to listen; otherwise systemd's sockets, or else 127.0.0.1:8000."""
        return bool(
            self.bind or self.port is not None or self.unix_socket or self.file_descriptor or self.endpoint
        )

    def tcp_addresses(self) -> tuple[tuple[str, int], ...]:
        """
        (host, port) of each TCP socket to open, by Daphne's rules.

        A --port alone listens on 127.0.0.1, a --bind without a port on 8000; nothing at all means
        127.0.0.1:8000; --unix-socket, --fd and --endpoint alone open no TCP port. IPv6 hosts are
        without brackets.
        """
        if not self.sockets_named:
            return ((DEFAULT_HOST, DEFAULT_PORT),)
        common = DEFAULT_PORT if self.port is None else self.port
        if self.bind:
            found = []
            for text in self.bind:
                host, port = split_address(text)
                found.append((host, common if port is None else port))
            return tuple(dict.fromkeys(found))
        return () if self.port is None else ((DEFAULT_HOST, self.port),)

    @property
    def restart_rules(self) -> tuple[tuple[str, Literal["resume", "close"]], ...]:
        """`on_worker_restart` as (pattern of paths, what becomes of their WebSockets); the first that fits."""
        rules: list[tuple[str, Literal["resume", "close"]]] = []
        for rule in self.on_worker_restart:
            pattern, _, what = rule.rpartition("=")
            rules.append((pattern or "*", "close" if what == "close" else "resume"))
        return tuple(rules)

    @property
    def access_log_target(self) -> str:
        """Where the access log goes after Daphne's rule: "" nowhere, "-" stdout, otherwise a file's path."""
        if self.access_log is not None:
            return self.access_log
        return "-" if self.verbosity >= 1 else ""


_FORWARDING_NAMES = (("proxy_headers_host", "X-Forwarded-For"), ("proxy_headers_port", "X-Forwarded-Port"))


@functools.cache
def options() -> tuple[Option, ...]:
    """All options, in the order of the fields of Settings."""
    return options_of(Settings)


@functools.cache
def options_by_name() -> Mapping[str, Option]:
    """The same, by the field's name."""
    return types.MappingProxyType({each.name: each for each in options()})
