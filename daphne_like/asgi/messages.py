"""Reading what applications send: keys that may be missing, types that may be wrong."""

from daphne_like.errors import InvalidMessage
from daphne_like.typing import Headers, Message

__all__ = ["message_body", "message_headers", "message_status", "message_type"]


def message_type(message: Message) -> str:
    """The message's ``type``; raises InvalidMessage when that is missing or no string."""
    try:
        kind = message["type"]
    except (KeyError, TypeError):
        kind = None
    if not isinstance(kind, str):
        raise InvalidMessage(f'a message is a dict with a "type", not {message!r}')
    return kind


def message_status(message: Message) -> int:
    """The status of a final response; raises InvalidMessage for what is none."""
    status = message.get("status")
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise InvalidMessage(f"{message['type']}: status is an int from 200 to 999, not {status!r}")
    return int(status)


def message_headers(message: Message) -> Headers:
    """The message's ``headers`` as a list; what is in it is judged where it is written."""
    headers = message.get("headers", ())
    if type(headers) is list:
        return headers
    try:
        return list(headers)
    except TypeError:
        raise InvalidMessage(
            f"{message['type']}: headers are pairs of bytes, not {type(headers).__name__}"
        ) from None


def message_body(message: Message) -> bytes:
    """The message's ``body``; a copy where its sender could still write to it."""
    body = message.get("body", b"")
    if type(body) is bytes:
        return body
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise InvalidMessage(f"{message['type']}: body is bytes, not {type(body).__name__}")
    return bytes(body)
