"""
The servers that `scripts/bench` compares: how each is started, and what its processes cost.

Every server gets one process (or one worker), one core, no access log, and otherwise its own defaults; where
a default is "whatever is installed" (event loop, HTTP parser), the fast choice is spelled out, so that a
missing package is an error and not a slow peer. A server is started afresh for every single measurement and
stopped after it: no row inherits another's heap, and no idle server shares the core.

Processor time and memory are summed over the server's session (granian and hypercorn serve from a child
process).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIB = Path(__file__).resolve().parent
ROOT = LIB.parent.parent
APPLICATION = "bench_app:application"

OURS = "daphne_like"
REFERENCE = "uvicorn"

# Below the kernel's ephemeral range, so that no client socket of ours sits on one.
PORTS = range(8180, 8200)
PORTS_IN_TURN = itertools.cycle(PORTS)
STARTUP_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class ServerFailed(Exception):
    """A server did not start, or is not there any more. The text ends with what it last wrote."""


@dataclass(frozen=True)
class Server:
    """
    One column of the table.

    Args:
        name: how it is called on the command line and in the table; also the distribution's name on PyPI.
        arguments: of `python -m`; `{port}` and `{application}` are filled in.
        modules: what must be importable for it to run as intended.
    """

    name: str
    arguments: str
    modules: tuple[str, ...]

    def missing_modules(self) -> list[str]:
        return [module for module in self.modules if not importable(module)]

    def version(self) -> str:
        """Of the installed distribution; our own may also run from the source tree, not installed."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def command(self, port: int, python: tuple[str, ...]) -> list[str]:
        return [*python, *self.arguments.format(port=port, application=APPLICATION).split()]


SERVERS = {
    server.name: server
    for server in (
        Server(
            OURS,
            # Daphne's -v 0: without it the access log goes to stdout.
            "-m daphne_like -v 0 -b 127.0.0.1 -p {port} {application}",
            ("daphne_like.__main__", "uvloop", "httptools", "twisted", "autobahn"),
        ),
        Server(
            REFERENCE,
            "-m uvicorn --no-access-log --loop uvloop --http httptools --ws websockets-sansio"
            " --host 127.0.0.1 --port {port} {application}",
            ("uvicorn", "uvloop", "httptools", "websockets"),
        ),
        Server(
            "granian",
            "-m granian --interface asgi --loop uvloop --workers 1 --runtime-threads 1"
            " --host 127.0.0.1 --port {port} {application}",
            ("granian", "uvloop"),
        ),
        Server(
            "hypercorn",
            "-m hypercorn --worker-class uvloop --workers 1 --bind 127.0.0.1:{port} {application}",
            ("hypercorn", "uvloop"),
        ),
        Server(
            "daphne",
            "-m daphne -v 0 -b 127.0.0.1 -p {port} {application}",
            ("daphne", "twisted", "autobahn"),
        ),
    )
}


def importable(module: str) -> bool:
    """Whether *module* is there; of a dotted name the parent is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class RunningServer:
    """A started server: its port, and what its processes have used so far."""

    def __init__(self, server: Server, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.server = server
        self.port = port
        self.process = process
        self.log = log

    def pids(self) -> list[int]:
        """Of every process in the server's session: the one started and its children."""
        session = self.process.pid
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                # A process may end between the listing and the look at it.
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(entry.name)) == session:
                        found.append(int(entry.name))
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all its processes."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                # Field 2 is the name in parentheses, which may hold spaces: count from behind it.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / CLOCK_TICKS

    def resident_bytes(self) -> int:
        """Resident set size of all its processes."""
        pages = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * PAGE_SIZE

    def check_alive(self) -> None:
        """Raise ServerFailed when the process that was started has ended."""
        status = self.process.poll()
        if status is not None:
            raise ServerFailed(f"{self.server.name} ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        # Of a traceback, the lines that only underline tell nothing.
        words = [line.strip() for line in lines if line.strip(" ^~")]
        return " | ".join(words[-3:]) or "(it wrote nothing)"


@contextlib.contextmanager
def running(
    server: Server,
    *cores: int,
    python: tuple[str, ...] = (sys.executable,),
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[RunningServer]:
    """
    Start *server* pinned to *cores*, wait until it accepts connections, stop it afterwards.

    Args:
        python: the interpreter and its own options; `scripts/bench profile` puts cProfile here.
        stop_signal: what asks it to end.

    Raises:
        ServerFailed: it ended, or accepted nothing within STARTUP_TIMEOUT seconds.
    """
    port = free_port()
    # The source tree goes first, so that what is measured is what is here, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIB), str(ROOT)])}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                server.command(port, python),
                cwd=LIB,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # This process has one thread, and forks with nothing held.
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        started = RunningServer(server, port, process, log)
        try:
            wait_until_accepting(started)
            yield started
        finally:
            stop(process, stop_signal)


def wait_until_accepting(started: RunningServer) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while True:
        started.check_alive()
        try:
            socket.create_connection(("127.0.0.1", started.port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                name, words = started.server.name, started.last_words()
                raise ServerFailed(f"{name} accepted nothing for {STARTUP_TIMEOUT:.0f} s: {words}") from None
            # Nothing can be waited for: a socket that nobody listens on refuses at once.
            time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """*stop_signal* to the process, then SIGKILL to its whole group for whatever is left."""
    process.send_signal(stop_signal)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Ports in turn, so that one server's closed connections do not linger on the next one's port."""
    for _ in PORTS:
        port = next(PORTS_IN_TURN)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
