"""
What `scripts/bench` needs before it can measure: the servers, wrk, two cores, open files.

If a package is missing under the interpreter that runs the script, the script continues under that of the
repository's .venv, where the extra `bench` of pyproject.toml is installed first. What is missing even there
is reported by name; nothing is dropped in silence.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable

from bench_servers import ROOT, Server

# Set for the second interpreter, so that there is no third. Not a DAPHNE_LIKE_* name: those are settings.
SECOND = "BENCH_RUNS_IN_VENV"


class CannotRun(Exception):
    """The machine lacks something that no other row or server makes up for."""


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def ensure_packages(servers: Iterable[Server]) -> None:
    """Return if everything is importable, or if nothing more can be done; else start again in .venv."""
    if os.environ.get(SECOND) or not any(server.missing_modules() for server in servers):
        return
    if shell("use_venv bench"):
        python = str(ROOT / ".venv" / "bin" / "python")
        os.environ[SECOND] = "1"
        os.execv(python, [python, *sys.argv])
    say("Installing daphne-like[bench] into .venv failed; going on with what is installed here.")


def ensure_wrk() -> None:
    """Raises CannotRun if wrk is not there and cannot be installed."""
    if shutil.which("wrk"):
        return
    if not (shell("as_root_with_apt") and shell("apt_install wrk") and shutil.which("wrk")):
        raise CannotRun("wrk is not installed: `apt-get install wrk`, or --only rows that do without it")


def shell(command: str) -> bool:
    """Run *command* with scripts/lib/venv.sh sourced; its output goes to stderr."""
    script = f". '{ROOT}/scripts/lib/venv.sh'\n{command}"
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], stdout=2, check=False).returncode == 0


def choose_cores(wanted: str | None) -> tuple[int, int]:
    """
    The server's core and the generator's.

    Args:
        wanted: "SERVER,GENERATOR", or None for the last two cores that this process may use.

    Raises:
        CannotRun: there are not two different ones.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if wanted is None:
        if len(allowed) < 2:
            raise CannotRun("two cores are needed: one for the server, one for the load generator")
        return allowed[-1], allowed[-2]
    try:
        server, generator = (int(part) for part in wanted.split(","))
    except ValueError:
        raise CannotRun(f"--cores takes two numbers with a comma, not {wanted!r}") from None
    if server == generator or not {server, generator} <= set(allowed):
        raise CannotRun(f"--cores {wanted}: two different ones of {allowed} are needed")
    return server, generator


def raise_file_limit(needed: int) -> None:
    """For this process and, by inheritance, the servers. Raises CannotRun when the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard < needed:
        raise CannotRun(f"{needed} open files are needed, the limit is {hard}: use fewer --idle connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
