"""
A process on a Redis layer whose end a test decides: what it had, others may inherit.

    with mortal(url, prefix) as one:
        channel, will = one.add("stream", "group")
        one.kill()

Run as a program it does, line by line, what is written to it: `add STREAM GROUP` answers with a channel and what
the stream's server would keep; `receive CHANNEL` with the type of a message.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from daphne_like.layers.base import current_stream, stream_will
from daphne_like.layers.redis import RedisChannelLayer
from tests.end_to_end.processes import ROOT

__all__ = ["Mortal", "mortal"]


class Mortal:
    """The process, to the test that plays with it."""

    def __init__(self, url: str, prefix: str, *keys: str) -> None:
        words = [sys.executable, "-m", "tests.layers_redis.redis_mortal", url, prefix, *keys]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, *words: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def add(self, stream: str, group: str) -> tuple[str, dict[str, str]]:
        """A new channel of a stream is in a group; the channel, and the stream's will."""
        channel, will = self._ask("add", stream, group)
        return channel, will

    def discard(self, stream: str, group: str, channel: str) -> dict[str, str]:
        """The channel leaves; the stream's will."""
        will: dict[str, str] = self._ask("discard", stream, group, channel)
        return will

    def receive(self, channel: str) -> str:
        name: str = self._ask("receive", channel)
        return name

    def stop(self) -> None:
        """It stands still: what is sent to it from now on, but for the first, waits in the engine."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def close(self) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def mortal(url: str, prefix: str, *keys: str) -> Iterator[Mortal]:
    """keys: of its encryption."""
    one = Mortal(url, prefix, *keys)
    try:
        yield one
    finally:
        one.close()


async def live(url: str, prefix: str, *keys: str) -> None:
    layer = RedisChannelLayer([url], prefix=prefix, capacity=10_000, symmetric_encryption_keys=keys or None)
    await layer.open()
    wills: dict[str, dict[str, str]] = {}

    def tell(stream: str, name: str, value: str | None) -> None:
        will = wills.setdefault(stream, {})
        will.pop(name, None)
        if value is not None:
            will[name] = value

    while line := await asyncio.to_thread(sys.stdin.readline):
        word, *words = line.split()
        answer: Any = None
        if word == "add":
            stream, group = words
            current_stream.set(stream)
            stream_will.set(lambda name, value, stream=stream: tell(stream, name, value))
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            answer = channel, wills[stream]
        elif word == "discard":
            stream, group, channel = words
            await layer.group_discard(group, channel)
            answer = wills[stream]
        else:
            answer = (await layer.receive(words[0]))["type"]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
