"""
--reload: watch Python files, and replace the worker when one changes.

The server keeps the sockets and runs the application in a worker, as with --workers. A change is a reload() of
the supervisor: the new worker starts, takes over when it is ready, and WebSockets stay open meanwhile. While the
new code does not start, the old goes on serving; where there is no old one, clients wait for the next change.

Files are watched by looking at their times twice a second. That needs no further package, and works
on network and container mounts, where the kernel's notifications do not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence

from . import logs
from .settings import Settings

__all__ = ["python_files", "settings_for_development", "watch"]

log = logging.getLogger(logs.RELOAD)

POLL_INTERVAL = 0.5
# Requests of a developer's own browser get a moment; an event stream must not hold up each reload for the
# half minute that a server in production grants it.
GRACEFUL_TIMEOUT = 2.0
SHUTDOWN_TIMEOUT = 5.0

_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})

Times = dict[str, tuple[int, int]]


def settings_for_development(settings: Settings) -> Settings:
    """*settings* for a server under --reload: a worker at least, little patience, and much where it helps."""
    return dataclasses.replace(
        settings,
        workers=max(settings.workers, 1),
        graceful_timeout=min(settings.graceful_timeout, GRACEFUL_TIMEOUT),
        shutdown_timeout=min(settings.shutdown_timeout or SHUTDOWN_TIMEOUT, SHUTDOWN_TIMEOUT),
        # Clients wait for the code to be mended, and nobody interrupts a debugger.
        queue_timeout=0,
        worker_stuck_timeout=0,
    )


async def watch(settings: Settings, changed: Callable[[], None]) -> None:
    """Call *changed* after each change of a file under the directories to watch; until cancelled."""
    directories = settings.reload_dir or (settings.app_dir,)
    times = await asyncio.to_thread(_look, directories)
    log.info("watching for changes", extra={"directories": ":".join(directories)})
    while True:
        await asyncio.sleep(POLL_INTERVAL)
        before, times = times, await asyncio.to_thread(_look, directories)
        if (different := _first_difference(before, times)) is not None:
            log.info("reloading", extra={"changed": different})
            changed()


def _look(directories: Sequence[str]) -> Times:
    return {os.path.relpath(path): times for path, times in python_files(directories)}


def python_files(directories: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """
    (path, (modification time in ns, size)) of each .py file under *directories*.

    Hidden directories, __pycache__, node_modules and virtual environments are left out; links to
    directories are not followed.
    """
    waiting = list(directories)
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError:
            continue  # gone meanwhile, or not ours to read
        if any(entry.name == "pyvenv.cfg" for entry in found):
            continue
        for entry in found:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(".") and entry.name not in _SKIPPED_DIRECTORIES:
                        waiting.append(entry.path)
                elif entry.name.endswith(".py"):
                    status = entry.stat()
                    yield entry.path, (status.st_mtime_ns, status.st_size)
            except OSError:
                continue


def _first_difference(before: Times, after: Times) -> str | None:
    if before == after:
        return None
    return min(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
