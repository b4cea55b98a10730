"""From the words of a command line to a server that runs: what `daphne-like APPLICATION` does."""

import logging
import os
import sys
import threading

from daphne_like import logs
from daphne_like.importing import import_application
from daphne_like.server import Server
from daphne_like.settings import Settings

__all__ = ["run"]

log = logging.getLogger(logs.SERVER)


def run(settings: Settings, application: str) -> int:
    """
    Serve the application that the import string names, until told to stop; return the exit code.

    Raises:
        ConfigurationError, StartupFailed: for the command line to report.
    """
    logs.configure(settings)
    found = import_application(application, factory=settings.factory, app_dir=settings.app_dir)
    logs.enable_loggers()
    Server(found, settings).run()
    _leave_threads_behind()
    return 0


def _leave_threads_behind() -> None:
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
        if frame is not None and not (
            frame.f_code.co_name == "_worker"
            and frame.f_globals.get("__name__") == "concurrent.futures.thread"
        ):
            return False
    return True
