"""Reading what applications send: keys that may be missing, types that may be wrong."""

from daphne_like.errors import InvalidMessage
from daphne_like.typing import Headers, Message

__all__ = [
    "message_body",
    "message_close",
    "message_headers",
    "message_payload",
    "message_status",
    "message_type",
    "payload_size",
]

# Close codes that no endpoint may send: reserved (RFC 6455 §7.4.1), or below 3000 and not in the registry.
_RESERVED_CODES = frozenset((1004, 1005, 1006, 1015, *range(1016, 3000)))


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


def message_payload(message: Message) -> str | bytes:
    """What a websocket.send carries: exactly one of ``text`` and ``bytes``."""
    text, data = message.get("text"), message.get("bytes")
    if text is not None:
        if not isinstance(text, str):
            raise InvalidMessage(f"websocket.send: text is a str, not {type(text).__name__}")
        if data is not None:
            raise InvalidMessage("websocket.send: has text and bytes")
        return text
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidMessage("websocket.send: has text (a str) or bytes")
    return bytes(data)


def payload_size(payload: str | bytes) -> int:
    """Octets that a message's payload has on the wire, uncompressed."""
    if type(payload) is str and not payload.isascii():  # which Python knows without looking
        return len(payload.encode("utf-8", "surrogatepass"))
    return len(payload)


def message_close(message: Message) -> tuple[int, str]:
    """Code and reason of a websocket.close."""
    code = message.get("code", 1000)
    reason = message.get("reason") or ""
    if code is None:
        code = 1000
    if not isinstance(code, int) or not 1000 <= code <= 4999 or code in _RESERVED_CODES:
        raise InvalidMessage(f"websocket.close: {code!r} is not a code that can be sent")
    if not isinstance(reason, str):
        raise InvalidMessage(f"websocket.close: reason is a str, not {type(reason).__name__}")
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"websocket.close: reason has a lone surrogate: {error}") from None
    return code, reason
