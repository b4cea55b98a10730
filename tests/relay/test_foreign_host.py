"""The relay under another ASGI server: no departure extension, perhaps no lifespan, receive() in order only."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from daphne_like.relay.application import RelayApplication
from daphne_like.relay.keeper import Terms
from daphne_like.relay.worker import Worker
from daphne_like.testing.exchange import Exchange
from tests.relay.leases import SCOPE, SOCKET_SCOPE

SCOPE = {**SCOPE, "http_version": "1.1", "query_string": b"", "raw_path": b"/"}


class Client:
    """What a host gives and gets for one scope."""

    def __init__(self, relay, scope, *messages):
        self.messages = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)
        self.sent = []
        self.changed = asyncio.Event()
        self.receiving = 0
        self.task = asyncio.create_task(relay(dict(scope), self.receive, self.send))

    async def receive(self):
        self.receiving += 1
        message = await self.messages.get()
        self.receiving -= 1
        return message

    async def send(self, message):
        self.sent.append(message)
        self.changed.set()

    async def until(self, condition):
        while not condition(self):
            await self.changed.wait()
            self.changed.clear()

    @property
    def status(self):
        return next((message["status"] for message in self.sent if "status" in message), None)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)


async def echo(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
        scope["app"](message)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def relaying(application=echo, **terms):
    exchange = Exchange()
    relay = RelayApplication(exchange.port("server"), terms=Terms(**terms))
    worker = Worker(application, exchange.port("worker"))
    await worker.start()
    try:
        yield relay, worker
    finally:
        await worker.stop()
        await relay.stop()


def body(data, more=False):
    return {"type": "http.request", "body": data, "more_body": more}


async def test_a_request():
    """It starts with the first stream, where there is no lifespan."""
    async with relaying() as (relay, _):
        client = Client(relay, SCOPE, body(b"abc"))
        await client.task
        assert (client.status, client.body) == (200, b"abc")
        assert client.sent[-1]["type"] == "http.response.body"


async def test_a_body_in_pieces():
    async with relaying() as (relay, _):
        client = Client(relay, {**SCOPE, "method": "POST"})
        client.messages.put_nowait(body(b"abc", True))
        client.messages.put_nowait(body(b"def", True))
        client.messages.put_nowait(body(b""))
        await client.task
        assert client.body == b"abcdef"


async def test_a_departure_in_order():
    asked, told = asyncio.Event(), asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        asked.set()
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError, match="left"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        told.set()

    async with relaying(application) as (relay, _):
        client = Client(relay, SCOPE, body(b""))
        await asked.wait()
        client.messages.put_nowait({"type": "http.disconnect"})
        await client.task
        await told.wait()
        assert client.sent == []


async def test_one_receive_stays_open():
    """So that a departure is noticed; it is not cancelled before the end."""
    started = asyncio.Event()
    go_on = asyncio.Event()

    async def application(scope, receive, send):
        started.set()
        await go_on.wait()
        await echo(scope, receive, send)

    async with relaying(application) as (relay, _):
        client = Client(relay, SCOPE, body(b""))
        await started.wait()
        assert client.receiving == 1
        go_on.set()
        await client.task


async def test_expected_bodies_are_not_asked_for_before_the_application_wants_them():
    started = asyncio.Event()
    go_on = asyncio.Event()

    async def application(scope, receive, send):
        started.set()
        await go_on.wait()
        await echo(scope, receive, send)

    scope = {**SCOPE, "method": "POST", "headers": [(b"expect", b"100-continue")]}
    async with relaying(application) as (relay, _):
        client = Client(relay, scope, body(b"abc"))
        await started.wait()
        assert client.messages.qsize() == 1
        go_on.set()
        await client.task
        assert client.body == b"abc"


async def test_a_websocket():
    seen = []
    async with relaying() as (relay, worker):
        worker.application = lambda scope, receive, send: echo({**scope, "app": seen.append}, receive, send)
        client = Client(relay, SOCKET_SCOPE, {"type": "websocket.connect"})
        client.messages.put_nowait({"type": "websocket.receive", "text": "abc"})
        await client.until(lambda client: len(client.sent) == 2)
        assert client.sent[0]["type"] == "websocket.accept"
        assert client.sent[1]["text"] == "ABC"
        client.messages.put_nowait({"type": "websocket.disconnect", "code": 1001, "reason": ""})
        await client.task
        while relay.streams:
            await asyncio.sleep(0)
        assert seen == [{"type": "websocket.disconnect", "code": 1001, "reason": ""}]


@pytest.mark.parametrize("extensions", [None, {}])
async def test_without_denial_responses_a_close_refuses(extensions):
    async def application(scope, receive, send):
        raise ValueError

    async with relaying(application) as (relay, _):
        client = Client(relay, {**SOCKET_SCOPE, "extensions": extensions}, {"type": "websocket.connect"})
        await client.task
        assert [message["type"] for message in client.sent] == ["websocket.close"]


async def test_a_cut_response_is_left_unfinished():
    """Which every host takes for what it is, and breaks the connection off."""

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise ValueError

    async with relaying(application) as (relay, _):
        client = Client(relay, SCOPE, body(b""))
        await client.task
        assert client.sent[-1]["more_body"]


async def test_a_lifespan():
    exchange = Exchange()
    relay = RelayApplication(exchange.port("server"))
    host = Client(relay, {"type": "lifespan"}, {"type": "lifespan.startup"})
    await host.until(lambda host: host.sent)
    assert relay.reachable
    host.messages.put_nowait({"type": "lifespan.shutdown"})
    await host.task
    assert [message["type"] for message in host.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert exchange.ports == {}


async def test_a_layer_that_cannot_be_reached():
    exchange = Exchange()
    port = exchange.port("server")
    port.cut_off = True
    relay = RelayApplication(port)
    host = Client(relay, {"type": "lifespan"}, {"type": "lifespan.startup"})
    await host.task
    assert host.sent[0]["type"] == "lifespan.startup.failed"
    client = Client(relay, SCOPE, body(b""))
    await client.task
    assert client.status == 503


async def test_stopping_waits_for_applications():
    """They may still be told why their sockets closed."""
    seen = []
    exchange = Exchange()
    relay = RelayApplication(exchange.port("server"))

    async def application(scope, receive, send):
        await echo({**scope, "app": seen.append}, receive, send)

    worker = Worker(application, exchange.port("worker"))
    await worker.start()
    client = Client(relay, SOCKET_SCOPE, {"type": "websocket.connect"})
    await client.until(lambda client: client.sent)
    client.messages.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": ""})
    await relay.stop()
    assert seen[0]["code"] == 1012
    await client.task
    await worker.stop()


async def test_unknown_scopes_are_refused():
    exchange = Exchange()
    relay = RelayApplication(exchange.port("server"))
    with pytest.raises(ValueError, match="channel"):
        await relay({"type": "channel"}, None, None)
    await relay.stop()
