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
import ipaddress
import logging
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigurationError
from .options import GIB, KIB, MIB, Option, option, options_of

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


def split_address(text: str) -> tuple[str, int | None]:
    """
    ("::1", 8000) from "[::1]:8000"; the port is None where *text* names only a host.

    Takes host, host:port, [v6], [v6]:port and a bare v6 address, which has more than one colon.

    Raises:
        ValueError: with what is wrong about it.
    """
    if "/" in text:
        raise ValueError("it is a host or host:port, not a URL or a path")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("brackets hold an IPv6 address, and at most a port follows: [::1]:8000")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} between the brackets is not an IPv6 address") from None
        port_text = rest[1:] if rest else None
    elif text.count(":") > 1:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError("it is not an IPv6 address; with a port, write [address]:port") from None
        host, port_text = text, None
    else:
        host, colon, rest = text.partition(":")
        port_text = rest if colon else None
    if not host:
        raise ValueError("the host is missing; every interface is 0.0.0.0 or ::")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise ValueError("it is not a host, host:port or [IPv6]:port")
    if port_text is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65535:
        raise ValueError(f"port {port_text!r} is not a number in 0..65535")
    return host, int(port_text)


def _check_trusted(text: str) -> None:
    if text in ("*", "unix"):
        return
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("not an IP address, a network such as 10.0.0.0/8, 'unix' or '*'") from None
        raise ValueError(f"it is an address inside of a network; the network is {network}") from None


