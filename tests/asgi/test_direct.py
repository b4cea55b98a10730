"""A private way around coroutines: daphne_like.asgi.direct, embedded and relayed."""

import types

import pytest

from daphne_like.asgi.direct import direct_of, exchange_of
from daphne_like.errors import ClientDisconnected, UnexpectedMessage
from tests.asgi.conversation import Puppet, request, response, sentences, serving

pytestmark = pytest.mark.usefixtures("hosting")

POST = request("/", "Content-Length: 3", method="POST")


class Taking(Puppet):
    """Takes every exchange that it is offered."""

    def __init__(self):
        super().__init__()
        self.exchanges = []
        self.takes = True

    def daphne_like_direct(self, exchange):
        if self.takes:
            self.exchanges.append(exchange)
        return self.takes


def test_answer_and_end():
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        for number in range(3):  # on one connection
            wire.receive(request(f"/{number}"))
            exchange = taking.exchanges[number]
            assert exchange.scope["path"] == f"/{number}"
            exchange.answer(201, [], b"body %d" % number)
            exchange.ended(None)
            server.loop.settle()
            answer = response(wire)
            assert (answer.status, answer.body) == (201, b"body %d" % number)


def test_what_is_not_taken_goes_the_way_of_asgi():
    taking = Taking()
    taking.takes = False
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        call = taking.call
        call.send("start", status=200)
        call.send("body", body=b"as ever")
        call.returns()
        assert response(wire).body == b"as ever"


def test_failure_is_a_500_and_logged(caplog):
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        taking.exchanges[0].ended(RuntimeError("broken"))
        server.loop.settle()
        assert response(wire).status == 500
        assert "application failed" in sentences(caplog)


def test_answer_that_cannot_be_sent_is_a_500_and_logged(caplog):
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        taking.exchanges[0].answer(200, [(b"bad name", b"x")], b"")
        taking.exchanges[0].ended(None)
        server.loop.settle()
        assert response(wire).status == 500
        assert "application failed" in sentences(caplog)


def test_error_after_the_answer_is_only_logged(caplog):
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        taking.exchanges[0].answer(200, [], b"fine")
        taking.exchanges[0].ended(RuntimeError("while closing"))
        server.loop.settle()
        assert response(wire).body == b"fine"
        assert sentences(caplog, level="ERROR") == ["application failed"]


def test_exchange_that_ends_without_an_answer_is_a_500(caplog):
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        taking.exchanges[0].ended(None)
        server.loop.settle()
        assert response(wire).status == 500
        assert "application ended without a complete response" in sentences(caplog)


def test_going_on_with_a_coroutine():
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        exchange = taking.exchanges[0]

        async def rest():
            await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
            await exchange.send({"type": "http.response.body", "body": b"one ", "more_body": True})
            await exchange.send({"type": "http.response.body", "body": b"two"})

        server.loop.call_soon(exchange.proceed, rest())
        server.loop.settle()
        assert response(wire).body == b"one two"


def test_nobody_waits_for_the_answer_any_more(caplog):
    taking = Taking()
    told = []
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        exchange = taking.exchanges[0]
        exchange.tell_departure(told.append)
        wire.vanish()
        server.loop.settle()
        assert told == [True]
        with pytest.raises(ClientDisconnected):
            exchange.respond(200, [], b"")
        exchange.answer(200, [], b"")
        exchange.ended(None)
        server.loop.settle()
    assert sentences(caplog, level="ERROR") == []


def test_departure_before_anybody_asked_is_told_at_once():
    taking = Taking()
    told = []
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        wire.close_sending()
        server.loop.settle()
        exchange = taking.exchanges[0]
        exchange.tell_departure(told.append)
        assert told == [False]
        exchange.answer(200, [], b"still read")
        exchange.ended(None)
        server.loop.settle()
        assert response(wire).body == b"still read"


@pytest.mark.embedded_only("--http-timeout is about the server's own streams")
def test_http_timeout_answers_for_an_exchange_too():
    taking = Taking()
    told = []
    with serving(taking, http_timeout=5) as server:
        wire = server.connect()
        wire.receive(request())
        exchange = taking.exchanges[0]
        exchange.tell_departure(told.append)
        server.advance(7)
        assert response(wire).status == 503
        assert told == [True]
        exchange.answer(200, [], b"too late")
        exchange.ended(None)


def test_second_answer_is_refused():
    taking = Taking()
    with serving(taking) as server:
        wire = server.connect()
        wire.receive(request())
        exchange = taking.exchanges[0]
        exchange.respond(200, [], b"first")
        with pytest.raises((UnexpectedMessage, ClientDisconnected)):
            exchange.respond(200, [], b"second")
        exchange.ended(None)
        server.loop.settle()
        assert response(wire).body == b"first"


def test_send_leads_to_the_exchange_unless_somebody_came_between():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request())
        call = puppet.call
        assert exchange_of(call._send) is not None
        call.send("start", status=204)
        call.send("body")
        call.returns()
    assert exchange_of(lambda message: None) is None


def test_router_of_channels_is_looked_through_and_nothing_else():
    taking = Taking()

    class ProtocolTypeRouter:
        def __init__(self):
            self.application_mapping = {"http": taking}

    assert direct_of(ProtocolTypeRouter()) is None
    ProtocolTypeRouter.__module__ = "channels.routing"
    assert direct_of(ProtocolTypeRouter()) == taking.daphne_like_direct
    assert direct_of(types.SimpleNamespace()) is None
    assert direct_of(taking) == taking.daphne_like_direct
