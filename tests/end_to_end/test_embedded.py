"""`Server` inside of a program: in a script that gives it the process, and in a running event loop."""

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daphne_like import Server, Settings, StartupFailed
from tests.end_to_end.applications.plain import application
from tests.end_to_end.clients import connect, drain, fetch
from tests.end_to_end.processes import serving

SCRIPT = """
import logging

from daphne_like import Server, Settings
from tests.end_to_end.applications.plain import application

server = Server(application, Settings(port=0))


class Announce(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "listening":
            print("at", server.addresses[0], flush=True)


logging.basicConfig(level=logging.INFO)
logging.getLogger("daphne_like.server").addHandler(Announce())
server.run()
print("went on", flush=True)
"""


def port_of(server: Server) -> int:
    return int(server.addresses[0].rpartition(":")[2])


def test_run_in_a_script(tmp_path: Path) -> None:
    """It returns when the server has stopped, and the script goes on."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    at = r"at http://127\.0\.0\.1:(\d+)"
    program = (sys.executable, str(script))
    with serving(program=program, ready=lambda server: server.stdout.wait_for(at)) as server:
        port = int(server.stdout.wait_for(at)[1])
        assert fetch(port).status == 200
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "went on" in server.stdout.text


async def get(port: int, target: str = "/") -> int:
    return (await asyncio.to_thread(fetch, port, target)).status


async def test_start_and_stop_in_a_running_loop() -> None:
    server = Server(application, Settings(port=0))
    await server.start()
    port = port_of(server)
    assert await get(port) == 200
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await get(port)


async def test_two_servers_in_one_loop() -> None:
    first, second = Server(application, Settings(port=0)), Server(application, Settings(port=0))
    await first.start()
    await second.start()
    assert [await get(port_of(each)) for each in (first, second)] == [200, 200]
    await first.stop()
    assert await get(port_of(second)) == 200
    await second.stop()


async def test_stop_waits_for_requests_in_flight() -> None:
    server = Server(application, Settings(port=0))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /slow?0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await get(port_of(server)) == 200  # by now the request has been read
    await server.stop()
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("turns", range(4))
async def test_connection_accepted_while_the_stop_begins(turns: int) -> None:
    """
    Whichever turn of the loop it is accepted in, its request is answered and its connection ends: one that the
    stop has missed would be served on, and be cut with its next request in the end.
    """
    pytest.importorskip("uvloop", reason="asyncio's own loop drops what it has accepted and not yet begun")
    server = Server(application, Settings(port=0, graceful_timeout=5))
    await server.start()
    with connect(port_of(server)) as sock:  # the kernel has accepted it, the loop has not
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(turns):
            await asyncio.sleep(0)
        begin = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        answer = await asyncio.to_thread(drain, sock)
        await stopping
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert time.monotonic() - begin < 4


async def test_two_stops_at_once_are_one() -> None:
    server = Server(application, Settings(port=0))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /slow?0.3 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await get(port_of(server)) == 200
    await asyncio.gather(server.stop(), server.stop())
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await writer.wait_closed()
    await server.stop()  # and one that has stopped does nothing


async def test_stop_without_start_does_nothing() -> None:
    await Server(application, Settings(port=0)).stop()


async def test_address_in_use_is_raised_and_the_application_shut_down() -> None:
    first = Server(application, Settings(port=0))
    await first.start()
    heard: list[str] = []

    async def listening(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            heard.append(kind)
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return

    with pytest.raises(StartupFailed, match="address in use"):
        await Server(listening, Settings(port=port_of(first))).start()
    assert heard == ["lifespan.startup", "lifespan.shutdown"]
    await first.stop()


async def test_signals_of_the_program_are_left_alone() -> None:
    """An embedded server owns no signal: SIGHUP does not end it, SIGTERM is the program's."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    server = Server(application, Settings(port=0))
    await server.start()
    assert {number: signal.getsignal(number) for number in before} == before
    await server.stop()


async def test_hurry_ends_a_graceful_stop() -> None:
    server = Server(application, Settings(port=0))
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await get(port_of(server)) == 200
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)  # it has begun
    server.hurry()
    await asyncio.wait_for(stopping, 10)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_nothing_is_logged_to_a_program_that_did_not_ask(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(application, Settings(port=0))
    await server.start()
    assert await get(port_of(server)) == 200
    await server.stop()
    assert capsys.readouterr() == ("plain: lifespan shutdown\n", "")