def _check_field_name(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^`|~-]+", text):
        raise ValueError("it is not a header name (letters, digits and dashes; names with '_' are dropped)")


def _check_field_value(text: str) -> None:
    if not re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", text):
        raise ValueError("a header value is printable ASCII without space around it")


def _check_root_path(text: str) -> None:
    if text and not re.fullmatch(r"(?:/[^/\x00-\x20\x7f?#]+)+", text):
        raise ValueError("it begins with '/', does not end with one and holds no space, '?' or '#': /prefix")


def _check_log_format(text: str) -> None:
    if not text:
        raise ValueError("it is empty")
    logging.Formatter(text)  # its own ValueError says what is wrong


def _check_not_empty(text: str) -> None:
    if not text:
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it holds a NUL")


def _check_skipped_path(text: str) -> None:
    if not text.startswith("/") or "?" in text:
        raise ValueError("it is a path, such as /healthz, without a query")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All options of one server. Immutable; `dataclasses.replace()` makes a changed copy."""

    # -- Sockets --------------------------------------------------------------------------------------

    bind: tuple[str, ...] = option(
        (),
        short="-b",
        metavar="HOST[:PORT]",
        group="Sockets",
        check=split_address,
        help="TCP address to listen on: host, host:port, [v6]:port; may be repeated.",
        why="Without any socket option 127.0.0.1:8000, as Daphne: nothing is open to the network unasked.",
    )
    port: int | None = option(
        None,
        short="-p",
        minimum=0,
        maximum=65535,
        group="Sockets",
        help="TCP port for each --bind that names none; alone, on 127.0.0.1. 0 takes a free one.",
        why="8000 where one is needed, as Daphne; --unix-socket, --fd or --endpoint alone open no TCP port.",
    )
    unix_socket: tuple[str, ...] = option(
        (),
        short="-u",
        metavar="PATH",
        group="Sockets",
        check=_check_not_empty,
        help="Unix socket to listen on; may be repeated. A socket file that nobody serves is replaced.",
        why="Daphne's flag. Other kinds of file at that path are never removed.",
    )
    unix_socket_mode: int = option(
        0o666,
        unit="octal",
        minimum=0,
        maximum=0o777,
        metavar="MODE",
        group="Sockets",
        help="Permissions of Unix sockets, octal.",
        why="What Twisted (thus Daphne) and uvicorn give; the folder's permissions decide who gets in.",
    )
    file_descriptor: tuple[int, ...] = option(
        (),
        flag="--fd",
        minimum=0,
        metavar="FD",
        group="Sockets",
        help="Listening socket inherited as this file descriptor; may be repeated.",
        why="For supervisors that bind themselves. systemd's sockets are found without it.",
    )
    endpoint: tuple[str, ...] = option(
        (),
        short="-e",
        metavar="STRING",
        group="Sockets",
        check=_check_not_empty,
        help="Twisted server endpoint string, such as ssl:443:privateKey=key.pem; may be repeated.",
        why="Daphne's way to reach everything Twisted can listen on.",
    )
    backlog: int = option(
        2048,
        minimum=1,
        maximum=2**31 - 1,
        group="Sockets",
        help="Connections that the kernel keeps waiting for each listening socket.",
        why="Twisted's 50 drops a burst of reconnecting browsers; the kernel caps it at somaxconn.",
    )
    certificate: str | None = option(
        None,
        metavar="FILE",
        group="Sockets",
        check=_check_not_empty,
        help="PEM certificate chain: TLS on all sockets but those that Twisted itself opens for --endpoint. "
        "Read again on SIGHUP.",
        why="Plain HTTP otherwise: TLS usually ends at the proxy in front.",
    )
    private_key: str | None = option(
        None,
        metavar="FILE",
        group="Sockets",
        check=_check_not_empty,
        help="PEM private key of --certificate.",
        why="When absent the key is looked for in the certificate's file, as OpenSSL does.",
    )
    proxy_protocol: bool = option(
        False,
        group="Sockets",
        help="Expect the PROXY protocol, version 1 or 2, at the start of every connection.",
        why="Off: a client could claim any address. On: a connection without it is closed.",
    )

    # -- Application ----------------------------------------------------------------------------------

    root_path: str = option(
        "",
        metavar="PATH",
        group="Application",
        check=_check_root_path,
        help="ASGI root_path: the path under which the application is mounted, such as /app.",
        why="Empty: mounted at the root.",
    )
    lifespan: Literal["auto", "on", "off"] = option(
        "auto",
        group="Application",
        help="Lifespan protocol: on insists on it, off leaves it out, auto tries.",
        why="auto: an application that raises on the lifespan scope (Django, Channels) is served without.",
    )
    factory: bool = option(
        False,
        group="Application",
        help="The import string names a function that returns the application.",
        why="Off: the import string names the application itself.",
    )
    app_dir: str = option(
        ".",
        metavar="DIR",
        group="Application",
        check=_check_not_empty,
        help="Directory put first on sys.path to import the application from.",
        why="The current directory, as Daphne and `python -m` do.",
    )
    reload: bool = option(
        False,
        group="Application",
        help="Restart when a Python file changes. For development.",
        why="Off: code does not change under a server in production. No connection is refused meanwhile.",
    )
    reload_dir: tuple[str, ...] = option(
        (),
        metavar="DIR",
        group="Application",
        check=_check_not_empty,
        help="Directory to watch for --reload; may be repeated.",
        why="--app-dir when none is given.",
    )
    startup_timeout: float = option(
        60.0,
        unit="seconds",
        zero="no bound",
        group="Application",
        help="Time for the application's lifespan startup.",
        why="Startup may warm caches or connect to databases; one that hangs must not look healthy.",
    )
    shutdown_timeout: float = option(
        30.0,
        unit="seconds",
        zero="no bound",
        group="Application",
        help="Time for the application's lifespan shutdown, after the last connection.",
        why="Closing pools takes moments; a hang must not keep the process for ever.",
    )

    # -- HTTP limits ----------------------------------------------------------------------------------

    max_head_size: int = option(
        64 * KIB,
        unit="bytes",
        minimum=1 * KIB,
        group="HTTP limits",
        help="Request line and header fields together; beyond: 431. Trailers and chunk extensions too.",
        why="Twisted and node take 16 KiB, nginx 32: large cookies fit, and 1000 such heads are 64 MiB.",
    )
    max_header_count: int = option(
        128,
        minimum=1,
        group="HTTP limits",
        help="Header fields of a request; beyond: 431.",
        why="Apache and hyper stop at 100, Twisted at 500; browsers behind two proxies send about 40. "
        "Each field costs the application more than its bytes tell.",
    )
    max_target_length: int = option(
        16 * KIB,
        unit="bytes",
        minimum=256,
        group="HTTP limits",
        help="Request target (path and query); beyond: 414.",
        why="RFC 9110 asks for 8000 at least; browsers and Twisted go to 16 KiB or more.",
    )
    max_body_size: int = option(
        1 * GIB,
        unit="bytes",
        zero="no limit",
        group="HTTP limits",
        help="Request body; beyond: 413, before the first byte where Content-Length tells.",
        why="Bodies are streamed and cost no memory here, but the application may collect or store them.",
    )
    max_connections: int = option(
        65536,
        zero="no limit",
        group="HTTP limits",
        help="Open connections, WebSockets included; beyond: 503 and close.",
        why="An idle one costs some 6 KiB: this is 400 MiB of them. The open-file limit often comes first.",
    )
    max_concurrent_requests: int | None = option(
        None,
        minimum=1,
        group="HTTP limits",
        help="Requests that the application works on at once; beyond: 503 with Retry-After.",
        why="No limit: only the application knows what it bears. Idle connections do not count.",
    )
    receive_buffer_size: int = option(
        64 * KIB,
        unit="bytes",
        minimum=1 * KIB,
        group="HTTP limits",
        help="Received bytes kept per request or WebSocket before its socket is paused.",
        why="One full socket read. The client is held back by TCP, so an upload never fills memory.",
    )
    send_buffer_size: int = option(
        64 * KIB,
        unit="bytes",
        minimum=1 * KIB,
        group="HTTP limits",
        help="Bytes waiting for a slow client before the application's send() waits.",
        why="asyncio's own high-water mark: enough to keep a fast client busy, 6 MiB for 100 slow ones.",
    )

    # -- Timeouts -------------------------------------------------------------------------------------

    header_timeout: float = option(
        30.0,
        unit="seconds",
        zero="no bound",
        group="Timeouts",
        help="From opening a connection, or a request's first byte, to the end of its head; then 408.",
        why="A head is one packet: 30 s forgives the worst mobile link, and ends a slowloris.",
    )
    keep_alive_timeout: float = option(
        75.0,
        unit="seconds",
        zero="no bound",
        group="Timeouts",
        help="How long an idle connection waits for its next request.",
        why="Above nginx's and AWS's 60, so that the proxy closes first: no request meets a closing socket.",
    )
    body_timeout: float = option(
        60.0,
        unit="seconds",
        zero="no bound",
        group="Timeouts",
        help="Longest pause between two reads of a request body that the application waits for; then 408.",
        why="nginx's client_body_timeout. It counts the pause, not the whole, so slow uploads succeed.",
    )
    write_timeout: float = option(
        60.0,
        unit="seconds",
        zero="no bound",
        group="Timeouts",
        help="Longest time a client may take none of the bytes waiting for it; then the connection is reset.",
        why="nginx's send_timeout. A reader that takes a little now and then is let alone.",
    )
    http_timeout: float | None = option(
        None,
        short="-t",
        unit="seconds",
        zero="no bound",
        never=True,
        group="Timeouts",
        help="Whole time of an HTTP request; then 503, or the end of a response already begun.",
        why="None, as Daphne: long polls and event streams are meant to last.",
    )
    application_close_timeout: float = option(
        10.0,
        unit="seconds",
        minimum=0,
        zero="cancelled at once",
        group="Timeouts",
        help="Time for the application to return after its client has gone; then it is cancelled.",
        why="Daphne's: time to store what was begun.",
    )
    graceful_timeout: float = option(
        30.0,
        unit="seconds",
        minimum=0,
        zero="stop at once",
        group="Timeouts",
        help="After SIGTERM or SIGINT: time for requests in flight to finish and WebSockets to close.",
        why="Longer than all but the longest requests. Supervisors kill sooner or later (Docker after 10 s, "
        "Kubernetes 30, systemd 90): set this, plus --shutdown-timeout, below theirs.",
    )

    # -- WebSocket ------------------------------------------------------------------------------------

    websocket_timeout: float = option(
        86400.0,
        unit="seconds",
        zero="never",
        never=True,
        group="WebSocket",
        help="Longest life of a WebSocket. -1 for infinite.",
        why="A day, as Daphne: group memberships in a channel layer expire then, too.",
    )
    websocket_connect_timeout: float = option(
        5.0,
        unit="seconds",
        zero="never",
        never=True,
        group="WebSocket",
        help="Time for the application to accept or reject a handshake; then 403. -1 for infinite.",
        why="Daphne's. A browser shows nothing until the handshake is answered.",
    )
    websocket_idle_timeout: float = option(
        0.0,
        unit="seconds",
        zero="never",
        group="WebSocket",
        help="Close a WebSocket after this time without a message either way; pings do not count.",
        why="Off: quiet sockets are what WebSockets are for, and pings tell the dead ones.",
    )
    websocket_close_timeout: float = option(
        10.0,
        unit="seconds",
        minimum=0.1,
        group="WebSocket",
        help="Time for the client to answer our close frame; then the connection is dropped.",
        why="Several round trips on the worst link; RFC 6455 lets a server leave after a reasonable wait.",
    )
    ping_interval: float = option(
        20.0,
        unit="seconds",
        zero="no pings",
        group="WebSocket",
        help="Send a ping after this time without anything received.",
        why="Daphne's: below the 30 to 60 s after which proxies and NATs forget a quiet connection.",
    )
    ping_timeout: float = option(
        30.0,
        unit="seconds",
        zero="unanswered pings are forgiven",
        group="WebSocket",
        help="Drop a WebSocket when a ping has gone unanswered this long.",
        why="Daphne's: with the interval, a peer that vanished is gone within 50 s.",
    )
    websocket_max_message_size: int = option(
        1 * MIB,
        unit="bytes",
        zero="no limit (lets any client fill the memory)",
        group="WebSocket",
        help="Largest message, after decompression; beyond: close code 1009.",
        why="Daphne's, since CVE-2026-44545: a message is collected in memory before it is delivered.",
    )
    websocket_max_frame_size: int = option(
        1 * MIB,
        unit="bytes",
        zero="no limit of its own",
        group="WebSocket",
        help="Largest single frame, as it is on the wire; beyond: close code 1009.",
        why="Daphne's. A frame is refused by the length it announces, before its payload arrives.",
    )
    websocket_compression: bool = option(
        True,
        group="WebSocket",
        help="Agree to permessage-deflate when a client offers it.",
        why="On: text shrinks to a third or less. Off saves its memory and time where messages are tiny.",
    )
    websocket_compression_window: int = option(
        12,
        minimum=9,
        maximum=15,
        metavar="BITS",
        group="WebSocket",
        help="Largest compression window, as a power of two; both directions.",
        why="12 (4 KiB) compresses chat and JSON nearly as well as 15, for an eighth of the memory.",
    )

    # -- Proxies --------------------------------------------------------------------------------------

    proxy_headers: bool = option(
        False,
        group="Proxies",
        help="Take client address, port, scheme and host from X-Forwarded-* or Forwarded of trusted peers.",
        why="Off, as Daphne: without a proxy in front any client could write them. "
        "On, it also trusts peers on Unix sockets that we listen on.",
    )
    proxy_headers_host: str = option(
        "X-Forwarded-For",
        metavar="NAME",
        group="Proxies",
        check=_check_field_name,
        help="Header with the client's address; needs --proxy-headers. Forwarded: RFC 7239 and nothing else.",
        why="The common name. X-Real-IP is another; once it is named, nothing stands in for it.",
    )
    proxy_headers_port: str = option(
        "X-Forwarded-Port",
        metavar="NAME",
        group="Proxies",
        check=_check_field_name,
        help="Header with the client's port; needs --proxy-headers.",
        why="Daphne's name and meaning: the client's port, not the server's.",
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        ("127.0.0.1", "::1"),
        listed=True,
        metavar="PEERS",
        group="Proxies",
        check=_check_trusted,
        help="Peers whose forwarding headers are believed: IP addresses, networks, 'unix', or '*' for all; "
        "between commas.",
        why="A proxy on the same machine. Daphne believed everybody, which lets a client choose its address.",
    )

    # -- Logs -----------------------------------------------------------------------------------------

    verbosity: int = option(
        1,
        short="-v",
        minimum=0,
        maximum=3,
        metavar="LEVEL",
        group="Logs",
        help="0: warnings; 1: information and the access log; 2: debug; 3: asyncio's debug mode too.",
        why="Daphne's levels.",
    )
    access_log: str | None = option(
        None,
        off_flag="--no-access-log",
        off_value="",
        metavar="FILE",
        group="Logs",
        help="Where the access log goes: a file (followed when rotated), or - for stdout. Empty for none.",
        why="Not given: stdout from verbosity 1 on, none at 0, as Daphne.",
    )
    access_log_format: Literal["combined", "json"] = option(
        "combined",
        group="Logs",
        help="NCSA combined lines with a duration, or one JSON object a line.",
        why="combined is what log analysers read without being told.",
    )
    access_log_skip: tuple[str, ...] = option(
        (),
        listed=True,
        metavar="PATHS",
        group="Logs",
        check=_check_skipped_path,
        help="Paths left out of the access log while they succeed, such as /healthz; between commas.",
        why="Nothing is left out unasked. Failures (4xx, 5xx) of these paths are still written.",
    )
    log_fmt: str = option(
        "%(asctime)-15s %(levelname)-8s %(message)s",
        metavar="FORMAT",
        group="Logs",
        check=_check_log_format,
        help="Format of log lines, as logging.Formatter takes it.",
        why="Daphne's.",
    )

    # -- Identity -------------------------------------------------------------------------------------

    server_name: str = option(
        "daphne-like",
        short="-s",
        off_flag="--no-server-name",
        off_value="",
        metavar="NAME",
        group="Identity",
        check=_check_field_value,
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
