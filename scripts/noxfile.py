"""
The test suite under every installed Python that daphne_like supports.

    nox --noxfile scripts/noxfile.py              one session per Python
    nox --noxfile scripts/noxfile.py -s coverage  the suite once, with a report of what it did not reach

`pip install -e ".[nox]"` brings nox. A Python counts as installed when pythonX.Y is on PATH and runs, or when
pyenv has it; the others are skipped with a word.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

nox.needs_version = ">=2025.10"
nox.options.envdir = str(ROOT / ".nox")
nox.options.sessions = ["tests"]
# Also where $CI is set, which would otherwise turn a missing Python into a failure.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


def runs(python: str) -> bool:
    """Is it a Python that starts? pyenv's shims are on PATH for versions that are not selected."""
    found = shutil.which(python)
    return found is not None and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0


def find_in_pyenv(version: str) -> Path | None:
    """The bin folder of pyenv's newest X.Y, if it has one."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [p for p in versions.glob(f"{version}.*") if (p / "bin" / f"python{version}").exists()]
    newest = max(found, key=lambda p: [int(n) for n in p.name.split(".") if n.isdigit()], default=None)
    return newest / "bin" if newest else None


for version in PYTHONS:
    if not runs(f"python{version}") and (folder := find_in_pyenv(version)):
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Arguments after -- go to pytest."""
    session.chdir(ROOT)
    session.install("--editable", ".[test,demo]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The suite on the Python that runs nox; processes that tests start are counted too."""
    session.chdir(ROOT)
    session.install("--editable", ".[test,demo]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")
