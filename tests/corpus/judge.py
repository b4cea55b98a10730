"""
The verdict: does what a server did meet what a case demands?

An `Observation` is all that can be known from outside: the octets that came, whether the server ended the
connection, and what the application was asked for. How it was made (a socket, a protocol in memory) is no
matter here. `judge()` returns complaints, one sentence each; none means that the verdict is met.

`expect.seen` compares the first request that the application was given:

    method, path, raw_path, query, body     equal
    path_len, body_len                      lengths
    header.NAME                             all values of NAME joined by ", " (any case)
    header_re.NAME                          a regular expression for that
    header_all.NAME                         the list of values, or joined by a comma
    header_len.NAME                         its length
    no_header                               names that are not there
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.corpus import Case
from tests.corpus.application import Seen
from tests.corpus.responses import Response, Responses, read_responses

# The server's preface is a SETTINGS frame (type 4) on stream 0 -- RFC 9113 §3.4
_SETTINGS_FRAME = re.compile(rb"...\x04[\x00\x01]\x00{4}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Observation:
    """`closed`: by the server, before the client went. `seen`: in order of arrival."""

    received: bytes
    closed: bool
    seen: Sequence[Seen]


def judge(case: Case, observation: Observation) -> list[str]:
    """Complaints about *observation*, best first; an empty list if *case* is met."""
    return list(_Judge(case, observation).complaints())


def is_reject(response: Response) -> bool:
    return 400 <= response.status < 500 or response.status in (501, 505)


class _Judge:
    def __init__(self, case: Case, observation: Observation) -> None:
        self.case = case
        self.expect = case.expect
        self.closed = observation.closed
        self.received = observation.received
        self.seen = observation.seen
        self.responses: Responses = read_responses(
            observation.received, heads=case.head, closed=observation.closed
        )
        self.final = self.responses.final

    def complaints(self) -> Iterator[str]:
        for path in self.expect.not_seen:
            if any(seen.path == path for seen in self.seen):
                yield f"the application was asked for {path}"
        if self.expect.kind == "answer-or-h2" and _SETTINGS_FRAME.match(self.received):
            return
        for fault in self.responses.faults:
            if not (self.expect.cut_short and fault.startswith("the connection ends")):
                yield fault
        if self.expect.interim is not None and tuple(self.responses.interim) != self.expect.interim:
            yield f"interim responses {self.responses.interim}, not {list(self.expect.interim)}"
        by_kind: dict[str, Callable[[], Iterator[str]]] = {
            "reject": self._reject,
            "accept": self._accept,
            "either": self._either,
            "answer": self._answer,
            "incomplete": self._incomplete,
            "upgrade": self._upgrade,
            "no-upgrade": self._no_upgrade,
            "either-upgrade": self._either_upgrade,
            "answer-or-h2": self._answer,
            "response": self._response,
        }
        yield from by_kind[self.expect.kind]()
        if self.final:
            yield from self._fields(self.final[0])
        if self.expect.closed and not self.closed:
            yield "the connection stays open"

    # ------------------------------------------------------------------------------------------------------
    # Kinds

    def _reject(self) -> Iterator[str]:
        yield from self._rejected(self.final[0] if self.final else None)
        if whole := [seen for seen in self.seen if seen.complete]:
            yield f"the application was given {whole[0].method} {whole[0].path} whole"

    def _rejected(self, response: Response | None) -> Iterator[str]:
        if response is None:
            yield "closed without a response" if self.closed else "no response"
            return
        if not is_reject(response):
            yield f"{response.status}, not a reject"
        elif self.expect.status and response.status not in self.expect.status:
            yield f"{response.status}, not {_or(self.expect.status)}"
        if not response.complete:
            yield "the response is not whole"

    def _accept(self) -> Iterator[str]:
        allowed = self.expect.n or (1,)
        good = [r for r in self.final if 200 <= r.status < 300]
        if not self.final:
            yield "closed without a response" if self.closed else "no response"
            return
        if self.final[0] not in good:
            yield f"{self.final[0].status}, not a 2xx"
            return
        if len(good) not in allowed:
            yield f"{len(good)} responses with a 2xx, not {_or(allowed)}"
        rest = self.final[len(good) :]
        if rest and self.expect.then:
            yield from self._rejected(rest[0])
        elif rest:
            yield f"a response {rest[0].status} too many"
        elif self.expect.then == "reject" or (self.expect.then and not self.closed):
            yield "no response to what follows"
        if any(not response.complete for response in good):
            yield "a response is not whole"
        if len(self.seen) > max(allowed):
            yield f"the application was given {len(self.seen)} requests: {[s.path for s in self.seen]}"
        if self.expect.paths and tuple(seen.path for seen in self.seen) != self.expect.paths:
            yield f"the application was asked for {[seen.path for seen in self.seen]}"
        yield from self._first_seen()

    def _either(self) -> Iterator[str]:
        if self.final and 200 <= self.final[0].status < 300:
            if not self.final[0].complete:
                yield "the response is not whole"
            yield from self._first_seen()
        else:
            yield from self._rejected(self.final[0] if self.final else None)
            if whole := [seen for seen in self.seen if seen.complete]:
                yield f"refused, and yet the application was given {whole[0].method} {whole[0].path} whole"

    def _answer(self) -> Iterator[str]:
        if not self.final and not self.closed:
            yield "neither a response nor a close"
        for response in self.final:
            if response.status >= 500 and not is_reject(response):
                yield f"{response.status}"

    def _incomplete(self) -> Iterator[str]:
        for response in self.final:
            if response.status < 400:
                yield f"{response.status} for a request that never ended"
            elif not is_reject(response):
                yield f"{response.status}"
        if whole := [seen for seen in self.seen if seen.complete]:
            yield f"the application was given {whole[0].method} {whole[0].path} whole"

    def _upgrade(self) -> Iterator[str]:
        if not self.final:
            yield "closed without a response" if self.closed else "no response"
        elif self.final[0].status != 101:
            yield f"{self.final[0].status}, not 101"
        elif not any(seen.type == "websocket" and seen.complete for seen in self.seen):
            yield "the application has no open WebSocket"

    def _no_upgrade(self) -> Iterator[str]:
        if not self.final:
            yield "closed without a response" if self.closed else "no response"
            return
        first = self.final[0]
        if first.status == 101:
            yield "101"
        elif first.status >= 500 and not is_reject(first):
            yield f"{first.status}"
        elif self.expect.status and first.status not in self.expect.status:
            yield f"{first.status}, not {_or(self.expect.status)}"
        if any(seen.type == "websocket" and seen.complete for seen in self.seen):
            yield "the application was given an open WebSocket"

    def _either_upgrade(self) -> Iterator[str]:
        if not self.final:
            yield "closed without a response" if self.closed else "no response"
        elif self.final[0].status != 101:
            yield from self._answer()

    def _response(self) -> Iterator[str]:
        asked = b"".join(self.case.segments()).count(b" HTTP/1.1\r\n")
        if not self.final:
            if self.expect.status or self.expect.body is not None or not self.closed:
                yield "closed without a response" if self.closed else "no response"
            return
        first, *rest = self.final
        if any(response.all("x-injected") for response in self.final):
            yield "an injected field is on the wire"
        if len(self.final) > asked:
            yield f"{len(self.final)} responses to {asked} requests"
        yield from self._first_response(first)
        for response in rest:
            if response.status != 200 or b'"/second"' not in response.body:
                yield f"the response to /second is {response.status} {response.body[:60]!r}"
        if asked > 1 and not rest and not self.closed:
            yield "/second is not answered, and the connection stays open"

    def _first_response(self, first: Response) -> Iterator[str]:
        failed = first.status == 500 and first.complete
        if self.expect.cut_short:
            if not failed and first.complete:
                yield "the response looks whole"
            if not self.closed and not failed:
                yield "the client is left waiting"
            return
        if not first.complete and not self.closed:
            yield "the response is not whole, and the connection stays open"
        if self.expect.status and first.status not in self.expect.status:
            yield f"{first.status}, not {_or(self.expect.status)}"
        if self.expect.invalid_status and not failed:
            yield f"{first.status}, not 500"
        body = self.expect.body
        # Where no body is allowed, refusing the application's response with a 500 is fine too.
        if body is not None and first.body != body.encode("latin-1") and (body or not failed):
            yield f"the body is {first.body[:60]!r}"

    # ------------------------------------------------------------------------------------------------------
    # Parts

    def _fields(self, response: Response) -> Iterator[str]:
        for name, pattern in self.expect.field.items():
            values = response.all(name)
            if not any(re.search(pattern, value) for value in values):
                yield f"{name}: {values}, not {pattern}"
        for name, pattern in self.expect.no_field.items():
            if any(re.search(pattern, value) for value in response.all(name)):
                yield f"{name}: {response.all(name)}"
        for name in self.expect.once:
            if len(response.all(name)) > 1:
                yield f"{name} {len(response.all(name))} times"

    def _first_seen(self) -> Iterator[str]:
        wanted = dict(self.expect.seen)
        if not wanted:
            return
        if not self.seen:
            yield "the application was asked for nothing"
            return
        for key, value in wanted.items():
            yield from self._compare(self.seen[0], key, value)

    @staticmethod
    def _compare(seen: Seen, key: str, wanted: Any) -> Iterator[str]:
        if key == "no_header":
            for name in wanted:
                if seen.values(name):
                    yield f"the application sees {name}: {seen.values(name)}"
        elif key.startswith("header"):
            for name, value in wanted.items():
                found = ", ".join(seen.values(name))
                if not (seen.values(name) and _HEADER_COMPARISONS[key](found, value)):
                    yield f"{name} is {_short(found)}, not {_short(value)}"
        elif key.endswith("_len"):
            if (length := len(getattr(seen, key.removesuffix("_len")))) != wanted:
                yield f"{key} is {length}, not {wanted}"
        else:
            found = getattr(seen, key)
            # ASGI lets a server leave raw_path out.
            if found != wanted and not (key == "raw_path" and found is None):
                yield f"{key} is {_short(found)}, not {_short(wanted)}"


_HEADER_COMPARISONS: dict[str, Callable[[str, Any], object]] = {
    "header": lambda found, wanted: found == wanted,
    "header_re": lambda found, wanted: re.search(wanted, found, re.DOTALL),
    "header_all": lambda found, wanted: found.replace(" ", "") == ",".join(wanted),
    "header_len": lambda found, wanted: len(found) == wanted,
}


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value)})"
