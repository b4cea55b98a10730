"""A WebSocket as an ASGI conversation: what an application may say, and what its client sees of it."""

import logging
import struct

import pytest

from daphne_like.errors import ClientDisconnected, InvalidMessage, UnexpectedMessage
from tests.asgi.conversation import (
    HANDSHAKE,
    Puppet,
    frame,
    frames,
    open_websocket,
    response,
    responses,
    sentences,
    serving,
)
from tests.asgi.hosting import window

pytestmark = pytest.mark.usefixtures("hosting")

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def close_frame(code=1000, reason=b""):
    """A client's close."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def closed_with(code, reason=b""):
    """A server's close frame, as frames() shows it."""
    return (CLOSE, struct.pack("!H", code) + reason)


def asking(server, puppet, *fields):
    """A handshake that the application has been told of."""
    wire = server.connect()
    wire.receive(HANDSHAKE + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n")
    assert puppet.call.receive() == {"type": "websocket.connect"}
    return wire, puppet.call


# ---- handshake


def test_accept():
    """The answer to the key of RFC 6455 §1.3."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        assert wire.take() == b""
        call.send("websocket.accept")
        (answer,) = responses(wire)
        assert answer.status == 101
        assert answer.all("upgrade") == ["websocket"]
        assert answer.all("connection") == ["Upgrade"]
        assert answer.all("sec-websocket-accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
        assert answer.all("sec-websocket-protocol") == []
        assert answer.all("sec-websocket-extensions") == []
        assert answer.all("content-length") == answer.all("transfer-encoding") == []


def test_accept_with_subprotocol_and_headers():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet, "Sec-WebSocket-Protocol: v2.chat, v1.chat")
        assert call.scope["subprotocols"] == ["v2.chat", "v1.chat"]
        call.send(
            "websocket.accept",
            subprotocol="v1.chat",
            headers=[(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")],
        )
        (answer,) = responses(wire)
        assert answer.all("sec-websocket-protocol") == ["v1.chat"]
        assert answer.all("set-cookie") == ["a=1", "b=2"]


WRONG_ACCEPTS = [
    ({"subprotocol": "v3.chat"}, "not among those offered"),
    ({"subprotocol": 3}, "subprotocol is a str"),
    ({"headers": [(b"a", b"b\r\nc: d")]}, "has the value"),
    ({"headers": [("a", b"b")]}, "not bytes"),
    ({"headers": [(b"a", "b")]}, "not bytes"),
    ({"headers": [(b"Sec-WebSocket-Accept", b"x")]}, "server's to send"),
    ({"headers": [(b"content-length", b"5")]}, "server's to send"),
    ({"headers": 7}, "headers"),
]


@pytest.mark.parametrize(("accept", "why"), WRONG_ACCEPTS)
def test_wrong_accept_says_why_and_another_may_follow(accept, why):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet, "Sec-WebSocket-Protocol: v2.chat")
        with pytest.raises(InvalidMessage, match=why):
            call.send("websocket.accept", **accept)
        assert wire.take() == b""
        call.send("websocket.accept")
        assert responses(wire)[0].status == 101


def test_wrong_accept_that_is_not_caught_gives_500(caplog):
    async def application(scope, receive, send):
        await send({"type": "websocket.accept", "subprotocol": "nobody asked"})

    with serving(application) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"\r\n")
        assert response(wire).status == 500
        assert wire.state == "open"
    assert sentences(caplog) == ["application failed"]


def test_close_before_accept_is_403():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        call.send("websocket.close", code=4001)
        assert response(wire).status == 403
        assert call.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(OSError):
            call.send("websocket.accept")


def test_connection_serves_on_after_a_refused_handshake():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        call.send("websocket.close")
        call.returns()
        wire.take()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert puppet.call.scope["type"] == "http"


def test_frames_behind_a_handshake_wait_for_the_accept():
    """They are not taken for a request either."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"\r\n" + frame(TEXT, b"early"))
        puppet.call.receive()
        wire.receive(frame(TEXT, b"bird"))
        puppet.call.send("websocket.accept")
        assert puppet.call.receive() == {"type": "websocket.receive", "text": "early"}
        assert puppet.call.receive() == {"type": "websocket.receive", "text": "bird"}


def test_accept_and_first_messages_leave_in_one_write():
    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})
        for number in range(10):
            await send({"type": "websocket.send", "text": str(number)})
        await receive()
        await receive()

    with serving(application) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"\r\n")
        assert wire.writes == 1
        wire.vanish()


