"""The relay over channel layers that are not ours: that lose, fill up, go away, and tell nothing."""

import asyncio
import random

import pytest

from daphne_like.errors import ChannelFull, LayerUnavailable
from daphne_like.layers.codec import pack, unpack
from daphne_like.relay import foreign_port
from daphne_like.relay.application import RelayApplication
from daphne_like.relay.envelope import BOUND, EVENTS
from daphne_like.relay.foreign_port import ForeignPort, port_of
from daphne_like.relay.keeper import Terms
from daphne_like.relay.worker import Worker
from daphne_like.settings import Settings
from daphne_like.testing.exchange import Exchange
from daphne_like.testing.wire import MemoryServer, StillLoop
from tests.asgi.conversation import GET, HANDSHAKE, frame, frames, request, response, responses


class PlainLayer:
    """
    A layer with nothing but send(), receive() and new_channel().

    Attributes:
        full: channels that take nothing.
        down: nothing works.
        loses: given a message, whether to lose it.
        sent: (channel, message), all.
    """

    def __init__(self):
        self.queues = {}
        self.full = set()
        self.down = False
        self.loses = lambda message: False
        self.sent = []
        self.waiting = set()
        self.counter = 0

    async def new_channel(self, prefix="specific"):
        self.check()
        self.counter += 1
        return f"{prefix}.x!{self.counter}"

    async def send(self, channel, message):
        self.check()
        if channel in self.full:
            raise ChannelFull(channel)
        self.sent.append((channel, message))
        if not self.loses(message):
            self.queue(channel).put_nowait(pack(message))

    async def receive(self, channel):
        self.check()
        getting = asyncio.ensure_future(self.queue(channel).get())
        self.waiting.add(getting)
        try:
            return unpack(await getting)
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self.waiting.discard(getting)
            getting.cancel()

    def queue(self, channel):
        return self.queues.setdefault(channel, asyncio.Queue())

    def check(self):
        if self.down:
            raise LayerUnavailable("down")

    def go_down(self):
        self.down = True
        for getting in self.waiting:
            getting.cancel()

    def kinds(self, kind):
        return [message for _, message in self.sent if message["type"] == kind]


class User:
    """Notes what a port tells it."""

    def __init__(self):
        self.told = []

    def envelopes_received(self, sender, batch):
        self.told.append(("envelopes", sender, batch))

    def offer_received(self, channel, sender, ref, opening):
        self.told.append(("offer", channel, sender, ref, opening))

    def offer_claimed(self, ref, by): ...

    def offer_refused(self, ref):
        self.told.append(("refused", ref))

    def member_gone(self, address):
        self.told.append(("gone", address))

    def port_lost(self):
        self.told.append("lost")

    def port_regained(self):
        self.told.append("regained")

    def take(self):
        told, self.told = self.told, []
        return told


class Bench:
    """Ports on one plain layer, and a clock that the test moves."""

    def __init__(self):
        self.loop = StillLoop()
        self.layer = PlainLayer()
        self.ports = []

    def open(self):
        port, user = ForeignPort(self.layer), User()
        self.loop.run_until_complete(port.open(user))
        self.ports.append(port)
        self.loop.settle()
        return port, user

    def advance(self, seconds):
        for _ in range(round(seconds * 4)):
            self.loop.now += 0.25
            self.loop.settle()

    def settle(self):
        self.loop.settle()

    def close(self, port):
        task = self.loop.create_task(port.close())
        self.loop.settle()
        self.advance(12)
        assert task.done()
        task.result()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.layer.full.clear()
    for port in bench.ports:
        bench.close(port)
    assert not asyncio.all_tasks(bench.loop)
    bench.loop.close()


def introduce(bench, server, worker):
    """They have heard of each other."""
    server.post(worker.address, [99])
    worker.post(server.address, [99])
    bench.settle()


# ---- offers


def test_an_offer_reaches_one_who_serves(bench):
    (server, _), (worker, user) = bench.open(), bench.open()
    server.offer("http.request", 7, [1], 100)
    bench.settle()
    assert user.take() == []
    worker.serve("http.request", 1)
    bench.settle()
    assert user.take() == [("offer", "http.request", server.address, 7, [1])]
    server.offer("http.request", 8, [1], 100)
    bench.settle()
    assert user.take() == [], "it had one place"
    worker.serve("http.request", 1)
    bench.settle()
    assert [told[3] for told in user.take()] == [8]


def test_a_full_channel_refuses(bench):
    server, user = bench.open()
    bench.layer.full.add("http.request")
    server.offer("http.request", 7, [1], 100)
    bench.settle()
    assert user.take() == [("refused", 7)]


def test_an_offer_that_came_too_late_is_given_back(bench):
    """receive() of a layer that we do not know is not cancelled: that may lose a message."""
    (server, _), (worker, user), (other, other_user) = bench.open(), bench.open(), bench.open()
    worker.serve("http.request", 5)
    bench.settle()
    worker.serve("http.request", -5)
    server.offer("http.request", 7, [1], 100)
    bench.settle()
    assert user.take() == []
    other.serve("http.request", 1)
    bench.settle()
    assert [told[3] for told in other_user.take()] == [7]


