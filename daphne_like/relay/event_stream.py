"""
Server-Sent Events that survive their worker, by the standard's own means (HTML, "Server-sent events").

A client whose event stream breaks off asks again, with the id of the last event it has got in Last-Event-ID. The
relay does that in its place: the same GET with that field goes to another worker, whose head is dropped if it
says the same as the first one did, and the client sees one stream without a break.

For that, it gets whole events only: EventStream withholds what has come of the next one. An event ends with an
empty line, lines end with CR, LF or both; comments, which keep connections alive, are not withheld.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["EventStream", "asking_again"]

# How much of an event is withheld; the stream of a larger one is not resumed any more.
MAX_PARTIAL = 64 * 1024

_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventStream:
    """
    The body of one response, as the client gets it.

    Args:
        content_type: of the response.

    Attributes:
        last_id: what Last-Event-ID would be now; None where no event has had an id.
        resumable: there is an id, and what was withheld has stayed small.
    """

    __slots__ = ("_id", "_in_event", "_partial", "_size", "_too_large", "_unended", "content_type", "last_id")

    def __init__(self, content_type: bytes) -> None:
        self.content_type = content_type
        self.last_id: bytes | None = None
        self._id: bytes | None = None  # of the event in course
        self._in_event = False
        self._partial: list[bytes] = []  # what is withheld, but for the last line
        self._size = 0
        self._unended = b""  # a line whose end has not come
        self._too_large = False

    @classmethod
    def of(cls, method: str, start: dict[str, Any]) -> "EventStream | None":
        """For a response's head: None where it is no event stream that could be resumed."""
        if method != "GET" or start.get("status") != 200 or start.get("trailers"):
            return None
        content_type = b""
        for name, value in start.get("headers", ()):
            lowered = name.lower()
            if lowered == b"content-type":
                content_type = value
            elif lowered == b"content-length" or (
                lowered == b"content-encoding" and value.strip().lower() != b"identity"
            ):
                return None
        kind = content_type.partition(b";")[0].strip().lower()
        return cls(content_type) if kind == b"text/event-stream" else None

    @property
    def resumable(self) -> bool:
        return self.last_id is not None and not self._too_large

    def same_head(self, start: dict[str, Any]) -> bool:
        """Whether a later response goes on where this one has broken off."""
        again = EventStream.of("GET", start)
        return again is not None and again.content_type == self.content_type

    def pass_on(self, data: bytes, last: bool = False) -> bytes:
        """What of *data* and of what was withheld the client gets now; with *last*, all."""
        if self._too_large:
            return data
        passed: list[bytes] = []
        position = 0
        data = self._unended + data
        while (match := _LINE_END.search(data, position)) is not None:
            end = match.end()
            # A CR at the very end may be half of a line's end, and is one already: an LF alone after it would
            # be an empty line. It waits for what follows.
            if match[0] == b"\r" and end == len(data) and not last:
                break
            self._partial.append(data[position:end])
            self._size += end - position
            self._line(data[position : match.start()])
            position = end
            if not self._in_event:
                passed += self._partial
                self._partial = []
                self._size = 0
        self._unended = data[position:]
        if last or self._size + len(self._unended) > MAX_PARTIAL:
            self._too_large = not last
            passed += [*self._partial, self._unended]
            self.cut()
        return b"".join(passed)

    def _line(self, line: bytes) -> None:
        if not line:
            if self._id is not None:
                self.last_id = self._id
            self._id = None
            self._in_event = False
        elif not line.startswith(b":"):
            self._in_event = True
            name, _, value = line.partition(b":")
            if name == b"id" and b"\0" not in value:
                self._id = value.removeprefix(b" ")

    def cut(self) -> None:
        """Forget what is withheld: the stream goes on with another response, from an event's beginning."""
        self._partial = []
        self._size = 0
        self._unended = b""
        self._id = None
        self._in_event = False


def asking_again(scope: Mapping[str, Any], last_id: bytes) -> dict[str, Any]:
    """*scope* with Last-Event-ID; an empty id asks for none, as browsers do."""
    headers = [field for field in scope["headers"] if field[0] != b"last-event-id"]
    if last_id:
        headers.append((b"last-event-id", last_id))
    return {**scope, "headers": headers}
