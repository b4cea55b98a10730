"""The private extension that tells an application of its client's departure, ahead of what came before it."""

import pytest

from daphne_like.asgi.departure import DEPARTURE, RECEIVE_ARRIVED
from tests.asgi.conversation import GET, HANDSHAKE, Puppet, frame, request, response, serving


class Asking(Puppet):
    wants_departure = True


def told(call):
    """What the stream tells from now on."""
    heard = []
    call.scope["extensions"][DEPARTURE](heard.append)
    return heard


def test_only_who_asks_gets_it():
    for puppet, expected in ((Puppet(), False), (Asking(), True)):
        with serving(puppet) as server:
            server.connect().receive(GET)
            server.connect().receive(HANDSHAKE + b"\r\n")
            assert [DEPARTURE in call.scope["extensions"] for call in puppet.calls] == [expected] * 2


def test_a_departure_overtakes_the_body():
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request("/", "Content-Length: 10", method="POST") + b"abc")
        heard = told(puppet.call)
        assert heard == []
        wire.vanish()
        assert heard == [True]


def test_a_half_closed_client_may_still_read():
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET)
        heard = told(puppet.call)
        wire.close_sending()
        assert heard == [False]
        puppet.call.send("start", status=200, headers=[])
        puppet.call.send("body", body=b"all")
        assert response(wire).body == b"all"


def test_messages_do_not_stand_before_it():
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE + b"\r\n")
        puppet.call.send("websocket.accept")
        heard = told(puppet.call)
        wire.receive(frame(1, b"a") + frame(8, b""))
        assert heard == [True]


@pytest.mark.parametrize("data", [GET, HANDSHAKE + b"\r\n"])
def test_who_asks_late_is_told_at_once(data):
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(data)
        wire.vanish()
        assert told(puppet.call) == [True]


@pytest.mark.parametrize("data", [GET, HANDSHAKE + b"\r\n"])
def test_who_has_ended_it_hears_nothing(data):
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(data)
        heard = told(puppet.call)
        puppet.call.scope["extensions"][DEPARTURE](None)
        wire.vanish()
        assert heard == []


def test_a_body_that_has_come_needs_no_receive():
    puppet = Asking()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request("/", "Content-Length: 6", method="POST") + b"abc")
        arrived = puppet.call.scope["extensions"][RECEIVE_ARRIVED]
        assert arrived() == {"type": "http.request", "body": b"abc", "more_body": True}
        assert arrived() is None
        wire.receive(b"def")
        assert arrived() == {"type": "http.request", "body": b"def", "more_body": False}
        assert arrived() is None
        server.connect().receive(GET)
        arrived = puppet.call.scope["extensions"][RECEIVE_ARRIVED]
        assert arrived() == {"type": "http.request", "body": b"", "more_body": False}
