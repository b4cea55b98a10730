"""
Django's own tests of its handlers, run with ours in the place of Django's.

They are in Django's source distribution, which pip fetches into .cache/django, once for each series: 5.2, and
the newest that this Python can have. Nothing of them is changed, and the Django that they run against is the one
beside them. django_harness.py puts the handler in place, and takes the requests of the test clients through it.

Each test runs four times: as Django means it ("plain"), with the clients' requests through Django's own ASGI
handler ("django"), and through ours, under another server ("ours") and under our own ("direct"). A test that
fails plain fails on this machine for reasons of its own (some need not to be root, a browser, a database).
EXCEPTIONS names those that cannot pass through an ASGI handler in the harness, Django's or ours, with the
reason; they run as well, and one that passes all the same is reported.
"""

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIB = Path(__file__).resolve().parent
ROOT = LIB.parent.parent
CACHE = ROOT / ".cache" / "django"

# Series -> what pip is asked for.
SERIES = {"5.2": "django>=5.2,<5.3", "newest": "django>=5.2"}

SUITES = (
    "asgi",
    "handlers",
    "async",
    "middleware",
    "csrf_tests",
    "sessions_tests",
    "file_uploads",
    "requests_tests",
    "staticfiles_tests",
    "test_client",
)
JUDGED = ("ours", "direct")
HANDLERS = ("plain", "django", "ours", "direct")

FETCH_TIMEOUT = 600.0
RUN_TIMEOUT = 900.0

EXIT_FAILED = 1
EXIT_NOT_STARTED = 4

# Name of a test, or a pattern of names -> why it says nothing about a handler in this harness.
EXCEPTIONS = {
    "test_client.tests.ClientTest.test_trace": "reads META['SERVER_PROTOCOL'], which Django's ASGIRequest "
    "does not have",
    "handlers.tests.HandlerRequestTests.test_invalid_urls": "paths that are not UTF-8: a scope's path is text "
    "already, so that Django's ASGIRequest shows U+FFFD for such octets",
    "handlers.tests.SignalsTests.test_request_signals": "wants request_started with environ=; ASGI has scope=",
    "handlers.tests.SignalsTests.test_request_signals_streaming_response": "wants the response still open "
    "after the client has returned; here it has gone over the wire by then",
}


class NotStarted(Exception):
    """The tests could not be fetched, or did not run."""


@dataclass(frozen=True)
class Outcome:
    """Of one test: "passed", "skipped" or "failed"."""

    suite: str
    test: str
    outcome: str
    words: str

    @property
    def exception(self) -> str:
        """Why it need not pass, "" where it must."""
        return next((why for name, why in EXCEPTIONS.items() if fnmatch.fnmatchcase(self.test, name)), "")


# Handler -> test -> outcome.
Outcomes = dict[str, dict[str, Outcome]]


