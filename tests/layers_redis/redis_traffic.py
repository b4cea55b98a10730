"""
Two processes that speak over the layer all the time, while a test hurts the engine between them.

    with Traffic(url, send_timeout=2) as traffic:
        traffic.wait_until_flowing()
        ... trouble ...
        outcome = traffic.finish()

Every 10 ms the sender sends a message to a channel of the receiver's, one to a group that another channel of it
is in, and one to a shared channel that it reads. It waits for none of them before the next. Each says when it
was sent, when its sender had an answer, and which; each that arrives says when. All times are CLOCK_MONOTONIC,
which all processes of a machine share.

As a program this file is either of the two: `redis_traffic.py send|receive URL OPTIONS [CHANNEL]`.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.end_to_end.processes import ROOT

KINDS = ("direct", "group", "shared")
GROUP = "trouble"
SHARED = "trouble.shared"
INTERVAL = 0.01

READY_WITHIN = 30.0
FLOWING_WITHIN = 20.0
# After the last answer; whatever has not come by then is lost.
ARRIVED_WITHIN = 3.0


@dataclass(frozen=True)
class Sent:
    """error is "" for what was acknowledged; unknown: its sender was told that nobody knows."""

    kind: str
    number: int
    begun: float
    ended: float
    error: str
    unknown: bool


@dataclass
class Outcome:
    """What became of all messages."""

    sent: list[Sent]
    arrived: list[tuple[str, int, float]]
    counts: Counter[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter((kind, number) for kind, number, _ in self.arrived)

    def acknowledged(self) -> list[Sent]:
        return [sent for sent in self.sent if not sent.error]

    def refused(self) -> list[Sent]:
        """Whose senders were told that they were not sent."""
        return [sent for sent in self.sent if sent.error and not sent.unknown]

    def unknown(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.unknown]

    def lost(self) -> list[Sent]:
        """What was acknowledged, and never came."""
        return [sent for sent in self.acknowledged() if not self.counts[sent.kind, sent.number]]

    def doubled(self) -> list[tuple[str, int]]:
        return [key for key, count in self.counts.items() if count > 1]

    def came_all_the_same(self) -> list[Sent]:
        """What was said not to be sent, and came."""
        return [sent for sent in self.refused() if self.counts[sent.kind, sent.number]]

    def out_of_order(self) -> list[tuple[str, int]]:
        found = []
        latest: dict[str, int] = {}
        for kind, number, _ in self.arrived:
            if number < latest.get(kind, -1):
                found.append((kind, number))
            latest[kind] = number
        return found

    def back_after(self, moment: float) -> dict[str, float]:
        """Seconds from *moment* to the first arrival of what was sent after it, by kind."""
        begun = {(sent.kind, sent.number): sent.begun for sent in self.sent}
        return {
            kind: min(
                (at for each, number, at in self.arrived if each == kind and begun[kind, number] >= moment),
                default=float("inf"),
            )
            - moment
            for kind in KINDS
        }

    def longest_wait(self) -> float:
        return max(sent.ended - sent.begun for sent in self.acknowledged())

    def describe(self, title: str, back: dict[str, float]) -> str:
        errors = Counter(sent.error for sent in self.sent if sent.error)
        lines = [
            f"{title}: {len(self.sent)} sent, {len(self.acknowledged())} acknowledged,"
            f" {len(self.refused())} said not to be sent, {len(self.unknown())} unknown;"
            f" lost {dict(Counter(sent.kind for sent in self.lost()))}, doubled {len(self.doubled())},"
            f" out of order {len(self.out_of_order())}; longest wait {self.longest_wait():.2f} s; back after "
            + ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in back.items()),
            *(f"    {count} x {error}" for error, count in errors.most_common(6)),
        ]
        return "\n".join(lines)


class Program:
    """One of the two processes: what it prints, JSON line by line."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.layers_redis.redis_traffic", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines: list[Any] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, holds: Callable[[list[Any]], Any], timeout: float) -> bool:
        """Until *holds* of the lines that came since; whether it came to that."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: holds(self._lines) or self._ended, timeout)) and bool(
                holds(self._lines)
            )

    def lines(self) -> list[Any]:
        with self._changed:
            return list(self._lines)

    def end_of_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            if not pipe.closed:
                pipe.close()


class Traffic:
    """
    Args:
        url: of the engine.
        options: of both processes' layers.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._words = (url, json.dumps({"capacity": 100_000, **options}))
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        try:
            receiver = self._start("receive")
            assert receiver.wait_for(len, READY_WITHIN), "the receiver did not start"
            self.sender = self._start("send", receiver.lines()[0])
            self.receiver = receiver
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, role: str, *more: str) -> Program:
        program = Program(role, *self._words, *more)
        self._programs.append(program)
        return program

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.close()

    def wait_until_flowing(self, since: float | None = None) -> None:
        """Until twenty messages of each kind have come that were sent from now on, or since then."""
        moment = time.monotonic() if since is None else since

        def flowing(lines: Sequence[Any]) -> bool:
            counts: Counter[str] = Counter()
            # The latest are at the end.
            for line in reversed(lines[1:]):
                if line[3] >= moment:
                    counts[line[0]] += 1
                elif line[2] < moment:
                    break
            return all(counts[kind] >= 20 for kind in KINDS)

        assert self.receiver.wait_for(flowing, FLOWING_WITHIN), "messages do not arrive"

    def finish(self) -> Outcome:
        """Send nothing more, wait for all answers, and for what is on its way."""
        self.sender.end_of_input()
        assert self.sender.wait_for(lambda lines: lines and lines[-1] == "done", FLOWING_WITHIN)
        sent = [Sent(*line) for line in self.sender.lines()[:-1]]
        expected = {(each.kind, each.number) for each in sent if not each.error}
        self.receiver.wait_for(
            lambda lines: (
                len(lines) > len(expected) and expected <= {(line[0], line[1]) for line in lines[1:]}
            ),
            ARRIVED_WITHIN,
        )
        return Outcome(sent, [(line[0], line[1], line[2]) for line in self.receiver.lines()[1:]])


