"""
A strict reader of what a server sends: HTTP/1.1 responses by RFC 9112, and nothing mended.

It is not the code under test, nor any library of which a server under test is built. Whatever is wrong with
the octets becomes a sentence in `Responses.faults`; reading stops there, since what follows has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2}) [\t \x21-\x7e\x80-\xff]*", re.DOTALL)
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t \x21-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t \x21-\x7e\x80-\xff]*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")


@dataclass(slots=True)
class Response:
    """`complete` once its framing says so; a response framed by the end of the connection is, at that end."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False

    def all(self, name: str) -> list[str]:
        return [value for field_name, value in self.fields if field_name == name]


@dataclass(slots=True)
class Responses:
    """
    `interim` are the 1xx before the first final response; `upgraded` is what follows a 101, None without one.
    `partial`: octets of a head that has not ended.
    """

    final: list[Response] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    upgraded: bytes | None = None
    partial: bytes = b""
    faults: list[str] = field(default_factory=list)

    @property
    def whole(self) -> list[Response]:
        return [response for response in self.final if response.complete]


class _Fault(Exception):
    """The octets are no response."""


class _Unfinished(Exception):
    """More octets are needed."""


def read_responses(data: bytes, *, heads: Collection[int] = (), closed: bool) -> Responses:
    """
    Take *data* for what one connection received so far, *closed* telling whether the server has ended it.

    *heads* are the indices of the final responses that answer a HEAD.
    """
    found = Responses()
    position = 0
    while position < len(data):
        try:
            response, position = _read_head(data, position)
        except _Unfinished:
            found.partial = data[position:]
            if closed:
                found.faults.append(f"the connection ends inside a response head: {found.partial[:80]!r}")
            break
        except _Fault as fault:
            found.faults.append(str(fault))
            break
        if 100 <= response.status < 200 and response.status != 101:
            if not found.final:
                found.interim.append(response.status)
            continue
        found.final.append(response)
        if response.status == 101:
            response.complete = True
            found.upgraded = data[position:]
            break
        try:
            no_body = len(found.final) - 1 in heads or response.status in (204, 304)
            position = _read_body(response, data, position, no_body=no_body, closed=closed)
            response.complete = True
        except _Unfinished:
            break
        except _Fault as fault:
            found.faults.append(str(fault))
            break
    return found


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        raise _Unfinished
    if data[end - 1 : end] != b"\r" or end == position:
        raise _Fault(f"a line that does not end in CRLF: {data[position : end + 1][:80]!r}")
    return data[position : end - 1], end + 1


def _read_head(data: bytes, position: int) -> tuple[Response, int]:
    if not b"HTTP/1.".startswith(data[position : position + 7]):
        raise _Fault(f"no response: {data[position : position + 80]!r}")
    line, position = _line(data, position)
    status_line = _STATUS_LINE.fullmatch(line)
    if status_line is None:
        raise _Fault(f"no status line: {line[:80]!r}")
    response = Response(int(status_line[1]), [])
    fields, position = _read_fields(data, position)
    response.fields = fields
    return response, position


def _read_fields(data: bytes, position: int) -> tuple[list[tuple[str, str]], int]:
    fields: list[tuple[str, str]] = []
    while True:
        line, position = _line(data, position)
        if not line:
            return fields, position
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise _Fault(f"no field line: {line[:80]!r}")
        fields.append((match[1].decode("ascii").lower(), match[2].strip(b" \t").decode("latin-1")))


def _read_body(response: Response, data: bytes, position: int, *, no_body: bool, closed: bool) -> int:
    lengths, codings = response.all("content-length"), response.all("transfer-encoding")
    if codings and lengths:
        raise _Fault("Content-Length beside Transfer-Encoding")
    if len(set(lengths)) > 1:
        raise _Fault(f"several Content-Lengths: {lengths}")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise _Fault(f"Content-Length: {lengths[0]!r}")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise _Fault(f"Transfer-Encoding: {codings}")
    if no_body:
        return position
    if codings:
        return _read_chunks(response, data, position)
    if lengths:
        end = position + int(lengths[0])
        response.body = data[position:end]
        if len(data) < end:
            raise _Unfinished
        return end
    response.body = data[position:]
    if not closed:
        raise _Unfinished
    return len(data)


def _read_chunks(response: Response, data: bytes, position: int) -> int:
    while True:
        line, position = _line(data, position)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise _Fault(f"no chunk size: {line[:80]!r}")
        size = int(match[1], 16)
        if size == 0:
            _trailers, position = _read_fields(data, position)
            return position
        response.body += data[position : position + size]
        position += size
        if len(data) < position + 2:
            raise _Unfinished
        if data[position : position + 2] != b"\r\n":
            raise _Fault(f"a chunk that does not end in CRLF: {data[position : position + 20]!r}")
        position += 2
