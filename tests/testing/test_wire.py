"""The server in memory: what other tests believe about it."""

import asyncio
import threading

import pytest
from twisted.internet.interfaces import IProtocol

from daphne_like.settings import Settings
from daphne_like.testing.wire import MemoryServer, StillLoop
from tests.asgi.conversation import GET, Puppet, message, response, serving


async def hello(scope, receive, send):
    await send(message("start", status=200))
    await send(message("body", body=b"hello"))


def test_example_of_the_docstring():
    with MemoryServer(hello, Settings(keep_alive_timeout=5, verbosity=0)) as server:
        wire = server.connect()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.take().startswith(b"HTTP/1.1 200")
        server.advance(6)
        assert wire.closed


def test_clock_stands_still_until_told():
    loop = StillLoop()
    try:
        now = loop.time()
        fired = []
        loop.call_later(5, fired.append, True)
        loop.settle()
        assert loop.time() == now
        assert fired == []
        loop.now += 5
        loop.settle()
        assert fired == [True]
    finally:
        loop.close()


def test_application_may_sleep_and_time_out():
    async def application(scope, receive, send):
        await asyncio.sleep(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        await hello(scope, receive, send)

    with MemoryServer(application) as server:
        wire = server.connect()
        wire.receive(GET)
        server.advance(14)
        assert wire.take() == b""
        server.advance(2)
        assert response(wire).body == b"hello"


def test_settle_follows_a_chain_of_callbacks_to_its_end():
    loop = StillLoop()
    try:
        seen = []

        async def chain():
            for number in range(1000):
                await asyncio.sleep(0)
                seen.append(number)

        task = loop.create_task(chain())
        loop.settle()
        assert task.done()
        assert len(seen) == 1000
    finally:
        loop.close()


def test_settle_refuses_what_never_rests():
    async def restless():
        while True:
            await asyncio.sleep(0)

    loop = StillLoop()
    try:
        task = loop.create_task(restless())
        with pytest.raises(AssertionError, match="never comes to rest"):
            loop.settle()
        task.cancel()
        loop.settle()
    finally:
        loop.close()


def test_settle_until_waits_for_threads_and_not_for_ever():
    loop = StillLoop()
    try:
        release = threading.Event()
        work = loop.run_in_executor(None, release.wait)
        with pytest.raises(AssertionError, match="did not happen"):
            loop.settle_until(work.done, seconds=0.05)
        release.set()
        loop.settle_until(work.done)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def test_take_gives_what_came_since_the_last():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        assert wire.take() == b""
        wire.receive(GET)
        puppet.call.send("start", status=200)
        assert wire.take().startswith(b"HTTP/1.1 200")
        assert wire.take() == b""


def test_pieces_are_packets_of_their_own():
    packets = []

    class Recorder:
        def __call__(self, data):
            packets.append(data)

    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        real = wire.protocol

        class Spy:
            dataReceived = Recorder()

            def __getattr__(self, name):
                return getattr(real, name)

        wire.protocol = Spy()
        wire.receive(b"a", b"b")
        wire.protocol = real
    assert packets == [b"a", b"b"]


def test_packets_wait_while_the_server_has_paused_the_socket_and_keep_their_order():
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=1024) as server:
        wire = server.connect()
        wire.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n", b"a" * 1500, b"b" * 500)
        assert not wire.reading
        wire.receive(b"c" * 1000)
        received = b""
        while len(received) < 3000:
            received += puppet.call.receive()["body"]
        assert received == b"a" * 1500 + b"b" * 500 + b"c" * 1000


def test_client_that_does_not_read_fills_the_socket():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(GET)
        puppet.call.send("start", status=200)
        first = wire.bytes_unsent()
        assert first > 0
        puppet.call.send("body", body=b"x", more_body=True)
        assert wire.bytes_unsent() == first, "the server does not write to a full socket"
        wire.read_on()
        assert wire.bytes_unsent() == 0
        assert wire.take().endswith(b"1\r\nx\r\n")


def test_close_waits_for_what_the_client_has_not_read():
    """As a real transport's loseConnection(): when everything has left, not before, and not never."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(b"GET / HTTP/1.0\r\n\r\n")
        puppet.call.send_at_once(message("start", status=200), message("body", body=b"x"))
        puppet.call.returns()
        assert wire.state == "open"
        wire.read_on()
        assert wire.state == "closed"
        assert response(wire).body == b"x"


@pytest.mark.parametrize("how", ["vanish", "close_sending"])
def test_wire_that_has_ended_takes_no_more(how):
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        getattr(wire, how)()
        assert wire.state == "closed"
        wire.receive(GET)
        wire.vanish()
        wire.close_sending()
        assert puppet.calls == []


def test_protocol_is_a_real_one():
    with MemoryServer(hello) as server:
        assert IProtocol.providedBy(server.connect().protocol)


def test_close_ends_applications_that_wait():
    puppet = Puppet()
    server = MemoryServer(puppet)
    server.connect().receive(GET)
    server.close()
    assert puppet.call.cancelled
    assert server.loop.is_closed()


def test_scope_state():
    puppet = Puppet()
    with serving(puppet, state={"a": 1}) as server:
        server.connect().receive(GET)
        assert puppet.call.scope["state"] == {"a": 1}
