"""How a program of ours ends: with an exit code, where it failed with one line on stderr, and whatever runs."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable

from . import logs
from .errors import ConfigurationError, DaphneLikeError, StartupFailed

__all__ = ["leave_threads_behind", "reporting"]

PROGRAM = "daphne-like"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

log = logging.getLogger(logs.SERVER)


def reporting(call: Callable[[], int]) -> int:
    """What *call* returns; where it raises one of our errors, that on stderr and its exit code."""
    try:
        return call()
    except StartupFailed as error:
        if error.details:
            print(error.details, file=sys.stderr)
        return _complain(error, error.exit_code)
    except ConfigurationError as error:
        return _complain(error, error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: DaphneLikeError, exit_code: int) -> int:
    sys.stdout.flush()
    print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return exit_code


def leave_threads_behind() -> None:
    """End the process although threads run: Python would wait for a view that never returns."""
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    busy = [thread.name for thread in threads if not thread.daemon]
    if busy and not _all_idle(threads):
        log.warning("threads still run, leaving them behind", extra={"threads": ", ".join(busy)})
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _all_idle(threads: list[threading.Thread]) -> bool:
    """Whether every thread is a pool's that waits for work: those end as soon as Python asks them to."""
    frames = sys._current_frames()
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if (
            frame is not None
            and not thread.daemon
            and not (
                frame.f_code.co_name == "_worker"
                and frame.f_globals.get("__name__") == "concurrent.futures.thread"
            )
        ):
            return False
    return True
