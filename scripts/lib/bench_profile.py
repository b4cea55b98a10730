"""
`scripts/bench profile ROW`: where one server spends its time in one row.

py-spy looks at the running process from outside, some 200 times a second; it needs the right to trace (root,
or a permissive ptrace_scope). It shares the server's core, so requests per second are lower than in the
table, but the shares hold. cProfile is always there, counts every call, and makes short functions look dearer
than they are: read its call counts rather than its times.
"""

from __future__ import annotations

import collections
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import bench_servers
from bench_rows import Row, Sample, measure_load
from bench_servers import Server
from bench_setup import CannotRun, say

SAMPLES_PER_SECOND = 200


def py_spy_program() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def with_py_spy(row: Row, server: Server, core: int, seconds: int, top: int, native: bool) -> list[str]:
    """Returns lines to print. Raises CannotRun when py-spy is not there or may not trace."""
    program = py_spy_program()
    if program is None:
        raise CannotRun("py-spy is not installed: `pip install py-spy`, or use --with cprofile")
    with (
        bench_servers.running(server, core) as started,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
    ):
        stacks = Path(folder, "stacks")
        command = [program, "record", "--pid", str(started.process.pid), "--subprocesses", "--function"]
        command += ["--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--output", str(stacks)]
        command += ["--duration", str(seconds)]
        # py-spy runs on the server's own core. On the generator's it would get its turns when the generator
        # sleeps, which is when the server is writing, and see little else. It also means that the server
        # stands still while it is looked at: only --native needs to stop it.
        command.append("--native" if native else "--nonblocking")
        with Path(folder, "log").open("w+") as log:
            spy = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, {core})
            )
            try:
                # One second longer than py-spy looks: it takes a while to find its way in.
                sample = measure_load(row, started, seconds + 1, 0)
                spy.wait(timeout=30)
            finally:
                spy.kill()
                spy.wait()
            if not stacks.exists():
                log.seek(0)
                raise CannotRun(f"py-spy could not trace: {log.read().strip()[-300:]}")
        lines = stacks.read_text().splitlines()
    return [heading(row, server, sample), "", *hottest(lines, top)]


def hottest(stacks: Iterable[str], top: int) -> list[str]:
    """
    Fold py-spy's raw format ("outer;inner;innermost COUNT") into the functions most often innermost.

    Self is the share of samples with the function innermost; total, anywhere on the stack.
    """
    own: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    samples = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if not frame.startswith(("process ", "thread "))]
        if not frames:
            continue
        samples += int(count)
        own[frames[-1]] += int(count)
        # A recursive function counts once.
        for frame in set(frames):
            total[frame] += int(count)
    if not samples:
        return ["no samples"]
    lines = [f"{'self':>6} {'total':>6}  function ({samples} samples)"]
    lines += [
        f"{count / samples:6.1%} {total[frame] / samples:6.1%}  {frame}"
        for frame, count in own.most_common(top)
    ]
    lines += ["", f"{'total':>6}  function"]
    # What every sample has is the way into the event loop.
    inner = [(frame, count) for frame, count in total.most_common() if count < samples]
    lines += [f"{count / samples:6.1%}  {frame}" for frame, count in inner[:top]]
    return lines


def with_cprofile(row: Row, server: Server, core: int, seconds: int, top: int) -> list[str]:
    """Returns lines to print. Raises CannotRun when the server ended without writing its profile."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder, "profile")
        python = (sys.executable, "-m", "cProfile", "-o", str(output))
        # uvicorn ends by SIGTERM's default action, before any profile is written; SIGINT unwinds everywhere.
        with bench_servers.running(server, core, python=python, stop_signal=signal.SIGINT) as started:
            sample = measure_load(row, started, seconds, 0)
        if not output.exists():
            raise CannotRun(f"{server.name} ended without writing a profile; use --with py-spy")
        report = Path(folder, "report")
        with report.open("w") as stream:
            pstats.Stats(str(output), stream=stream).strip_dirs().sort_stats("tottime").print_stats(top)
        return [heading(row, server, sample), "", report.read_text().strip()]


def heading(row: Row, server: Server, sample: Sample) -> str:
    for error in sample.errors:
        say(f"warning: {error}")
    return f"{server.name} {server.version()}, {row.title}: {sample.value:,.0f} {row.unit} while profiled"
