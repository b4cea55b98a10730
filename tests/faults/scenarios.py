"""
What happens to a server and its workers, and what that may cost.

Each scenario starts a server of its own, does its worst, and returns an Outcome: `broken` has a sentence for
each promise that did not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.processes import ServerProcess, children
from tests.faults.load import Load, Report, fetch

APPLICATION = "tests.faults.application:application"
WITHIN = 30.0


@dataclass
class Scale:
    """How hard: sockets and connections, how often, how long."""

    sockets: int
    connections: int
    times: int
    seconds: float


SHORT = Scale(sockets=40, connections=16, times=3, seconds=4.0)
FULL = Scale(sockets=200, connections=64, times=10, seconds=30.0)


@dataclass
class Outcome:
    figures: str
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.broken.append(sentence)


@contextlib.asynccontextmanager
async def served(*words: str) -> AsyncIterator[ServerProcess]:
    """A server with workers; whatever is left of it at the end is killed."""
    server = ServerProcess(("-p", "0", "-v", "1", "--access-log", os.devnull, *words))
    try:
        await asyncio.to_thread(lambda: server.port)
        if "--workers" in words:
            count = int(words[words.index("--workers") + 1])
            await asyncio.to_thread(lambda: server.stderr.wait_for("worker ready", count=count))
        yield server
    except BaseException as error:
        error.add_note(server.stderr.text[-4000:])
        raise
    finally:
        left = workers(server)
        await asyncio.to_thread(server.stop)
        server.close()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the server's children."""
    return children(server.process.pid)


