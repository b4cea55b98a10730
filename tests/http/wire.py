"""
What the tests of `daphne_like.http` share: limits, a fixed clock, splits of bytes, responses read back.

Reading is done by a small strict reader of our own (`read_responses`), so that a response that only a lenient
client understands fails here.

No __init__.py beside this file: pytest would then import the folder as the top-level package `http`, in the
place of the standard library's.
"""

import itertools
from dataclasses import dataclass, field

from hypothesis import strategies as st

from daphne_like.http.h1 import H1Connection
from daphne_like.http.h1_tokenizer import FieldTokenizer
from daphne_like.http.identity import Identity
from daphne_like.http.limits import Limits

NOW = 784111777.5  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 §5.6.7, and a half
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


def limits(**changes):
    values = {"max_head_size": 4096, "max_header_count": 20, "max_target_length": 1024, "max_body_size": 0}
    return Limits(**(values | changes))


def identity(server_name="us"):
    return Identity(server_name, NOW)


def connection(server_name="us", tokenizer=None, **changes):
    """An HTTP/1 connection under `limits(**changes)`."""
    return H1Connection(limits(**changes), identity(server_name), tokenizer or FieldTokenizer())


def split(data, cuts):
    """*data* in pieces, cut at the positions *cuts*, in any order; never an empty piece."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def cuts_of(size):
    """Strategy: where to cut some *size* bytes, single bytes being likely."""
    some = st.lists(st.integers(0, max(0, size)), max_size=12)
    return some | st.just(list(range(size)))


def one_by_one(data):
    return [bytes((octet,)) for octet in data]


@dataclass
class Response:
    """One response as it was on the wire; names in lower case, *rest* what stood behind it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    framing: str = "none"

    def values(self, name):
        return [value for key, value in self.headers if key == name]


def _cut_head(data):
    head, separator, rest = data.partition(b"\r\n\r\n")
    assert separator, f"no end of a head in {data!r}"
    assert b"\n" not in head.replace(b"\r\n", b""), f"bare LF in {head!r}"
    assert b"\r" not in head.replace(b"\r\n", b""), f"bare CR in {head!r}"
    return head.split(b"\r\n"), rest


def _fields(lines):
    fields = []
    for line in lines:
        name, separator, value = line.partition(b": ")
        assert separator, f"no field line: {line!r}"
        fields.append((name.lower(), value))
    return fields


def read_response(data, *, method="GET"):
    """Take one response off *data*: ``(response, the octets behind it)``. RFC 9112 §6.3."""
    lines, rest = _cut_head(data)
    version, code, _ = lines[0].split(b" ", 2)
    assert version == b"HTTP/1.1"
    response = Response(int(code), _fields(lines[1:]))
    lengths, codings = response.values(b"content-length"), response.values(b"transfer-encoding")
    assert len(lengths) <= 1
    assert codings in ([], [b"chunked"])
    assert not (lengths and codings)
    if method == "HEAD" or response.status < 200 or response.status in (204, 304):
        return response, rest
    if codings:
        response.framing = "chunked"
        return _read_chunks(response, rest)
    if lengths:
        response.framing = "length"
        size = int(lengths[0])
        assert len(rest) >= size, f"{len(rest)} of {size} octets"
        response.body = rest[:size]
        return response, rest[size:]
    response.framing = "close"
    response.body = rest
    return response, b""


def _read_chunks(response, data):
    while True:
        line, separator, data = data.partition(b"\r\n")
        assert separator
        size = int(line, 16)
        if not size:
            break
        assert data[size : size + 2] == b"\r\n"
        response.body += data[:size]
        data = data[size + 2 :]
    if data.startswith(b"\r\n"):
        return response, data[2:]
    lines, data = _cut_head(data)
    response.trailers = _fields(lines)
    return response, data


def read_responses(data, *methods):
    """All of *data* as responses to requests of these methods; nothing may be left over."""
    responses = []
    for method in methods:
        response, data = read_response(data, method=method)
        responses.append(response)
    assert data == b""
    return responses
