"""
Debian's PostgreSQL for a test module: a cluster of its own in a temporary directory, on a Unix socket.

    with postgres_server() as postgres:
        ... postgres.folder is the host that clients name, postgres.port the port in the socket's name
        ... postgres.connections("site"), postgres.opened("site"), postgres.terminate("site")

Who is connected is asked by `application_name`, which every client of a test sets. Each connection that was ever
opened is a line in the server's log, so that none is missed for having been short.

PostgreSQL refuses to run as root: there it runs as the user that Debian's package has made.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import eventually

__all__ = ["Postgres", "postgres_server"]

USER = "postgres"
START_WITHIN = 30.0
STOP_WITHIN = 20.0

# Not a byte of it has to outlive the tests.
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "",
    "log_connections": "on",
    "max_connections": "150",
}


class Postgres:
    """
    Args:
        programs: where `initdb` and `postgres` are.
        folder: for data, socket and log; USER's where root runs the tests.
        account: keywords of subprocess that say as whom to run.
    """

    port = 5432  # names the socket; nothing listens on TCP

    def __init__(self, programs: Path, folder: Path, account: dict[str, Any]) -> None:
        self.folder = folder
        self._programs = programs
        self._account = account
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    def start(self) -> None:
        """Make the cluster, start the server and connect to it."""
        words = ["--auth", "trust", "--username", USER, "--no-sync", "--encoding", "UTF8", "--no-locale"]
        subprocess.run(
            [self._programs / "initdb", *words, "--pgdata", self._data],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=START_WITHIN,
            cwd=self.folder,
            **self._account,
        )
        options = OPTIONS | {"unix_socket_directories": str(self.folder), "port": str(self.port)}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data]
                + [word for name, value in options.items() for word in ("-c", f"{name}={value}")],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._account,
            )
        eventually(self._connects, START_WITHIN)

    def _connects(self) -> bool:
        import psycopg

        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with suppress(psycopg.OperationalError):
            self._client = psycopg.connect(
                host=str(self.folder), port=self.port, user=USER, application_name="the test", autocommit=True
            )
        return self._client is not None

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once; there is nothing to keep
            self._process.wait(STOP_WITHIN)

    def settings(self, database: dict[str, Any], name: str) -> dict[str, Any]:
        """Of Django: *database*, with where this is and who connects."""
        options = {**database.get("OPTIONS", {}), "application_name": name}
        address = {"NAME": "postgres", "USER": USER, "HOST": str(self.folder), "PORT": self.port}
        return {"ENGINE": "django.db.backends.postgresql", **address, **database, "OPTIONS": options}

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of *statement*, if it has any; by one client for all, from whichever thread."""
        cursor = self._client.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def connections(self, name: str) -> set[int]:
        """Process ids of the backends that serve clients of this `application_name` right now."""
        return {pid for (pid,) in self.execute(f"{BACKENDS} WHERE application_name = %s", name)}

    def terminate(self, name: str) -> int:
        """Kill these backends, as a restart of the server or a proxy would; how many they were."""
        killed = {pid for (pid, _) in self.execute(f"{TERMINATED} WHERE application_name = %s", name)}
        eventually(lambda: not killed & self.connections(name))
        return len(killed)

    def opened(self, name: str) -> int:
        """How many connections clients of this `application_name` have opened so far."""
        return self._log.read_text().count(f" application_name={name}\n")


BACKENDS = "SELECT pid FROM pg_stat_activity"
TERMINATED = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"


def _programs() -> Path | None:
    """Debian keeps them where no PATH leads, a directory for each version."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(os.path.realpath(found)).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server that runs; skips where there is none."""
    programs = _programs()
    if programs is None:
        because = os.environ.get("MISSING_PROGRAMS_BECAUSE")
        pytest.skip("not installed: postgresql" + (f" ({because})" if because else ""))
    account: dict[str, Any] = {}
    # Not below pytest's own, which are closed to other users. The socket's path must not be long, either.
    with tempfile.TemporaryDirectory(prefix="daphne-like-pg-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(USER)
            except KeyError:
                pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER!r}")
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            folder.chmod(0o711)  # the site, too, comes to the socket
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
        server = Postgres(programs, folder, account)
        try:
            server.start()
            yield server
        finally:
            server.stop()
