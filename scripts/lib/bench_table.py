"""
From samples to the table and its verdicts, without I/O.

A cell is the median over the rounds; ratios are between medians. The judgement of a row is one of four words:

    aim         the aim is reached
    reached     "must reach" is, the aim is not
    MISSED      "must reach" is not, or our server gave errors
    not judged  a server that the demand needs has no figure: not installed, not asked for, or errors
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench_rows import Demand, Row, Sample
from bench_servers import OURS, REFERENCE

AIM = "aim"
REACHED = "reached"
MISSED = "MISSED"
NOT_JUDGED = "not judged"

# The generator is what limits a figure when its core is full and the server's is not. When neither is,
# something else took part of a core.
FULL_CORE = 0.90


@dataclass
class Cell:
    """All samples of one server in one row."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [error for sample in self.samples for error in sample.errors]

    @property
    def median(self) -> float | None:
        """None when there is nothing, or nothing to be trusted: one error spoils the cell."""
        if not self.samples or self.errors:
            return None
        return statistics.median(sample.value for sample in self.samples)

    def cpu(self) -> tuple[float, float] | None:
        """Medians of the server's and the generator's share of their cores."""
        server = [sample.server_cpu for sample in self.samples if sample.server_cpu is not None]
        generator = [sample.generator_cpu for sample in self.samples if sample.generator_cpu is not None]
        if not server or not generator:
            return None
        return statistics.median(server), statistics.median(generator)

    def spread(self) -> float:
        """Half the distance between least and most, as a share of the median."""
        values = [sample.value for sample in self.samples]
        middle = statistics.median(values)
        return (max(values) - min(values)) / 2 / middle if middle else 0.0


Cells = Mapping[str, Cell]


def ratio(cells: Cells, server: str, peer: str) -> float | None:
    ours, theirs = (cells[name].median if name in cells else None for name in (server, peer))
    return ours / theirs if ours is not None and theirs else None


def meets(demand: Demand, cells: Cells) -> bool | None:
    """None when there is no figure to judge by."""
    if demand.peer is None:
        median = cells[OURS].median if OURS in cells else None
        return None if median is None else median <= demand.bound
    reached = ratio(cells, OURS, demand.peer)
    return None if reached is None else reached >= demand.bound


def verdict(row: Row, cells: Cells) -> str:
    if OURS in cells and cells[OURS].errors:
        return MISSED
    answers = [meets(demand, cells) for demand in row.must]
    if False in answers:
        return MISSED
    if None in answers:
        return NOT_JUDGED
    return AIM if meets(row.aim, cells) else REACHED


def must_words(row: Row) -> str:
    return " and ".join(demand_words(demand) for demand in row.must)


def demand_words(demand: Demand) -> str:
    if demand.peer is None:
        return f"<= {demand.bound / 1000:g} KB"
    return f">= {demand.bound:.1f} x {demand.peer}"


def aim_words(row: Row) -> str:
    if row.aim.peer is None:
        return f"{row.aim.bound / 1000:g} KB"
    return f"{row.aim.bound:.1f} x"


def figure(row: Row, cells: Cells, server: str) -> str:
    """A cell's text: the median, and in parentheses its ratio to uvicorn's."""
    cell = cells.get(server)
    if cell is None:
        return "missing"
    if cell.errors:
        return "errors"
    if cell.median is None:
        return "-"
    words = f"{cell.median / 1000:.1f} KB" if row.is_memory else f"{cell.median:,.0f}"
    compared = ratio(cells, server, REFERENCE)
    return words if compared is None else f"{words} ({compared:.2f})"


def numbers(rows: Sequence[Row], results: Mapping[str, Cells], servers: Sequence[str]) -> list[str]:
    """The table: median and (ratio to uvicorn) of every server, what must be reached, the verdict."""
    lines = [["work", *servers, "must reach", "aim", "verdict"]]
    for row in rows:
        cells = results[row.key]
        columns = [figure(row, cells, server) for server in servers]
        title = row.title if row.is_memory else f"{row.title}, {row.unit}"
        lines.append([title, *columns, must_words(row), aim_words(row), verdict(row, cells)])
    return markdown(lines)


def measurement(rows: Sequence[Row], results: Mapping[str, Cells], servers: Sequence[str]) -> list[str]:
    """How far the figures can be trusted: shares of the two cores, spread over the rounds."""
    lines = [["server CPU / generator CPU, spread", *servers]]
    for row in rows:
        columns = []
        for server in servers:
            cell = results[row.key].get(server)
            if cell is None or cell.median is None:
                columns.append("-")
                continue
            shares = cell.cpu()
            words = "" if shares is None else f"{shares[0]:.0%} / {shares[1]:.0%}, "
            columns.append(f"{words}±{cell.spread():.0%}")
        lines.append([row.title, *columns])
    return markdown(lines)


def warnings(rows: Iterable[Row], results: Mapping[str, Cells]) -> list[str]:
    """Every kind of error once, and figures that show another limit than the server's."""
    lines = []
    for row in rows:
        for server, cell in results[row.key].items():
            for error in dict.fromkeys(cell.errors):
                lines.append(f"{row.key}: {server}: {error}")
            shares = cell.cpu()
            if cell.errors or shares is None or shares[0] > FULL_CORE:
                continue
            if shares[1] > FULL_CORE:
                lines.append(
                    f"{row.key}: {server}: the load generator used {shares[1]:.0%} of its core and the server"
                    f" only {shares[0]:.0%}: the server is faster than this figure"
                )
            else:
                lines.append(
                    f"{row.key}: {server}: neither the server ({shares[0]:.0%}) nor the load generator"
                    f" ({shares[1]:.0%}) filled its core: is the machine busy with something else?"
                )
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pipes and padding: readable in a terminal, a table in a Markdown file. Figures are set to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [any(line[column][:1].isdigit() for line in lines[1:]) for column in range(len(widths))]
    numeric[0] = False
    printed = []
    for number, line in enumerate(lines):
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        printed.append("| " + " | ".join(padded) + " |")
        if number == 0:
            marks = [
                "-" * (width + 1) + (":" if right else "-")
                for width, right in zip(widths, numeric, strict=True)
            ]
            printed.append("|" + "|".join(marks) + "|")
    return printed


def as_json(rows: Iterable[Row], results: Mapping[str, Cells]) -> list[dict[str, object]]:
    """Everything that was measured; values in the row's unit, memory in bytes."""
    return [
        {
            "row": row.key,
            "title": row.title,
            "unit": "bytes per connection" if row.is_memory else row.unit,
            "must_reach": must_words(row),
            "aim": aim_words(row),
            "verdict": verdict(row, results[row.key]),
            "servers": {
                server: {
                    "median": cell.median,
                    "ratio_to_uvicorn": ratio(results[row.key], server, REFERENCE),
                    "samples": [
                        {
                            "value": sample.value,
                            "server_cpu": sample.server_cpu,
                            "generator_cpu": sample.generator_cpu,
                            "errors": list(sample.errors),
                        }
                        for sample in cell.samples
                    ],
                }
                for server, cell in results[row.key].items()
            },
        }
        for row in rows
    ]