# ---- envelopes


def test_what_is_posted_meanwhile_leaves_together(bench):
    (server, _), (worker, user) = bench.open(), bench.open()
    for number in range(5):
        server.post(worker.address, [1, number, 1, 1, ["x"], 0])
    bench.settle()
    ((_, sender, batch),) = user.take()
    assert sender == server.address
    assert [envelope[1] for envelope in batch] == [0, 1, 2, 3, 4]


def test_messages_stay_below_what_layers_carry(bench):
    (server, _), (worker, user) = bench.open(), bench.open()
    for number in range(1, 11):
        server.post(worker.address, [EVENTS, 1, 1, number, [b"x" * 150_000], 0])
    bench.settle()
    told = user.take()
    assert [envelope[3] for _, _, batch in told for envelope in batch] == list(range(1, 11))
    assert all(len(pack(message)) < 1_000_000 for _, message in bench.layer.sent)


def test_bound_goes_before_all_else(bench):
    """So that nobody has answered whose taking the request is not known."""
    (server, user), (worker, _) = bench.open(), bench.open()
    worker.post(server.address, [BOUND, 7, 1])
    worker.post(server.address, [EVENTS, 7, 1, 1, ["x"], 0])
    bench.settle()
    assert [[envelope[0] for envelope in batch] for _, _, batch in user.take()] == [[BOUND], [EVENTS]]


def test_a_full_inbox_is_tried_again(bench):
    (server, _), (worker, user) = bench.open(), bench.open()
    bench.layer.full.add(worker.address)
    server.post(worker.address, [99, 1])
    bench.advance(3)
    server.post(worker.address, [99, 2])
    bench.layer.full.clear()
    bench.advance(2)
    assert [envelope[1] for _, _, batch in user.take() for envelope in batch] == [1, 2]


def test_who_stays_full_is_given_up(bench):
    (server, user), (worker, _) = bench.open(), bench.open()
    introduce(bench, server, worker)
    user.take()
    bench.layer.full.add(worker.address)
    server.post(worker.address, [99, 1])
    bench.advance(13)
    assert ("gone", worker.address) in user.take()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "relay.envelopes"},
        {"type": "x", "from": 5},
        {},
        {"type": "relay.envelopes", "from": "a", "batch": 5},
    ],
)
def test_garbage_is_dropped(bench, message):
    (server, user), (worker, worker_user) = bench.open(), bench.open()
    worker.serve("http.request", 5)
    bench.loop.run_until_complete(bench.layer.send(server.address, message))
    bench.loop.run_until_complete(bench.layer.send("http.request", message))
    bench.settle()
    assert user.take() == worker_user.take() == []
    server.offer("http.request", 7, [1], 100)
    worker.post(server.address, [99])
    bench.settle()
    assert len(user.take()) == len(worker_user.take()) == 1


# ---- life and death


def test_who_falls_silent_is_gone(bench):
    (server, user), (worker, _) = bench.open(), bench.open()
    introduce(bench, server, worker)
    user.take()
    bench.advance(60)
    assert user.take() == [], "each has told the other that it lives"
    bench.layer.loses = lambda message: message.get("from") == worker.address
    bench.advance(17)
    assert user.take() == [("gone", worker.address)]


def test_who_leaves_says_so(bench):
    (server, user), (worker, _) = bench.open(), bench.open()
    introduce(bench, server, worker)
    user.take()
    address = worker.address
    worker.post(server.address, [99, "last"])
    bench.close(worker)
    assert [told[0] for told in user.take()] == ["envelopes", "gone"]
    assert ("gone", address) not in user.told


def test_who_stood_still_does_not_blame_others(bench):
    (server, user), (worker, _) = bench.open(), bench.open()
    introduce(bench, server, worker)
    user.take()
    bench.loop.now += 100  # both processes were stopped
    bench.settle()
    bench.advance(5)
    assert user.take() == []


def test_the_layer_comes_and_goes(bench):
    (server, user), (worker, worker_user) = bench.open(), bench.open()
    introduce(bench, server, worker)
    user.take()
    bench.layer.go_down()
    bench.settle()
    assert user.take() == ["lost"]
    server.post(worker.address, [99])
    server.offer("http.request", 7, [1], 100)
    bench.advance(5)
    assert user.take() == []
    bench.layer.down = False
    bench.advance(2)
    assert user.take() == ["regained"]
    worker_user.take()
    worker.serve("http.request", 1)
    server.offer("http.request", 8, [1], 100)
    bench.settle()
    assert [told[3] for told in worker_user.take()] == [8]


def test_an_error_of_a_layer_is_survived(bench, caplog):
    server, user = bench.open()
    failing = [RuntimeError("what is this")]
    receive = bench.layer.receive

    async def fail_once(channel):
        if failing:
            raise failing.pop()
        return await receive(channel)

    bench.layer.receive = fail_once
    other, _ = bench.open()
    bench.advance(2)
    server.post(other.address, [99])
    bench.settle()
    assert "the channel layer failed to receive" in [record.message for record in caplog.records]
    other.post(server.address, [99])
    bench.settle()
    assert user.take()