REFUSED_HANDSHAKES = [  # how the request differs; status; fields of the answer
    (b"GET /ws", b"POST /ws", 400, {}),
    (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 426, {"sec-websocket-version": "13"}),
    (b"Sec-WebSocket-Version: 13", b"X: y", 400, {}),
    (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Key: short", 400, {}),
    (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"X: y", 400, {}),
]


@pytest.mark.parametrize(("old", "new", "status", "fields"), REFUSED_HANDSHAKES)
def test_malformed_handshake_never_reaches_the_application(old, new, status, fields):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE.replace(old, new) + b"\r\n")
        found = response(wire)
        if (old, new) == (b"Sec-WebSocket-Version: 13", b"X: y"):
            assert found.status in (400, 426)
        else:
            assert found.status == status
        assert {name: found.all(name)[0] for name in fields} == fields
        assert wire.closed
        assert puppet.calls == []


# ---- denial


def test_denial_response():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        assert call.scope["extensions"]["websocket.http.response"] == {}
        call.send("websocket.http.response.start", status=401, headers=[(b"www-authenticate", b"Basic")])
        call.send("websocket.http.response.body", body=b"who ", more_body=True)
        call.send("websocket.http.response.body", body=b"are you?")
        found = response(wire)
        assert (found.status, found.body) == (401, b"who are you?")
        assert found.all("www-authenticate") == ["Basic"]
        assert wire.state == "open"
        assert call.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        call.returns()


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("websocket.accept", {}),
        ("websocket.close", {}),
        ("websocket.send", {"text": "a"}),
        ("websocket.http.response.start", {"status": 200}),
    ],
)
def test_denial_can_only_be_finished(kind, keys):
    puppet = Puppet()
    with serving(puppet) as server:
        _, call = asking(server, puppet)
        call.send("websocket.http.response.start", status=401)
        with pytest.raises(UnexpectedMessage, match=rf"{kind} in DENIAL"):
            call.send(kind, **keys)


def test_denial_that_is_not_finished_is_cut():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        call.send("websocket.http.response.start", status=401)
        call.send("websocket.http.response.body", body=b"half", more_body=True)
        call.raises(ValueError("boom"))
        assert wire.state == "reset"


def test_denial_whose_head_is_still_held_becomes_500():
    async def application(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 401})
        raise ValueError("boom")

    with serving(application) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"\r\n")
        assert response(wire).status == 500


def test_denial_may_take_longer_than_the_handshake(caplog):
    """--websocket-connect-timeout is about the decision, and that was taken."""
    puppet = Puppet()
    with serving(puppet, websocket_connect_timeout=5) as server:
        wire, call = asking(server, puppet)
        call.send("websocket.http.response.start", status=401)
        call.send("websocket.http.response.body", body=b"slow", more_body=True)
        server.advance(20)
        assert not call.over
        call.send("websocket.http.response.body", body=b"ly")
        assert response(wire).body == b"slowly"
    assert sentences(caplog) == []


# ---- the table of states


def reach(server, puppet, state):
    """A WebSocket in *state*: (wire, call)."""
    if state == "HANDSHAKE":
        return asking(server, puppet)
    if state == "OPEN":
        return open_websocket(server, puppet)
    wire, call = asking(server, puppet)
    call.send("websocket.http.response.start", status=401)
    return wire, call


ALLOWED = {
    "HANDSHAKE": {"websocket.accept", "websocket.close", "websocket.http.response.start"},
    "DENIAL": {"websocket.http.response.body"},
    "OPEN": {"websocket.send", "websocket.close"},
}
KINDS = [
    *sorted(set().union(*ALLOWED.values())),
    "http.response.start",
    "http.response.body",
    "websocket.receive",
    "nonsense",
]


@pytest.mark.parametrize(
    ("state", "kind"), [(state, kind) for state in ALLOWED for kind in KINDS if kind not in ALLOWED[state]]
)
def test_refused_transition_names_both_sides_and_sends_nothing(state, kind):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = reach(server, puppet, state)
        wire.take()
        with pytest.raises(UnexpectedMessage) as raised:
            call.send_as_is({"type": kind, "text": "a", "status": 200, "body": b"b"})
        assert str(raised.value) == f"{kind} in {state}"
        assert wire.take() == b""


WRONG = [
    ({}, "type"),
    ({"type": "websocket.send"}, "text .* or bytes"),
    ({"type": "websocket.send", "text": None, "bytes": None}, "text .* or bytes"),
    ({"type": "websocket.send", "text": b"bytes"}, "text is a str, not bytes"),
    ({"type": "websocket.send", "bytes": "text"}, "text .* or bytes"),
    ({"type": "websocket.send", "text": "a", "bytes": b"b"}, "text and bytes"),
    ({"type": "websocket.send", "text": "\ud800"}, "surrogate"),
    ({"type": "websocket.close", "code": 1005}, "1005"),
    ({"type": "websocket.close", "code": 1006}, "1006"),
    ({"type": "websocket.close", "code": 999}, "999"),
    ({"type": "websocket.close", "code": 5000}, "5000"),
    ({"type": "websocket.close", "code": "1000"}, "'1000'"),
    ({"type": "websocket.close", "reason": b"bytes"}, "reason is a str"),
    ({"type": "websocket.close", "reason": "\ud800"}, "surrogate"),
]


@pytest.mark.parametrize(("said", "why"), WRONG)
def test_invalid_message_says_why_and_sends_nothing(said, why):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        with pytest.raises(InvalidMessage, match=why):
            call.send_as_is(said)
        assert wire.take() == b""
        call.send("websocket.send", text="still open")
        assert frames(wire) == [(TEXT, b"still open")]


# ---- messages


