"""
The HTTP/1.1 corpus in memory: how the octets of a request are cut into packets is no part of its meaning.

Every case goes to a server without sockets whole, by line, octet by octet and at random cuts; each way the
verdict has to be met, and what comes of it has to be the same. Then hypothesis cuts, and breaks, the cases as
it likes. Over sockets, with the times that they take: tests/end_to_end/test_corpus.py.
"""

import logging
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address

from daphne_like import logs
from daphne_like.testing.wire import MemoryServer
from tests.corpus import Case, EndOfInput, Expect, Send, Sleep, load
from tests.corpus.application import Application
from tests.corpus.judge import Observation, judge
from tests.corpus.responses import read_responses

CASES = load()

# Of a long piece, so many octets at either end go one by one, and what is between in packets of a usual size.
ONE_BY_ONE = 1000
PACKET = 16384


def whole(data: bytes) -> list[bytes]:
    return [data]


def by_line(data: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def by_octet(data: bytes) -> list[bytes]:
    head, middle, tail = data[:ONE_BY_ONE], data[ONE_BY_ONE:-ONE_BY_ONE], data[ONE_BY_ONE:][-ONE_BY_ONE:]
    packets = [middle[start : start + PACKET] for start in range(0, len(middle), PACKET)]
    return [*(bytes([octet]) for octet in head), *packets, *(bytes([octet]) for octet in tail)]


def at_random(seed: str) -> Callable[[bytes], list[bytes]]:
    """A few cuts anywhere, others for each *seed*, the same at each run."""

    def cut(data: bytes) -> list[bytes]:
        chance = random.Random(seed)
        return cut_at(data, [chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 9))])

    return cut


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place <= len(data)), len(data)]
    return [piece for start, end in pairwise(edges) if (piece := data[start:end])]


def feedings(case: Case) -> dict[str, Callable[[bytes], list[bytes]]]:
    randomly = {f"random {i}": at_random(f"{case.id} {i}") for i in range(3)}
    return {"whole": whole, "by line": by_line, "by octet": by_octet, **randomly}


class Faults(logging.Handler):
    """What the server logs as an error, the application's failures left out. None is expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != logs.APPLICATION:
            self.found.append(self.format(record))


class Player:
    """Plays cases to one server, each on a connection of its own."""

    def __init__(self, server: MemoryServer, application: Application) -> None:
        self.server = server
        self.application = application
        self.faults = Faults()
        self._port = 50000

    def play(self, case: Case, cut: Callable[[bytes], list[bytes]]) -> Observation:
        self._port += 1
        wire = self.server.connect(IPv4Address("TCP", "127.0.0.1", self._port))
        for step in case.steps:
            match step:
                case Send(data):
                    for piece in cut(data):
                        if wire.closed:
                            break
                        wire.receive(piece)
                case Sleep(seconds):
                    self.server.advance(seconds)
                case EndOfInput():
                    wire.close_sending()
        seen = self.application.take(self._port)
        observation = Observation(wire.take(), wire.closed, seen)
        wire.vanish()
        assert self.faults.found == []
        return observation


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    application = Application()
    with MemoryServer(application) as server:
        player = Player(server, application)
        logging.getLogger().addHandler(player.faults)
        yield player
        logging.getLogger().removeHandler(player.faults)


def outcome(case: Case, observation: Observation) -> dict[str, Any]:
    """What may not depend on the cuts; what the application has of a request that was refused later, may."""
    responses = read_responses(observation.received, heads=case.head, closed=observation.closed)
    return {
        "responses": [(r.status, r.body if r.status < 400 else None) for r in responses.final],
        "interim": [] if case.expect.interim is None else responses.interim,
        "upgraded": responses.upgraded,
        "closed": observation.closed,
        "requests": [seen for seen in observation.seen if seen.complete],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.topic}/{case.id}")
def test_verdict_is_met_however_the_case_is_cut(case: Case, player: Player) -> None:
    observations = {name: player.play(case, cut) for name, cut in feedings(case).items()}
    complaints = {name: judge(case, observation) for name, observation in observations.items()}
    assert not any(complaints.values()), f"{case.level}, {case.source}. {case.note}"
    if len(case.expect.n) > 1:  # it depends on what of a body has come when the application answers
        return
    outcomes = {name: outcome(case, observation) for name, observation in observations.items()}
    for name, other in outcomes.items():
        assert other == outcomes["whole"], name


# ---- any cut of any octets

# Not those whose outcome is the application's (it answers before the body has come, or out of bounds), nor
# HEAD: how its response is read would depend on what a broken request still is.
SHORT = [
    b"".join(case.segments())
    for case in CASES
    if case.size <= 1000 and case.topic != "response" and len(case.expect.n) < 2 and not case.head
]
# What parsers trip over, so that hypothesis need not find it.
SPLINTERS = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b",", b'"', b"#", b"%", b"\x0b", b"\xff"]


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    """The octets of a case, with up to three places overwritten, cut out, or splinters put in."""
    data = draw(st.sampled_from(SHORT))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 3))
        put_in = draw(st.sampled_from([b"", *SPLINTERS]) | st.binary(max_size=3))
        data = data[:place] + put_in + data[place + removed :]
    return data


@settings(max_examples=400)
@given(data=broken_requests(), places=st.lists(st.integers(0, 1000), max_size=20), half_close=st.booleans())
def test_any_cut_of_any_octets_has_the_same_outcome(
    player: Player, data: bytes, places: list[int], half_close: bool
) -> None:
    steps = (Send(data), EndOfInput()) if half_close else (Send(data),)
    case = Case(
        id="drawn",
        topic="drawn",
        source="RFC 9112 §2",
        level="MUST",
        note="",
        steps=steps,
        head=(),
        expect=Expect(kind="answer"),
    )
    first = outcome(case, player.play(case, whole))
    assert outcome(case, player.play(case, lambda data: cut_at(data, places))) == first
    assert outcome(case, player.play(case, by_octet)) == first
