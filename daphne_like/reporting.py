"""How a program of ours ends: with an exit code, where it failed with one line on stderr, and whatever runs."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

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


def leave_threads_behind(exit_code: int = 0) -> None:
    """End the process although threads run: Python would wait for a view that never returns."""
    frames = sys._current_frames()
    busy = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread is not threading.main_thread() and _is_waited_for(thread, frame):
            busy.append(thread.name)
    if busy:
        log.warning("threads still run, leaving them behind", extra={"threads": ", ".join(busy)})
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _is_waited_for(thread: threading.Thread, frame: FrameType) -> bool:
    """Whether Python would wait for *thread*, which is at *frame*, and in vain."""
    if _is_pool(frame):
        return False  # it waits for work, and ends as soon as Python asks it to
    outer: FrameType | None = frame
    while outer is not None:
        if _is_pool(outer):
            return True  # whether it is a daemon or not
        outer = outer.f_back
    return not thread.daemon


def _is_pool(frame: FrameType) -> bool:
    return (
        frame.f_code.co_name == "_worker" and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )
