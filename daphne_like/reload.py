"""
--reload: a parent that keeps the listening sockets, and a child that serves and is replaced.

The parent opens the sockets once and hands them to every child as inherited descriptors. While no child
is there, connections wait in the kernel's backlog; none is refused, and a browser that reloads meanwhile
just takes a moment longer. Sockets of `--endpoint` strings belong to Twisted, thus to the child: they alone
close during a reload.

When a Python file under the watched directories changes, the child gets SIGTERM, a short time to finish,
and SIGKILL after it. A child that ends by itself (an import that fails) is not started again before
the next change. Only at the very first start do words that cannot be right end the parent, too.

The child gets its settings as one line of JSON over a pipe, which then stays open: when the parent is
gone, however it went, the child reads the end of it and stops. It shares the parent's process group, so
that a debugger in it can use the terminal; therefore it does not hear SIGINT, which a terminal
sends to both. The parent translates it.

Files are watched by looking at their times twice a second. That needs no further package, and works
on network and container mounts, where the kernel's notifications do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from . import logs
from .errors import ConfigurationError, StartupFailed
from .net.sockets import bind_tcp, bind_unix, inherit, remove_unix, systemd_descriptors
from .settings import Settings

__all__ = ["Reloader", "python_files", "supervise"]

log = logging.getLogger(logs.RELOAD)

POLL_INTERVAL = 0.5
# Requests of a developer's own browser get a moment; an event stream must not hold up each reload for the
# half minute that a server in production grants it.
GRACEFUL_TIMEOUT = 2.0
SHUTDOWN_TIMEOUT = 5.0
# After both of them, for the interpreter's own end.
KILL_MARGIN = 2.0

_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})

Times = dict[str, tuple[int, int]]


def supervise(settings: Settings, application: str) -> int:
    """
    Serve *application* and start it anew after each change, until SIGTERM or SIGINT; the exit code.

    Raises:
        StartupFailed: a socket cannot be opened.
    """
    if sys.platform == "win32":
        raise StartupFailed("--reload: passing sockets to another process needs a Unix")
    logs.configure(dataclasses.replace(settings, access_log=""))
    with contextlib.ExitStack() as opened:
        descriptors = _open_sockets(settings, opened)
        return Reloader(settings, application, descriptors).run()


class Reloader:
    """
    Keeps one child and watches files.

    Args:
        descriptors: listening sockets to hand to each child.
    """

    def __init__(self, settings: Settings, application: str, descriptors: Sequence[int]) -> None:
        self._directories = settings.reload_dir or (settings.app_dir,)
        trusted = settings.forwarded_allow_ips
        if settings.proxy_headers and settings.unix_socket and "unix" not in trusted:
            trusted = (*trusted, "unix")  # the child cannot tell that they are our own
        self._child_settings = dataclasses.replace(
            settings,
            bind=(),
            port=None,
            unix_socket=(),
            file_descriptor=tuple(descriptors),
            forwarded_allow_ips=trusted,
            reload=False,
            reload_dir=(),
            graceful_timeout=min(settings.graceful_timeout, GRACEFUL_TIMEOUT),
            shutdown_timeout=min(settings.shutdown_timeout or SHUTDOWN_TIMEOUT, SHUTDOWN_TIMEOUT),
        )
        self._application = application
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._signals: list[int] = []
        # From a terminal SIGHUP says that it was closed; otherwise, that there is a new certificate.
        hangup = {signal.SIGHUP} if sys.stdin is not None and sys.stdin.isatty() else set()
        self._stopping = {signal.SIGTERM, signal.SIGINT} | hangup

    def run(self) -> int:
        """Until SIGTERM or SIGINT; only in a main thread."""
        with self._hearing_signals() as wakeup:
            log.info("watching for changes", extra={"directories": ":".join(self._directories)})
            times = self._look()
            self._start()
            first = True
            try:
                while (changed := self._wait(wakeup, times)) is not None:
                    if changed:
                        log.info("reloading", extra={"changed": os.path.relpath(changed)})
                        self._stop(wakeup)
                        if self._stop_asked():
                            break
                        first = False
                        times = self._look()
                        self._start()
                    elif self._child is not None:
                        code = self._child.wait()
                        self._forget()
                        if first and code == ConfigurationError.exit_code:
                            return code
                        log.warning(
                            "the server has ended; it starts again after the next change",
                            extra={"exit_code": code},
                        )
            finally:
                self._stop(wakeup)
        return 0

    # -- waiting ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[socket.socket]:
        """Signals are noted and make the socket readable; nothing happens inside of a handler."""
        ours, pythons = socket.socketpair()
        ours.setblocking(False)
        pythons.setblocking(False)
        heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, self._note) for number in heard}
        old_wakeup = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            pythons.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _stop_asked(self) -> bool:
        return any(number in self._stopping for number in self._signals)

    def _pause(self, wakeup: socket.socket, timeout: float) -> None:
        """Until a signal comes, *timeout* at most."""
        if select.select([wakeup], [], [], max(timeout, 0))[0]:
            with contextlib.suppress(BlockingIOError):
                while wakeup.recv(64):
                    pass

    def _wait(self, wakeup: socket.socket, times: Times) -> str | None:
        """The file that changed; "" once the child has ended; None once the user wants to stop."""
        while True:
            if self._stop_asked():
                return None
            if signal.SIGHUP in self._signals:
                self._signals.remove(signal.SIGHUP)
                self._tell(signal.SIGHUP)
            if self._child is not None and self._child.poll() is not None:
                return ""
            changed = _first_difference(times, self._look())
            if changed is not None:
                return changed
            self._pause(wakeup, POLL_INTERVAL)

    def _look(self) -> Times:
        return dict(python_files(self._directories))

    # -- the child --------------------------------------------------------------------------------

    def _start(self) -> None:
        reader, self._lifeline = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "daphne_like.reload", str(reader)],
                pass_fds=(reader, *self._child_settings.file_descriptor),
            )
        finally:
            os.close(reader)
        about = {
            "application": self._application,
            "settings": dataclasses.asdict(self._child_settings),
            "path": sys.path,
        }
        # The reader may be dead already; poll() will tell.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lifeline, json.dumps(about).encode() + b"\n")

    def _tell(self, number: int) -> None:
        if self._child is not None:
            self._child.send_signal(number)

    def _stop(self, wakeup: socket.socket) -> None:
        if self._child is None:
            return
        asked = sum(number in self._stopping for number in self._signals)
        self._tell(signal.SIGTERM)
        bound = self._child_settings.graceful_timeout + self._child_settings.shutdown_timeout + KILL_MARGIN
        deadline = time.monotonic() + bound
        while self._child.poll() is None:
            now_asked = sum(number in self._stopping for number in self._signals)
            if now_asked > asked:
                asked = now_asked
                self._tell(signal.SIGTERM)  # a second one means: at once
            if time.monotonic() >= deadline:
                log.warning("the application does not stop, killing it", extra={"after": bound})
                self._child.kill()
                self._child.wait()
                break
            self._pause(wakeup, deadline - time.monotonic())
        self._forget()

    def _forget(self) -> None:
        self._child = None
        os.close(self._lifeline)
        self._lifeline = -1


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


# -- sockets --------------------------------------------------------------------------------------


def _open_sockets(settings: Settings, opened: contextlib.ExitStack) -> list[int]:
    """Descriptors that accept connections, as long as *opened* is not closed."""
    listening = []
    if not settings.sockets_named and (handed_over := systemd_descriptors()):
        listening += [opened.enter_context(inherit(each, "systemd's socket")) for each in handed_over]
    else:
        for host, port in settings.tcp_addresses():
            listening += [opened.enter_context(each) for each in bind_tcp(host, port)]
        for path in settings.unix_socket:
            listening.append(opened.enter_context(bind_unix(path, settings.unix_socket_mode)))
            opened.callback(remove_unix, path, os.stat(path).st_ino)
        listening += [opened.enter_context(inherit(each, "--fd")) for each in settings.file_descriptor]
    for each in listening:
        each.listen(settings.backlog)
    return [each.fileno() for each in listening]


# -- inside of the child --------------------------------------------------------------------------


def _serve_as_child(descriptor: int) -> int:
    # The mask, because run.run() installs a handler of its own: the parent's SIGTERM is what counts.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Until run.run() hears it: certificates just about to be read need not be read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from . import run

    lifeline = os.fdopen(descriptor, "rb")
    about: dict[str, Any] = json.loads(lifeline.readline())
    sys.path[:] = about["path"]
    threading.Thread(target=_stop_with_parent, args=(lifeline,), name="lifeline", daemon=True).start()
    return run.run(Settings(**about["settings"]), about["application"])


def _stop_with_parent(lifeline: Any) -> None:
    lifeline.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from .reporting import reporting

    sys.exit(reporting(lambda: _serve_as_child(int(sys.argv[1]))))
