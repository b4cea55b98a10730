"""
Runs scenarios, one fresh server each, and says which bounds held.

A server is judged as it starts: with default settings at full scale. It is warmed up first; growth is
counted from there. After every scenario it must still answer, whatever the bounds say.

Exit code of main(): 0 when every scenario held, 1 when one did not, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import http_scenarios, websocket_scenarios  # noqa: F401  they register their scenarios
from .client import BadAnswer, Probe, fetch
from .scenario import OTHERS_ANSWERED, RSS_GROWTH, SCENARIOS, Run, Scale, Scenario, show, warm_up
from .server_process import OURS, MemoryWatch, ServerDied, ServerProcess

_DESCRIPTORS_NEEDED = 5200  # the most connections of any scenario, and some
_DEPARTURE_TIMEOUT = (
    3.0  # how long a server may keep descriptors of closed connections before they count as its own
)


@dataclass(slots=True)
class Outcome:
    """What a scenario showed. It held when `broken` is empty."""

    name: str
    figures: str = ""  # for people
    bounds: str = ""
    broken: list[str] = field(default_factory=list)
    elapsed: float = 0.0  # seconds, the server's start included
    server_output: str = ""  # the end of what the server printed

    @property
    def held(self) -> bool:
        return not self.broken


def raise_descriptor_limit() -> None:
    """
    Lifts this process's soft limit to the hard one; the server inherits it. Raises OSError when that is not
    enough.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS_NEEDED:
        raise OSError(f"the limit of open files is {hard}, the scenarios need {_DESCRIPTORS_NEEDED}")


def run_scenario(scenario: Scenario, *, short: bool, template: str = OURS, port: int = 0) -> Outcome:
    """Starts a server for *scenario*, runs it, ends the server. Never raises for what the server does."""
    scale = scenario.scale(short=short)
    outcome = Outcome(scenario.name, bounds="; ".join(map(str, scale.bounds)))
    began = time.monotonic()
    server = ServerProcess(template, options=scale.options, descriptors=scale.descriptors, port=port)
    try:
        with server:
            _run(scenario, scale, server, outcome)
    except (OSError, ServerDied, BadAnswer) as error:
        outcome.broken.append(f"{type(error).__name__}: {error}")
    outcome.server_output = server.printed
    outcome.elapsed = time.monotonic() - began
    return outcome


def _run(scenario: Scenario, scale: Scale, server: ServerProcess, outcome: Outcome) -> None:
    named = {figure for bound in scale.bounds for figure in bound.figures}
    descriptors = _warm_up(server)
    memory = MemoryWatch(server)
    probe = Probe(server.port) if OTHERS_ANSWERED in named else None
    run = Run(server, memory, probe, descriptors, time.monotonic() + scale.deadline)
    overdue = threading.Event()

    def give_up() -> None:
        overdue.set()
        server.kill()

    guard = threading.Timer(scale.deadline, give_up)
    guard.daemon = True
    guard.start()
    memory.start()
    if probe is not None:
        probe.start()
    try:
        try:
            scenario.function(run, **scale.parameters)
        finally:
            memory.stop()
            if probe is not None:
                probe.stop()
                run.record_seconds(OTHERS_ANSWERED, probe.worst)
                if probe.failure:
                    run.remark("probe", probe.failure)
            if RSS_GROWTH in named:
                run.record_size(RSS_GROWTH, memory.peak_growth)
            run.close_sockets()
        if fetch(server.port, "/ping").status != 200:
            outcome.broken.append("does not answer afterwards")
    except (OSError, ServerDied, BadAnswer, ValueError) as error:
        reason = (
            f"not over after {scale.deadline:g} s" if overdue.is_set() else f"{type(error).__name__}: {error}"
        )
        outcome.broken.append(
            reason if server.alive or overdue.is_set() else f"the server has ended ({reason})"
        )
    finally:
        guard.cancel()
    shown = [f"{name} {show(value, run.units[name])}" for name, value in run.figures.items()]
    shown += [f"{name}: {text}" for name, text in run.remarks.items()]
    outcome.figures = "; ".join(shown)
    outcome.broken += [f"not: {bound}" for bound in scale.bounds if not bound.holds(run.figures)]


def _warm_up(server: ServerProcess) -> int:
    """Warms the server up; returns how many descriptors it has once the warm-up's connections are gone."""
    before = server.descriptors()
    warm_up(server.port)
    deadline = time.monotonic() + _DEPARTURE_TIMEOUT
    while (now := server.descriptors()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return now


def choose(only: Sequence[str]) -> list[Scenario]:
    """
    The scenarios whose name is in *only*, or contains one of them; all without any. Raises KeyError for a
    name that matches none.
    """
    if not only:
        return list(SCENARIOS.values())
    chosen: list[Scenario] = []
    for wanted in only:
        exact = [scenario for name, scenario in SCENARIOS.items() if name == wanted]
        found = exact or [scenario for name, scenario in SCENARIOS.items() if wanted in name]
        if not found:
            raise KeyError(wanted)
        chosen += [scenario for scenario in found if scenario not in chosen]
    return chosen


def markdown() -> str:
    """The table of docs/reference/abuse.md."""
    lines = ["| scenario | what happens, and what holds | bounds |", "|---|---|---|"]
    for scenario in SCENARIOS.values():
        lines.append(
            f"| {scenario.name} | {scenario.sentence} | {'; '.join(map(str, scenario.full.bounds))} |"
        )
    return "\n".join(lines) + "\n"


def report(outcome: Outcome) -> str:
    """Lines for people; the server's last words when something broke."""
    verdict = "held" if outcome.held else "BROKEN"
    lines = [
        f"{outcome.name:<42} {verdict:<7} {outcome.elapsed:5.1f} s  {outcome.figures}",
        f"{'':<42} bound: {outcome.bounds}",
    ]
    lines += [f"{'':<42} {broken}" for broken in outcome.broken]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/abuse", description="Abuse a server and see what holds.")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a scenario, or part of its name; repeatable",
    )
    parser.add_argument("--short", action="store_true", help="the scaled-down form that the test suite runs")
    parser.add_argument(
        "--server",
        default=OURS,
        metavar="COMMAND",
        help="another server: {port}, {app} and, for shortened timeouts, {options} are filled in "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=0, help="the server's port (default: any free one)")
    parser.add_argument(
        "--verbose", action="store_true", help="what the server printed, for scenarios that did not hold"
    )
    parser.add_argument("--list", action="store_true", help="the names, and nothing is run")
    parser.add_argument(
        "--markdown", action="store_true", help="the table of the reference page, and nothing is run"
    )
    options = parser.parse_args(arguments)
    if options.markdown:
        sys.stdout.write(markdown())
        return 0
    try:
        chosen = choose(options.only)
    except KeyError as error:
        parser.error(f"no scenario is named {error.args[0]!r}; --list prints the names")
    if options.list:
        print("\n".join(scenario.name for scenario in chosen))
        return 0
    raise_descriptor_limit()
    broken = 0
    for scenario in chosen:
        outcome = run_scenario(scenario, short=options.short, template=options.server, port=options.port)
        broken += not outcome.held
        print(report(outcome), flush=True)
        if options.verbose and not outcome.held:
            print(outcome.server_output, flush=True)
    print(f"{len(chosen) - broken} of {len(chosen)} scenarios held")
    return 1 if broken else 0
