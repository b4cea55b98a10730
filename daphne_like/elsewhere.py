"""
What uvicorn and gunicorn call their options: the name that each has here, or why there is none.

Shown where one is given, and in docs/how-to/move-from-*.md, which a test compares.
"""

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["ABSENT", "NAMES", "did_you_mean", "hint"]

# Of options that there are here.
NAMES = {
    "-c": "--config",
    "-w": "--workers",
    "--access-logfile": "--access-log",
    "--access-logformat": "--access-log-format",
    "--certfile": "--certificate",
    "--chdir": "--app-dir",
    "--h11-max-incomplete-event-size": "--max-head-size",
    "--host": "--bind",
    "--keep-alive": "--keep-alive-timeout",
    "--keyfile": "--private-key",
    "--limit-concurrency": "--max-concurrent-requests",
    "--limit-request-field-size": "--max-head-size",
    "--limit-request-fields": "--max-header-count",
    "--limit-request-line": "--max-target-length",
    "--log-level": "--verbosity",
    "--max-requests": "--limit-max-requests",
    "--max-requests-jitter": "--limit-max-requests-jitter",
    "--no-server-header": "--no-server-name",
    "--reload-exclude": "--reload-dir",
    "--reload-include": "--reload-dir",
    "--ssl-certfile": "--certificate",
    "--ssl-keyfile": "--private-key",
    "--timeout": "--worker-stuck-timeout",
    "--timeout-graceful-shutdown": "--graceful-timeout",
    "--timeout-keep-alive": "--keep-alive-timeout",
    "--timeout-worker-healthcheck": "--worker-stuck-timeout",
    "--uds": "--unix-socket",
    "--worker-connections": "--max-connections",
    "--ws-max-queue": "--receive-buffer-size",
    "--ws-max-size": "--websocket-max-message-size",
    "--ws-per-message-deflate": "--no-websocket-compression",
    "--ws-ping-interval": "--ping-interval",
    "--ws-ping-timeout": "--ping-timeout",
}

_CHOICE = "there is nothing to choose here"
_STARTER = "that is for whatever starts the server, such as systemd"
_HEADERS = "response headers are the application's, or the proxy's"
_PROXY = "a proxy in front does that"
_LOGGING = "lines go to stderr, and logging is the site's, as Django's LOGGING is"

# Of others.
ABSENT = {
    "--http": _CHOICE,
    "--loop": _CHOICE,
    "--ws": _CHOICE,
    "-k": _CHOICE,
    "--worker-class": _CHOICE,
    "-D": _STARTER,
    "--daemon": _STARTER,
    "-g": _STARTER,
    "--group": _STARTER,
    "--pid": _STARTER,
    "--user": _STARTER,
    "--env": _STARTER,
    "--env-file": "--config is for the server's settings, the environment for the site's",
    "--header": _HEADERS,
    "--date-header": _HEADERS,
    "--no-date-header": _HEADERS,
    "--log-config": _LOGGING,
    "--log-file": _LOGGING,
    "--error-logfile": _LOGGING,
    "--capture-output": _LOGGING,
    "--preload": "each worker imports the application",
    "--ssl-ca-certs": _PROXY,
    "--ssl-cert-reqs": _PROXY,
    "--ssl-ciphers": _PROXY,
    "--ssl-keyfile-password": "a key without a password, which only the server may read",
}


def hint(flag: str, here: Mapping[str, str]) -> str:
    """
    What is said of *flag*, an option that there is not; "" where it is no other server's either.

    Args:
        here: by their flags, what our options are called where it was given: flags, or variables.
    """
    name = here.get(NAMES.get(flag, ""))
    if name is not None:
        return f"; here it is {name}"
    return f"; {ABSENT[flag]}" if flag in ABSENT else ""


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What may have been meant by *word*, which is none of *known*; "" where nobody can say."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
