"""
The Autobahn fuzzing client against our server, or somebody else's: RFC 6455 and RFC 7692 in some 500 cases.

The client is autobahntestsuite from PyPI, which runs on Python 2.7 only. One is looked for on PATH and among
pyenv's; a virtual environment for it is made in .cache/autobahn, once, by the last virtualenv that can (it
brings its own pip, so that a Python 2.7 without one serves as well). No container is needed.

The verdicts are the suite's own:

* OK, and INFORMATIONAL where the RFC leaves the choice;
* NON-STRICT: allowed, but not what the suite would do; counted apart, no failure;
* everything else is a failure, a case without a report too, and UNIMPLEMENTED because compression is on;
* a close that is not OK is a failure of its own: ended by the wrong side, wrong code, no close frame.
"""

import argparse
import ast
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIB = Path(__file__).resolve().parent
ROOT = LIB.parent.parent
CACHE = ROOT / ".cache" / "autobahn"
REPORTS = CACHE / "reports"

SUITE = "autobahntestsuite==25.10.1"
# The last that makes environments for Python 2.7.
VIRTUALENV = "virtualenv<20.22"

MIB = 1024 * 1024
# Section 9 sends messages and frames of 16 MiB; what the limits do is for other tests to show.
SIZE_LIMIT = 64 * MIB

INSTALL_TIMEOUT = 600.0
STARTUP_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0
RUN_TIMEOUT = 3600.0

EXIT_FAILED = 1
EXIT_NO_PYTHON = 3
EXIT_NOT_STARTED = 4

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "close",
    9: "limits and performance",
    10: "miscellaneous",
    12: "compression, payloads",
    13: "compression, parameters",
}

COLUMNS = "{:34} {:>5} {:>5} {:>10} {:>5} {:>6} {:>9}"

# Arguments of `python -m`. Compression is what each has by default; size limits are raised where possible.
SERVERS = {
    "daphne_like": [
        "daphne_like",
        "--bind=127.0.0.1",
        "--port={port}",
        "--websocket-max-message-size={limit}",
        "--websocket-max-frame-size={limit}",
        "--no-access-log",
        "{application}",
    ],
    "daphne": [
        "daphne",
        "--bind=127.0.0.1",
        "--port={port}",
        "--websocket-max-message-size={limit}",
        "--websocket-max-frame-size={limit}",
        "-v0",
        "{application}",
    ],
    "granian": [
        "granian",
        "--interface=asgi",
        "--ws",
        "--host=127.0.0.1",
        "--port={port}",
        "{application}",
    ],
    "hypercorn": [
        "hypercorn",
        "--bind=127.0.0.1:{port}",
        "--websocket-max-message-size={limit}",
        "{application}",
    ],
    "uvicorn": [
        "uvicorn",
        "--host=127.0.0.1",
        "--port={port}",
        "--ws=websockets-sansio",
        "--ws-max-size={limit}",
        "--log-level=warning",
        "{application}",
    ],
}


class NoPython27(Exception):
    """There is no Python 2.7 to run the suite with."""


class NotStarted(Exception):
    """The suite could not be installed or run, or the server did not start. Says what it last wrote."""


@dataclass(frozen=True)
class Outcome:
    """What the suite says about one case. Durations are milliseconds."""

    case: str
    behavior: str
    close: str
    close_code: int | None
    duration: int
    result: str
    close_result: str

    @property
    def section(self) -> int:
        return int(self.case.partition(".")[0])

    @property
    def failed(self) -> bool:
        return self.behavior not in ("OK", "INFORMATIONAL", "NON-STRICT")

    @property
    def closed_badly(self) -> bool:
        return self.close not in ("OK", "INFORMATIONAL")


# -- The suite ----------------------------------------------------------------------------------------


