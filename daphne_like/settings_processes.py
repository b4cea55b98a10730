"""
The options about processes: where the server listens, what it serves, and the workers that run it.

The first of the files that make up `settings.Settings`; its rules stand there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .options import (
    check_channel_glob,
    check_channel_name,
    check_not_empty,
    check_path,
    check_restart_rule,
    check_root_path,
    option,
    split_address,
)

__all__ = ["ProcessSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """Groups "Sockets", "Application" and "Workers"."""

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
    interface: Literal["auto", "asgi", "wsgi"] = option(
        "auto",
        help="What the application is: asgi, wsgi, or auto: whichever it looks like. WSGI runs in --threads.",
        why="auto: a WSGI application takes two arguments, ASGI 3 three. Where a wrapper hides them, say which.",
    )
    threads: int = option(
        8,
        within=(1, None),
        help="Threads for sync Django views and WSGI that are kept, with their database connections.",
        why="Only one runs at a time while that is enough; so many are needed once views wait for a database.",
    )
    max_threads: int = option(
        40,
        within=(1, None),
        help="Threads for sync Django views and WSGI that there may be while others wait; further requests wait "
        "for one of them.",
        why="So many database connections may be open in each process; --threads counts where it is more.",
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
    health_path: str | None = option(
        None,
        flags="PATH",
        check=check_path,
        help="Path that the server itself answers with 200 while it runs, such as /healthz; GET and HEAD.",
        why="None: every path is the application's. It needs no worker, so that a slow application does not "
        "look like a dead server.",
    )
    ready_path: str | None = option(
        None,
        flags="PATH",
        check=check_path,
        help="Path that the server itself answers with 200 while requests can be served, else 503, such as "
        "/readyz; GET and HEAD.",
        why="None: every path is the application's. Without its layer, or without a worker, a server is alive "
        "and of no use: a load balancer should ask for this one, whatever restarts servers for --health-path.",
    )

    workers: int = option(
        0,
        group="Workers",
        within=(0, None),
        zero="the application runs in the server",
        help="Worker processes that run the application, while the server keeps the sockets.",
        why="One process is simplest. With workers, a deployment or a crash closes no connection.",
    )
    layer: str | None = option(
        None,
        flags="URL",
        check=check_not_empty,
        help="Channel layer: ipc:/run/site.sock on this machine, or a layer's dotted path. "
        "Without --workers and with an application, it is only what CHANNEL_LAYERS gets.",
        why="With --workers a private socket by default. Name one for workers, shells and jobs to join from "
        "outside. Processes started by the server find it in this variable.",
    )
    only: tuple[str, ...] = option(
        (),
        flags="GLOB",
        check=check_channel_glob,
        help="Channels that workers serve, such as 'websocket.*' or http.request; may be repeated.",
        why="All: HTTP, WebSocket and --channels. Pools of their own keep slow requests from quick sockets.",
    )
    channels: tuple[str, ...] = option(
        (),
        flags="NAMES",
        listed=True,
        check=check_channel_name,
        help="Further channels that workers read, for ChannelNameRouter; between commas.",
        why="None. These are background jobs: what is sent to such a channel, one worker gets.",
    )
    on_worker_restart: tuple[str, ...] = option(
        (),
        flags="[PATH=]WHAT",
        check=check_restart_rule,
        help="What becomes of a WebSocket whose worker ends: resume (another worker goes on with it) or close "
        "(1012); /chat/*=close for some paths; may be repeated, the first that fits counts.",
        why="resume where nothing fits: the client sees a pause at most. close suits applications that keep "
        "what they know of a client in memory alone.",
    )
    worker_sessions: int = option(
        1000,
        within=(1, None),
        help="HTTP requests that one worker works on at once; more wait in the server.",
        why="Event streams and long polls hold a place each. The worker with most free places gets the next.",
    )
    worker_websockets: int = option(
        10000,
        within=(1, None),
        help="WebSockets that one worker holds at once; more wait in the server.",
        why="A consumer of Channels takes some 20 KiB: this is 200 MiB of them.",
    )
    queue_size: int = option(
        1000,
        within=(1, None),
        help="Requests that may wait for a free worker; beyond: 503 with Retry-After.",
        why="What a site answers in a few seconds. A longer queue would only be answered too late.",
    )
    queue_timeout: float = option(
        30.0,
        help="Time that a request waits for a free worker; then 503 with Retry-After.",
        why="Longer than a worker takes to start, so that a crash of the only one is a pause.",
    )
    resume_timeout: float = option(
        30.0,
        within=(0.1, None),
        help="Time to find another worker for a WebSocket whose worker ended; then close code 1012.",
        why="As --queue-timeout: a client that waited longer had better connect anew.",
    )
    worker_start_timeout: float = option(
        120.0,
        help="Time for a new worker to import the application, start it and join; then it is killed.",
        why="Twice --startup-timeout's: imports come first. The old worker serves meanwhile.",
    )
    worker_stuck_timeout: float = option(
        60.0,
        zero="never",
        help="Replace and kill a worker whose event loop has not turned for this time.",
        why="After 10 s it is reported, with the stacks of what it is stuck in, and gets no new work. "
        "A worker that is merely busy, or paused, is never killed.",
    )
    limit_max_requests: int = option(
        0,
        within=(0, None),
        zero="no limit",
        help="Replace a worker after so many requests and WebSockets. No connection notices.",
        why="No limit: it is there for applications that leak.",
    )
    limit_max_requests_jitter: int = option(
        0,
        within=(0, None),
        zero="none",
        help="Raise --limit-max-requests by up to so many, at random for each worker.",
        why="None; workers are replaced one at a time in any case.",
    )
    workers_lifetime: float = option(
        0.0,
        zero="no limit",
        help="Replace a worker after this time.",
        why="No limit. For applications that hold on to what they should not.",
    )
    workers_max_rss: int = option(
        0,
        unit="bytes",
        within=(0, None),
        zero="no limit",
        help="Replace a worker whose resident memory is larger than this.",
        why="No limit. Kinder than the kernel's out-of-memory killer, which takes the worker at once.",
    )
