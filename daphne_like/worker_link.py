"""
The line between a worker and the supervisor that started it: a socket pair with lines of JSON both ways.

Down come the orders (application, settings, sys.path, layer), and later questions. Up go `ready`, or `failed`
with the reason; then a beat each second; and, when it is asked for, the stacks of all threads, or which streams
the worker has in hand; and warnings that all workers would give, for the supervisor to give once.

In the worker all of this is done by a thread of its own, so that a worker whose event loop is stuck still
beats, and can still be asked where it is stuck. With each beat it says how long the event loop has been
silent: the thread posts a call into the loop and counts its own beats until that has run. It counts beats, not
time, for a process that was paused (SIGSTOP, a laptop's lid) was not stuck.

The end of the line means that the supervisor is gone, however it went: the worker ends, too, and removes the
private directory that the supervisor cannot remove any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from . import logs

__all__ = ["BEAT_INTERVAL", "MAX_LINE", "InHand", "SupervisorLink", "packed", "resident_memory", "stacks"]

log = logging.getLogger(logs.SERVER)

BEAT_INTERVAL = 1.0
# A line is longer than this only if somebody else writes to the socket.
MAX_LINE = 1024 * 1024
# Of tracebacks and stacks.
MAX_TEXT = 64 * 1024
# Without a supervisor: time for applications to notice that their clients are gone, and to shut down.
ORPHAN_TIME = 10.0

# By server: stream, epoch, and what of it the application has taken. See relay.worker.Worker.in_hand().
InHand = dict[str, list[list[int]]]


def packed(said: dict[str, Any]) -> bytes:
    """One line of the link."""
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


class SupervisorLink:
    """
    The worker's end.

    Args:
        descriptor: inherited; not handed on to processes that the application starts.

    Attributes:
        leavings: a directory to remove when the supervisor is gone.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._buffer = b""
        self._sending = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.leavings: str | None = None
        self._served: Callable[[], int] = int
        self._in_hand: Callable[[], InHand] = dict
        self._orphaned: Callable[[], None] = lambda: None
        self._turned = True
        self._silent = 0.0

    def receive_orders(self) -> dict[str, Any]:
        """
        Wait for the first line, then begin to listen in a thread of our own.

        From here on the process ends when the supervisor does, even while it imports the application.

        Raises:
            EOFError: the supervisor has ended already.
        """
        while (line := self._line()) is None:
            if not self._read():
                raise EOFError
        threading.Thread(target=self._run, name="supervisor link", daemon=True).start()
        orders: dict[str, Any] = json.loads(line)
        self.leavings = orders.get("leavings")
        return orders

    def say_ready(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        served: Callable[[], int],
        orphaned: Callable[[], None],
        in_hand: Callable[[], InHand] = dict,
    ) -> None:
        """
        The worker takes work from now on; begin to beat.

        Args:
            name: of the worker on the layer, as others see it.
            served: gives how many requests and WebSockets the worker has taken; called from another thread.
            orphaned: called in *loop* when the supervisor is gone.
            in_hand: gives Worker.in_hand; called from another thread.
        """
        self._served = served
        self._orphaned = orphaned
        self._in_hand = in_hand
        self._send({"say": "ready", "name": name})
        self._loop = loop

    def say_failed(self, exit_code: int, reason: str, details: str) -> None:
        """The worker ends without having been ready, for this reason."""
        self._send(
            {"say": "failed", "exit_code": exit_code, "reason": reason, "details": details[-MAX_TEXT:]}
        )

    def say_warning(self, sentence: str, facts: dict[str, str]) -> None:
        """What the other workers say, too: the supervisor logs it once."""
        self._send({"say": "warning", "sentence": sentence, "facts": facts})

    def _send(self, said: dict[str, Any]) -> None:
        try:
            with self._sending:
                self._socket.sendall(packed(said))
        except OSError as error:  # the supervisor is gone, which the thread is told by its own read
            log.debug("nothing said to the supervisor", extra={"reason": str(error)})

    def _read(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def _line(self) -> bytes | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return line

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        due = last = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= due:
                self._beat(now - last)
                last, due = now, now + BEAT_INTERVAL
            if select.select([self._socket], [], [], max(0.0, due - now))[0]:
                if not self._read():
                    break
                while (line := self._line()) is not None:
                    self._answer(json.loads(line))
        self._end_without_supervisor()

    def _beat(self, since_last: float) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if self._turned:
            self._turned, self._silent = False, 0.0
            try:
                loop.call_soon_threadsafe(self._loop_turned)
            except RuntimeError:  # closed in this moment: the process ends
                return
        else:
            self._silent += min(since_last, 2 * BEAT_INTERVAL)
        self._send(
            {"say": "beat", "silent": self._silent, "served": self._served(), "rss": resident_memory()}
        )

    def _loop_turned(self) -> None:
        self._turned = True

    def _answer(self, asked: dict[str, Any]) -> None:
        if asked.get("say") == "stacks":
            self._send({"say": "stacks", "stacks": stacks()})
        elif asked.get("say") == "in hand":
            self._send({"say": "in hand", "streams": self._in_hand()})

    def _end_without_supervisor(self) -> None:
        if self.leavings is not None:
            shutil.rmtree(self.leavings, ignore_errors=True)  # another worker may be at it, too
        loop = self._loop
        if loop is None:
            os._exit(1)
        log.warning("the supervisor is gone, ending")
        try:
            loop.call_soon_threadsafe(self._orphaned)
        except RuntimeError:  # closed: the process ends by itself
            pass
        threading.Event().wait(ORPHAN_TIME)
        os._exit(1)  # the event loop is stuck, or something does not end


def resident_memory() -> int:
    """Octets of memory that this process holds now; where that is not known, the most that it has held."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def stacks() -> str:
    """Where every other thread is right now, the main thread first."""
    frames = sys._current_frames()
    own = threading.get_ident()
    threads = sorted(threading.enumerate(), key=lambda each: each is not threading.main_thread())
    parts = []
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread.ident != own:
            parts.append(f"Thread {thread.name}:\n{''.join(traceback.format_stack(frame))}")
    return "".join(parts)[:MAX_TEXT]