async def until(condition: Callable[[], object], what: str, within: float = WITHIN) -> None:
    """Look again and again: processes of others give no event to wait for."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"within {within:g} s not: {what}")
        await asyncio.sleep(0.02)


def nothing_lost(outcome: Outcome, report: Report) -> None:
    outcome.expect(not report.sockets_closed, f"sockets closed: {report.sockets_closed[:5]}")
    outcome.expect(not report.failed, f"requests failed: {report.failed[:5]}")
    outcome.expect(report.doubled == 0, f"{report.doubled} replies doubled")
    outcome.expect(report.disordered == 0, f"{report.disordered} replies out of order")


async def rolling_restart(scale: Scale) -> Outcome:
    """SIGHUP again and again, under load: nothing is lost, doubled or out of order; no socket closes."""
    async with served(APPLICATION, "--workers", "2") as server:
        load = Load(server.port, scale.sockets, scale.connections, publish=True)
        async with load.running() as report:
            for _ in range(scale.times):
                old = set(workers(server))
                server.signal(signal.SIGHUP)

                def replaced(old: set[int] = old) -> bool:
                    now = set(workers(server))
                    return len(now) == 2 and not now & old

                await until(replaced, "two new workers in place of the old")
    outcome = Outcome(f"{scale.times} x SIGHUP: {report}")
    nothing_lost(outcome, report)
    outcome.expect(report.unanswered == 0, f"{report.unanswered} frames unanswered")
    outcome.expect(report.news_lost == 0, f"{report.news_lost} group messages lost")
    outcome.expect(report.news_doubled == 0, f"{report.news_doubled} group messages doubled")
    return outcome


async def killed_workers(scale: Scale) -> Outcome:
    """kill -9 of a random worker each second: sockets and GETs survive."""
    chance = random.Random(7)
    async with served(APPLICATION, "--workers", "3") as server:
        load = Load(server.port, scale.sockets, scale.connections, publish=False)
        kills = 0
        async with load.running() as report:
            end = time.monotonic() + scale.seconds
            while time.monotonic() < end:
                await asyncio.sleep(1.0)  # the pace
                await until(lambda: len(workers(server)) >= 2, "a second worker")
                os.kill(chance.choice(workers(server)), signal.SIGKILL)
                kills += 1
    outcome = Outcome(f"{kills} x kill -9: {report}")
    nothing_lost(outcome, report)
    # What a dead worker's application had taken, and had not answered: a frame of a socket at a time here.
    bound = kills * scale.sockets
    outcome.expect(report.unanswered <= bound, f"{report.unanswered} frames unanswered, {bound} at most")
    return outcome


async def moved_quickly(scale: Scale) -> Outcome:
    """While one worker lives, a dead one's sockets are open on it within 0.5 s; half-sent responses are cut."""
    async with served(APPLICATION, "--workers", "2") as server:
        load = Load(server.port, scale.sockets, 0, publish=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with load.running() as report:
            writer.write(b"GET /half HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.5)  # the pace: everybody speaks
            report.longest_silence = 0.0
            first, *_ = workers(server)
            os.kill(first, signal.SIGKILL)
            await asyncio.sleep(1.5)  # the pace
            for each in workers(server):  # whichever had it
                os.kill(each, signal.SIGKILL)
            try:
                rest = await reader.read(-1)
            except ConnectionResetError:
                rest = b""
            silence = report.longest_silence
        writer.close()
    outcome = Outcome(
        f"{report}; silence after one kill {silence:.2f} s; half a response: {len(rest)} octets"
    )
    nothing_lost(outcome, report)
    outcome.expect(silence <= 0.5 + 0.3, f"sockets were silent for {silence:.2f} s")
    outcome.expect(len(rest) < 200, "a half-sent response was completed")
    return outcome


async def paused_worker(scale: Scale) -> Outcome:
    """A worker stopped for a while: the others' traffic goes on, its own waits and goes on."""
    async with served(APPLICATION, "--workers", "2") as server:
        load = Load(server.port, scale.sockets, 0, publish=False, settle=20)
        async with load.running() as report:
            paused = workers(server)[0]
            os.kill(paused, signal.SIGSTOP)
            try:
                answered = await asyncio.gather(
                    *(answered_within(server.port, scale.seconds) for _ in range(4))
                )
            finally:
                os.kill(paused, signal.SIGCONT)
        still = paused in workers(server)
    outcome = Outcome(f"{report}; {sum(answered)} of {len(answered)} probes answered meanwhile")
    nothing_lost(outcome, report)
    outcome.expect(report.unanswered == 0, f"{report.unanswered} frames unanswered")
    outcome.expect(any(answered), "nobody was answered while one of two workers was paused")
    outcome.expect(still, "the paused worker was killed")
    return outcome


async def answered_within(port: int, seconds: float) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        status, _ = await asyncio.wait_for(fetch(reader, writer, b"GET", b"/?probe"), seconds)
        return status == 200
    except TimeoutError:
        return False
    finally:
        writer.close()


async def killed_server(scale: Scale) -> Outcome:
    """kill -9 of the server: its workers end, nothing holds the port, a worker of its own rejoins."""
    outcome = Outcome("")
    async with contextlib.AsyncExitStack() as stack:
        import tempfile

        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
        url = f"ipc:{folder}/layer.sock"
        words = ("-p", "0", "-v", "1", "--access-log", os.devnull)
        server = ServerProcess((*words, APPLICATION, "--workers", "2", "--layer", url))
        stack.callback(server.close)
        port = await asyncio.to_thread(lambda: server.port)
        separate = ServerProcess(("worker", APPLICATION, "--layer", url))
        stack.callback(separate.close)
        await asyncio.to_thread(separate.stderr.wait_for, "worker ready")
        own = workers(server)
        server.process.kill()
        await until(lambda: not any(alive(pid) for pid in own), "the server's own workers have ended")
        with contextlib.suppress(OSError):
            socket = await asyncio.open_connection("127.0.0.1", port)
            socket[1].close()
            outcome.broken.append("somebody still listens on the dead server's port")
        outcome.expect(separate.process.poll() is None, "the separate worker ended")
        again = ServerProcess(("-p", str(port), "-v", "1", "--access-log", os.devnull, "--layer", url))
        stack.callback(again.close)
        await asyncio.to_thread(lambda: again.port)
        status, body = await asyncio.wait_for(get(port, b"/pid"), WITHIN)
        outcome.expect(
            status == 200 and int(body) == separate.process.pid,
            f"the separate worker did not rejoin: {status} {body!r}",
        )
        again.process.terminate()
        separate.process.terminate()
        outcome.figures = f"{len(own)} workers ended, the separate one rejoined"
    return outcome


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def get(port: int, target: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await fetch(reader, writer, b"GET", target)
    finally:
        writer.close()


async def garbage(scale: Scale) -> Outcome:
    """Octets that are no frames, on the layer's socket: a log line, and nothing else is harmed."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        path = f"{folder}/layer.sock"
        async with served(APPLICATION, "--workers", "2", "--layer", f"ipc:{path}") as server:
            load = Load(server.port, scale.sockets, scale.connections, publish=True)
            async with load.running() as report:
                for octets in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\x00" * 64, os.urandom(4096)):
                    reader, writer = await asyncio.open_unix_connection(path)
                    writer.write(octets)
                    with contextlib.suppress(OSError):
                        await asyncio.wait_for(reader.read(-1), WITHIN)
                    writer.close()
            log = server.stderr.text
    outcome = Outcome(str(report))
    nothing_lost(outcome, report)
    outcome.expect(report.unanswered == 0 and report.news_lost == 0, "something was lost")
    outcome.expect("Traceback" not in log, "a traceback in the log")
    return outcome


SCENARIOS: dict[str, Callable[[Scale], Awaitable[Outcome]]] = {
    each.__name__.replace("_", "-"): each
    for each in (rolling_restart, killed_workers, moved_quickly, paused_worker, killed_server, garbage)
}
