"""
A worker process as its supervisor sees it: started, ready, beating, ended.

Nothing here waits in a blocking call: the process is started in a thread (a server with many open sockets
takes a moment to fork), what it says is read by the event loop, and its end is told by a descriptor of the
process (pidfd) or, where the system has none, by a thread that waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from . import logs
from .errors import ConfigurationError, DaphneLikeError, StartupFailed
from .settings import Settings
from .worker_link import MAX_LINE, InHand, packed

__all__ = ["Beat", "Child", "ChildUser", "Placement", "log_failure", "log_text", "orders_for"]

log = logging.getLogger(logs.SERVER)

WORKER = ("-m", "daphne_like.worker_process")


@dataclass(frozen=True, slots=True)
class Beat:
    """
    What a worker says of itself each second.

    Attributes:
        silent: seconds since its event loop should have turned, 0 while it does.
        served: requests and WebSockets that it has taken so far.
        rss: resident memory in octets.
    """

    silent: float
    served: int
    rss: int


class Placement(Protocol):
    """Where new work goes; names are those that workers have on the layer."""

    def suspend(self, name: str) -> None:
        """No new work for this worker."""

    def resume(self, name: str) -> None:
        """It gets its share again."""

    def ended(self, name: str) -> None:
        """Its process is gone."""

    def condemned(self, name: str, in_hand: InHand | None) -> None:
        """It is about to be killed, because of what it is doing: nobody should do that again."""


class ChildUser(Protocol):
    """
    Whom a child tells what happens to it; plain calls in the event loop.

    Attributes:
        warned: what its children have warned of, which is logged once.
    """

    warned: set[str]

    def child_beat(self, child: Child) -> None:
        """Its `beat` is new."""

    def child_stacks(self, child: Child, stacks: str) -> None:
        """What its threads are doing, as asked for."""

    def child_ended(self, child: Child) -> None:
        """The process is gone, and its `exit_code` known."""


def orders_for(settings: Settings, application: str, leavings: str | None = None) -> dict[str, Any]:
    """
    What a worker is told first.

    Args:
        settings: `layer` is where it joins.
        leavings: a directory that nobody else removes when the server was killed.
    """
    return {
        "application": application,
        "settings": dataclasses.asdict(settings),
        "path": sys.path,
        "leavings": leavings,
    }


class Child:
    """
    Args:
        number: counts the workers that were ever started; names this one in the log.
        orders: what the worker needs to know; see worker_process.
        command: after the interpreter; the tests have workers of their own.

    Attributes:
        name: of the worker on the layer; "" until it is ready.
        exit_code: None while it lives; negative where a signal ended it.
        ready_at, beat_at: by the loop's clock; 0 before.
        quota: added to `limit_max_requests` for this one.
        unwanted: the supervisor has thought better of it.
        beat: the last; None before the first.
        described: which one it is, for the log.
    """

    def __init__(
        self,
        number: int,
        orders: Mapping[str, Any],
        user: ChildUser,
        *,
        environment: Mapping[str, str],
        command: tuple[str, ...] = WORKER,
    ) -> None:
        self.number = number
        self.name = ""
        self.exit_code: int | None = None
        self.quota = 0
        self.unwanted = False
        self._killed = False
        self.ready_at = self.beat_at = 0.0
        self.beat: Beat | None = None
        self._orders = orders
        self._user = user
        self._environment = environment
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._failure: DaphneLikeError | None = None
        self._in_hand: InHand | None = None
        self._told_in_hand = asyncio.Event()
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def described(self) -> dict[str, Any]:
        return {"worker": self.number, "pid": self._process.pid if self._process is not None else 0}

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self.exit_code is None

    def due(self, settings: Settings, now: float) -> str | None:
        """Why it should be replaced by another one, by *settings*: "requests", "age", "memory"; None if not."""
        beat = self.beat
        if beat is None:
            return None
        limit = settings.limit_max_requests
        if limit and beat.served >= limit + self.quota:
            return "requests"
        if settings.workers_lifetime and now - self.ready_at >= settings.workers_lifetime:
            return "age"
        if settings.workers_max_rss and beat.rss > settings.workers_max_rss:
            return "memory"
        return None

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process and give it its orders."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            starting = loop.run_in_executor(None, self._spawn, theirs.fileno())
            try:
                self._process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                await asyncio.wait((starting,))
                self._process = starting.result()
                self._watch_end(loop)
                raise
        ours.setblocking(False)
        loop.add_reader(ours, self._readable)
        self._watch_end(loop)
        with contextlib.suppress(OSError):  # it has ended already, which is told in another place
            await loop.sock_sendall(ours, packed(dict(self._orders)))

    def _spawn(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *self._command, str(descriptor)],
            pass_fds=(descriptor,),
            env=dict(self._environment),
        )

    async def wait_ready(self, timeout: float) -> None:
        """
        Wait until it takes work.

        Args:
            timeout: seconds; 0 for no limit. The process goes on then, for the caller to end.

        Raises:
            ConfigurationError, StartupFailed: why it does not; in its own words where it had any.
        """
        try:
            async with asyncio.timeout(timeout or None):
                await self._settled.wait()
        except TimeoutError:
            raise StartupFailed(
                f"a worker was not ready within {timeout:g} s (--worker-start-timeout)"
            ) from None
        if self._failure is not None:
            raise self._failure
        if self.exit_code is not None:  # which was told before anybody could know that it was ready
            when = "as soon as" if self.name else "before"
            raise StartupFailed(f"a worker ended {when} it was ready ({self.how_it_ended})")

    async def wait_ended(self, timeout: float | None = None) -> bool:
        """Whether it has ended within *timeout* seconds."""
        if self._process is None:
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def drain(self) -> None:
        """Have it finish or hand over what it has, and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._killed = self._killed or self.running
        self._signal(signal.SIGKILL)

    @property
    def how_it_ended(self) -> str:
        """In words. Nobody is to look for the one who killed it, if that was us."""
        if self._killed and self.exit_code == -signal.SIGKILL:
            return "killed by the server"
        return _ending(self.exit_code)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def ask_for_stacks(self) -> None:
        """Its thread answers even while its event loop does not: child_stacks() is called."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # nobody reads: it is paused, or has ended
                self._socket.send(packed({"say": "stacks"}))

    async def in_hand(self, timeout: float) -> InHand | None:
        """The streams that it has in hand, as its thread says; None if that takes longer than *timeout*."""
        self._in_hand = None
        self._told_in_hand.clear()
        if self._socket is not None and self.running:
            with contextlib.suppress(OSError, TimeoutError):
                self._socket.send(packed({"say": "in hand"}))
                async with asyncio.timeout(timeout):
                    await self._told_in_hand.wait()
        return self._in_hand

    # -- what it says -----------------------------------------------------------------------------

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._received(data)

    def _received(self, data: bytes) -> None:
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                self._heard(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                log.error("a worker talks nonsense", extra={**self.described, "reason": repr(error)})
        if not data or len(self._buffer) > MAX_LINE:
            self._close_link()

    def _heard(self, said: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        match said["say"]:
            case "beat":
                self.beat = Beat(said["silent"], said["served"], said["rss"])
                self.beat_at = now
                self._user.child_beat(self)
            case "ready":
                self.name = said["name"]
                self.ready_at = self.beat_at = now
                self._settled.set()
            case "failed":
                if said["exit_code"] == ConfigurationError.exit_code:
                    self._failure = ConfigurationError(said["reason"])
                else:
                    self._failure = StartupFailed(said["reason"], details=said["details"])
            case "stacks":
                self._user.child_stacks(self, said["stacks"])
            case "warning":
                if said["sentence"] not in self._user.warned:
                    self._user.warned.add(said["sentence"])
                    log.warning(said["sentence"], extra=said["facts"])
            case "in hand":
                self._in_hand = said["streams"]
                self._told_in_hand.set()

    def _close_link(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    # -- its end ----------------------------------------------------------------------------------

    def _watch_end(self, loop: asyncio.AbstractEventLoop) -> None:
        process = self._process
        assert process is not None
        try:
            descriptor = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not on this system, or too many open files

            def wait() -> None:
                code = process.wait()
                loop.call_soon_threadsafe(self._has_ended, code)

            threading.Thread(target=wait, name=f"worker {self.number}", daemon=True).start()
            return

        def readable() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._has_ended(process.wait())

        loop.add_reader(descriptor, readable)

    def _has_ended(self, code: int) -> None:
        self._readable()  # its last words may be in the socket still
        self._close_link()
        self.exit_code = code
        self._settled.set()
        self._told_in_hand.set()
        self._ended.set()
        self._user.child_ended(self)


def _ending(code: int | None) -> str:
    """An exit code in words: "exit code 1", "killed by SIGKILL"."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def log_failure(sentence: str, error: DaphneLikeError | None, **fields: Any) -> None:
    """Log why a worker did not start, and below it the traceback that it had for that."""
    details = error.details if isinstance(error, StartupFailed) else ""
    log_text(logging.ERROR, sentence, details, {"reason": str(error), **fields})


def log_text(level: int, sentence: str, text: str, fields: dict[str, Any]) -> None:
    """A line with more lines below it: the traceback or the stacks of another process."""
    if log.isEnabledFor(level):
        log.handle(
            log.makeRecord(
                log.name, level, __file__, 0, sentence, (), None, extra=fields, sinfo=text.rstrip() or None
            )
        )