def test_which_port_a_layer_has():
    port = Exchange().port()
    assert port_of(port) is port
    assert isinstance(port_of(PlainLayer()), ForeignPort)


# ---- the whole relay


async def echo(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"] + "!"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, 300_000, 100_000):
        await send({"type": "http.response.body", "body": body[start : start + 100_000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Relay:
    """A server and workers on one plain layer."""

    def __init__(self, layer=None, **terms):
        self.layer = layer or PlainLayer()
        self.relay = RelayApplication(port_of(self.layer), terms=Terms(**terms))
        self.server = MemoryServer(self.relay, Settings(verbosity=0, ping_interval=0))
        self.loop = self.server.loop
        self.workers = []

    def add_worker(self):
        worker = Worker(echo, port_of(self.layer))
        self.loop.run_until_complete(worker.start())
        self.workers.append(worker)
        self.loop.settle()
        return worker

    def ask(self, data):
        wire = self.server.connect()
        wire.receive(data)
        return wire

    def advance(self, seconds):
        for _ in range(round(seconds * 4)):
            self.server.advance(0.25)

    def close(self):
        for stream in list(self.server.context.running):
            stream.client_left()
        self.layer.loses = lambda message: False
        self.advance(20)
        tasks = [self.loop.create_task(worker.stop()) for worker in self.workers]
        tasks.append(self.loop.create_task(self.relay.stop()))
        self.advance(30)
        assert all(task.done() for task in tasks)
        assert self.relay.streams == 0
        self.server.close()


@pytest.fixture
def relay():
    relay = Relay()
    yield relay
    relay.close()


def test_requests_and_sockets(relay):
    relay.add_worker()
    body = bytes(250_000)
    wire = relay.ask(request("/", f"Content-Length: {len(body)}", method="POST") + body)
    assert response(wire).body == body
    socket = relay.ask(HANDSHAKE + b"\r\n")
    assert responses(socket)[0].status == 101
    socket.receive(frame(1, b"a"))
    assert frames(socket) == [(1, b"a!")]


def test_a_lost_offer_is_made_again(relay):
    relay.layer.loses = lambda message: message["type"] == "relay.offer" and message["opening"][2] == 1
    relay.add_worker()
    safe, unsafe = relay.ask(GET), relay.ask(request("/", "Content-Length: 0", method="POST"))
    socket = relay.ask(HANDSHAKE + b"\r\n")
    relay.advance(3)
    assert response(safe).status == 200
    assert response(unsafe).status == 502
    assert responses(socket)[0].status == 101


def test_a_handoff_over_a_foreign_layer(relay):
    old = relay.add_worker()
    socket = relay.ask(HANDSHAKE + b"\r\n")
    responses(socket)
    relay.add_worker()
    draining = relay.loop.create_task(old.drain(5))
    relay.loop.settle()
    socket.receive(frame(1, b"a"))
    relay.advance(1)
    assert frames(socket) == [(1, b"a!")]
    assert draining.result()


def test_a_worker_that_died_is_noticed(relay):
    relay.add_worker()
    socket = relay.ask(HANDSHAKE + b"\r\n")
    responses(socket)
    dead = relay.workers[0]
    address = dead._port.address
    relay.layer.loses = lambda message: message.get("from") == address
    relay.layer.full.add(address)
    relay.add_worker()
    socket.receive(frame(1, b"a"))
    relay.advance(foreign_port.MEMBER_TIMEOUT + 3)
    assert frames(socket) == [(1, b"a!")]
    relay.layer.full.clear()


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_short_and_nothing_hangs(relay, seed):
    """With a layer that loses messages: whole, or seen to be broken off."""
    chance = random.Random(seed)
    relay.add_worker()
    relay.add_worker()
    body = b"0123456789" * 25_000
    relay.layer.loses = lambda message: message["type"] != "relay.alive" and chance.random() < 0.05
    sockets = [relay.ask(HANDSHAKE + b"\r\n") for _ in range(10)]
    wires = [relay.ask(request("/", f"Content-Length: {len(body)}", method="POST") + body) for _ in range(20)]
    opened = [wire for wire in sockets if wire.take().startswith(b"HTTP/1.1 101")]
    for number in range(20):
        for wire in opened:
            wire.receive(frame(1, b"%d" % number))
    relay.advance(15)
    for wire in wires:
        data = wire.take()
        if wire.state != "reset":
            assert data.endswith(b"0\r\n\r\n") or data.startswith(b"HTTP/1.1 50")
            assert data.count(b"0123456789") >= 24_990 or data.startswith(b"HTTP/1.1 50")
    for wire in opened:
        received = [payload for opcode, payload in frames(wire) if opcode == 1]
        assert received == [b"%d!" % number for number in range(len(received))]
        assert wire.closed or len(received) == 20


def test_channels_own_layer():
    layers = pytest.importorskip("channels.layers")
    relay = Relay(layers.InMemoryChannelLayer())
    try:
        relay.add_worker()
        assert response(relay.ask(GET)).status == 200
    finally:
        relay.close()
