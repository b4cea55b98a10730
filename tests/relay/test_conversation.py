"""Messages are judged in a worker as the server's streams judge them."""

import os
from typing import Any

import pytest

from daphne_like.asgi import http, websocket
from daphne_like.errors import InvalidMessage, UnexpectedMessage
from daphne_like.relay import conversation
from daphne_like.relay.conversation import HTTPConversation, WebSocketConversation
from tests.asgi.conversation import message


def allowed(table: Any) -> dict[str, set[str]]:
    return {state: set(transitions) for state, transitions in table.items()}


def test_the_tables_of_states_are_the_servers():
    assert allowed(conversation._HTTP) == allowed(http._TRANSITIONS)
    assert allowed(conversation._WEBSOCKET) == allowed(websocket._TRANSITIONS)


def begun(method: str = "GET", **start: Any) -> HTTPConversation:
    talk = HTTPConversation(method, "1.1")
    talk.judged(message("start", **{"status": 200, **start}))
    return talk


def opened(*subprotocols: str) -> WebSocketConversation:
    talk = WebSocketConversation(list(subprotocols), resumed=False)
    talk.judged(message("websocket.accept"))
    return talk


# ---- HTTP

LENGTH_5 = [(b"content-length", b"5")]

WRONG = [  # what begins the response, what is wrong then, which error
    ({}, {"status": 99}, "status is an int"),
    ({}, {"status": "200"}, "status is an int"),
    ({}, {"status": 200, "headers": 5}, "headers are pairs of bytes"),
    ({}, {"status": 200, "headers": [(b"a", "b")]}, "headers are pairs of bytes"),
    ({}, {"status": 200, "headers": [5]}, "headers are pairs of bytes"),
    ({}, {"status": 200, "headers": [(b"a b", b"c")]}, "not a header name"),
    ({}, {"status": 200, "headers": [(b"a", b"b\r\nc: d")]}, "CR, LF or NUL"),
    ({}, {"status": 200, "headers": [*LENGTH_5, (b"content-length", b"6")]}, "two Content-Length"),
    ({}, {"status": 200, "headers": [(b"content-length", b"x")]}, "not a Content-Length"),
    ({"headers": LENGTH_5}, {"body": b"123456"}, "the body is longer than its Content-Length of 5"),
    ({"headers": LENGTH_5}, {"body": b"1234"}, "the body is shorter than its Content-Length of 5"),
    ({"headers": LENGTH_5}, {"body": "12345"}, "body is bytes"),
]


@pytest.mark.parametrize(("start", "wrong", "reason"), WRONG)
def test_what_is_wrong_is_refused_and_may_be_said_right(start, wrong, reason):
    talk = begun(**start) if start else HTTPConversation("GET", "1.1")
    before = talk.state
    with pytest.raises(InvalidMessage, match=reason):
        talk.judged(message("body" if start else "start", **wrong))
    assert talk.state == before
    talk.judged(message("body", body=b"12345") if start else message("start", status=200))


def test_what_is_unexpected_names_the_state_and_the_message():
    with pytest.raises(UnexpectedMessage, match=r"http\.response\.body in REQUEST"):
        HTTPConversation("GET", "1.1").judged(message("body"))
    with pytest.raises(UnexpectedMessage, match=r"http\.response\.start in HEADERS"):
        begun().judged(message("start", status=200))


@pytest.mark.parametrize("nonsense", [{}, {"type": 5}, {"type": [1]}, 5, None])
def test_what_is_no_message_is_refused(nonsense):
    with pytest.raises(InvalidMessage, match="a message is a dict"):
        HTTPConversation("GET", "1.1").judged(nonsense)
    with pytest.raises(InvalidMessage, match="a message is a dict"):
        opened().judged(nonsense)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 205), ("GET", 304)])
def test_length_is_not_judged_where_there_is_no_body(method, status):
    talk = begun(method, status=status, headers=LENGTH_5)
    assert talk.judged(message("body", body=b"what is dropped"))["body"] == b"what is dropped"
    assert talk.state == "DONE"


def test_item_is_of_plain_types_and_a_copy():
    class Octets(bytes):
        pass

    headers = [[b"a", b"b"], (b"c", Octets(b"d"))]
    item = HTTPConversation("GET", "1.1").judged(
        message("start", status=200, headers=iter(headers), unknown=object())
    )
    headers.clear()
    assert item == {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"a", b"b"), (b"c", b"d")],
    }
    body = bytearray(b"abc")
    item = begun().judged(message("body", body=body, more_body=1))
    body[:] = b"xyz"
    assert item == {"type": "http.response.body", "body": b"abc", "more_body": True}


def test_trailers_are_one_item():
    talk = begun(trailers=True)
    talk.judged(message("body"))
    assert talk.state == "TRAILERS"
    assert talk.judged(message("trailers", headers=[(b"a", b"b")], more_trailers=True)) is None
    assert talk.judged(message("trailers", headers=[[b"c", b"d"]])) == {
        "type": "http.response.trailers",
        "headers": [(b"a", b"b"), (b"c", b"d")],
        "more_trailers": False,
    }
    assert talk.state == "DONE"


def test_trailers_are_judged():
    talk = begun(trailers=True)
    talk.judged(message("body"))
    with pytest.raises(InvalidMessage, match="cannot be a trailer field"):
        talk.judged(message("trailers", headers=LENGTH_5))
    talk = begun(trailers=True, headers=LENGTH_5)
    talk.judged(message("body", body=b"1234"))
    with pytest.raises(InvalidMessage, match="shorter"):
        talk.judged(message("trailers"))


