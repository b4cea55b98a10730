"""The Date and Server fields, and when each is left out."""

import pytest

from daphne_like.http.headers import HAS_DATE, HAS_SERVER
from daphne_like.http.identity import Identity
from tests.http.wire import DATE, NOW

WITH_DATE = b"date: " + DATE + b"\r\n"
ENDS = [  # server name, has the response a Date, a Server -> end of its head
    ("us", False, False, WITH_DATE + b"server: us\r\n\r\n"),
    ("us", False, True, WITH_DATE + b"\r\n"),
    ("us", True, False, b"server: us\r\n\r\n"),
    ("us", True, True, b"\r\n"),
    ("", False, False, WITH_DATE + b"\r\n"),
    (None, False, False, WITH_DATE + b"\r\n"),
    (None, True, False, b"\r\n"),
]


@pytest.mark.parametrize(("server_name", "has_date", "has_server", "expected"), ENDS)
def test_end_of_head(server_name, has_date, has_server, expected):
    """RFC 9110 §5.6.7 (IMF-fixdate), §6.6.1, §10.2.4."""
    present = has_date * HAS_DATE | has_server * HAS_SERVER
    assert Identity(server_name, NOW).ends_of_head[present] == expected


def test_date_changes_only_when_told():
    """Rendered once a second by who owns the clock, not once a response."""
    identity = Identity(None, NOW)
    before = identity.ends_of_head[0]
    identity.update(NOW + 1)
    after = identity.ends_of_head[0]
    assert before == WITH_DATE + b"\r\n"
    assert after == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n\r\n"


def test_update_keeps_the_server():
    identity = Identity("us", NOW)
    identity.update(NOW + 1)
    assert identity.ends_of_head[HAS_DATE] == b"server: us\r\n\r\n"
