"""Reading what applications send: a sentence for whatever is wrong, and copies of what could change."""

import pytest

from daphne_like.asgi.messages import (
    message_body,
    message_headers,
    message_status,
    message_type,
    payload_size,
)
from daphne_like.errors import InvalidMessage


@pytest.mark.parametrize("message", [{}, {"type": None}, {"type": b"x"}, None, "http.response.start", 3, []])
def test_message_without_a_type(message):
    with pytest.raises(InvalidMessage, match='a message is a dict with a "type"'):
        message_type(message)


@pytest.mark.parametrize("status", [None, "200", 200.0, 99, 100, 101, 199, 1000, -1, b"200"])
def test_status_that_is_none(status):
    with pytest.raises(InvalidMessage, match=r"^http\.response\.start: status is an int from 200 to 999"):
        message_status({"type": "http.response.start", "status": status})


def test_status_of_an_enum_is_a_number():
    from http import HTTPStatus

    assert message_status({"type": "http.response.start", "status": HTTPStatus.NOT_FOUND}) == 404
    assert type(message_status({"type": "http.response.start", "status": HTTPStatus.OK})) is int


def test_headers_may_be_any_iterable_or_missing():
    assert message_headers({"type": "x"}) == []
    assert message_headers({"type": "x", "headers": ((b"a", b"b"),)}) == [(b"a", b"b")]
    with pytest.raises(InvalidMessage, match="headers are pairs of bytes, not int"):
        message_headers({"type": "x", "headers": 3})


def test_body_is_copied_where_its_sender_could_still_write():
    buffer = bytearray(b"a")
    body = message_body({"type": "x", "body": buffer})
    buffer[0] = 0
    assert body == b"a"
    assert message_body({"type": "x"}) == b""
    with pytest.raises(InvalidMessage, match="x: body is bytes, not str"):
        message_body({"type": "x", "body": "a"})


@pytest.mark.parametrize(
    ("payload", "size"),
    [("", 0), ("abc", 3), ("é", 2), ("€", 3), ("😀", 4), (b"", 0), (b"\xff\xff", 2)],
)
def test_a_payloads_size_is_in_octets(payload, size):
    """Limits and the access log speak of what the wire carries, not of characters."""
    assert payload_size(payload) == size