@pytest.mark.parametrize(
    ("said", "opcode", "payload"),
    [
        ({"text": "grüß"}, TEXT, "grüß".encode()),
        ({"text": ""}, TEXT, b""),
        ({"bytes": b"\0\xff"}, BINARY, b"\0\xff"),
        ({"bytes": b""}, BINARY, b""),
        ({"bytes": bytearray(b"ab")}, BINARY, b"ab"),
        ({"bytes": memoryview(b"ab")}, BINARY, b"ab"),
        ({"text": "a", "bytes": None}, TEXT, b"a"),
        ({"text": None, "bytes": b"a"}, BINARY, b"a"),
        ({"text": "x" * 126}, TEXT, b"x" * 126),
        ({"text": "x" * 65536}, TEXT, b"x" * 65536),
    ],
)
def test_sent_message(said, opcode, payload):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.send", **said)
        assert frames(wire) == [(opcode, payload)]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(TEXT, "grüß".encode()), {"text": "grüß"}),
        (frame(TEXT, b""), {"text": ""}),
        (frame(BINARY, b"\0\xff"), {"bytes": b"\0\xff"}),
        (frame(BINARY, b""), {"bytes": b""}),
        (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"), {"text": "ab"}),
        (frame(TEXT, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b"), {"text": "ab"}),
    ],
)
def test_received_message(sent, expected):
    """One key or the other, never both: frameworks look which is there."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(sent)
        assert call.receive() == {"type": "websocket.receive", **expected}


def test_messages_keep_their_order_in_any_split():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        data = b"".join(frame(TEXT, str(number).encode()) for number in range(50))
        wire.receive(*(data[at : at + 3] for at in range(0, len(data), 3)))
        assert [call.receive()["text"] for _ in range(50)] == [str(number) for number in range(50)]


def test_each_message_leaves_in_its_own_turn():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        before = wire.writes
        for number in range(3):
            call.send("websocket.send", text=str(number))
            assert frames(wire) == [(TEXT, str(number).encode())]
        assert wire.writes == before + 3


def test_messages_of_one_turn_leave_in_one_write():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        before = wire.writes
        call.send_at_once(*({"type": "websocket.send", "text": str(number)} for number in range(100)))
        assert len(frames(wire)) == 100
        assert wire.writes == before + 1


def test_ping_is_answered():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, _ = open_websocket(server, puppet)
        wire.receive(frame(PING, b"are you there?"))
        assert frames(wire) == [(PONG, b"are you there?")]


def test_compression_is_agreed_on_and_used():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        puppet.call.receive()
        puppet.call.send("websocket.accept")
        (answer,) = responses(wire)
        assert answer.all("sec-websocket-extensions")[0].startswith("permessage-deflate")
        puppet.call.send("websocket.send", text="a" * 10_000)
        ((opcode, payload),) = frames(wire)
        assert opcode == TEXT
        assert len(payload) < 1000


def test_compression_can_be_switched_off():
    puppet = Puppet()
    with serving(puppet, websocket_compression=False) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        puppet.call.receive()
        puppet.call.send("websocket.accept")
        assert responses(wire)[0].all("sec-websocket-extensions") == []


VIOLATIONS = [  # octets, close code
    (b"\x81\x01a", 1002),  # unmasked
    (frame(0x3, b""), 1002),  # reserved opcode
    (frame(CONTINUATION, b"a"), 1002),
    (frame(PING, b"a", fin=False), 1002),
    (frame(TEXT, b"\xff\xfe"), 1007),
    (frame(BINARY, announced=1 << 63), 1002),
    (frame(BINARY, announced=70_000), 1009),
    (frame(BINARY, bytes(900), fin=False) + frame(CONTINUATION, bytes(900)), 1009),
    (frame(CLOSE, b"\x03"), 1002),
    (close_frame(1005), 1002),
]


@pytest.mark.parametrize(("octets", "code"), VIOLATIONS)
def test_violation_is_answered_with_its_code(octets, code, caplog):
    """The application learns it as the reason of the disconnect; nobody logs an error."""
    puppet = Puppet()
    with serving(puppet, websocket_max_message_size=1024, websocket_max_frame_size=1024) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(frame(TEXT, b"fine") + octets)
        ((opcode, payload),) = frames(wire)
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
        assert call.receive() == {"type": "websocket.receive", "text": "fine"}
        disconnect = call.receive()
        assert (disconnect["type"], disconnect["code"]) == ("websocket.disconnect", code)
        assert disconnect["reason"]
        server.advance(10)
        assert wire.state in ("closed", "reset")
    assert sentences(caplog, level="ERROR") == []


# ---- closing


def test_client_closes():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        waiting = call.begin_receive()
        wire.receive(close_frame(4001, "tschüß".encode()))
        assert waiting.result() == {"type": "websocket.disconnect", "code": 4001, "reason": "tschüß"}
        ((opcode, payload),) = frames(wire)
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 4001))
        assert wire.state == "closed"
        assert call.receive() == {"type": "websocket.disconnect", "code": 4001, "reason": "tschüß"}


def test_client_closes_without_a_code():
    """1005, "no status code was actually present" -- RFC 6455 §7.1.5."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(frame(CLOSE))
        assert call.receive() == {"type": "websocket.disconnect", "code": 1005, "reason": ""}
        assert frames(wire) == [(CLOSE, b"")]


@pytest.mark.parametrize("how", ["vanish", "close_sending"])
def test_client_leaves_without_a_close(how):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        waiting = call.begin_receive()
        getattr(wire, how)()
        assert waiting.result() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert wire.state == "closed"


@pytest.mark.parametrize("how", ["vanish", "close_sending", "close"])
def test_messages_before_the_disconnect_are_delivered_first(how):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(frame(TEXT, b"1") + frame(TEXT, b"2"))
        if how == "close":
            wire.receive(frame(TEXT, b"3") + close_frame())
        else:
            wire.receive(frame(TEXT, b"3"))
            getattr(wire, how)()
        assert [call.receive()["text"] for _ in range(3)] == ["1", "2", "3"]
        assert call.receive()["type"] == "websocket.disconnect"


def test_messages_that_waited_in_the_socket_are_delivered_before_the_disconnect():
    """Held back by a slow application, not lost: a client that says goodbye has said all before it."""
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=1024) as server:
        wire, call = open_websocket(server, puppet)
        count = 20 + window() // 500
        wire.receive(*(frame(TEXT, b"x" * 500) for _ in range(count)), close_frame(4000))
        assert not wire.reading
        for _ in range(count):
            assert call.receive()["text"] == "x" * 500
        assert call.receive()["code"] == 4000


