"""
The options about clients: what they may ask for, and how long they, or the application, may take.

The second of the files that make up `settings.Settings`; its rules stand there.
"""

from __future__ import annotations

from dataclasses import dataclass

from .options import GIB, KIB, MIB, option
from .settings_processes import ProcessSettings

__all__ = ["ClientSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings(ProcessSettings):
    """Groups "HTTP limits", "Timeouts" and "WebSocket"."""

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
        help="Open connections, WebSockets included; beyond: 503. Of TLS handshakes 8192 at most.",
        why="An idle one costs some 6 KiB: this is 400 MiB of them. The open-file limit often comes first.",
    )
    max_concurrent_requests: int | None = option(
        None,
        within=(1, None),
        help="Requests that the application works on at once; beyond: 503, but for --health-path.",
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
        help="From opening a connection, or a request's first byte, to its head's end; then 408. TLS, too.",
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