def test_early_hints():
    talk = HTTPConversation("GET", "1.1")
    hint = message("early_hint", links=(b"</a>; rel=preload",))
    assert talk.judged(hint)["links"] == [b"</a>; rel=preload"]
    assert talk.state == "REQUEST"
    for wrong in (b"</a>", ["</a>"]):
        with pytest.raises(InvalidMessage, match="links are a list of bytes"):
            talk.judged(message("early_hint", links=wrong))
    with pytest.raises(InvalidMessage, match="CR, LF or NUL"):
        talk.judged(message("early_hint", links=[b"a\r\nb: c"]))
    with pytest.raises(UnexpectedMessage):
        HTTPConversation("GET", "1.0").judged(hint)


def test_file_is_judged_before_it_crosses(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    with pytest.raises(InvalidMessage, match="absolute path"):
        begun().judged(message("pathsend", path="relative"))
    with pytest.raises(InvalidMessage, match="not UTF-8"):
        begun().judged(message("pathsend", path="/\udcff"))
    with pytest.raises(FileNotFoundError):
        begun().judged(message("pathsend", path=str(tmp_path / "missing")))
    with pytest.raises(IsADirectoryError):
        begun().judged(message("pathsend", path=str(tmp_path)))
    with pytest.raises(InvalidMessage, match="shorter"):
        begun(headers=[(b"content-length", b"6")]).judged(message("pathsend", path=str(file)))
    talk = begun(headers=LENGTH_5)
    assert talk.judged(message("pathsend", path=str(file))) == message("pathsend", path=str(file))
    assert talk.state == "DONE"


def test_fifo_to_be_sent_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    begun().judged(message("pathsend", path=str(tmp_path / "fifo")))


# ---- WebSocket


def test_accept():
    talk = WebSocketConversation(["chat"], resumed=False)
    with pytest.raises(InvalidMessage, match="not among those offered"):
        talk.judged(message("websocket.accept", subprotocol="mail"))
    with pytest.raises(InvalidMessage, match="subprotocol is a str"):
        talk.judged(message("websocket.accept", subprotocol=b"chat"))
    with pytest.raises(InvalidMessage, match="is the server's to send"):
        talk.judged(message("websocket.accept", headers=[(b"connection", b"close")]))
    assert talk.state == "HANDSHAKE"
    accept = message("websocket.accept", subprotocol="chat", headers=[[b"a", b"b"]])
    assert talk.judged(accept) == {**accept, "headers": [(b"a", b"b")]}
    assert talk.state == "OPEN"


SAID = [
    ({"text": "é"}, "é"),
    ({"text": "a", "bytes": None}, "a"),
    ({"bytes": b"b"}, b"b"),
    ({"bytes": bytearray(b"b"), "text": None}, b"b"),
]


@pytest.mark.parametrize(("said", "item"), SAID)
def test_what_is_sent_is_the_payload(said, item):
    found = opened().judged(message("websocket.send", **said))
    assert (type(found), found) == (type(item), item)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "has text"),
        ({"text": "a", "bytes": b"b"}, "has text and bytes"),
        ({"text": b"a"}, "text is a str"),
        ({"text": "\ud800"}, "lone surrogate"),
    ],
)
def test_what_cannot_be_sent_is_refused(said, reason):
    with pytest.raises(InvalidMessage, match=reason):
        opened().judged(message("websocket.send", **said))


def test_close_ends_the_conversation_with_its_own_code():
    talk = opened()
    with pytest.raises(InvalidMessage, match="not a code that can be sent"):
        talk.judged(message("websocket.close", code=1005))
    close = message("websocket.close", code=4000, reason="enough")
    assert talk.judged(close) == close
    assert (talk.state, talk.disconnect) == ("CLOSING", (4000, "enough"))
    talk.close(1001, "later")
    assert talk.disconnect == (4000, "enough")


def test_refusal_has_a_code_only_where_the_client_is_connected():
    close = message("websocket.close", code=4001, reason="no")
    assert WebSocketConversation([], resumed=False).judged(close) == message("websocket.close")
    assert WebSocketConversation([], resumed=True).judged(close) == close
    bare = message("websocket.close")
    assert WebSocketConversation([], resumed=True).judged(bare) == bare


def test_denial_response_is_judged_like_any():
    talk = WebSocketConversation([], resumed=False)
    start = message("websocket.http.response.start", status=401, headers=LENGTH_5)
    with pytest.raises(InvalidMessage):
        talk.judged({**start, "status": 101})
    talk.judged(start)
    with pytest.raises(InvalidMessage, match="longer"):
        talk.judged(message("websocket.http.response.body", body=b"123456"))
    item = talk.judged(message("websocket.http.response.body", body=b"12", more_body=True))
    assert item["more_body"] is True
    assert talk.state == "DENIAL"
    talk.judged(message("websocket.http.response.body", body=b"345"))
    assert (talk.state, talk.disconnect) == ("CLOSED", (1006, ""))


def test_after_a_handoff_a_close_is_absorbed():
    talk = opened()
    talk.absorbing = True
    assert talk.judged(message("websocket.send", text="last")) == "last"
    assert talk.judged(message("websocket.close")) is None
    assert talk.disconnect == (1000, "")
