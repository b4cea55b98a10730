"""
What an application may say, judged in the worker.

The server's streams judge every message again, but too late: an application wants its error out of its own
`await send(...)`, and the server is an envelope away. So the worker refuses what asgi.http, asgi.websocket and
http.h1_response would refuse, in the same states, with the same errors, before anything crosses the layer.

Tables of states as in asgi.http and asgi.websocket; anything absent raises UnexpectedMessage:

    REQUEST   http.response.start -> HEADERS         http.response.early_hint -> REQUEST
    HEADERS   http.response.body  -> BODY | last     http.response.pathsend -> last
    BODY      http.response.body  -> BODY | last
    TRAILERS  http.response.trailers -> TRAILERS (more_trailers) | DONE
              last = TRAILERS where start announced them, else DONE
    ABANDONED nothing: the application has ended, or nobody waits

    HANDSHAKE websocket.accept -> OPEN               websocket.close -> CLOSED
              websocket.http.response.start -> DENIAL
    DENIAL    websocket.http.response.body -> DENIAL | CLOSED
    OPEN      websocket.send -> OPEN                 websocket.close -> CLOSING

judged() gives the item to send: made anew, of plain types only, so that it can be packed later and does not
change with what the application does to its message meanwhile. No I/O but a look at files to be sent.
"""

import io
import os
import stat
from collections.abc import Callable
from typing import Any

from daphne_like.asgi.messages import (
    message_body,
    message_close,
    message_headers,
    message_payload,
    message_status,
    message_type,
    payload_size,
)
from daphne_like.errors import InvalidMessage, UnexpectedMessage
from daphne_like.http.headers import response_field, response_section
from daphne_like.relay.envelope import Item
from daphne_like.typing import Headers, Message
from daphne_like.websocket.codec import ABNORMAL_CLOSURE
from daphne_like.websocket.handshake import Handshake

__all__ = [
    "ABANDONED",
    "BODY",
    "CLOSED",
    "CLOSING",
    "DENIAL",
    "DONE",
    "HANDSHAKE",
    "HEADERS",
    "OPEN",
    "REQUEST",
    "TRAILERS",
    "HTTPConversation",
    "ResponseJudge",
    "WebSocketConversation",
]

REQUEST, HEADERS, BODY, TRAILERS = "REQUEST", "HEADERS", "BODY", "TRAILERS"
DONE, ABANDONED = "DONE", "ABANDONED"
HANDSHAKE, DENIAL, OPEN, CLOSING, CLOSED = "HANDSHAKE", "DENIAL", "OPEN", "CLOSING", "CLOSED"


def _pairs(headers: Headers) -> Headers:
    """A list of our own, each pair a tuple where it can be made one."""
    return [field if type(field) is tuple else _pair(field) for field in headers]


def _pair(field: Any) -> Any:
    try:
        return tuple(field)
    except TypeError:
        return field  # to be judged as it is


class ResponseJudge:
    """
    Judges one response as http.h1_response.ResponseWriter will.

    Args:
        method: of the request.

    Attributes:
        size: octets of what was judged last, to say how large the item is.
    """

    __slots__ = ("_announced", "_method", "_to_send", "size")

    def __init__(self, method: str) -> None:
        self._method = method
        self._announced = -1  # Content-Length; -1 where the body's length is not judged
        self._to_send = 0
        self.size = 0

    def judge_start(self, status: int, headers: Headers) -> None:
        """
        Raises:
            InvalidMessage: and another start may be tried.
        """
        section = response_section(headers)
        length = section[1]
        self.size = len(section[0])
        if length is None or status in _WITHOUT_BODY or self._method == "HEAD":
            length = -1
        self._announced = self._to_send = length

    def judge_body(self, size: int, last: bool) -> None:
        """
        Judge *size* octets more of the body.

        Raises:
            InvalidMessage: more or less than Content-Length announced; they do not count.
        """
        self.size = size
        if self._announced >= 0:
            if size > self._to_send:
                raise self._wrong_length("longer")
            if last and size < self._to_send:
                raise self._wrong_length("shorter")
            self._to_send -= size

    def judge_trailers(self, headers: Headers) -> None:
        """
        Raises:
            InvalidMessage: a field that cannot be sent or be a trailer, or a body that was too short.
        """
        for field in headers:
            kind, line, _ = response_field(field)
            self.size += len(line)
            if kind:
                raise InvalidMessage(f"{field[0]!r} cannot be a trailer field")
        if self._to_send > 0:
            raise self._wrong_length("shorter")

    def _wrong_length(self, how: str) -> InvalidMessage:
        return InvalidMessage(f"the body is {how} than its Content-Length of {self._announced}")