def test_send_after_the_disconnect_raises():
    """An OSError (ASGI WebSocket 2.4); the messages before it can still be taken."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(frame(TEXT, b"last words") + close_frame())
        frames(wire)
        with pytest.raises(OSError) as raised:
            call.send("websocket.send", text="to nobody")
        assert type(raised.value) is ClientDisconnected
        assert call.receive()["text"] == "last words"
        assert wire.take() == b""


def test_send_after_the_disconnect_that_is_not_caught_is_no_error(caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        wire.vanish()
        call.raises(ClientDisconnected("it left"))
    assert sentences(caplog) == []


def test_application_closes():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close", code=4002, reason="tschüß")
        assert frames(wire) == [closed_with(4002, "tschüß".encode())]
        assert wire.state == "open", "the client's close is awaited"
        wire.receive(close_frame(4002))
        assert wire.state == "closed"
        assert wire.take() == b""
        assert call.receive() == {"type": "websocket.disconnect", "code": 4002, "reason": "tschüß"}
        with pytest.raises(OSError):
            call.send("websocket.send", text="a")


@pytest.mark.parametrize("keys", [{}, {"code": None, "reason": None}, {"reason": ""}])
def test_close_without_a_code_is_1000(keys):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close", **keys)
        assert frames(wire) == [closed_with(1000)]


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
)
def test_codes_that_an_application_may_send(code):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close", code=code)
        assert frames(wire) == [closed_with(code)]


def test_long_reason_is_cut_between_characters():
    """A control frame has at most 125 octets (RFC 6455 §5.5)."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close", reason="ü" * 100)
        ((_, payload),) = frames(wire)
        assert payload[2:].decode() == "ü" * 61


def test_close_after_messages_comes_behind_them():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send_at_once(
            {"type": "websocket.send", "text": "1"},
            {"type": "websocket.send", "bytes": b"2"},
            {"type": "websocket.close"},
        )
        assert frames(wire) == [(TEXT, b"1"), (BINARY, b"2"), closed_with(1000)]


def test_messages_that_cross_our_close_are_dropped_and_the_clients_close_is_found():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close")
        wire.receive(frame(TEXT, b"late"), frame(PING), close_frame())
        assert wire.state == "closed"
        assert call.receive()["type"] == "websocket.disconnect"
        assert frames(wire) == [closed_with(1000)], "nothing follows a close frame (RFC 6455 §5.5.1)"


