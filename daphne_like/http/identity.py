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

    Attributes:
        ends_of_head: our fields and the empty line that ends a head; by which of them the response has already,
            the sum of HAS_SERVER and HAS_DATE of the headers module.
    """

    __slots__ = ("_server", "ends_of_head")

    def __init__(self, server_name: str | None, now: float) -> None:
        self._server = b"server: " + server_name.encode("latin-1") + b"\r\n" if server_name else b""
        self.ends_of_head: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        self.update(now)

    def update(self, now: float) -> None:
        """Render the fields for the second of *now* (IMF-fixdate, RFC 9110 §5.6.7)."""
        date = b"date: " + formatdate(now, usegmt=True).encode("ascii") + b"\r\n"
        server = self._server
        self.ends_of_head = (date + server + b"\r\n", date + b"\r\n", server + b"\r\n", b"\r\n")
