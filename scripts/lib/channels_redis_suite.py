"""
channels_redis' own tests of its core layer, run against ours.

They are in its source distribution, which pip fetches into .cache/channels_redis, once, with the two packages
that they need beside ours. Nothing of them is changed: channels_redis_plugin.py puts our class in the place of
theirs before they import it. There are two files: `core` on one engine and on ten databases of it, `sentinel`
the same by way of a sentinel. Engine and sentinel are started here, and listen on loopback only.

Some tests look at the inside of their layer, or want what the specification does not say. EXCEPTIONS names them,
what they fail with, and why. They run as well, and one that passes all the same is reported.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIB = Path(__file__).resolve().parent
ROOT = LIB.parent.parent
CACHE = ROOT / ".cache" / "channels_redis"

VERSION = "4.3.0"
# What the tests need that ours do not. For this run only: a second plugin for async tests would meet our own.
BESIDE = ("async-timeout>=5,<6", "pytest-asyncio>=1.3,<2")
FILES = {"core": "test_core.py", "sentinel": "test_sentinel.py"}

# Their words for the sentinel.
MASTER_NAME = "sentinel"
SENTINEL_PASSWORD = "channels_redis"

INSTALL_TIMEOUT = 600.0
STARTUP_TIMEOUT = 20.0
RUN_TIMEOUT = 600.0

EXIT_FAILED = 1
EXIT_NO_REDIS = 3
EXIT_NOT_STARTED = 4


@dataclass(frozen=True)
class Excepted:
    """
    A test that need not pass.

    Args:
        test: its name, or a pattern.
        failure: what it then fails with; anything else is a failure like any other.
        why: it says nothing about ours.
    """

    test: str
    failure: str
    why: str


EXCEPTIONS = (
    Excepted(
        "test_reject_bad_client_prefix",
        "ValueError",
        "wants an AssertionError for another process's channel, not ValueError",
    ),
    Excepted(
        "test_group_send_capacity*",
        "'WARNING' == 'INFO'",
        "holds up to its last lines, which want a log line of theirs and no other",
    ),
    Excepted(
        "test_message_expiry__group_send__one_channel_expires_message",
        "'Second!' == 'First!'",
        "wants a message three seconds after it was sent, with an expiry of three seconds",
    ),
    Excepted("test_*_group_key_format", "_group_key", "reads the name of a key; ours are other keys"),
    Excepted(
        "test_receive_buffer_respects_capacity",
        "receive_buffer",
        "looks into a buffer of theirs, which drops the oldest in silence",
    ),
    Excepted("test_serialize", "serialize", "calls a method that is not in the specification"),
    Excepted("test_deserialize", "deserialize", "calls a method that is not in the specification"),
)


class NotStarted(Exception):
    """The tests could not be fetched, or an engine did not start."""


@dataclass(frozen=True)
class Outcome:
    """Of one test."""

    section: str
    test: str
    passed: bool
    words: str

    @property
    def exception(self) -> str:
        """Why it need not pass, "" where it must."""
        name = self.test.partition("[")[0]
        for each in EXCEPTIONS:
            if fnmatch.fnmatchcase(name, each.test) and (self.passed or each.failure in self.words):
                return each.why
        return ""


# -- the tests ---------------------------------------------------------------------------------------


def prepare() -> Path:
    """
    The folder with their tests, and `site` beside it with what they need; fetched at the first call.

    Raises:
        NotStarted: pip could not.
    """
    wanted = "\n".join([VERSION, *BESIDE])
    fetched = CACHE / ".fetched"
    source = CACHE / f"channels_redis-{VERSION}"
    if fetched.exists() and fetched.read_text() == wanted:
        return source / "tests"
    print(
        f"Fetching the tests of channels_redis {VERSION} into {os.path.relpath(CACHE, ROOT)}", file=sys.stderr
    )
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(CACHE), f"channels_redis=={VERSION}")
    with tarfile.open(CACHE / f"channels_redis-{VERSION}.tar.gz") as archive:
        archive.extractall(CACHE, filter="data")
    # Without what they depend on: pytest itself is the one that runs.
    pip("install", "--no-deps", "--target", str(CACHE / "site"), *BESIDE)
    fetched.write_text(wanted)
    return source / "tests"


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise NotStarted(f"pip {words[0]}: not done within {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise NotStarted(f"pip {words[0]}: exit {done.returncode}\n{done.stderr.strip()[-2000:]}")


# -- the engines -------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(folder: Path, port: int, *words: str) -> Iterator[None]:
    """A redis-server, or a sentinel, at 127.0.0.1:*port* inside of the block."""
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            ["redis-server", *words, "--port", str(port), "--bind", "127.0.0.1"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for_port(process, port)
            yield
        finally:
            process.terminate()
            process.wait(STARTUP_TIMEOUT)


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)  # until the next try; nothing but a connection says that it listens
    raise NotStarted(f"redis-server does not listen on port {port}")


@contextlib.contextmanager
def engines() -> Iterator[tuple[int, int]]:
    """(port of an engine, port of the sentinel that knows it), both running."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="suite-")))
        main, sentinel = free_port(), free_port()
        stack.enter_context(engine(folder, main, "--save", ""))
        # A sentinel writes into its configuration.
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {main} 1\nrequirepass {SENTINEL_PASSWORD}\n"
        )
        stack.enter_context(engine(folder, sentinel, str(configuration), "--sentinel"))
        yield main, sentinel


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# -- the run -----------------------------------------------------------------------------------------


