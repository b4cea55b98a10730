"""An event loop's transport as Twisted's: what only real sockets show."""

import asyncio
import contextlib
import socket
import struct

import pytest
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint, ITransport

from daphne_like.net.loop_transport import LoopListeningPort, LoopServerEndpoint, LoopTransport
from tests.asgi.conversation import GET, HANDSHAKE, FrameParser, frame
from tests.net.real import ask, connect, port_of, read_all, read_until, served


def test_interfaces_are_what_twisted_asks_for():
    assert ITransport.implementedBy(LoopTransport)
    assert IListeningPort.implementedBy(LoopListeningPort)
    assert IStreamServerEndpoint.implementedBy(LoopServerEndpoint)


def http(handler):
    """An application without lifespan."""

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise ValueError("none")
        await handler(scope, receive, send)

    return application


@http
async def half(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


async def test_broken_response_ends_in_a_reset():
    """Not in FIN: on HTTP/1.0 that would say "complete"."""
    async with served(half) as server:
        async with connect(server) as (reader, writer):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            data, reset = await read_all(reader)
            assert reset
            assert not data.endswith(b"0\r\n\r\n")


async def test_answer_reaches_a_client_that_still_sends():
    """Closing with data unread would reset the connection, and destroy the answer (RFC 9112 §9.6)."""
    async with served(max_body_size=1000) as server:
        async with connect(server) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(20):
                writer.write(bytes(10_000))
                await asyncio.sleep(0)
            data, reset = await read_all(reader)
            assert data.startswith(b"HTTP/1.1 413 ")
            assert not reset


async def test_half_closed_client_gets_its_answer():
    @http
    async def application(scope, receive, send):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"here"})

    async with served(application) as server:
        async with connect(server) as (reader, writer):
            writer.write(GET)
            writer.write_eof()
            data, reset = await read_all(reader)
            assert data.endswith(b"here")
            assert not reset


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_departure_is_told_at_once(how):
    told = asyncio.Event()
    begun = asyncio.Event()

    @http
    async def application(scope, receive, send):
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with served(application) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await begun.wait()
            if how == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await told.wait()


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_departure_while_the_socket_is_paused_is_told_behind_what_came_before(how):
    """Nobody looks at a paused socket; taking the data opens it again."""
    told = asyncio.Event()
    begun = asyncio.Event()
    go_on = asyncio.Event()

    @http
    async def application(scope, receive, send):
        begun.set()
        await go_on.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async with served(application) as server:
        with socket.create_connection(("127.0.0.1", port_of(server))) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n")
            await loop.sock_sendall(client, bytes(300_000))
            await begun.wait()
            if how == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        go_on.set()
        await told.wait()


async def test_slow_reader_holds_the_application_back():
    """By counters: of 64 MiB no more than the kernel's buffers and ours have been handed over."""
    handed = 0
    blocked = asyncio.Event()

    @http
    async def application(scope, receive, send):
        nonlocal handed
        await send({"type": "http.response.start", "status": 200})
        with contextlib.suppress(OSError):
            for _ in range(64):
                sending = asyncio.ensure_future(
                    send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
                )
                done, _ = await asyncio.wait((sending,), timeout=0.5)
                if not done:
                    blocked.set()
                await sending
                handed += 1

    async with served(application) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port_of(server)))
            await loop.sock_sendall(client, GET)
            await blocked.wait()
            assert handed < 32
            read = 0
            while read < 8 << 20:
                read += len(await loop.sock_recv(client, 1 << 20))
            assert handed >= 1


async def test_slow_application_holds_the_client_back():
    """By counters: of 256 MiB the client gets rid of no more than the kernel's buffers and ours."""
    taken = asyncio.Event()
    release = asyncio.Event()

    @http
    async def application(scope, receive, send):
        await receive()
        taken.set()
        await release.wait()

    async with served(application, application_close_timeout=1) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port_of(server)))
            await loop.sock_sendall(
                client, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 268435456\r\n\r\n"
            )
            sent = 0
            while sent < 268435456:
                sending = asyncio.ensure_future(loop.sock_sendall(client, bytes(1 << 20)))
                done, _ = await asyncio.wait((sending,), timeout=0.5)
                if not done:
                    sending.cancel()
                    break
                sent += 1 << 20
            assert taken.is_set()
            assert sent < 64 << 20
        release.set()


async def test_websocket_over_a_real_socket():
    @http
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async with served(application) as server:
        async with connect(server) as (reader, writer):
            writer.write(HANDSHAKE + b"\r\n")
            assert (await read_until(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            parser = FrameParser()
            texts = [str(number).encode() * 100 for number in range(100)]
            writer.write(b"".join(frame(1, text) for text in texts))
            echoed = []
            while len(echoed) < len(texts):
                echoed += [each.payload for each in parser.feed(await reader.read(65536))]
            assert echoed == texts
            writer.write(frame(8, b"\x03\xe8"))
            data, reset = await read_all(reader)
            assert [each.opcode for each in parser.feed(data)] == [8]
            assert not reset


async def test_server_sent_events_arrive_one_by_one():
    """Each is read before the application is let on."""
    go = asyncio.Semaphore(0)

    @http
    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        for number in range(5):
            await go.acquire()
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body"})

    async with served(application) as server:
        async with connect(server) as (reader, writer):
            writer.write(GET)
            await read_until(reader, b"\r\n\r\n")
            for number in range(5):
                go.release()
                assert await read_until(reader, b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number


async def test_connections_that_are_reset_before_they_are_served_do_no_harm():
    async with served() as server:
        for _ in range(50):
            client = socket.create_connection(("127.0.0.1", port_of(server)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert (await ask(server)).status == 200


async def test_connection_that_is_reset_while_much_waits_for_it_does_no_harm():
    @http
    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bytes(16 << 20)})

    async with served(application) as server:
        client = socket.create_connection(("127.0.0.1", port_of(server)))
        client.sendall(GET)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_recv(client, 1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert len((await ask(server)).body) == 16 << 20
