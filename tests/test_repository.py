"""
What holds for every file of the repository, and for its scripts.

The files are those that git tracks, or would: new ones count before they are added.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What no file but this one may hold.
FORBIDDEN = {
    "a path of some machine": r"(?<![\w.}])/(?:home|opt|tmp|work)(?=/|\b(?![\w-]))",
    "a folder beside the repository": r"\.\./shared",
    "unfinished work": r"\b(?:TODO|FIXME|XXX)\b",
    "a merge conflict": r"^(?:<{7}|>{7}) ",
}

# Where an address in this repository may lead: this machine, names reserved for examples (RFC 2606), names
# that mean a format, and the pages that the documentation cites. Nothing is fetched from anywhere.
KNOWN_HOSTS = {
    "0.0.0.0",
    "127.0.0.1",
    "[::1]",
    "localhost",
    "keepachangelog.com",
    "semver.org",
    "www.rfc-editor.org",
    "www.w3.org",
}
RESERVED_HOST = re.compile(r"(?:.+\.)?(?:example(?:\.com|\.net|\.org)?|test|invalid|localhost)")
ADDRESS = re.compile(r"\b(?:https?|wss?)://(?P<host>\[[0-9a-fA-F:]+\]|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+)")

MAX_FILE_SIZE = 1024 * 1024


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
    )
    if listed.returncode != 0:  # an unpacked archive
        return sorted(p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts)
    paths = {ROOT / os.fsdecode(path) for path in listed.stdout.split(b"\0") if path}
    return sorted(p for p in paths if p.is_file())


FILES = tracked_files()
SHELL_SCRIPTS = [p for p in FILES if p.suffix == ".sh" or re.match(rb"#!.*sh\n", p.read_bytes())]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str | None:
    """None for what is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def find_lines(is_wrong: Callable[[str], object]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in FILES
        if path != Path(__file__).resolve()
        for number, line in enumerate((text_of(path) or "").splitlines(), 1)
        if is_wrong(line)
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_is_written(what):
    assert find_lines(re.compile(FORBIDDEN[what]).search) == []


def test_addresses_lead_to_known_hosts():
    def leads_elsewhere(line: str) -> bool:
        hosts = {match["host"].lower() for match in ADDRESS.finditer(line)}
        return any(host not in KNOWN_HOSTS and not RESERVED_HOST.fullmatch(host) for host in hosts)

    assert find_lines(leads_elsewhere) == []


def test_no_large_file():
    assert [name_of(p) for p in FILES if p.stat().st_size > MAX_FILE_SIZE] == []


def test_scripts_are_executable():
    """scripts/NAME is what a reader types; files with an ending, or in scripts/lib, are read by others."""
    commands = [p for p in FILES if p.parent == ROOT / "scripts" and not p.suffix]
    assert {"bench", "conformance", "lint", "run", "test"} <= {p.name for p in commands}
    commands.append(ROOT / ".ci" / "run")
    assert [name_of(p) for p in commands if not os.access(p, os.X_OK)] == []
    assert [name_of(p) for p in commands if not p.read_bytes().startswith(b"#!")] == []


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=name_of)
def test_shell_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_lints_and_tests():
    called = set(re.findall(r"^bash (\S+)", (ROOT / ".ci" / "run").read_text(), re.M))
    assert called == {"scripts/lint", "scripts/test"}


def test_container_is_configured_by_settings_that_exist():
    """A misspelt DAPHNE_LIKE_... in the Dockerfile would be found out by whoever deploys it."""
    from daphne_like.settings import Settings

    names = {f"DAPHNE_LIKE_{field.upper()}" for field in Settings.__dataclass_fields__}
    used = set(re.findall(r"DAPHNE_LIKE_[A-Z_]+", (ROOT / "Dockerfile").read_text()))
    assert used
    assert used <= names


def test_container_runs_the_server_as_process_1_and_not_as_root():
    """A shell between would keep the SIGTERM of `docker stop` to itself."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["daphne-like"]' in lines
    last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line for line in last_stage if line.startswith("USER ")] == ["USER 10001"]


def test_imports_are_declared():
    """Whatever the package imports at the top of a module is a dependency, not a guest of another one."""
    from tests.test_architecture import DOORSTEPS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.match(r"[\w-]+", entry)[0].lower() for group in groups for entry in group}
    brought_along = {"zope"}  # zope.interface is part of Twisted's public interface
    used = set()
    for path in (ROOT / "daphne_like").rglob("*.py"):
        for party in DOORSTEPS:
            if re.search(rf"^(?:from|import) {party}\b", path.read_text(encoding="utf-8"), re.M):
                used.add(party)
    assert used - brought_along <= declared


def test_python_versions_agree():
    """pyproject, ruff and mypy speak of the same oldest Python, and this one is not older."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = settings["project"]["requires-python"].removeprefix(">=")
    assert settings["tool"]["mypy"]["python_version"] == oldest
    assert settings["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert sys.version_info >= tuple(map(int, oldest.split(".")))
