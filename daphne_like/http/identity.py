"""
The Date and Server fields of every response.

Both are rendered once a second, by whoever owns the clock, and not once a response.
"""

from email.utils import formatdate

__all__ = ["Identity"]


class Identity:
    """
    Args:
        server_name: what Server says; None or empty: no such field.
        now: Unix time in seconds.
    """

    __slots__ = ("_ends", "_server")

    def __init__(self, server_name: str | None, now: float) -> None:
        self._server = b"server: " + server_name.encode("latin-1") + b"\r\n" if server_name else b""
        self._ends: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        self.update(now)

    def update(self, now: float) -> None:
        """Render the fields for the second of *now* (IMF-fixdate, RFC 9110 §5.6.7)."""
        date = b"date: " + formatdate(now, usegmt=True).encode("ascii") + b"\r\n"
        server = self._server
        self._ends = (date + server + b"\r\n", date + b"\r\n", server + b"\r\n", b"\r\n")

    def end_of_head(self, has_date: bool, has_server: bool) -> bytes:
        """Our fields, less those that the response has already, and the empty line that ends a head."""
        return self._ends[has_date * 2 + has_server]
