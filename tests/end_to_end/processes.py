"""
The server as its users run it: `python -m daphne_like ...` in a process of its own, on real sockets.

    with serving("-p", "0", "tests.end_to_end.applications.plain:application") as server:
        ... server.port, server.signal(SIGHUP), server.stderr.wait_for("certificate reloaded")

Its output is read by threads line by line, so that waiting for a line is waiting for an event. Leaving the
block stops the server with SIGTERM (unless it has ended already) and asserts that it ended with 0, and that
nothing in its log is a traceback, a warning of asyncio's or of Python's; a test that expects some says so.

Nothing here waits without a bound.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = [
    "APPLICATIONS",
    "ROOT",
    "Lines",
    "ServerProcess",
    "children",
    "complaint_of",
    "connected",
    "eventually",
    "free_port",
    "serving",
]

ROOT = Path(__file__).resolve().parents[2]
APPLICATIONS = "tests.end_to_end.applications"

START_WITHIN = 30.0
STOP_WITHIN = 30.0
LINE_WITHIN = 20.0
ASK_AGAIN = 0.03

LISTENING = re.compile(r"listening address=(\S+)")
# What must not be in the log of a server that is well. The last two are asyncio's and Python's own words.
TROUBLE = re.compile(
    r"Traceback \(most recent call last\)|^\S+Error\b|Exception (?:ignored )?in"
    r"|was never (?:awaited|retrieved)|was destroyed but it is pending|ResourceWarning",
    re.M,
)


class Lines:
    """Lines of a stream, collected by a thread; may be waited for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="log reader", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, *, count: int = 1, timeout: float = LINE_WITHIN) -> re.Match[str]:
        """
        The match of *pattern* in the *count*-th line that has one, when that line has come.

        Raises:
            AssertionError: the stream ended without it, or *timeout* seconds have passed.
        """
        expression = re.compile(pattern)
        with self._changed:

            def found() -> list[re.Match[str]]:
                return [match for line in self._lines if (match := expression.search(line))]

            self._changed.wait_for(lambda: self._ended or len(found()) >= count, timeout)
            matches = found()
            assert len(matches) >= count, f"no line like {pattern!r} in\n{self.text}"
            return matches[count - 1]

    @property
    def text(self) -> str:
        """All that has come so far."""
        with self._changed:
            return "\n".join(self._lines)

    def close(self) -> None:
        self._thread.join(LINE_WITHIN)
        self._stream.close()


class ServerProcess:
    """
    Args:
        words: of the command line, after the program's name.
        environment: on top of this process's own.
        directory: to start in.
        pass_fds: descriptors to inherit.
        program: what stands before the words.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        directory: Path = ROOT,
        pass_fds: Sequence[int] = (),
        program: Sequence[str] = (sys.executable, "-m", "daphne_like"),
    ) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [*program, *words],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})},
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Lines(self.process.stdout)
        self.stderr = Lines(self.process.stderr)

    @property
    def address(self) -> str:
        """Of the first socket, as the log has it: http://127.0.0.1:8330."""
        return self.stderr.wait_for(LISTENING.pattern, timeout=START_WITHIN)[1]

    @property
    def port(self) -> int:
        """Of the first TCP socket."""
        return int(self.stderr.wait_for(r"listening address=https?://\S+:(\d+)", timeout=START_WITHIN)[1])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP_WITHIN) -> int:
        """Wait for the end of the process; its exit code."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = STOP_WITHIN) -> int:
        """SIGTERM, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_WITHIN)

    def close(self) -> None:
        """Kill what still runs, and take the rest of its output."""
        self.kill()
        self.stdout.close()
        self.stderr.close()


@contextmanager
def serving(
    *words: str,
    environment: dict[str, str] | None = None,
    directory: Path = ROOT,
    pass_fds: Sequence[int] = (),
    program: Sequence[str] = (sys.executable, "-m", "daphne_like"),
    ready: Callable[[ServerProcess], object] | None = None,
    expected_trouble: bool = False,
    exit_code: int = 0,
) -> Iterator[ServerProcess]:
    """
    A server that listens inside of the block, and has ended well after it.

    Args:
        ready: waits until the server can be used; by default the "listening" line is waited for.
        expected_trouble: the application is there to fail: its tracebacks are welcome.
        exit_code: how it ends when the block is left.
    """
    server = ServerProcess(
        words, environment=environment, directory=directory, pass_fds=pass_fds, program=program
    )
    try:
        try:
            if ready is not None:
                ready(server)
            else:
                server.stderr.wait_for(LISTENING.pattern, timeout=START_WITHIN)
            yield server
            ended_with = server.stop()
        finally:
            server.close()
    except BaseException:
        access = "".join(server.stdout.text.splitlines(keepends=True)[-20:])
        print(f"--- the end of the server's stdout ---\n{access}\n--- its stderr ---\n{server.stderr.text}")
        raise
    assert ended_with == exit_code, f"exit code {ended_with}\n{server.stderr.text}"
    trouble = TROUBLE.search(server.stderr.text)
    assert expected_trouble or trouble is None, server.stderr.text


def complaint_of(*words: str, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command line that cannot start: its exit code, and the lines on stderr."""
    server = ServerProcess(words, environment=environment)
    try:
        code = server.wait(START_WITHIN)
    finally:
        server.close()
    return code, server.stderr.text.splitlines()


def free_port() -> int:
    """A TCP port that nobody listens on, for programs that cannot be told 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def connected(port: int) -> Callable[[ServerProcess], None]:
    """A *ready* for servers that log nothing: a connection to *port* is accepted."""

    def accepted(server: ServerProcess) -> bool:
        assert server.process.poll() is None, f"ended with {server.process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_WITHIN).close()
        except ConnectionRefusedError:
            return False
        return True

    return lambda server: eventually(lambda: accepted(server), START_WITHIN)


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, whichever of its threads started them; Linux."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            pass  # the thread has ended
    return found


def eventually(holds: Callable[[], bool], timeout: float = LINE_WITHIN) -> None:
    """Ask again until *holds*, for what tells nobody when it happens; fails after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(ASK_AGAIN)
