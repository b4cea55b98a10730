"""--reload: a change is served, no connection is closed or refused for it, and nothing is left behind."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from daphne_like.reload import python_files

ROOT = Path(__file__).parent.parent
DEADLINE = 30.0
NAME = "site_being_edited:application"

APPLICATION = """
import os

async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "VERSION: " + message["text"]})
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/stuck":
        import time
        time.sleep(1000)
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"VERSION %d" % os.getpid()})
"""


class Output:
    """What a process writes, line by line, for somebody who waits for words in it."""

    def __init__(self, stream) -> None:
        self.text = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(stream,))
        self._reader.start()

    def _read(self, stream) -> None:
        with stream:
            for line in stream:
                with self._more:
                    self.text += line
                    self._more.notify_all()

    def wait_for(self, words: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: words in self.text, DEADLINE), self.text

    def end(self) -> str:
        """All of it, once every process that could write has ended."""
        self._reader.join(DEADLINE)
        return self.text


class Site:
    """A directory with an application, and `daphne-like --reload` serving it on a Unix socket."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "watched" / "site_being_edited.py"
        self.source.parent.mkdir()
        self.socket = directory / "s"
        self.write("first")

    def write(self, version: str) -> None:
        self.source.write_text(APPLICATION.replace("VERSION", version))

    @contextlib.contextmanager
    def served(
        self,
        *options: str,
        sockets: tuple[str, ...] = (),
        application: str = NAME,
        pass_fds: tuple[int, ...] = (),
        ready: str = "listening",
    ) -> Iterator[subprocess.Popen]:
        words = ["--reload", "--app-dir", str(self.source.parent), *(sockets or ("-u", str(self.socket)))]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DAPHNE_LIKE_")}
        # A .pyc is checked by whole seconds; these tests edit faster.
        environ |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "daphne_like", application, *words, *options],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            process_group=0,
        )
        self.said = Output(process.stderr)
        try:
            self.said.wait_for(ready)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.said.end()

    @contextlib.contextmanager
    def asked(self, path: str = "/") -> Iterator[socket.socket]:
        """A connection that has sent a request, and may have to wait until there is a worker."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(self.socket))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            yield client

    def get(self) -> list[str]:
        """[version, pid of the worker] that answers."""
        with self.asked() as client:
            return self.answer(client)

    @staticmethod
    def answer(client: socket.socket) -> list[str]:
        received = b"".join(iter(lambda: client.recv(4096), b""))
        assert received.startswith(b"HTTP/1.1 200 "), received
        return received.rpartition(b"\r\n")[2].decode().split()

    def wait_for_version(self, version: str) -> list[str]:
        deadline = time.monotonic() + DEADLINE
        while (answer := self.get())[0] != version:
            assert time.monotonic() < deadline, self.said.text
        return answer


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


class Watched:
    """The end of a process that is not our child. Made while it runs, because pids are used again."""

    def __init__(self, pid: str) -> None:
        self._descriptor = os.pidfd_open(int(pid))

    def wait(self) -> None:
        try:
            assert select.select([self._descriptor], [], [], DEADLINE)[0], "it still runs"
        finally:
            os.close(self._descriptor)


# -- serving --------------------------------------------------------------------------------------


def test_change_is_served_by_a_new_child(site):
    with site.served() as parent:
        version, first = site.get()
        assert version == "first"
        assert int(first) != parent.pid
        child = Watched(first)
        site.write("second")
        _, second = site.wait_for_version("second")
        assert second != first
        child.wait()
    assert "reloading changed=" in site.said.text


def test_no_connection_is_refused_or_lost_during_reloads(site):
    answers: list[str] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            try:
                answers.append(site.get()[0])
            except BaseException as error:
                failures.append(error)
                return

    with site.served():
        assert site.get()[0] == "first"
        asking = [threading.Thread(target=ask) for _ in range(4)]
        for each in asking:
            each.start()
        try:
            for version in ("second", "third"):
                site.write(version)
                site.wait_for_version(version)
        finally:
            stop.set()
            for each in asking:
                each.join()
    assert failures == []
    assert {"first", "second"} <= set(answers)


def test_while_the_new_version_does_not_start_the_old_one_serves(site):
    with site.served() as parent:
        assert site.get()[0] == "first"
        site.source.write_text("import no_such_module\n")
        site.said.wait_for("the new workers do not start, the old ones go on serving")
        site.said.wait_for("ModuleNotFoundError: No module named 'no_such_module'")
        assert site.get()[0] == "first"
        site.write("mended")
        site.wait_for_version("mended")
        assert parent.poll() is None


def test_websocket_stays_open(site):
    with site.served(), unix_connect(str(site.socket), "ws://localhost/") as client:
        client.send("a")
        assert client.recv(DEADLINE) == "first: a"
        site.write("second")
        site.said.wait_for("worker ended")
        client.send("b")
        assert client.recv(DEADLINE) == "second: b"


def test_module_broken_from_the_start(site):
    site.source.write_text("def application(:\n")
    with site.served() as parent:
        site.said.wait_for("starts again after the next change")
        site.said.wait_for("SyntaxError")
        with site.asked() as client:  # it waits for a worker
            site.write("mended")
            assert site.answer(client)[0] == "mended"
        assert parent.poll() is None


def test_another_directory_is_watched(site, tmp_path):
    (tmp_path / "library").mkdir()
    with site.served("--reload-dir", str(tmp_path / "library")):
        child = Watched(site.get()[1])
        (tmp_path / "library" / "new.py").write_text("")
        child.wait()
        assert site.get()[0] == "first"
    assert "new.py" in site.said.text


def test_child_that_does_not_stop_is_killed(site):
    with site.served("--graceful-timeout", "0.1", "--shutdown-timeout", "0.1"):
        child = Watched(site.get()[1])
        with site.asked("/stuck"):
            site.write("second")
            site.said.wait_for("does not stop, killing it")
            child.wait()
            assert site.get()[0] == "second"


def test_sockets_of_a_supervisor_are_handed_on(site, tmp_path):
    """--fd under --reload: a connection made before anything runs is answered."""
    with socket.socket(socket.AF_UNIX) as listening:
        site.socket = tmp_path / "inherited"
        listening.bind(str(site.socket))
        listening.listen()
        descriptor = listening.fileno()
        with site.served(sockets=("--fd", str(descriptor)), pass_fds=(descriptor,)) as parent:
            assert site.get()[0] == "first"
            parent.terminate()
            assert parent.wait(DEADLINE) == 0


# -- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stopping_the_parent_stops_the_child_and_removes_the_socket(number, site):
    with site.served() as parent:
        child = Watched(site.get()[1])
        parent.send_signal(number)
        assert parent.wait(DEADLINE) == 0
        child.wait()
        assert not site.socket.exists()


def test_control_c_of_a_terminal_reaches_both_and_stops_gracefully(site):
    with site.served() as parent:
        child = Watched(site.get()[1])
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(DEADLINE) == 0
        child.wait()
    assert "Traceback" not in site.said.text


def test_stopping_while_broken(site):
    site.source.write_text("1 / 0\n")
    with site.served() as parent:
        site.said.wait_for("starts again after the next change")
        parent.terminate()
        assert parent.wait(DEADLINE) == 0


def test_child_does_not_outlive_a_killed_parent(site):
    with site.served() as parent:
        child = Watched(site.get()[1])
        parent.kill()
        parent.wait()
        child.wait()


def test_hangup_without_a_terminal_is_a_reload(site):
    """It asks for the certificates to be read again, too; neither process ends for it."""
    with site.served() as parent:
        _, first = site.get()
        parent.send_signal(signal.SIGHUP)
        site.said.wait_for("worker ended")
        assert site.get()[1] != first
        assert parent.poll() is None


# -- not starting ---------------------------------------------------------------------------------


def test_wrong_words_at_the_first_start_end_the_parent(site):
    with site.served(application="site_being_edited:aplication", ready="watching for changes") as parent:
        assert parent.wait(DEADLINE) == 2
    said = site.said.end().splitlines()[-1]
    assert said.startswith("daphne-like: ")
    assert "no attribute 'aplication'; did you mean 'application'?" in said


def test_address_in_use(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with site.served(sockets=("-p", str(port)), ready="watching for changes") as parent:
            assert parent.wait(DEADLINE) == 3
        last = site.said.end().splitlines()[-1]
    assert last == f"daphne-like: cannot listen on 127.0.0.1:{port}: address in use"


# -- watching -------------------------------------------------------------------------------------


def test_python_files(tmp_path):
    for name in (
        "a.py",
        "package/b.py",
        "package/data.txt",
        "package/__pycache__/b.py",
        ".git/hooks.py",
        "node_modules/gyp.py",
        "env/pyvenv.cfg",
        "env/lib/c.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "package" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "absent")
    found = {os.path.relpath(path, tmp_path) for path, _ in python_files([str(tmp_path)])}
    assert found == {"a.py", os.path.join("package", "b.py")}


def test_python_files_of_a_directory_that_is_not_there(tmp_path):
    assert list(python_files([str(tmp_path / "absent")])) == []


def test_python_files_tell_a_change_by_time_or_size(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("1")
    [before] = python_files([str(tmp_path)])
    os.utime(path, ns=(0, before[1][0] + 1))
    [touched] = python_files([str(tmp_path)])
    path.write_text("12")
    os.utime(path, ns=(0, before[1][0]))
    [longer] = python_files([str(tmp_path)])
    assert len({before, touched, longer}) == 3
