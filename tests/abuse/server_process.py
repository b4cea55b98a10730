"""
One server under test: started on loopback, watched from outside, ended.

Figures come from /proc, so this is Linux only. A server may consist of several processes (a parent and its
worker): every figure is the sum over the process tree. Memory is VmRSS; its peak is sampled by a thread and
completed by the kernel's own high-water mark (VmHWM), which a write to clear_refs resets, so that a peak
between two samples is not missed.

The command is a template of words: {python}, {port}, {app} and {options} are filled in. {options} is where
a scenario's shortened timeouts go; a template without it gets none, since other servers name them
differently.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .client import BadAnswer, connect, fetch

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "tests.abuse.application:application"
OURS = "{python} -m daphne_like -b 127.0.0.1 -p {port} {options} {app}"

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_START_TIMEOUT = 30.0
_END_TIMEOUT = 5.0
_POLL_INTERVAL = 0.02
_SAMPLE_INTERVAL = 0.01

# Sets the descriptor limit and becomes the server: a preexec_fn would run Python between fork and exec of a
# threaded process.
_LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ServerDied(Exception):
    """The server's process has ended, or never answered."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def command_line(template: str, port: int, options: tuple[str, ...] = ()) -> list[str]:
    """
    The words of *template* with its fields filled in; a bare program name is looked for beside this
    interpreter first.
    """
    words: list[str] = []
    for word in shlex.split(template):
        if word == "{options}":
            words.extend(options)
        else:
            words.append(word.format(python=sys.executable, port=port, app=APPLICATION, options=""))
    beside = Path(sys.executable).parent / words[0]
    if "/" not in words[0] and beside.exists():
        words[0] = str(beside)
    return words


class ServerProcess:
    """
    A running server, as a context manager: it answers on `port` inside the block and is gone after it.

    Args:
        template: see the module's docstring.
        options: words for {options}.
        descriptors: RLIMIT_NOFILE of the server, soft and hard; None leaves what this process has.
        port: 0 for any free one.
    """

    def __init__(
        self,
        template: str = OURS,
        *,
        options: tuple[str, ...] = (),
        descriptors: int | None = None,
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self._command = command_line(template, self.port, options)
        if descriptors is not None:
            self._command = [sys.executable, "-c", _LIMITED, str(descriptors), *self._command]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None
        self.printed = ""  # the end of its output, once it has ended

    def __enter__(self) -> ServerProcess:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
            )
            self._wait_until_it_answers()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            self.check_alive()
            try:
                if fetch(self.port, "/ping", timeout=2.0).status == 200:
                    return
            except (OSError, BadAnswer):
                pass  # not yet
            if time.monotonic() > deadline:
                raise ServerDied(f"does not answer after {_START_TIMEOUT:.0f} s; {self._last_line()}")
            time.sleep(_POLL_INTERVAL)

    def _wait_until_the_port_is_free(self) -> None:
        """A worker process may hold the listening socket for a moment longer than its parent."""
        deadline = time.monotonic() + _END_TIMEOUT
        while time.monotonic() < deadline:
            try:
                connect(self.port, timeout=1.0).close()
            except OSError:
                return
            time.sleep(_POLL_INTERVAL)

    def kill(self) -> None:
        """Ends the server's whole process group at once; harmless when it has ended."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):  # between its end and our wait()
                os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self.kill()
        if self._process is not None:
            self._process.wait()
            self._wait_until_the_port_is_free()
        self.printed = self.output()
        self._output.close()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check_alive(self) -> None:
        if not self.alive:
            code = self._process.returncode if self._process is not None else None
            raise ServerDied(f"exit code {code}; {self._last_line()}")

    def output(self, size: int = 3000) -> str:
        """The last *size* octets that the server printed."""
        length = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, max(0, length - size)).decode("utf-8", "replace")

    def _last_line(self) -> str:
        lines = self.output().strip().splitlines()
        return f"its last words: {lines[-1]}" if lines else "it printed nothing"

    # --- figures ------------------------------------------------------------------------------------------

    def process_ids(self) -> list[int]:
        """The server's process and all its descendants."""
        if self._process is None:
            return []
        found = [self._process.pid]
        for process_id in found:  # grows while it is walked
            for children in Path(f"/proc/{process_id}/task").glob("*/children"):
                found.extend(int(child) for child in _read(children).split())
        return found

    def resident_memory(self) -> int:
        """VmRSS, bytes."""
        return sum(_status_bytes(process_id, "VmRSS") for process_id in self.process_ids())

    def descriptors(self) -> int:
        count = 0
        for process_id in self.process_ids():
            try:
                count += len(os.listdir(f"/proc/{process_id}/fd"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended between the two looks
        return count

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        ticks = 0
        for process_id in self.process_ids():
            fields = _read(Path(f"/proc/{process_id}/stat")).rpartition(")")[2].split()
            if fields:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _CLOCK_TICKS


class MemoryWatch:
    """
    Samples a server's resident memory from start() to stop(); growth is counted from what it was at start().

    The process tree is looked up once: a worker started later would not be seen, and none of the servers
    starts one.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._process_ids = server.process_ids()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory watch", daemon=True)
        self.baseline = 0
        self._peak = 0
        self._high_water_reset = False

    def start(self) -> None:
        self.baseline = self._peak = self._now()
        self._high_water_reset = all(_reset_high_water(process_id) for process_id in self._process_ids)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def growth(self) -> int:
        """At this moment, bytes; may be negative."""
        return self._now() - self.baseline

    @property
    def peak_growth(self) -> int:
        """The most so far, bytes."""
        peak = max(self._peak, self._now())
        if self._high_water_reset:
            peak = max(peak, sum(_status_bytes(process_id, "VmHWM") for process_id in self._process_ids))
        return max(0, peak - self.baseline)

    def _now(self) -> int:
        return sum(_status_bytes(process_id, "VmRSS") for process_id in self._process_ids)

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_INTERVAL):
            self._peak = max(self._peak, self._now())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # the process has ended


def _status_bytes(process_id: int, field: str) -> int:
    """A kB field of /proc/PID/status in bytes; 0 when the process has ended."""
    for line in _read(Path(f"/proc/{process_id}/status")).splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_high_water(process_id: int) -> bool:
    """Whether VmHWM now counts from here (proc(5): clear_refs, value 5)."""
    try:
        Path(f"/proc/{process_id}/clear_refs").write_text("5")
    except OSError:
        return False
    return True
