"""
The HTTP/1.1 corpus: requests, octet for octet, with the verdict that the RFCs demand of a server.

The cases are data, in `cases/*.toml`, a file per topic. They know nothing of this server: `judge.py` gives
the verdict on an observation, `client.py` makes one over a socket, `python -m tests.corpus` does both against
any ASGI server. What is said of a case:

    id          unique, and what tests are called by
    source      the RFC section, the advisory or the paper that it comes from
    level       MUST and SHOULD are an RFC's own words; SEC is a grammar broken in a way that an RFC lets a
                recipient mend where mending is a known risk; OK is plain traffic that has to work
    note        why, where the source does not say it
    send        what the client does: wire text, or a list of steps (below)
    head        which responses, counted from 0, answer a HEAD
    expect      the verdict, see `Expect`
    each        a table of name = "text": one case for each, `{}` in the id being the name and `{{each}}`
                the text (or a list, where the name is the text)

Wire text is what one would see in a packet dump. A line of the file ends in CRLF on the wire; everything else
is escaped: \\r \\n \\t \\\\ \\xNN. `{{text * 1000}}` repeats, a # in it being counted from 0. Steps are wire
text and tables: `{ sleep = ms }`, `{ read = ms }` (until the server has said something, so long at most),
`{ eof = true }` (half-close), `{ drip = text, every = ms }` (an octet at a time).
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"

LEVELS = ("MUST", "SHOULD", "SEC", "OK")

KINDS = {
    "reject": "a 4xx, 501 or 505, and no request of it reaches the application whole",
    "accept": "`n` responses (1 unless told), all 2xx; the first request as in `seen`",
    "either": "a clean reject, or an accept that meets `seen`",
    "answer": "any well-formed response but a 5xx (501 and 505 are fine), or a close",
    "incomplete": "no 2xx for a request that never ended",
    "upgrade": "101",
    "no-upgrade": "any well-formed response but 101, and no WebSocket for the application",
    "either-upgrade": "101, or any well-formed response but a 5xx",
    "answer-or-h2": "an `answer`, or the SETTINGS frame of a server that speaks HTTP/2",
    "response": "whatever the application did, well-formed responses to no more than was asked",
}


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """Wait until the server has sent something new, *seconds* at most."""

    seconds: float


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """The client shuts its sending side and goes on reading."""


Step = Send | Sleep | Read | EndOfInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """
    The verdict. `kind` is one of KINDS; the rest narrows it down.

    status          the only final statuses that count: of the reject, or of the first response
    closed          the server has to end the connection
    n               how many 2xx responses an accept has; several where the RFC leaves it open
    then            "reject": after those, a reject; "reject-or-close": or the end of the connection
    paths           what the application is asked for, in order
    seen            the first request as the application sees it: see `judge.py`
    not_seen        paths that the application must not be asked for
    interim         exactly these 1xx statuses come before the first final one
    field           regular expressions that fields of the first response have to match
    no_field        and that they must not match
    once            fields that the first response has at most once
    body            the body of the first response
    invalid_status  the application's status is none: a 500, or a close without a response
    cut_short       the response is not whole, and the connection ends instead of waiting (or it is a 500)
    """

    kind: str
    status: tuple[int, ...] = ()
    closed: bool = False
    n: tuple[int, ...] = ()
    then: str = ""
    paths: tuple[str, ...] = ()
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_seen: tuple[str, ...] = ()
    interim: tuple[int, ...] | None = None
    field: Mapping[str, str] = dataclasses.field(default_factory=dict)
    no_field: Mapping[str, str] = dataclasses.field(default_factory=dict)
    once: tuple[str, ...] = ()
    body: str | None = None
    invalid_status: bool = False
    cut_short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    id: str
    topic: str
    source: str
    level: str
    note: str
    steps: tuple[Step, ...]
    head: tuple[int, ...]
    expect: Expect

    def segments(self) -> list[bytes]:
        """What is sent, cut where the client waits or ends: all that a server may see of it at once."""
        segments = [b""]
        for step in self.steps:
            if isinstance(step, Send):
                segments[-1] += step.data
            else:
                segments.append(b"")
        return [segment for segment in segments if segment]

    @property
    def size(self) -> int:
        return sum(len(step.data) for step in self.steps if isinstance(step, Send))


class CorpusError(Exception):
    """A case file says what no case can say."""


def load() -> list[Case]:
    """Every case, in the order of the files. Raises CorpusError for an unknown word or an id given twice."""
    cases = [case for path in sorted(CASES.glob("*.toml")) for case in load_file(path)]
    ids = [case.id for case in cases]
    if twice := {ident for ident in ids if ids.count(ident) > 1}:
        raise CorpusError(f"given twice: {', '.join(sorted(twice))}")
    return cases


def load_file(path: Path) -> Iterator[Case]:
    with path.open("rb") as file:
        document = tomllib.load(file)
    for table in document.pop("case"):
        each = table.pop("each", None)
        if each is None:
            variants = [(table["id"], "")]
        elif isinstance(each, Mapping):
            variants = [(table["id"].replace("{}", name), text) for name, text in each.items()]
        else:
            variants = [(table["id"].replace("{}", text), text) for text in each]
        for ident, text in variants:
            try:
                yield _case(path.stem, ident, text, table)
            except (CorpusError, KeyError, TypeError) as error:
                raise CorpusError(f"{path.name}: {ident}: {error!r}") from error
    if document:
        raise CorpusError(f"{path.name}: unknown tables {sorted(document)}")


def _case(topic: str, ident: str, each: str, table: Mapping[str, Any]) -> Case:
    known = {"id", "source", "level", "note", "send", "head", "expect"}
    if unknown := set(table) - known:
        raise CorpusError(f"unknown keys {sorted(unknown)}")
    if table["level"] not in LEVELS:
        raise CorpusError(f"level {table['level']}")
    return Case(
        id=ident,
        topic=topic,
        source=table["source"],
        level=table["level"],
        note=table.get("note", ""),
        steps=tuple(_steps(table["send"], each)),
        head=tuple(table.get("head", ())),
        expect=_expect(table["expect"], each),
    )


def _steps(send: str | Sequence[Any], each: str) -> Iterator[Step]:
    for step in [send] if isinstance(send, str) else send:
        match step:
            case str():
                yield Send(wire(step, each))
            case {"sleep": ms, **rest} if not rest:
                yield Sleep(ms / 1000)
            case {"read": ms, **rest} if not rest:
                yield Read(ms / 1000)
            case {"eof": True, **rest} if not rest:
                yield EndOfInput()
            case {"drip": text, "every": ms, **rest} if not rest:
                for octet in wire(text, each):
                    yield Send(bytes([octet]))
                    yield Sleep(ms / 1000)
            case _:
                raise CorpusError(f"no step: {step!r}")


def _expect(table: Mapping[str, Any], each: str) -> Expect:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return wire(value, each).decode("latin-1") if value == "{{each}}" else value
        if isinstance(value, Mapping):
            return {key: filled(item) for key, item in value.items()}
        return tuple(map(filled, value)) if isinstance(value, list) else value

    values = filled(table)
    if isinstance(values.get("n"), int):
        values["n"] = (values["n"],)
    if unknown := set(values) - {known.name for known in dataclasses.fields(Expect)}:
        raise CorpusError(f"unknown expectations {sorted(unknown)}")
    if values["kind"] not in KINDS:
        raise CorpusError(f"kind {values['kind']}")
    if values.get("then", "") not in ("", "reject", "reject-or-close"):
        raise CorpusError(f"then {values['then']}")
    return Expect(**values)


_TOKEN = re.compile(
    r"\{\{(?P<text>.+?) \* (?P<count>\d+)\}\}"
    r"|\\x(?P<hex>[0-9a-f]{2})"
    r"|\\(?P<escape>[rnt\\])"
    r"|(?P<newline>\n)"
    r"|(?P<plain>[\t -\[\]-~]+?(?=\{\{|[\\\n]|$))"
)
_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


def wire(text: str, each: str = "") -> bytes:
    """The octets that wire text stands for; *each* takes the place of `{{each}}`."""
    text = text.replace("{{each}}", each)
    octets = bytearray()
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise CorpusError(f"no wire text: {text[position : position + 20]!r}")
        position = token.end()
        match token.lastgroup:
            case "count":
                unit = wire(token["text"])
                count = int(token["count"])
                if b"#" in unit:
                    octets += b"".join(unit.replace(b"#", b"%d" % i) for i in range(count))
                else:
                    octets += unit * count
            case "hex":
                octets.append(int(token["hex"], 16))
            case "escape":
                octets += _ESCAPES[token["escape"]]
            case "newline":
                octets += b"\r\n"
            case _:
                octets += token["plain"].encode("ascii")
    return bytes(octets)