def find_python27() -> Path:
    candidates = [Path(found) for found in [shutil.which("python2.7")] if found]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += sorted((pyenv / "versions").glob("2.7*/bin/python2.7"), reverse=True)
    for candidate in candidates:
        # pyenv's shim is on PATH even where no 2.7 is selected, and then only says so.
        probe = [str(candidate), "-c", "import sys; assert sys.version_info[:2] == (2, 7)"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return candidate
    raise NoPython27("no Python 2.7 on PATH or in pyenv; the Autobahn fuzzing client runs on nothing newer")


def prepare() -> Path:
    """
    The suite's command, installed at the first call (half a minute; needs PyPI and a C compiler).

    Raises:
        NoPython27: nothing was done.
        NotStarted: the installation failed.
    """
    environment = CACHE / "venv"
    command = environment / "bin" / "wstest"
    installed = environment / ".installed"
    if installed.exists() and installed.read_text() == SUITE and command.exists():
        return command

    python27 = find_python27()
    print(f"Installing {SUITE} for {python27} into {os.path.relpath(CACHE, ROOT)}", file=sys.stderr)
    shutil.rmtree(environment, ignore_errors=True)
    bootstrap = CACHE / "virtualenv"
    quiet_pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install(sys.executable, *quiet_pip, "--upgrade", "--target", str(bootstrap), VIRTUALENV)
    # The bundled pip is as new as Python 2.7 can have it.
    install(
        sys.executable,
        *("-m", "virtualenv", "--quiet", "--no-download", "--python", str(python27), str(environment)),
        PYTHONPATH=str(bootstrap),
    )
    install(str(environment / "bin" / "python"), *quiet_pip, SUITE)
    installed.write_text(SUITE)
    return command


def install(*command: str, **variables: str) -> None:
    # What one Python is told by its environment must not reach another.
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            env={**inherited, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise NotStarted(f"{' '.join(command)}: not done within {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise NotStarted(f"{' '.join(command)}: exit {done.returncode}\n{tail(done.stdout)}")


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


# -- The server ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(server: str, port: int = 0) -> Iterator[str]:
    """Run *server* with the echo application, on a free port if *port* is 0; gives its URL."""
    if port == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    values = {"port": port, "limit": SIZE_LIMIT, "application": "echo_app:application"}
    arguments = [argument.format(**values) for argument in SERVERS[server]]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=LIB,
            # Also where the package is not installed.
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # granian and hypercorn serve from a child process: the whole session is stopped.
            start_new_session=True,
        )
        try:
            wait_for_port(process, port, log)
            yield f"ws://127.0.0.1:{port}"
            if process.poll() is not None:
                raise NotStarted(f"{server} ended by itself:\n{written(log)}")
        finally:
            stop(process)


def wait_for_port(process: subprocess.Popen[bytes], port: int, log) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)  # until the next try; nothing but a connection says that it listens
    state = "still not listening" if process.poll() is None else f"exit code {process.returncode}"
    raise NotStarted(f"{' '.join(map(str, process.args))}: {state}\n{written(log)}")


def written(log) -> str:
    log.seek(0)
    return tail(log.read().decode(errors="replace"))


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            print(f"did not stop within {STOP_TIMEOUT:.0f} s of SIGTERM: killed", file=sys.stderr)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- The run ------------------------------------------------------------------------------------------


def run_cases(
    url: str, agent: str, cases: Sequence[str], reports: Path, progress: bool = False
) -> list[Outcome]:
    """
    Run the cases that *cases* (such as "1.*" or "7.1.1") name against *url*.

    The full reports, an index.html among them, are left in *reports*, which is emptied first.

    Raises:
        NoPython27, NotStarted
    """
    wstest = prepare()
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": agent, "url": url}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    specification_file = reports / "fuzzingclient.json"
    specification_file.write_text(json.dumps(specification))
    command = [str(wstest), "-m", "fuzzingclient", "-s", str(specification_file)]
    planned: list[str] = []
    last_lines: list[str] = []
    started = 0
    with subprocess.Popen(
        command,
        cwd=reports,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        try:
            for line in read_lines(client, time.monotonic() + RUN_TIMEOUT):
                last_lines = [*last_lines[-14:], line]
                if line.startswith("Cases = "):
                    planned = ast.literal_eval(line.removeprefix("Cases = "))
                elif line.startswith("Running test case"):
                    started += 1
                    if progress:
                        sys.stderr.write(f"\r{started}/{len(planned)} {line.split()[4]:12}")
                        sys.stderr.flush()
        finally:
            client.kill()
    if progress:
        print(file=sys.stderr)
    if not planned:
        raise NotStarted(f"{' '.join(command)}: ran no case\n" + "\n".join(last_lines))
    return [read_outcome(reports, agent, case) for case in planned]


def read_lines(client: subprocess.Popen[str], deadline: float) -> Iterator[str]:
    """What *client* prints; it is killed when it goes on past *deadline*."""
    timer = threading.Timer(deadline - time.monotonic(), client.kill)
    timer.start()
    try:
        for line in client.stdout:
            yield line.rstrip("\n")
    finally:
        timer.cancel()


def read_outcome(reports: Path, agent: str, case: str) -> Outcome:
    file = reports / f"{agent}_case_{case.replace('.', '_')}.json"
    if not file.exists():
        return Outcome(case, "NO REPORT", "NO REPORT", None, 0, "the client did not get to the end of it", "")
    report = json.loads(file.read_text())
    return Outcome(
        case=case,
        behavior=report["behavior"],
        close=report["behaviorClose"],
        close_code=report["remoteCloseCode"],
        duration=report["duration"],
        result=report["result"],
        close_result=report["resultClose"],
    )


def describe(outcomes: Sequence[Outcome]) -> str:
    """The table by section, and below it each case that is not simply right."""
    lines = [COLUMNS.format("section", "cases", "ok", "non-strict", "info", "failed", "bad close")]
    for section in sorted({o.section for o in outcomes}):
        own = [o for o in outcomes if o.section == section]
        lines.append(row(f"{section:2} {SECTIONS.get(section, '')}", own))
    lines.append(row("all", outcomes))
    for title, chosen in (
        ("Failed", [o for o in outcomes if o.failed]),
        ("Closed badly", [o for o in outcomes if o.closed_badly]),
        ("Non-strict", [o for o in outcomes if o.behavior == "NON-STRICT"]),
    ):
        if chosen:
            lines += ["", f"{title}:"]
            lines += [
                f"  {o.case:9} {o.behavior}; close {o.close} ({o.close_code}): {reason(o)}" for o in chosen
            ]
    return "\n".join(lines)


def row(title: str, outcomes: Sequence[Outcome]) -> str:
    counts = Counter(o.behavior for o in outcomes)
    return COLUMNS.format(
        title,
        len(outcomes),
        *(counts[behavior] for behavior in ("OK", "NON-STRICT", "INFORMATIONAL")),
        sum(o.failed for o in outcomes),
        sum(o.closed_badly for o in outcomes),
    )


def reason(outcome: Outcome) -> str:
    texts = [outcome.result] if outcome.failed or not outcome.closed_badly else []
    if outcome.closed_badly and outcome.close_result not in texts:
        texts.append(outcome.close_result)
    return " ".join(" ".join(texts).split())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance autobahn", description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument("--server", choices=sorted(SERVERS), default="daphne_like")
    parser.add_argument("--cases", default="*", help="patterns such as 1.*,7.1.1 (default: all)")
    parser.add_argument("--port", type=int, default=0, help="where the server listens (default: a free port)")
    parser.add_argument("--reports", type=Path, help="folder for the full reports (default: below .cache)")
    arguments = parser.parse_args()
    reports = (arguments.reports or REPORTS / arguments.server).resolve()
    cases = [pattern.strip() for pattern in arguments.cases.split(",") if pattern.strip()]
    try:
        prepare()
        began = time.monotonic()
        with serving(arguments.server, arguments.port) as url:
            outcomes = run_cases(url, arguments.server, cases, reports, progress=sys.stderr.isatty())
    except NoPython27 as error:
        print(error, file=sys.stderr)
        return EXIT_NO_PYTHON
    except NotStarted as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_STARTED
    print(f"Autobahn fuzzing client ({SUITE}) against {arguments.server}\n")
    print(describe(outcomes))
    print(f"\n{time.monotonic() - began:.0f} s; details: {os.path.relpath(reports / 'index.html')}")
    return EXIT_FAILED if any(o.failed or o.closed_badly for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
