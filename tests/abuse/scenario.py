"""
What a scenario is: a sentence, bounds as data, and a function that misbehaves and records figures.

    @scenario("slow reader", "A client that ...", full=Scale(...), short=Scale(...))
    def slow_reader(run: Run, size: int) -> None: ...

The function is given a Run and the parameters of its scale. It records figures by name; the bounds of the
scale name the figures they judge. A bound whose figure was never recorded is broken: a scenario cannot pass
by forgetting to look. Two figures are recorded without the function's doing when a bound names them:
RSS_GROWTH, the peak over the whole scenario, and OTHERS_ANSWERED, the worst time of a probe that asks
throughout.

Scenarios register themselves in SCENARIOS, in the order of their files, which is the order of every table.
"""

from __future__ import annotations

import json
import math
import operator
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .client import Flood, Probe, connect, fetch, flood
from .server_process import MemoryWatch, ServerProcess
from .websocket_client import BINARY, HandshakeRefused, WebSocket, frame

KIB = 1024
MIB = 1024 * KIB

RSS_GROWTH = "RSS growth"
OTHERS_ANSWERED = "others answered in"
CPU = "CPU"

_POLL_INTERVAL = 0.02
_SETTLED_OVER = 0.5
_BATCH = 100  # connections opened before their answers are awaited: below any server's backlog


class Unit(Enum):
    COUNT = ""
    BYTES = "MiB"
    SECONDS = "s"
    YES_NO = "yes/no"


def show(value: float, unit: Unit) -> str:
    """A figure for people."""
    if unit is Unit.YES_NO:
        return "yes" if value else "no"
    if math.isinf(value):
        return "never"
    if unit is Unit.BYTES:
        return f"{value / KIB:.1f} KiB" if abs(value) < MIB / 2 else f"{value / MIB:.1f} MiB"
    if unit is Unit.SECONDS:
        return f"{value:.2f} s"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Bound:
    """*figure* *relation* *limit*; sizes in bytes, times in seconds, yes as 1."""

    figure: str
    relation: str
    limit: float
    unit: Unit = Unit.COUNT

    def holds(self, figures: Mapping[str, float]) -> bool:
        return self.figure in figures and _RELATIONS[self.relation](figures[self.figure], self.limit)

    @property
    def figures(self) -> tuple[str, ...]:
        return (self.figure,)

    def __str__(self) -> str:
        if self.unit is Unit.YES_NO:
            return self.figure if self.limit else f"not {self.figure}"
        limit = f"{self.limit:g}"
        if self.unit is Unit.BYTES:
            limit = f"{self.limit / MIB:g} MiB" if self.limit >= MIB else f"{self.limit / KIB:g} KiB"
        elif self.unit is Unit.SECONDS:
            limit = f"{self.limit:g} s"
        return f"{self.figure} {self.relation} {limit}"


@dataclass(frozen=True, slots=True)
class Either:
    """Holds when one of *bounds* does."""

    bounds: tuple[Bound, ...]

    def holds(self, figures: Mapping[str, float]) -> bool:
        return any(bound.holds(figures) for bound in self.bounds)

    @property
    def figures(self) -> tuple[str, ...]:
        return tuple(bound.figure for bound in self.bounds)

    def __str__(self) -> str:
        return " or ".join(str(bound) for bound in self.bounds)


_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">=": operator.ge,
    "=": operator.eq,
}


def size_below(figure: str, limit: float) -> Bound:
    return Bound(figure, "<", limit, Unit.BYTES)


def seconds_below(figure: str, limit: float) -> Bound:
    return Bound(figure, "<", limit, Unit.SECONDS)


def seconds_at_least(figure: str, limit: float) -> Bound:
    return Bound(figure, ">=", limit, Unit.SECONDS)


def equals(figure: str, value: float) -> Bound:
    return Bound(figure, "=", value)


def yes(figure: str) -> Bound:
    return Bound(figure, "=", 1, Unit.YES_NO)


def rss_below(limit: float) -> Bound:
    return size_below(RSS_GROWTH, limit)


def others_below(seconds: float) -> Bound:
    return seconds_below(OTHERS_ANSWERED, seconds)


