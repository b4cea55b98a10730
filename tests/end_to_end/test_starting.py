"""
What keeps the server from starting is one line on stderr and an exit code; what it starts with can be said in
four places, of which the first counts.
"""

import signal
import socket
from pathlib import Path

import pytest

from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import (
    APPLICATIONS,
    ServerProcess,
    complaint_of,
    connected,
    eventually,
    free_port,
    serving,
)

PLAIN = f"{APPLICATIONS}.plain:application"


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--no-such-option", PLAIN], 2, "unknown option --no-such-option"),
        (["-p", "eighty", PLAIN], 2, "--port: 'eighty' is not a whole number"),
        ([], 2, "name the application"),
        (["tests.end_to_end.applications.plane:application"], 2, "did you mean 'plain'?"),
        ([f"{APPLICATIONS}.plain:aplication"], 2, "did you mean 'application'?"),
        (["-p", "0", "--certificate", "absent.pem", PLAIN], 3, "cannot use the certificate in absent.pem"),
        (["-p", "0", "--certificate", __file__, PLAIN], 3, "cannot use the certificate in"),
        (["-u", __file__, PLAIN], 3, "a file that is no socket is in the way"),
        (["-u", "/nonexistent/directory/socket", PLAIN], 3, "No such file or directory"),
        (["--fd", "97", PLAIN], 3, "--fd 97: Bad file descriptor"),
        (["-e", "carrier-pigeon:8000", PLAIN], 2, "--endpoint carrier-pigeon:8000"),
        (["-e", "systemd:domain=INET:index=0", PLAIN], 2, "there is no such socket"),
        (["-e", "ssl:0:privateKey=absent.pem", PLAIN], 3, "cannot listen on ssl:0:privateKey=absent.pem"),
        (["-b", "192.0.2.1", "-p", "0", PLAIN], 3, "cannot listen on 192.0.2.1:0"),
        (["--access-log", "/nonexistent/access.log", PLAIN], 3, "--access-log /nonexistent/access.log"),
        (["--config", "absent.toml", PLAIN], 2, "--config absent.toml: No such file or directory"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else None,
)
def test_complaint(words: list[str], code: int, complaint: str) -> None:
    found, lines = complaint_of(*words)
    assert len(lines) == 1, lines
    assert (found, lines[0].startswith("daphne-like: "), complaint in lines[0]) == (code, True, True), lines


@pytest.mark.parametrize("option", ["-p", "-e"])
def test_port_in_use(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        where = str(port) if option == "-p" else f"tcp:{port}:interface=127.0.0.1"
        code, lines = complaint_of(option, where, PLAIN)
    assert (code, lines) == (3, [f"daphne-like: cannot listen on 127.0.0.1:{port}: address in use"])


def test_application_is_shut_down_when_listening_fails() -> None:
    """One line still: an application that has started is told to stop, and neither waits for the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ServerProcess(["-p", str(listener.getsockname()[1]), PLAIN])
        try:
            assert server.wait() == 3
        finally:
            server.close()
    assert "plain: lifespan shutdown" in server.stdout.text
    assert len(server.stderr.text.splitlines()) == 1


APPLICATIONS_THAT_FAIL = """
import sys

def divides(): return 1 / 0
async def no_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
async def raises(scope, receive, send):
    raise RuntimeError("not today")
"""


@pytest.mark.parametrize(
    ("words", "code", "complaint", "traceback"),
    [
        (["failing:no_start"], 3, "lifespan startup failed: no database", False),
        (["failing:raises", "--lifespan", "on"], 3, "lifespan startup raised", False),
        (["failing:divides", "--factory"], 3, "calling the factory raised ZeroDivisionError", True),
        (["broken:application"], 3, "importing it raised ZeroDivisionError", True),
        (["exiting:application"], 3, "importing it raised SystemExit", True),
    ],
)
def test_application_that_fails(
    tmp_path: Path, words: list[str], code: int, complaint: str, traceback: bool
) -> None:
    """A traceback of the application's own is shown, and begins in its file; none of ours."""
    (tmp_path / "failing.py").write_text(APPLICATIONS_THAT_FAIL)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "exiting.py").write_text("import sys\nsys.exit('usage: ...')\n")
    found, lines = complaint_of("-p", "0", "--app-dir", str(tmp_path), *words)
    assert (found, complaint in lines[-1]) == (code, True), lines
    files = [line for line in lines if line.startswith("  File ")]
    assert bool(files) == traceback, lines
    assert all(str(tmp_path) in line for line in files), lines


def test_factory_and_app_dir(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "from tests.end_to_end.applications.plain import application\ndef make():\n    return application\n"
    )
    with serving("-p", "0", "--factory", "--app-dir", str(tmp_path), "made:make") as server:
        assert fetch(server.port).status == 200


def test_current_directory_is_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("from tests.end_to_end.applications.plain import application\n")
    with serving("-p", "0", "here:application", directory=tmp_path) as server:
        assert fetch(server.port).status == 200


def test_precedence_of_the_sources(tmp_path: Path) -> None:
    """Command line over environment over file over default, for each setting by itself."""
    file = tmp_path / "site.toml"
    file.write_text(f'application = "{PLAIN}"\nport = 1\nserver_name = "of the file"\nroot_path = "/file"\n')
    environment = {"DAPHNE_LIKE_PORT": "2", "DAPHNE_LIKE_SERVER_NAME": "of the environment"}
    with serving("--config", str(file), "--port", "0", environment=environment) as server:
        assert server.port not in (1, 2)
        answer = fetch(server.port, "/")
        assert answer.headers["server"] == "of the environment"
    port = free_port()
    variables = {
        "DAPHNE_LIKE_CONFIG": str(file),
        "DAPHNE_LIKE_PORT": str(port),
        "DAPHNE_LIKE_VERBOSITY": "0",
    }
    with serving(environment=variables, ready=connected(port)) as server:
        assert fetch(port).headers["server"] == "of the file"
        assert server.stderr.text == ""


def test_misspelt_variable_is_an_error() -> None:
    code, lines = complaint_of("-p", "0", PLAIN, environment={"DAPHNE_LIKE_MAX_BODY_SISE": "1"})
    assert code == 2
    assert len(lines) == 1
    assert lines[0].endswith("DAPHNE_LIKE_MAX_BODY_SISE; did you mean DAPHNE_LIKE_MAX_BODY_SIZE?")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_long_startup(number: signal.Signals) -> None:
    """An application that hangs in its startup can be stopped; it never listens."""
    server = ServerProcess(["-p", "0", PLAIN], environment={"PLAIN_LIFESPAN_STARTUP": "50"})
    try:
        wait_until_signals_are_heard(server)
        server.signal(number)
        assert server.wait(15) == 0
    finally:
        server.close()
    assert "listening" not in server.stderr.text
    assert "Traceback" not in server.stderr.text


def wait_until_signals_are_heard(server: ServerProcess) -> None:
    """The process has handlers for SIGTERM and SIGINT of its own (proc(5): SigCgt)."""
    wanted = 1 << (signal.SIGTERM - 1)

    def ready() -> bool:
        status = Path(f"/proc/{server.process.pid}/status")
        if not status.exists():
            pytest.skip("needs Linux's /proc")
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & wanted)

    eventually(ready)


def test_help_and_version_need_no_application() -> None:
    for words in (["--help"], ["--version"]):
        server = ServerProcess(words, environment={"COLUMNS": "100"})
        try:
            assert server.wait() == 0
        finally:
            server.close()
        assert "daphne-like" in server.stdout.text
        assert server.stderr.text == ""