def prepare(series: str) -> Path:
    """
    The folder of a series' source distribution; fetched at the first call.

    Raises:
        NotStarted: pip could not.
    """
    folder = CACHE / f"{series}-python{sys.version_info[0]}.{sys.version_info[1]}"
    found = unpacked(folder)
    if found is not None:
        return found
    print(f"Fetching {SERIES[series]} into {os.path.relpath(folder, ROOT)}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), SERIES[series]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise NotStarted(f"pip download: not done within {FETCH_TIMEOUT:.0f} s") from None
    archives = sorted(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not archives:
        raise NotStarted(f"pip download: exit {done.returncode}\n{done.stderr.strip()[-2000:]}")
    with tarfile.open(archives[-1]) as archive:
        archive.extractall(folder, filter="data")
    archives[-1].unlink()
    found = unpacked(folder)
    if found is None:
        raise NotStarted(f"{archives[-1].name} has no tests/runtests.py")
    return found


def unpacked(folder: Path) -> Path | None:
    found = sorted(path.parent.parent for path in folder.glob("*/tests/runtests.py"))
    return found[-1] if found else None


def version_of(source: Path) -> str:
    return source.name.partition("-")[2]


# -- the run -----------------------------------------------------------------------------------------


def run_tests(source: Path, handler: str, labels: Sequence[str], words: Sequence[str]) -> dict[str, Outcome]:
    """
    Args:
        handler: one of HANDLERS.
        labels: suites.
        words: further ones for runtests.py.

    Raises:
        NotStarted
    """
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        file = Path(folder, "outcomes")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)]),
            "HARNESS_HANDLER": handler,
            "HARNESS_OUTCOMES": str(file),
            # Some of the tests look at what a thread says on its way out.
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        done = subprocess.run(
            [sys.executable, str(LIB / "django_harness.py"), *words, *labels],
            cwd=source / "tests",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        ran = re.search(r"^Ran (\d+) tests? in", done.stderr, re.M)
        if ran is None or done.returncode not in (0, 1):
            raise NotStarted(f"runtests.py: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
        return read_outcomes(file)


def read_outcomes(file: Path) -> dict[str, Outcome]:
    """One for each test; a failed subtest, or a failure while tearing down, is the test's."""
    found: dict[str, Outcome] = {}
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        test = line["test"]
        if " (" in test:  # setUpClass (package.Class), and subtests
            test = re.sub(r"^(\w+) \(([\w.]+)\)$", r"\2.\1", test).partition(" ")[0]
        if test not in found or found[test].outcome != "failed":
            found[test] = Outcome(test.partition(".")[0], test, line["outcome"], line["words"])
    return found


def failures(outcomes: Outcomes) -> dict[str, Outcome]:
    """What did not pass with our handler, and would have to: it passes plain, and is no exception."""
    plain = outcomes.get("plain", {})
    return {
        o.test: o
        for handler, by_test in outcomes.items()
        for o in by_test.values()
        if o.outcome == "failed"
        and (len(outcomes) == 1 or handler in JUDGED)
        and not o.exception
        and not (o.test in plain and plain[o.test].outcome == "failed")
    }


def missing(outcomes: Outcomes) -> list[str]:
    """Tests that ran plain, and not with another handler."""
    return sorted(
        {test for by_test in outcomes.values() for test in outcomes.get("plain", {}).keys() - by_test.keys()}
    )


def describe(outcomes: Outcomes) -> str:
    """The table, and below it each test that did not pass."""
    handlers = list(outcomes)
    every = {o.test: o for by_test in outcomes.values() for o in by_test.values()}
    row = "{:18}" + " {:>7}" * (len(handlers) + 1) + " {:>8} {:>11} {:>7}"
    lines = [row.format("suite", "tests", *handlers, "skipped", "exceptions", "failed")]
    failed = failures(outcomes)
    plain = outcomes.get("plain", {})
    unwell = {o.test: o for handler in handlers for o in outcomes[handler].values() if o.outcome == "failed"}
    excepted = [o for o in unwell.values() if o.test not in failed]
    for suite in [*dict.fromkeys(o.suite for o in every.values()), "all"]:

        def count(found: Iterable[Outcome], outcome: str = "", suite: str = suite) -> int:
            return sum(suite in (o.suite, "all") and outcome in (o.outcome, "") for o in found)

        lines.append(
            row.format(
                suite,
                count(every.values()),
                *(count(outcomes[handler].values(), "passed") for handler in handlers),
                count(every.values(), "skipped"),
                count(excepted),
                count(failed.values()),
            )
        )
    on_their_own = [o for o in excepted if o.test in plain and plain[o.test].outcome == "failed"]
    theirs = [o for o in excepted if o not in on_their_own]
    passing = [o for o in every.values() if o.exception and o.test not in unwell]
    lines += paragraph("Fail without a handler, too:", [(o, o.words) for o in on_their_own])
    lines += paragraph("Exceptions:", [(o, o.exception or f"fails with Django's: {o.words}") for o in theirs])
    lines += paragraph("Exceptions that pass:", [(o, "") for o in passing])
    lines += paragraph("Failed:", [(o, o.words) for o in failed.values()])
    return "\n".join(lines)


def paragraph(title: str, entries: Sequence[tuple[Outcome, str]]) -> list[str]:
    if not entries:
        return []
    return ["", title, *(f"  {o.test}: {' '.join(words.split())[:300]}".rstrip(": ") for o, words in entries)]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance django", description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument("--django", choices=list(SERIES), help="one series instead of all that differ")
    parser.add_argument(
        "--handler", choices=HANDLERS, help="one handler, without the others to compare it to"
    )
    parser.add_argument("-k", metavar="PATTERN", help="only tests whose names match, as unittest has it")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}, or any label")
    arguments = parser.parse_args()
    words = ["-k", arguments.k] if arguments.k else []
    handlers = [arguments.handler] if arguments.handler else list(HANDLERS)
    done: set[str] = set()
    failed = False
    began = time.monotonic()
    for series in [arguments.django] if arguments.django else list(SERIES):
        try:
            source = prepare(series)
            version = version_of(source)
            if version in done:
                print(f"\nThe newest Django that this Python can have is {version}, too.")
                continue
            done.add(version)
            outcomes: Outcomes = {
                handler: run_tests(source, handler, arguments.suites or SUITES, words) for handler in handlers
            }
        except (NotStarted, subprocess.TimeoutExpired) as error:
            print(error, file=sys.stderr)
            return EXIT_NOT_STARTED
        print(f"Tests of Django {version}, Python {sys.version.split()[0]}\n")
        print(describe(outcomes))
        lost = missing(outcomes)
        if lost:
            print(f"\nDid not run: {', '.join(lost)}")
        failed = failed or bool(failures(outcomes) or lost)
    print(f"\n{time.monotonic() - began:.0f} s")
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
