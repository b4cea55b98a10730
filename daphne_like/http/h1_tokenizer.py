"""
Header sections cut into fields by llhttp.

llhttp (through httptools) only cuts: :mod:`daphne_like.http.h1` gives it whole header sections and judges
everything itself. What llhttp refuses is refused, and it refuses what RFC 9112 §2.2 and §5 tell a server to:
a bare CR or LF, NUL and other controls in a value, a name that is no token, white space before the colon,
obs-fold. It never sees a request line or a body: it knows a fixed list of methods, reads several versions of
HTTP and RTSP, and its idea of a body would be a second opinion beside ours.

Making a parser costs as much as reading a small section, and keeping one would cost each idle connection a
kilobyte: one FieldTokenizer serves all connections of an event loop.
"""

import re

import httptools

from daphne_like.errors import RemoteProtocolError
from daphne_like.typing import Headers

__all__ = ["FieldTokenizer"]

# Some message that has no body and no requirements of its own, to stand before the fields.
_HEAD = b"GET / HTTP/1.1\r\n"


# llhttp takes "chunked" and a tab after it for a coding that it does not know. A line of nothing but blanks
# stays: without them it would be the end of the section.
_BLANKS_AFTER_VALUE = re.compile(rb"(?<=[^\t\n ])[\t ]+\r\n")


class FieldTokenizer:
    """
    Cuts one header section after the other.

    Not for several threads: llhttp calls back into Python, where another thread may run.
    """

    __slots__ = ("_fields", "_messages", "_parser", "_reusable")

    def __init__(self) -> None:
        self._fields: Headers = []
        self._messages = 0
        self._parser: httptools.HttpRequestParser | None = None
        self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp."""
        self._fields.append((name.lower(), value))

    def on_message_complete(self) -> None:
        """Called by llhttp."""
        self._messages += 1
        self._reusable = self._parser is not None and self._parser.should_keep_alive()

    def cut(self, section: bytes) -> Headers:
        """
        Return the fields of a header section in order, names in lower case.

        Args:
            section: all field lines, and the empty line that ends them.

        Raises:
            RemoteProtocolError: 400.
        """
        tabs = b"\t\r\n" in section
        if tabs:
            section = _BLANKS_AFTER_VALUE.sub(b"\r\n", section)
        # A parser serves again only where llhttp itself says that the message is over and another may follow.
        # Anything else (a body announced, Connection, an upgrade, an error) would reach the next section,
        # which is somebody else's.
        if not self._reusable or self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        self._reusable = False
        fields: Headers = []
        self._fields = fields
        self._messages = 0
        try:
            self._parser.feed_data(_HEAD + section)
        except httptools.HttpParserUpgrade:
            self._reusable = False  # the section asks for an upgrade and is complete
        except httptools.HttpParserError as error:
            self._reusable = False
            raise RemoteProtocolError(f"malformed header section: {error}") from None
        if self._messages > 1:
            raise RemoteProtocolError("malformed header section: it ends before its end")
        if tabs or b" \r\n" in section:  # llhttp leaves blanks after a value in place
            fields = [(name, value.rstrip(b" \t")) for name, value in fields]
        return fields
