"""TLS connections at their ends: the handshake's beginning, and a last octet that a slow client gets too."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import threading
import time

import pytest

from daphne_like.net import loop_tls
from tests.asgi.conversation import GET, sentences
from tests.end_to_end.certificates import make_certificate
from tests.end_to_end.clients import drain
from tests.net.real import connect, port_of, read_all, served

LARGE = 8 << 20


async def large(scope, receive, send):
    """A response in one message: all of it is with the transport at once."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


def secured(directory, **settings):
    certificate = make_certificate(directory)
    files = {"certificate": str(certificate.chain), "private_key": str(certificate.key), "port": 0}
    return {**files, **settings}, certificate.trusting()


def impatient(monkeypatch):
    """So little time for a goodbye that it cannot have begun before the last octet."""
    monkeypatch.setattr(loop_tls, "TLS_GOODBYE", 0.05)


@contextlib.contextmanager
def hardly_reading(server, trusting):
    """A connection whose kernel takes a few KiB, then what is read; a blocking one, for threads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", port_of(server)))
        with trusting.wrap_socket(sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secure:
            yield secure


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""], ids=["closes", "kept, then stopped"])
async def test_slow_client_gets_the_last_octet(tmp_path, monkeypatch, close):
    """What waits below TLS, encrypted, counts: the time for a goodbye begins after it."""
    impatient(monkeypatch)
    settings, trusting = secured(tmp_path, graceful_timeout=30.0)
    begun = threading.Event()

    def read(server):
        data = b""
        with hardly_reading(server, trusting) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: h\r\n{close}\r\n".encode())
            while more := sock.recv(8192):
                data += more
                begun.set()
                if len(data) > LARGE // 2:
                    time.sleep(0.0005)  # a slow client's pace
        return data

    async with served(large, **settings) as server:
        reading = asyncio.create_task(asyncio.to_thread(read, server))
        if not close:
            await asyncio.to_thread(begun.wait)
            await server.stop()
        assert (await reading).count(b"\0") == LARGE


async def test_client_that_does_not_read_at_all_is_dropped_while_its_connection_closes(tmp_path, caplog):
    settings, trusting = secured(tmp_path, write_timeout=0.2)
    dropped = threading.Event()

    def do_not_read(server):
        with hardly_reading(server, trusting) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            dropped.wait(30)
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
                drain(sock)

    async with served(large, **settings) as server:
        with caplog.at_level(logging.INFO):
            client = asyncio.create_task(asyncio.to_thread(do_not_read, server))
            async with asyncio.timeout(30):
                while "client did not read, dropped it" not in sentences(caplog):
                    await asyncio.sleep(0.02)
        dropped.set()
        await client


def by_hand(trusting):
    """A client's TLS, and what comes in for it and goes out: the test carries the octets."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    return trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1"), incoming, outgoing


async def test_hello_in_single_octets(tmp_path):
    settings, trusting = secured(tmp_path)
    async with served(**settings) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        client, incoming, outgoing = by_hand(trusting)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            for octet in outgoing.read():
                writer.write(bytes([octet]))
                await asyncio.sleep(0)
            incoming.write(await reader.read(65536))
        client.write(GET)  # together with the handshake's end
        writer.write(outgoing.read())
        answer = b""
        while b"200" not in answer:
            incoming.write(await reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += client.read(65536)
        writer.close()


async def test_more_handshakes_than_connections_are_refused(tmp_path, caplog):
    settings, trusting = secured(tmp_path, max_connections=3)
    async with served(**settings) as server:
        silent = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(3)]
        async with connect(server) as (refused, _):
            assert (await read_all(refused))[0] == b""
        assert "refused a connection: too many TLS handshakes under way" in sentences(caplog)
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    async with connect(server, ssl=trusting) as (reader, writer):
                        writer.write(GET)
                        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                        return


async def test_handshake_that_takes_too_long(tmp_path):
    settings, _ = secured(tmp_path, header_timeout=0.2)
    async with served(**settings) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(30):
            assert (await read_all(reader))[0] == b""
        writer.close()


async def test_handshake_under_way_when_the_server_stops_becomes_a_request(tmp_path):
    settings, trusting = secured(tmp_path)
    async with served(**settings) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        client, incoming, outgoing = by_hand(trusting)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        writer.write(outgoing.read())
        incoming.write(await reader.read(65536))
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)  # it has begun
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        client.write(GET)
        writer.write(outgoing.read())
        answer = b""
        while b"200" not in answer:
            data = await reader.read(65536)
            assert data, "the connection was closed"
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += client.read(65536)
        writer.close()
        await stopping


@pytest.mark.parametrize(("last", "graceful"), [(0.05, 60.0), (60.0, 0.05)], ids=["its time", "the server's"])
async def test_handshake_that_leads_nowhere_does_not_hold_up_a_stop(tmp_path, monkeypatch, last, graceful):
    monkeypatch.setattr(loop_tls, "LAST_HANDSHAKES", last)
    settings, _ = secured(tmp_path, graceful_timeout=graceful)
    async with served(**settings) as server, connect(server) as (reader, writer):
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(20):
            await server.stop()
            assert (await read_all(reader))[0] == b""
        assert "_shake" not in {task.get_coro().__name__ for task in asyncio.all_tasks()}


async def test_client_that_leaves_before_the_handshake_leaves_nothing(tmp_path):
    """With uvloop it has left before there could be TLS, and a handshake of nobody's would go on."""

    def kept():
        return sum(type(each).__name__ == "SSLProtocol" for each in gc.get_objects())

    settings, trusting = secured(tmp_path)
    async with served(**settings) as server:
        before = kept()

        def come_and_go():
            for _ in range(50):
                socket.create_connection(("127.0.0.1", port_of(server))).close()

        await asyncio.to_thread(come_and_go)
        async with connect(server, ssl=trusting) as (reader, writer):  # the others were accepted before it
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        del reader, writer  # they hold the client's own
        async with asyncio.timeout(10):  # a third of the handshake's time
            while kept() > before:
                gc.collect()
                await asyncio.sleep(0.02)


async def test_time_for_the_next_request_begins_when_a_slow_client_has_read(tmp_path):
    settings, trusting = secured(tmp_path, keep_alive_timeout=1.0)

    def talk(server):
        with hardly_reading(server, trusting) as sock:
            sock.sendall(GET)
            missing = LARGE - sock.recv(65536).count(b"\0")
            while missing:
                missing -= sock.recv(65536).count(b"\0")
                if missing > 3 << 20:  # more than the kernel holds
                    time.sleep(0.008)  # a slow client's pace
            sock.sendall(GET)
            return sock.recv(12)

    async with served(large, **settings) as server:
        assert await asyncio.to_thread(talk, server) == b"HTTP/1.1 200"


async def test_client_that_ends_tls_and_asks_for_much_is_no_noise(tmp_path, caplog):
    settings, trusting = secured(tmp_path)

    def ask_and_leave(server):
        with hardly_reading(server, trusting) as sock:
            sock.sendall(GET)
            with contextlib.suppress(OSError):
                sock.unwrap()

    async with served(large, **settings) as server:
        await asyncio.to_thread(ask_and_leave, server)
        await asyncio.to_thread(ask_and_leave, server)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
