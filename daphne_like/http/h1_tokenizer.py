"""
Header sections cut into fields by llhttp.

llhttp (through httptools) only cuts: :mod:`daphne_like.http.h1` gives it whole header sections and judges
everything itself. What llhttp refuses is refused, and it refuses what RFC 9112 §2.2 and §5 tell a server to:
a bare CR or LF, NUL and other controls in a value, a name that is no token, white space before the colon,
obs-fold. It never sees a request line or a body: it knows a fixed list of methods, reads several versions of
HTTP and RTSP, and its idea of a body would be a second opinion beside ours.

A parser lives for one section: making one takes 0.1 us, keeping one would take 1 KiB of every idle connection.
"""

import httptools

from daphne_like.errors import RemoteProtocolError
from daphne_like.typing import Headers

__all__ = ["cut_fields"]

# Some message that has no body and no requirements of its own, to stand before the fields.
_HEAD = b"GET / HTTP/1.1\r\n"


class _Fields:
    """The object that llhttp calls back."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def cut_fields(section: bytes) -> Headers:
    """
    Return the fields of a header section in order, names in lower case.

    Args:
        section: all field lines, and the empty line that ends them.

    Raises:
        RemoteProtocolError: 400.
    """
    collector = _Fields()
    try:
        httptools.HttpRequestParser(collector).feed_data(_HEAD + section)
    except httptools.HttpParserUpgrade:
        pass  # the section asks for an upgrade and is complete
    except httptools.HttpParserError as error:
        raise RemoteProtocolError(f"malformed header section: {error}") from None
    fields = collector.fields
    if b" \r\n" in section or b"\t\r\n" in section:  # llhttp leaves blanks after a value in place
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return fields