def test_clients_close_is_found_behind_messages_that_the_application_did_not_take():
    """The inbox is full when the application closes; what the client sent before its close is in the way."""
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=1024) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(*(frame(BINARY, bytes(500)) for _ in range(20 + window() // 500)))
        assert not wire.reading
        call.send("websocket.close")
        wire.receive(close_frame())
        server.loop.settle()
        assert wire.state == "closed"


def test_close_that_is_not_answered_ends_the_connection():
    puppet = Puppet()
    with serving(puppet, websocket_close_timeout=10) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close")
        call.returns()
        server.advance(9)
        assert wire.state == "open"
        server.advance(2)
        assert wire.state == "reset"


# ---- the application ends


ENDS = [  # state, how -> close code or status on the wire; what is logged
    ("HANDSHAKE", "returns", 500, "application neither accepted nor closed a WebSocket"),
    ("HANDSHAKE", "raises", 500, "application failed"),
    ("OPEN", "returns", 1000, None),
    ("OPEN", "raises", 1011, "application failed"),
]


@pytest.mark.parametrize(("state", "how", "expected", "logged"), ENDS)
def test_application_ends(state, how, expected, logged, caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = reach(server, puppet, state)
        if how == "returns":
            call.returns()
        else:
            call.raises(ValueError("boom"))
        if state == "HANDSHAKE":
            assert response(wire).status == expected
        else:
            assert frames(wire) == [closed_with(expected)]
            wire.receive(close_frame(expected))
            assert wire.state == "closed"
    assert sentences(caplog) == ([logged] if logged else [])
    if how == "raises":
        assert caplog.records[0].exc_info[0] is ValueError


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_application_ends_after_its_own_close(how, caplog):
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        call.send("websocket.close", code=4000)
        if how == "returns":
            call.returns()
        else:
            call.raises(ValueError("boom"))
        assert frames(wire) == [closed_with(4000)]
    assert sentences(caplog) == (["application failed"] if how == "raises" else [])


def test_failure_of_one_leaves_the_others_alone():
    puppet = Puppet()
    with serving(puppet) as server:
        other, healthy = open_websocket(server, puppet)
        _, sick = open_websocket(server, puppet)
        sick.raises(SystemExit(1))
        other.receive(frame(TEXT, b"a"))
        assert healthy.receive()["text"] == "a"
        healthy.send("websocket.send", text="b")
        assert frames(other) == [(TEXT, b"b")]


def test_application_that_does_not_notice_the_close_is_cancelled(caplog):
    puppet = Puppet()
    with serving(puppet, application_close_timeout=10) as server:
        wire, call = open_websocket(server, puppet)
        wire.vanish()
        server.advance(9)
        assert not call.over
        server.advance(2)
        assert call.cancelled
    assert sentences(caplog) == ["application did not end after its WebSocket closed, cancelled it"]


def test_application_close_timeout_0_cancels_at_once():
    """As docs/reference/settings.md has it."""
    puppet = Puppet()
    with serving(puppet, application_close_timeout=0) as server:
        wire, call = open_websocket(server, puppet)
        wire.vanish()
        server.advance(1)
        assert call.cancelled


# ---- time


def test_application_that_does_not_answer_the_handshake(caplog):
    puppet = Puppet()
    with serving(puppet, websocket_connect_timeout=5, application_close_timeout=10) as server:
        wire, call = asking(server, puppet)
        waiting = call.begin_receive()
        server.advance(4)
        assert wire.take() == b""
        server.advance(2)
        assert response(wire).status == 403
        assert waiting.result() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(OSError):
            call.send("websocket.accept")
        server.advance(11)
        assert call.cancelled
    assert sentences(caplog)[0] == "application did not answer a WebSocket handshake in time, refused it"


def test_quiet_client_is_pinged_and_kept_while_it_answers():
    puppet = Puppet()
    with serving(puppet, ping_interval=20, ping_timeout=30) as server:
        wire, _ = open_websocket(server, puppet)
        for _ in range(5):
            server.advance(19)
            assert wire.take() == b""
            server.advance(2)
            ((opcode, payload),) = frames(wire)
            assert opcode == PING
            wire.receive(frame(PONG, payload))
        assert wire.state == "open"


def test_client_that_talks_is_not_pinged():
    puppet = Puppet()
    with serving(puppet, ping_interval=20) as server:
        wire, call = open_websocket(server, puppet)
        for _ in range(10):
            server.advance(15)
            wire.receive(frame(TEXT, b"a"))
            call.receive()
        assert wire.take() == b""


def test_client_that_does_not_answer_pings_is_dropped(caplog):
    caplog.set_level(logging.INFO, logger="daphne_like")
    puppet = Puppet()
    with serving(puppet, ping_interval=20, ping_timeout=30) as server:
        wire, call = open_websocket(server, puppet)
        waiting = call.begin_receive()
        server.advance(48)
        assert wire.state == "open"
        server.advance(5)
        assert wire.state == "reset"
        assert waiting.result() == {
            "type": "websocket.disconnect",
            "code": 1006,
            "reason": "ping not answered",
        }
    assert "client did not answer a ping, dropped it" in sentences(caplog, level="INFO")


def test_any_octet_answers_a_ping():
    puppet = Puppet()
    with serving(puppet, ping_interval=20, ping_timeout=30) as server:
        wire, _ = open_websocket(server, puppet)
        server.advance(21)
        wire.receive(frame(BINARY, bytes(100))[:50])
        server.advance(29)
        assert wire.state == "open"


def test_ping_interval_0_sends_none():
    puppet = Puppet()
    with serving(puppet, ping_interval=0) as server:
        wire, _ = open_websocket(server, puppet)
        server.advance(300)
        assert wire.take() == b""
        assert wire.state == "open"


def test_ping_timeout_0_forgives():
    puppet = Puppet()
    with serving(puppet, ping_interval=20, ping_timeout=0) as server:
        wire, _ = open_websocket(server, puppet)
        server.advance(600)
        assert wire.state == "open"


def test_client_that_we_do_not_read_is_not_dropped():
    """Its pong may be in what the application holds back."""
    puppet = Puppet()
    with serving(puppet, ping_interval=20, ping_timeout=30, receive_buffer_size=1024) as server:
        wire, call = open_websocket(server, puppet)
        count = 20 + window() // 500
        wire.receive(*(frame(BINARY, bytes(500)) for _ in range(count)))
        assert not wire.reading
        server.advance(300)
        assert wire.state == "open"
        for _ in range(count):
            call.receive()


def test_idle_timeout_closes_a_socket_without_messages():
    """Pings and pongs are no messages."""
    puppet = Puppet()
    with serving(puppet, websocket_idle_timeout=60, ping_timeout=0) as server:
        wire, call = open_websocket(server, puppet)
        server.advance(50)
        wire.receive(frame(TEXT, b"a"))
        call.receive()
        server.advance(50)
        call.send("websocket.send", text="b")
        for _ in range(5):
            server.advance(10)
            wire.receive(frame(PONG))
        wire.take()
        waiting = call.begin_receive()
        server.advance(11)
        assert frames(wire)[-1] == closed_with(1000, b"idle")
        assert waiting.result() == {"type": "websocket.disconnect", "code": 1000, "reason": "idle"}


def test_lifetime_is_bounded():
    puppet = Puppet()
    with serving(puppet, websocket_timeout=100, ping_interval=0) as server:
        wire, call = open_websocket(server, puppet)
        for _ in range(9):
            server.advance(11)
            wire.receive(frame(TEXT, b"a"))
            call.receive()
        assert wire.take() == b""
        server.advance(2)
        assert frames(wire) == [closed_with(1000, b"maximum lifetime reached")]


def test_lifetime_minus_1_is_for_ever():
    puppet = Puppet()
    with serving(puppet, websocket_timeout=-1, ping_interval=0) as server:
        wire, _ = open_websocket(server, puppet)
        server.advance(90_000)
        assert wire.state == "open"


# ---- shutdown


def test_shutdown_says_1012():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = open_websocket(server, puppet)
        waiting = call.begin_receive()
        (stream,) = server.context.running
        stream.shutdown()
        server.loop.settle()
        assert frames(wire) == [closed_with(1012, b"server shutting down")]
        assert waiting.result() == {
            "type": "websocket.disconnect",
            "code": 1012,
            "reason": "server shutting down",
        }
        with pytest.raises(OSError):
            call.send("websocket.send", text="a")
        wire.receive(close_frame(1012))
        assert wire.state == "closed"


@pytest.mark.parametrize("ends", ["shutdown", "idle"])
def test_messages_that_came_before_the_servers_own_close_are_delivered(ends):
    """TCP has acknowledged them to the client; only the application's own close makes them void."""
    puppet = Puppet()
    with serving(puppet, websocket_idle_timeout=5) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(frame(TEXT, b"1") + frame(TEXT, b"2"))
        (stream,) = server.context.running
        if ends == "shutdown":
            stream.shutdown()
            server.loop.settle()
        else:
            server.advance(6)
        assert [call.receive().get("text") for _ in range(2)] == ["1", "2"]
        assert call.receive()["type"] == "websocket.disconnect"


def test_shutdown_refuses_a_handshake_in_course():
    puppet = Puppet()
    with serving(puppet) as server:
        wire, call = asking(server, puppet)
        (stream,) = server.context.running
        stream.shutdown()
        server.loop.settle()
        assert response(wire).status == 503
        assert call.receive()["type"] == "websocket.disconnect"


# ---- backpressure


def test_slow_application_pauses_the_socket():
    """By counters: what is kept is bounded, in octets, empty messages counted too."""
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=4096) as server:
        wire, call = open_websocket(server, puppet)
        count = 100 + window() // 1000
        wire.receive(*(frame(BINARY, bytes(1000)) for _ in range(count)))
        assert not wire.reading
        for _ in range(count):
            assert len(call.receive()["bytes"]) == 1000
        assert wire.reading


def test_empty_messages_pause_the_socket_too():
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=4096) as server:
        wire, call = open_websocket(server, puppet)
        wire.receive(*(frame(TEXT) * 50 for _ in range(100)))
        assert not wire.reading
        for _ in range(5000):
            assert call.receive()["text"] == ""
        assert wire.reading


def test_send_waits_while_the_client_does_not_read():
    puppet = Puppet()
    with serving(puppet, send_buffer_size=4096, ping_interval=0) as server:
        wire, call = open_websocket(server, puppet)
        wire.stop_reading()
        sent = 0
        while (task := call.begin_send("websocket.send", bytes=bytes(1000))).done():
            sent += 1
            assert sent < 100 + window() // 1000
        (protocol,) = server.factory.connections
        assert protocol.connection.buffered <= 4096 + 1004
        wire.read_on()
        assert task.done()
        task.result()
        assert len(frames(wire)) == sent + 1


def test_send_that_waits_raises_when_the_client_leaves():
    puppet = Puppet()
    with serving(puppet, send_buffer_size=1024) as server:
        wire, call = open_websocket(server, puppet)
        wire.stop_reading()
        while (task := call.begin_send("websocket.send", bytes=bytes(1000))).done():
            pass
        wire.vanish()
        with pytest.raises(ClientDisconnected):
            task.result()


def test_client_that_floods_pings_and_reads_no_pongs_is_held_back():
    puppet = Puppet()
    with serving(puppet, send_buffer_size=1024, ping_interval=0) as server:
        wire, _ = open_websocket(server, puppet)
        wire.stop_reading()
        wire.receive(*(frame(PING, bytes(125)) * 10 for _ in range(1000)))
        assert not wire.reading
        (protocol,) = server.factory.connections
        assert protocol.connection.buffered < 8 * 1024
        wire.read_on()
        assert wire.reading
        assert len(frames(wire)) == 10_000


def test_client_that_does_not_read_is_dropped():
    """--write-timeout holds for WebSockets too."""
    puppet = Puppet()
    with serving(puppet, send_buffer_size=1024, write_timeout=30, ping_interval=0) as server:
        wire, call = open_websocket(server, puppet)
        wire.stop_reading()
        while (task := call.begin_send("websocket.send", bytes=bytes(1000))).done():
            pass
        server.advance(62)
        assert wire.state == "reset"
        with pytest.raises(ClientDisconnected):
            task.result()


def test_early_data_beyond_the_inbox_pauses_the_socket():
    """
    What came with the handshake counts: paused, the socket cannot tell of the client's end before the
    application has had the messages before it.
    """
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        count = 3000 + window() // 64
        wire.receive(HANDSHAKE + b"\r\n" + frame(0x1, b"a") * count)
        call = puppet.call
        call.receive()
        call.send("websocket.accept")
        assert not wire.reading
        for _ in range(count):
            assert call.receive()["text"] == "a"
        assert wire.reading
