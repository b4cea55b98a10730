"""A server under test, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

APPLICATION = "tests.corpus.application:application"
ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0


class ServerFailed(Exception):
    """It did not begin to listen; the message has what it printed."""


@contextlib.contextmanager
def serving(command: str, *, port: int | None = None) -> Iterator[tuple[str, int]]:
    """
    Run *command*, in which `{port}`, `{app}` and `{python}` are filled in, until the block ends.

    Yields the address once the server listens. What it prints goes to a file, of which the end is shown if it
    does not come up.
    """
    port = port or free_port()
    words = [word.format(port=port, app=APPLICATION, python=sys.executable) for word in shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT, env=environment) as process:
            try:
                wait_until_listening(process, port)
                yield "127.0.0.1", port
            except ServerFailed as failure:
                log.seek(0)
                raise ServerFailed(f"{failure}\n{log.read().decode(errors='replace')[-2000:]}") from None
            finally:
                process.terminate()
                try:
                    process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"it ended with {process.returncode} before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise ServerFailed(f"nothing listens on port {port} after {START_TIMEOUT:.0f} s")