# -- the programs ------------------------------------------------------------------------------------


def say(line: Any) -> None:
    print(json.dumps(line), flush=True)


async def receive(layer: Any) -> None:
    mine, in_group = await layer.new_channel("trouble"), await layer.new_channel("trouble")
    await layer.group_add(GROUP, in_group)

    async def listen(channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            say([message["kind"], message["number"], time.monotonic(), message["begun"]])

    tasks = [asyncio.create_task(listen(channel)) for channel in (mine, in_group, SHARED)]
    say(mine)
    await asyncio.gather(*tasks)


async def send(layer: Any, channel: str) -> None:
    loop = asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    tasks: set[asyncio.Task[None]] = set()

    async def one(kind: str, number: int) -> None:
        begun = time.monotonic()
        message = {"type": "trouble", "kind": kind, "number": number, "begun": begun}
        error, unknown = "", False
        try:
            if kind == "group":
                await layer.group_send(GROUP, message)
            else:
                await layer.send(channel if kind == "direct" else SHARED, message)
        except Exception as failure:  # whatever it is, it is counted
            error = f"{type(failure).__name__}: {failure}"
            unknown = "nobody knows" in error
        say([kind, number, begun, time.monotonic(), error, unknown])

    number, due = 0, loop.time()
    while not over.done():
        for kind in KINDS:
            task = asyncio.create_task(one(kind, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        number, due = number + 1, due + INTERVAL
        await asyncio.sleep(due - loop.time())
    while tasks:
        await asyncio.wait(tasks)
    say("done")


async def main(role: str, url: str, options: str, *more: str) -> None:
    from daphne_like.layers.redis.layer import RedisChannelLayer

    layer = RedisChannelLayer(hosts=[url], **json.loads(options))
    await layer.open()
    await (receive(layer) if role == "receive" else send(layer, *more))
    await layer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
