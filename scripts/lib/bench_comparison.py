"""
Rows that compare some contestants, and the table that says which of them reached what they must.

`scripts/bench relay` and `scripts/bench layers` are made of these. Contestants take turns, each started afresh
for every measurement; ours comes first. One error in one round, and the contestant has no figure.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import bench_table
from bench_client import WrongAnswer
from bench_rows import Sample
from bench_servers import ServerFailed
from bench_setup import say

# The server's, and the generator's: set by run().
CORES: list[int] = []


@dataclass(frozen=True)
class Comparison:
    """
    A row.

    Args:
        contestants: names, ours first; each is measured by `measure(name, seconds)`.
        must, aim: (contestant, ratio of ours to it), or ("", bound) for a figure that may not be exceeded.
        difference: the figure judged is ours minus the second's, not a ratio.
        smaller: the better figure is the smaller one, and a ratio must not be exceeded.
        once: measured in one round only.
    """

    key: str
    title: str
    unit: str
    contestants: tuple[str, ...]
    must: tuple[tuple[str, float], ...]
    aim: tuple[str, float]
    measure: Callable[[str, int], Sample]
    difference: bool = False
    smaller: bool = False
    once: bool = False
    needs_wrk: bool = False


Cells = Mapping[str, bench_table.Cell]


def run(rows: list[Comparison], rounds: int, seconds: int, cores: tuple[int, int]) -> int:
    """Measure and print; 0 where every row reached what it must, 1 otherwise."""
    CORES[:] = cores
    results: dict[str, dict[str, bench_table.Cell]] = {}
    for row in rows:
        key, turns = row.key, 1 if row.once else rounds
        cells = results[key] = {name: bench_table.Cell() for name in row.contestants}
        for number in range(1, turns + 1):
            for name in row.contestants:
                sample = measured(row, name, seconds)
                cells[name].samples.append(sample)
                say(
                    f"{key} {number}/{turns} {name}: "
                    + ("; ".join(sample.errors) or f"{sample.value:,.0f} {row.unit}")
                )
    lines = [["work", "ours", "compared with", "must reach", "aim", "verdict"]]
    verdicts = []
    for row in rows:
        line = judged(row, results[row.key])
        verdicts.append(line[-1])
        lines.append(line)
    print("\n".join(bench_table.markdown(lines)))
    for key, cells in results.items():
        for name, cell in cells.items():
            for error in dict.fromkeys(cell.errors):
                print(f"warning: {key}: {name}: {error}")
            if cell.samples and len(cell.samples) > 1:
                say(f"spread {key} {name}: ±{cell.spread():.0%}")
    return 0 if all(each in (bench_table.AIM, bench_table.REACHED) for each in verdicts) else 1


def measured(row: Comparison, name: str, seconds: int) -> Sample:
    try:
        return row.measure(name, seconds)
    except (ServerFailed, WrongAnswer, OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Sample(0.0, errors=(f"{type(error).__name__}: {error}",))


def judged(row: Comparison, cells: Cells) -> list[str]:
    """One line of the table."""
    ours = cells[row.contestants[0]].median
    compared = []
    for name in row.contestants[1:]:
        theirs = cells[name].median
        words = "errors" if theirs is None else f"{theirs:,.0f}"
        if ours is not None and theirs:
            words += f" ({ours - theirs:+,.0f})" if row.difference else f" ({ours / theirs:.2f} x)"
        compared.append(f"{name} {words}")
    shown = "errors" if ours is None else f"{ours:,.0f} {row.unit}"
    return [
        row.title,
        shown,
        ", ".join(compared),
        " and ".join(demand_words(row, demand) for demand in row.must),
        demand_words(row, row.aim),
        verdict(row, cells),
    ]


def demand_words(row: Comparison, demand: tuple[str, float]) -> str:
    name, bound = demand
    sign = "<=" if row.smaller else ">="
    return f"{sign} {bound:g} x {name}" if name else f"<= {bound:g} {row.unit}"


def verdict(row: Comparison, cells: Cells) -> str:
    answers = [meets(row, demand, cells) for demand in row.must]
    if cells[row.contestants[0]].errors or False in answers:
        return bench_table.MISSED
    if None in answers:
        return bench_table.NOT_JUDGED
    return bench_table.AIM if meets(row, row.aim, cells) else bench_table.REACHED


def meets(row: Comparison, demand: tuple[str, float], cells: Cells) -> bool | None:
    name, bound = demand
    ours = cells[row.contestants[0]].median
    if ours is None:
        return None
    if name:
        theirs = cells[name].median
        if not theirs:
            return None
        return ours / theirs <= bound if row.smaller else ours / theirs >= bound
    if row.difference:
        theirs = cells[row.contestants[1]].median
        return ours - theirs <= bound if theirs is not None else None
    return ours <= bound