def run_tests(layer: str, sections: Sequence[str], words: Sequence[str]) -> list[Outcome]:
    """
    Args:
        layer: "ours" or "channels_redis".
        sections: keys of FILES.
        words: further ones for pytest.

    Raises:
        NotStarted
    """
    tests = prepare()
    outcomes: list[Outcome] = []
    for section in sections:
        with engines() as (main, sentinel), tempfile.TemporaryDirectory(prefix="suite-") as folder:
            file = Path(folder, "outcomes")
            path = [str(LIB), str(ROOT), str(CACHE / "site"), os.environ.get("PYTHONPATH", "")]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "SUITE_LAYER": layer,
                "SUITE_ENGINE": str(main),
                "SUITE_SENTINEL": str(sentinel),
                "SUITE_OUTCOMES": str(file),
            }
            command = [sys.executable, "-m", "pytest", "-q", "-p", "channels_redis_plugin"]
            command += ["--asyncio-mode=auto", "-p", "no:cacheprovider", *words, FILES[section]]
            done = subprocess.run(
                command, cwd=tests, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT
            )
            if done.returncode not in (0, 1) or not file.exists():
                raise NotStarted(f"pytest: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
            outcomes += read_outcomes(section, file)
    return outcomes


def read_outcomes(section: str, file: Path) -> list[Outcome]:
    """One for each test: a failure in any phase is the test's."""
    found: dict[str, Outcome] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        test = line["test"].rpartition("::")[2]
        if test not in found or found[test].passed:
            found[test] = Outcome(section, test, line["outcome"] == "passed", line["words"])
    return list(found.values())


def describe(outcomes: Sequence[Outcome], judged: bool) -> str:
    """The table, and below it each test that did not pass; exceptions count where ours is *judged*."""
    columns = "{:10} {:>6} {:>7} {:>11} {:>7}"
    lines = [columns.format("section", "tests", "passed", "exceptions", "failed")]
    for section in [*dict.fromkeys(o.section for o in outcomes), "all"]:
        own = [o for o in outcomes if section in (o.section, "all")]
        passed = [o for o in own if o.passed]
        excepted = [o for o in own if not o.passed and o.exception and judged]
        lines.append(
            columns.format(
                section, len(own), len(passed), len(excepted), len(own) - len(passed) - len(excepted)
            )
        )
    if judged:
        lines += paragraph(
            "Exceptions:", [(o, o.exception) for o in outcomes if not o.passed and o.exception]
        )
        lines += paragraph("Exceptions that pass:", [(o, "") for o in outcomes if o.passed and o.exception])
    failed = [o for o in outcomes if not o.passed and not (o.exception and judged)]
    lines += paragraph("Failed:", [(o, o.words) for o in failed])
    return "\n".join(lines)


def paragraph(title: str, entries: Sequence[tuple[Outcome, str]]) -> list[str]:
    """Each test once, though it is in several sections."""
    told: dict[tuple[str, str], list[str]] = {}
    for outcome, words in entries:
        told.setdefault((outcome.test, words), []).append(outcome.section)
    if not told:
        return []
    return [
        "",
        title,
        *(
            f"  {test} ({', '.join(where)}){': ' if words else ''}{words}"
            for (test, words), where in told.items()
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance channels_redis", description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument("--layer", choices=["ours", "channels_redis"], default="ours")
    parser.add_argument("--only", choices=list(FILES), help="one of the two files")
    parser.add_argument("-k", metavar="EXPRESSION", help="as pytest has it")
    arguments = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: `apt-get install redis-server`", file=sys.stderr)
        return EXIT_NO_REDIS
    began = time.monotonic()
    sections = [arguments.only] if arguments.only else list(FILES)
    try:
        outcomes = run_tests(arguments.layer, sections, ["-k", arguments.k] if arguments.k else [])
    except (NotStarted, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_STARTED
    judged = arguments.layer == "ours"
    print(f"Tests of channels_redis {VERSION} against {'our layer' if judged else 'itself'}\n")
    print(describe(outcomes, judged))
    print(f"\n{time.monotonic() - began:.0f} s")
    return EXIT_FAILED if any(not o.passed and not (o.exception and judged) for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