@dataclass(frozen=True, slots=True)
class Scale:
    """
    One size of a scenario.

    Args:
        bounds: what must hold.
        parameters: keyword arguments of the scenario's function.
        options: words for the server's command line; empty at full scale, which is about default settings.
        deadline: seconds after which the server is killed and the scenario has failed.
        descriptors: the server's RLIMIT_NOFILE, where it matters.
    """

    bounds: tuple[Bound | Either, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    deadline: float = 60.0
    descriptors: int | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    sentence: str
    full: Scale
    short: Scale
    function: Callable[..., None]

    def scale(self, *, short: bool) -> Scale:
        return self.short if short else self.full


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, sentence: str, *, full: Scale, short: Scale
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers the decorated function under *name*; refuses a second one of that name."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if name in SCENARIOS:
            raise ValueError(f"two scenarios are named {name!r}")
        SCENARIOS[name] = Scenario(name, sentence, full, short, function)
        return function

    return register


class Run:
    """
    What a running scenario works with: its server, sockets that are closed at its end, and the place where
    figures go.

    Everything that waits here gives up by itself; the runner also kills the server at the scale's deadline,
    which breaks whatever still hangs.
    """

    def __init__(
        self,
        server: ServerProcess,
        memory: MemoryWatch,
        probe: Probe | None,
        descriptors: int,
        deadline: float,
    ) -> None:
        """
        Args:
            descriptors: how many the server had open when nobody was connected.
            deadline: by time.monotonic().
        """
        self.server = server
        self.memory = memory
        self.figures: dict[str, float] = {}
        self.units: dict[str, Unit] = {}
        self.remarks: dict[str, str] = {}
        self._probe = probe
        self._idle_descriptors = descriptors
        self._stats_before = fetch_stats(server.port)
        self._deadline = deadline
        self._sockets = ExitStack()

    # --- figures ------------------------------------------------------------------------------------------

    def record(self, figure: str, value: float, unit: Unit = Unit.COUNT) -> None:
        """The last value counts."""
        self.figures[figure] = value
        self.units[figure] = unit

    def record_size(self, figure: str, value: float) -> None:
        self.record(figure, value, Unit.BYTES)

    def record_seconds(self, figure: str, value: float) -> None:
        self.record(figure, value, Unit.SECONDS)

    def record_yes(self, figure: str, value: bool) -> None:
        self.record(figure, float(value), Unit.YES_NO)

    def remark(self, name: str, text: str) -> None:
        """Information that no bound judges."""
        self.remarks[name] = text

    # --- the server, from outside -------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def stats(self) -> dict[str, int]:
        """application.Counters, counted from the scenario's beginning."""
        before = self._stats_before
        return {name: value - before[name] for name, value in fetch_stats(self.port).items()}

    def wait_for(self, condition: Callable[[], bool], within: float) -> float:
        """Seconds until *condition* held; math.inf when it did not within *within*."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > within:
                return math.inf
            time.sleep(_POLL_INTERVAL)
        return time.monotonic() - began

    def steady(self, counter: str, *, watch: float, still: float) -> int:
        """
        A counter of the application once it has not moved for *still* seconds, or after *watch* seconds.
        """
        value, began = -1, time.monotonic()
        moved = began
        while time.monotonic() - began < watch and time.monotonic() - moved < still:
            seen = self.stats()[counter]
            if seen != value:
                value, moved = seen, time.monotonic()
            time.sleep(_POLL_INTERVAL)
        return value

    def settle(self, within: float = 20.0) -> None:
        """
        Waits until the server has done what it can: less than a tenth of a processor over half a second.

        What a flood sent is in the kernel's buffers first; the server may be far behind.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            before = self.server.cpu_seconds()
            time.sleep(_SETTLED_OVER)  # an observation
            if self.server.cpu_seconds() - before < _SETTLED_OVER / 10:
                return

    def calls_left(self, within: float = 10.0) -> int:
        """Application calls that still run after *within* seconds; returns as soon as there is none."""
        self.wait_for(lambda: self.stats()["running"] == 0, within)
        return self.stats()["running"]

    def descriptors_left(self, within: float = 10.0) -> int:
        """
        Descriptors beyond those of the idle server after *within* seconds; returns as soon as there is
        none. Ends the probe.
        """
        if self._probe is not None:
            self._probe.stop()
        self.wait_for(lambda: self.server.descriptors() <= self._idle_descriptors, within)
        return max(0, self.server.descriptors() - self._idle_descriptors)

    def connections_held(self) -> int:
        """Descriptors beyond those of the idle server, at this moment."""
        return self.server.descriptors() - self._idle_descriptors

    # --- sockets ------------------------------------------------------------------------------------------

    def connect(self, **options: Any) -> socket.socket:
        """client.connect(), closed at the scenario's end."""
        client = connect(self.port, **options)
        self._sockets.callback(client.close)
        return client

    def websocket(self, target: str, *, deflate: bool = False, **options: Any) -> WebSocket:
        """An open WebSocket on a connect() of its own. Raises HandshakeRefused."""
        return WebSocket(self.connect(**options), target, deflate=deflate).complete()

    def websockets(self, count: int, target: str, *, deflate: bool = False) -> list[WebSocket]:
        """*count* open WebSockets."""
        opened: list[WebSocket] = []
        while len(opened) < count:
            batch = [
                WebSocket(self.connect(), target, deflate=deflate)
                for _ in range(min(_BATCH, count - len(opened)))
            ]
            opened.extend(websocket.complete() for websocket in batch)
        return opened

    def close_sockets(self) -> None:
        self._sockets.close()

    def flood(self, client: socket.socket, block: bytes, total: int, **options: Any) -> Flood:
        """client.flood() that ends with the scenario's deadline at the latest."""
        within = min(options.pop("within", math.inf), self.remaining)
        result = flood(client, block, total, within=within, **options)
        self.remark("flood", f"{result.ended} after {show(result.sent, Unit.BYTES)}")
        return result


def fetch_stats(port: int) -> dict[str, int]:
    """application.Counters, as the application answers them."""
    stats: dict[str, int] = json.loads(fetch(port, "/stats", timeout=30.0).body)
    return stats


def warm_up(port: int) -> None:
    """
    Makes the server do once what every scenario will make it do, so that what it loads and allocates for
    good is in the baseline: concurrent requests, a large body each way, WebSocket messages with and without
    compression.
    """
    for _ in range(3):
        clients = [connect(port) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for client in clients:
            client.recv(4096)
            client.close()
    fetch(port, "/read", body=b"w" * (4 * MIB))
    fetch(port, f"/stream?size={4 * MIB}")
    fetch(port, "/stats")
    for deflate in (False, True):
        with connect(port) as client:
            try:
                websocket = WebSocket(client, "/echo", deflate=deflate).complete()
            except HandshakeRefused:
                continue  # the scenarios will say so
            for size in (32, 64 * KIB, 512 * KIB):
                websocket.send(BINARY, b"w" * size)
                websocket.read_frame()
            if websocket.deflates:
                client.sendall(frame(BINARY, websocket.compressed(b"w" * KIB), compressed=True))
                websocket.read_frame()
