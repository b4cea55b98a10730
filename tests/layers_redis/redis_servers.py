"""
A redis-server for one test: started, killed, started again empty, stopped and resumed.

    with redis_server(tmp_path) as server:
        ... server.url, server.cli("LRANGE", "list", 0, -1), server.kill(), server.start()

It keeps nothing on disk. What a test asks of it goes through redis-py's synchronous client.
"""

import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.end_to_end.processes import eventually, free_port

__all__ = ["RedisServer", "redis_server", "redis_url"]

WAIT = 20.0
# To find a port.
ATTEMPTS = 5


class Ended(Exception):
    """The server ended instead of serving; with its log."""


class RedisServer:
    """
    Args:
        folder: for its socket, its log and what it believes to be its data.
        options: further words of its command line: "--maxmemory", "4mb".
        port: of 127.0.0.1; a free one, kept over restarts.
        tcp: False: on the Unix socket only.

    Attributes:
        path: of its Unix socket.
    """

    def __init__(self, folder: Path, *options: str, port: int = 0, tcp: bool = True) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.tcp = tcp
        self.port = (port or free_port()) if tcp else 0
        self.path = str(folder / "redis.sock")
        self.options = options
        # Of cli(): AUTH and what else redis-py takes.
        self.client_options: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    def start(self) -> None:
        """Start it, with nothing in it, and wait until it answers."""
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path]
        words += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        words += ["--logfile", str(self.folder / "redis.log"), *self.options]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Ended((self.folder / "redis.log").read_text())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT)
            connection.connect(self.path)
            connection.sendall(b"PING\r\n")
            # -NOAUTH is an answer, too.
            return bool(connection.recv(64))
        return False

    @property
    def url(self) -> str:
        """What `hosts=` takes."""
        return f"redis://127.0.0.1:{self.port}" if self.tcp else f"unix://{self.path}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As if its machine had lost power. start() begins with nothing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """It is there and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(WAIT)

    def cli(self, *words: Any) -> Any:
        """The reply to a command."""
        if self._client is None:
            self._client = redis.Redis(
                unix_socket_path=self.path,
                retry=Retry(NoBackoff(), 1),
                socket_timeout=WAIT,
                **self.client_options,
            )
        return self._client.execute_command(*words)

    def clients(self) -> list[dict[str, str]]:
        """What CLIENT LIST says of those that are not this harness."""
        mine = self.cli("CLIENT", "ID")
        return [client for client in self.cli("CLIENT LIST") if int(client["id"]) != mine]


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, tcp: bool = True) -> Iterator[RedisServer]:
    """A server that runs; skips the test where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    for attempt in itertools.count(1):
        server = RedisServer(folder, *options, tcp=tcp)
        try:
            server.start()
        except Ended:
            # Somebody else has taken the port before it did.
            if attempt == ATTEMPTS:
                raise
        else:
            break
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as server:
        yield server.url