# RFC 9110 §6.4.1, and 205: §15.3.6
_WITHOUT_BODY = frozenset((204, 205, 304))


class HTTPConversation(ResponseJudge):
    """
    What an application says on the scope "http".

    Attributes:
        headers: of the response, once it has begun.
    """

    __slots__ = ("_http_version", "_trailers", "headers", "state", "status")

    def __init__(self, method: str, http_version: str) -> None:
        super().__init__(method)
        self._http_version = http_version
        self._trailers: Headers | None = None
        self.headers: Headers = []
        self.status = 0
        self.state = REQUEST

    def judged(self, message: Message) -> Item:
        """
        The item for *message*; None where nothing has to be sent.

        Raises:
            UnexpectedMessage, InvalidMessage: it is not for the client.
            OSError: a file to be sent cannot be opened.
        """
        try:
            handler = _HTTP[self.state][message["type"]]
        except (KeyError, TypeError):
            raise UnexpectedMessage(self.state, message_type(message)) from None
        return handler(self, message)

    def _start(self, message: Message) -> Item:
        status = message.get("status")
        if type(status) is not int or not 200 <= status <= 999:
            status = message_status(message)
        headers = _pairs(message_headers(message))
        self.judge_start(status, headers)
        self.headers = headers
        self.status = status
        self.state = HEADERS
        if message.get("trailers"):
            self._trailers = []
            return {"type": "http.response.start", "status": status, "headers": headers, "trailers": True}
        return {"type": "http.response.start", "status": status, "headers": headers}

    def _body(self, message: Message) -> Item:
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = message_body(message)
        if message.get("more_body", False):
            self.judge_body(len(body), False)
            self.state = BODY
            return {"type": "http.response.body", "body": body, "more_body": True}
        self._judge_last(len(body))
        return {"type": "http.response.body", "body": body, "more_body": False}

    def _judge_last(self, size: int) -> None:
        if self._trailers is None:
            self.judge_body(size, True)
            self.state = DONE
        else:
            self.judge_body(size, False)
            self.state = TRAILERS

    def _send_trailers(self, message: Message) -> Item:
        assert self._trailers is not None
        self._trailers += _pairs(message_headers(message))
        if message.get("more_trailers", False):
            return None
        self.size = 0
        self.judge_trailers(self._trailers)
        self.state = DONE
        return {"type": "http.response.trailers", "headers": self._trailers, "more_trailers": False}

    def _early_hint(self, message: Message) -> Item:
        if self._http_version == "1.0":
            raise UnexpectedMessage(self.state, message["type"])
        links = message.get("links", ())
        if isinstance(links, (bytes, str)) or not all(isinstance(link, bytes) for link in links):
            raise InvalidMessage(f"http.response.early_hint: links are a list of bytes, not {links!r}")
        links = list(links)
        self.size = sum(len(response_field((b"link", link))[1]) for link in links)
        return {"type": "http.response.early_hint", "links": links}

    def _pathsend(self, message: Message) -> Item:
        path = message.get("path")
        if not isinstance(path, str) or not os.path.isabs(path):
            raise InvalidMessage(f"http.response.pathsend: path is an absolute path, not {path!r}")
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError:
                raise InvalidMessage(
                    f"http.response.pathsend: a path that is not UTF-8 cannot be relayed: {path!r}"
                ) from None
        # Opened here for the sake of the error; the server opens it again.
        with io.FileIO(path, opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
        if self._announced >= 0 and stat.S_ISREG(found.st_mode):
            self._judge_last(found.st_size)
        else:
            self.state = DONE if self._trailers is None else TRAILERS
        self.size = len(path)
        return {"type": "http.response.pathsend", "path": str(path)}


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


_HTTP: dict[str, dict[str, Callable[[HTTPConversation, Message], Item]]] = {
    REQUEST: {
        "http.response.start": HTTPConversation._start,
        "http.response.early_hint": HTTPConversation._early_hint,
    },
    HEADERS: {
        "http.response.body": HTTPConversation._body,
        "http.response.pathsend": HTTPConversation._pathsend,
    },
    BODY: {"http.response.body": HTTPConversation._body},
    TRAILERS: {"http.response.trailers": HTTPConversation._send_trailers},
    DONE: {},
    ABANDONED: {},
}


class WebSocketConversation(ResponseJudge):
    """
    What an application says on the scope "websocket".

    Args:
        subprotocols: that the client offers.
        resumed: the client's WebSocket is open already, so that a refusal is a close with a code.

    Attributes:
        disconnect: code and reason that websocket.disconnect will say, once they are known. The
            conversation is over for the application's send() then.
        absorbing: the application knows that it hands off: its close is no longer the client's.
    """

    __slots__ = ("_resumed", "_subprotocols", "absorbing", "disconnect", "state")

    def __init__(self, subprotocols: list[str], *, resumed: bool) -> None:
        super().__init__("GET")
        self._subprotocols = subprotocols
        self._resumed = resumed
        self.absorbing = False
        self.disconnect: tuple[int, str] | None = None
        self.state = HANDSHAKE

    def judged(self, message: Message) -> Item:
        """
        The item for *message*; None where nothing has to be sent.

        Raises:
            UnexpectedMessage, InvalidMessage: it is not for the client.
        """
        try:
            handler = _WEBSOCKET[self.state][message["type"]]
        except (KeyError, TypeError):
            raise UnexpectedMessage(self.state, message_type(message)) from None
        return handler(self, message)

    def _accept(self, message: Message) -> Item:
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise InvalidMessage(f"websocket.accept: subprotocol is a str, not {subprotocol!r}")
        headers = _pairs(message_headers(message))
        # The key is the server's; here it is only about whether fields can be made of this.
        Handshake(b"", self._subprotocols, []).accept_headers(subprotocol, None, headers)
        self.size = sum(len(name) + len(value) for name, value in headers)
        self.state = OPEN
        return {"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers}

    def _send(self, message: Message) -> Item:
        payload = message.get("text")
        if type(payload) is not str or message.get("bytes") is not None:
            payload = message_payload(message)
        if isinstance(payload, bytes) or payload.isascii():
            self.size = len(payload)
            return payload
        try:
            self.size = len(payload.encode())
        except UnicodeEncodeError as error:
            raise InvalidMessage(f"websocket.send: text has a lone surrogate: {error}") from None
        return payload

    def _close(self, message: Message) -> Item:
        self.disconnect = code, reason = message_close(message)
        self.state = CLOSING
        self.size = payload_size(reason)
        if self.absorbing:
            return None
        return {"type": "websocket.close", "code": code, "reason": reason}

    def _deny(self, message: Message) -> Item:
        item: dict[str, Any] = {"type": "websocket.close"}
        self.size = 0
        if self._resumed and message.get("code") is not None:
            item["code"], item["reason"] = message_close(message)
        self.close(ABNORMAL_CLOSURE, "")
        return None if self.absorbing else item

    def _start_denial(self, message: Message) -> Item:
        status = message_status(message)
        headers = _pairs(message_headers(message))
        self.judge_start(status, headers)
        self.state = DENIAL
        return {"type": "websocket.http.response.start", "status": status, "headers": headers}

    def _deny_with_body(self, message: Message) -> Item:
        last = not message.get("more_body", False)
        body = message_body(message)
        self.judge_body(len(body), last)
        if last:
            self.close(ABNORMAL_CLOSURE, "")
        return {"type": "websocket.http.response.body", "body": body, "more_body": not last}

    def close(self, code: int, reason: str) -> None:
        """Nothing more is said; *code* and *reason* count only where none were known before."""
        self.state = CLOSED
        if self.disconnect is None:
            self.disconnect = (code, reason)


_WEBSOCKET: dict[str, dict[str, Callable[[WebSocketConversation, Message], Item]]] = {
    HANDSHAKE: {
        "websocket.accept": WebSocketConversation._accept,
        "websocket.close": WebSocketConversation._deny,
        "websocket.http.response.start": WebSocketConversation._start_denial,
    },
    DENIAL: {"websocket.http.response.body": WebSocketConversation._deny_with_body},
    OPEN: {
        "websocket.send": WebSocketConversation._send,
        "websocket.close": WebSocketConversation._close,
    },
    CLOSING: {},
    CLOSED: {},
}
