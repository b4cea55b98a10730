"""
Every option of the server, once: default, unit, flag, help and the reason for its default.

`Settings` is the whole truth. The command line, the environment (`DAPHNE_LIKE_MAX_HEAD_SIZE`), the
keys of a TOML file (`max_head_size`) and docs/reference/settings.md are all made from its fields, so
an option cannot exist in one place and not in another.

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
    GIB,
    KIB,
    MIB,
    Option,
    check_field_name,
    check_field_value,
    check_log_format,
    check_not_empty,
    check_root_path,
    check_skipped_path,
    check_trusted,
    option,
    options_of,
    split_address,
)

__all__ = ["GROUPS", "Settings", "options", "options_by_name", "split_address"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

GROUPS: Mapping[str, str] = {
    "Sockets": "Where to listen. Everything may be given several times and combined.",
    "Application": "What to serve, and how it starts and stops.",
    "HTTP limits": "What a client may ask for. Beyond a limit: the status named, then the connection closes.",
    "Timeouts": "How long a client, or the application, may take. Seconds.",
    "WebSocket": "Handshake, keep-alive and size limits of WebSocket connections.",
    "Proxies": "Whose word about the client's address is taken.",
    "Logs": "What is written, where, and how.",
    "Identity": "What the server says about itself.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All options of one server. Immutable; `dataclasses.replace()` makes a changed copy."""

    bind: tuple[str, ...] = option(
        (),
        flags="-b HOST[:PORT]",
        group="Sockets",
        check=split_address,
        help="TCP address to listen on: host, host:port, [v6]:port; may be repeated.",
        why="Without any socket option 127.0.0.1:8000, as Daphne: nothing is open to the network unasked.",
    )
    port: int | None = option(
        None,
        flags="-p",
        within=(0, 65535),
        help="TCP port for each --bind that names none; alone, on 127.0.0.1. 0 takes a free one.",
        why="8000 where one is needed, as Daphne; --unix-socket, --fd or --endpoint alone open no TCP port.",
    )
    unix_socket: tuple[str, ...] = option(
        (),
        flags="-u PATH",
        check=check_not_empty,
        help="Unix socket to listen on; may be repeated. A socket file that nobody serves is replaced.",
        why="Daphne's flag. Other kinds of file at that path are never removed.",
    )
    unix_socket_mode: int = option(
        0o666,
        flags="MODE",
        unit="octal",
        within=(0, 0o777),
        help="Permissions of Unix sockets, octal.",
        why="What Twisted (thus Daphne) and uvicorn give; the folder's permissions decide who gets in.",
    )
    file_descriptor: tuple[int, ...] = option(
        (),
        flags="--fd FD",
        within=(0, None),
        help="Listening socket inherited as this file descriptor; may be repeated.",
        why="For supervisors that bind themselves. systemd's sockets are found without it.",
    )
    endpoint: tuple[str, ...] = option(
        (),
        flags="-e STRING",
        check=check_not_empty,
        help="Twisted server endpoint string, such as ssl:443:privateKey=key.pem; may be repeated.",
        why="Daphne's way to reach everything Twisted can listen on.",
    )
    backlog: int = option(
        2048,
        within=(1, 2**31 - 1),
        help="Connections that the kernel keeps waiting for each listening socket.",
        why="Twisted's 50 drops a burst of reconnecting browsers; the kernel caps it at somaxconn.",
    )
    certificate: str | None = option(
        None,
        flags="FILE",
        check=check_not_empty,
        help="PEM certificate chain: TLS on all sockets but those that Twisted itself opens for --endpoint. "
        "Read again on SIGHUP.",
        why="Plain HTTP otherwise: TLS usually ends at the proxy in front.",
    )
    private_key: str | None = option(
        None,
        flags="FILE",
        check=check_not_empty,
        help="PEM private key of --certificate.",
        why="When absent the key is looked for in the certificate's file, as OpenSSL does.",
    )
    proxy_protocol: bool = option(
        False,
        help="Expect the PROXY protocol, version 1 or 2, at the start of every connection.",
        why="Off: a client could claim any address. On: a connection without it is closed.",
    )

    root_path: str = option(
        "",
        flags="PATH",
        group="Application",
        check=check_root_path,
        help="ASGI root_path: the path under which the application is mounted, such as /app.",
        why="Empty: mounted at the root.",
    )
    lifespan: Literal["auto", "on", "off"] = option(
        "auto",
        help="Lifespan protocol: on insists on it, off leaves it out, auto tries.",
        why="auto: an application that raises on the lifespan scope (Django, Channels) is served without.",
    )
    factory: bool = option(
        False,
        help="The import string names a function that returns the application.",
        why="Off: the import string names the application itself.",
    )
    app_dir: str = option(
        ".",
        flags="DIR",
        check=check_not_empty,
        help="Directory put first on sys.path to import the application from.",
        why="The current directory, as Daphne and `python -m` do.",
    )
    reload: bool = option(
        False,
        help="Restart when a Python file changes. For development.",
        why="Off: code does not change under a server in production. No connection is refused meanwhile.",
    )
    reload_dir: tuple[str, ...] = option(
        (),
        flags="DIR",
        check=check_not_empty,
        help="Directory to watch for --reload; may be repeated.",
        why="--app-dir when none is given.",
    )
    startup_timeout: float = option(
        60.0,
        help="Time for the application's lifespan startup.",
        why="Startup may warm caches or connect to databases; one that hangs must not look healthy.",
    )
    shutdown_timeout: float = option(
        30.0,
        help="Time for the application's lifespan shutdown, after the last connection.",
        why="Closing pools takes moments; a hang must not keep the process for ever.",
    )

    max_head_size: int = option(
        64 * KIB,
        unit="bytes",
        within=(1 * KIB, None),
        group="HTTP limits",
        help="Request line and header fields together; beyond: 431.",
        why="Twisted and node take 16 KiB, nginx 32: large cookies fit, and 1000 such heads are 64 MiB.",
    )
    max_header_count: int = option(
        128,
        within=(1, None),
        help="Header fields of a request; beyond: 431.",
        why="Apache and hyper stop at 100, Twisted at 500; browsers behind two proxies send about 40. "
        "Each field costs the application more than its bytes tell.",
    )
    max_target_length: int = option(
        16 * KIB,
        unit="bytes",
        within=(256, None),
        help="Request target (path and query); beyond: 414.",
        why="RFC 9110 asks for 8000 at least; browsers and Twisted go to 16 KiB or more.",
    )
    max_body_size: int = option(
        1 * GIB,
        unit="bytes",
        zero="no limit",
        help="Request body; beyond: 413, before the first byte where Content-Length tells.",
        why="Bodies are streamed and cost no memory here, but the application may collect or store them.",
    )
    max_connections: int = option(
        65536,
        zero="no limit",
        help="Open connections, WebSockets included; beyond: 503 and close.",
        why="An idle one costs some 6 KiB: this is 400 MiB of them. The open-file limit often comes first.",
    )
    max_concurrent_requests: int | None = option(
        None,
        within=(1, None),
        help="Requests that the application works on at once; beyond: 503 with Retry-After.",
        why="No limit: only the application knows what it bears. Idle connections do not count.",
    )
    receive_buffer_size: int = option(
        64 * KIB,
        unit="bytes",
        within=(1 * KIB, None),
        help="Received bytes kept per request or WebSocket before its socket is paused.",
        why="One full socket read. The client is held back by TCP, so an upload never fills memory.",
    )
    send_buffer_size: int = option(
        64 * KIB,
        unit="bytes",
        within=(1 * KIB, None),
        help="Bytes waiting for a slow client before the application's send() waits.",
        why="asyncio's own high-water mark: enough to keep a fast client busy, 6 MiB for 100 slow ones.",
    )

    header_timeout: float = option(
        30.0,
        group="Timeouts",
        help="From opening a connection, or a request's first byte, to the end of its head; then 408.",
        why="A head is one packet: 30 s forgives the worst mobile link, and ends a slowloris.",
    )
    keep_alive_timeout: float = option(
        75.0,
        help="How long an idle connection waits for its next request.",
        why="Above nginx's and AWS's 60, so that the proxy closes first: no request meets a closing socket.",
    )
    body_timeout: float = option(
        60.0,
        help="Longest pause between two reads of a request body that the application waits for; then 408.",
        why="nginx's client_body_timeout. It counts the pause, not the whole, so slow uploads succeed.",
    )
    write_timeout: float = option(
        60.0,
        help="Longest time a client may take none of the bytes waiting for it; then the connection is reset.",
        why="nginx's send_timeout. A reader that takes a little now and then is let alone.",
    )
    http_timeout: float | None = option(
        None,
        flags="-t",
        never=True,
        help="Whole time of an HTTP request; then 503, or the end of a response already begun.",
        why="None, as Daphne: long polls and event streams are meant to last.",
    )
    application_close_timeout: float = option(
        10.0,
        within=(0, None),
        zero="cancelled at once",
        help="Time for the application to return after its client has gone; then it is cancelled.",
        why="Daphne's: time to store what was begun.",
    )
    graceful_timeout: float = option(
        30.0,
        within=(0, None),
        zero="stop at once",
        help="After SIGTERM or SIGINT: time for requests in flight to finish and WebSockets to close.",
        why="Longer than all but the longest requests. Supervisors kill sooner or later (Docker after 10 s, "
        "Kubernetes 30, systemd 90): set this, plus --shutdown-timeout, below theirs.",
    )

    websocket_timeout: float = option(
        86400.0,
        zero="never",
        never=True,
        group="WebSocket",
        help="Longest life of a WebSocket. -1 for infinite.",
        why="A day, as Daphne: group memberships in a channel layer expire then, too.",
    )
    websocket_connect_timeout: float = option(
        5.0,
        zero="never",
        never=True,
        help="Time for the application to accept or reject a handshake; then 403. -1 for infinite.",
        why="Daphne's. A browser shows nothing until the handshake is answered.",
    )
    websocket_idle_timeout: float = option(
        0.0,
        zero="never",
        help="Close a WebSocket after this time without a message either way; pings do not count.",
        why="Off: quiet sockets are what WebSockets are for, and pings tell the dead ones.",
    )
    websocket_close_timeout: float = option(
        10.0,
        within=(0.1, None),
        help="Time for the client to answer our close frame; then the connection is dropped.",
        why="Several round trips on the worst link; RFC 6455 lets a server leave after a reasonable wait.",
    )
    ping_interval: float = option(
        20.0,
        zero="no pings",
        help="Send a ping after this time without anything received.",
        why="Daphne's: below the 30 to 60 s after which proxies and NATs forget a quiet connection.",
    )
    ping_timeout: float = option(
        30.0,
        zero="unanswered pings are forgiven",
        help="Drop a WebSocket when a ping has gone unanswered this long.",
        why="Daphne's: with the interval, a peer that vanished is gone within 50 s.",
    )
    websocket_max_message_size: int = option(
        1 * MIB,
        unit="bytes",
        zero="no limit (lets any client fill the memory)",
        help="Largest message, after decompression; beyond: close code 1009.",
        why="Daphne's, since CVE-2026-44545: a message is collected in memory before it is delivered.",
    )
    websocket_max_frame_size: int = option(
        1 * MIB,
        unit="bytes",
        zero="no limit of its own",
        help="Largest single frame, as it is on the wire; beyond: close code 1009.",
        why="Daphne's. A frame is refused by the length it announces, before its payload arrives.",
    )
    websocket_compression: bool = option(
        True,
        help="Agree to permessage-deflate when a client offers it.",
        why="On: text shrinks to a third or less. Off saves its memory and time where messages are tiny.",
    )
    websocket_compression_window: int = option(
        12,
        flags="BITS",
        within=(9, 15),
        help="Largest compression window, as a power of two; both directions.",
        why="12 (4 KiB) compresses chat and JSON nearly as well as 15, for an eighth of the memory.",
    )

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
        help="Peers whose forwarding headers are believed: IP addresses, networks, 'unix', or '*' for all; "
        "between commas.",
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
        check=check_skipped_path,
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
