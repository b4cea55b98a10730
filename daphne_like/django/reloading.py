"""
`runserver` in two processes: one starts the site again and again, and the site ends when a file has changed.

The first opens the sockets and the second inherits them, so that while the site starts anew its clients wait and
are not refused. Django's own first process would leave the second a quarter of a second after CONTROL-C and none
after SIGTERM, and kill it; here it has time to tell its clients.

Django's autoreloader takes what it sees first for what the site runs. A file saved between the moment it was
read and that first look would be old for ever, and here, where the browser's request waits for the new site
and is answered at once, the next save is soon. So a module saved since the process began makes the site start
anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.utils import autoreload

__all__ = ["STOP_WITHIN", "hand_over", "inherited", "look_back", "run_children"]

# Descriptors of the sockets that the site's process inherits. Not a setting: the prefix of those is another.
_INHERITED = "RUNSERVER_SOCKETS"
# When the site's process was started, seconds since the epoch.
_BEGUN = "RUNSERVER_BEGUN"
# Exit codes of a site that wants to be started anew: Django's autoreloader's, and look_back()'s.
RELOAD = 3
LOOKED_BACK = 103
# As often as this, one after the other: a site may write a module of its own at each start.
MAX_LOOKS_BACK = 2
# What the site's process has to end in, once told.
STOP_WITHIN = 5.0
# After CONTROL-C, which a terminal sends to both processes.
TERMINAL_WITHIN = 0.5
# For the interpreter's own end.
MARGIN = 1.0


def hand_over(sockets: list[socket.socket]) -> None:
    """Have the processes that this one starts inherit *sockets*; they find them with inherited()."""
    for sock in sockets:
        sock.set_inheritable(True)
    os.environ[_INHERITED] = ",".join(str(sock.fileno()) for sock in sockets)


def inherited() -> list[socket.socket]:
    """The sockets that were handed over to this process; none the second time."""
    said = os.environ.pop(_INHERITED, "")
    sockets = []
    for word in said.split(","):
        if word.isdecimal():
            try:
                sock = socket.socket(fileno=int(word))
            except OSError:  # whatever it is: it does not come from our parent
                continue
            sock.set_inheritable(False)  # it ends with this process
            sockets.append(sock)
    return sockets


def look_back() -> None:
    """Have the autoreloader end this process if a module was saved between its start and the first look."""
    begun = float(os.environ.pop(_BEGUN, "inf"))

    def on_started(sender: Any, **_: object) -> None:
        ticks = sender.tick()

        def tick() -> Iterator[None]:
            for number, each in enumerate(ticks):
                if number == 0:  # from here on it sees for itself what is saved
                    _end_if_saved_since(begun)
                yield each

        sender.tick = tick

    autoreload.autoreload_started.connect(on_started, weak=False)


def _end_if_saved_since(begun: float) -> None:
    now = time.time()
    for path in autoreload.iter_all_python_module_files():
        try:
            saved = path.stat().st_mtime
        except OSError:
            continue
        if begun < saved <= now:  # what lies in the future says nothing: the clock is another one
            autoreload.logger.info("%s changed, reloading.", path)
            sys.exit(LOOKED_BACK)


class _Told(BaseException):
    """A signal that ends this process."""

    def __init__(self, number: int, *_: object) -> None:
        super().__init__(number)
        self.number = number


def run_children(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """
    Run *command*, again whenever it ends with RELOAD or LOOKED_BACK; otherwise return its exit code.

    SIGINT and SIGTERM are meant for both. Waits for the child to end; told once more, kills it.
    """

    def told(number: int, _: object) -> None:
        raise _Told(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
    site = {name: value for name, value in environment.items() if name != _BEGUN}  # not of one that runs us
    looks = 0
    while True:
        begun = {_BEGUN: str(time.time())} if looks < MAX_LOOKS_BACK else {}
        child = subprocess.Popen(command, env=site | begun, close_fds=False)
        try:
            code = child.wait()
        except _Told as error:
            return _end_child(child, error.number)
        looks = looks + 1 if code == LOOKED_BACK else 0
        if code != RELOAD and not (code == LOOKED_BACK and begun):
            return code if code >= 0 else 1


def _end_child(child: subprocess.Popen[bytes], number: int) -> int:
    """Have *child* end, since this process was told to; told once more, at once."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: child.kill())
    if number == signal.SIGINT:
        # A terminal has told both of us. Whoever told only this process means both.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return max(child.wait(TERMINAL_WITHIN), 0)
    child.terminate()
    try:
        return max(child.wait(STOP_WITHIN + MARGIN), 0)
    except subprocess.TimeoutExpired:
        child.kill()
        return max(child.wait(), 0)
