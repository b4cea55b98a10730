"""
Work for channel layers: what `scripts/bench relay` and `scripts/bench layers` run, in processes of its own.

    layer_pair.py memory NAME SECONDS              send() and receive() in one process; prints a JSON line
    layer_pair.py echo NAME URL                    answers every message until its standard input ends
    layer_pair.py drive NAME URL SECONDS FLIGHT    round trips to the echo; prints a JSON line
    layer_pair.py member NAME URL COUNT            COUNT channels in the group, until its standard input ends;
                                                   prints the number of each message that all of them have got
    layer_pair.py group NAME URL SECONDS FLIGHT PROCESSES COUNT
                                                   starts such processes, and sends to the group, FLIGHT messages
                                                   under way at a time; prints a JSON line

NAME is a key of LAYERS. A message is a dict of some 600 octets when encoded, such as a relayed request is.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import sys
import time
from typing import Any

import uvloop

LAYERS = {
    "ours-memory": lambda url: load("daphne_like.layers.memory", "MemoryChannelLayer")(capacity=1000),
    "channels-memory": lambda url: load("channels.layers", "InMemoryChannelLayer")(capacity=1000),
    "ours-ipc": lambda url: load("daphne_like.layers.loading", "open_layer")(url),
    "ours-redis": lambda url: load("daphne_like.layers.loading", "open_layer")(url + "?capacity=1000"),
    "redis-core": lambda url: load("channels_redis.core", "RedisChannelLayer")(
        hosts=[patient(url)], capacity=1000
    ),
    "redis-pubsub": lambda url: load("channels_redis.pubsub", "RedisPubSubChannelLayer")(
        hosts=[patient(url)]
    ),
}
MEETING = "bench.meeting"
GROUP = "bench.group"
FIELDS = [[b"header-%d" % number, b"v" * 24] for number in range(12)]
WARM_UP = 0.5
# Seconds without a delivery after which messages count as lost.
LOST = 5.0


def load(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def patient(url: str) -> dict[str, Any]:
    """The newest redis-py gives up reading after five seconds, as long as channels_redis waits for a message."""
    return {"address": url, "socket_timeout": 30}


def message(**more: Any) -> dict[str, Any]:
    return {"type": "bench.request", "path": "/some/path", "headers": FIELDS, "body": b"b" * 64, **more}


async def opened(layer: Any, *, serve: bool) -> Any:
    """Ours lives on the running loop, as in a server or a worker; the others connect when they must."""
    if serve and hasattr(layer, "serve"):
        await layer.serve()
    elif hasattr(layer, "open"):
        await layer.open()
    return layer


async def closed(layer: Any) -> None:
    """Each kind has another word for it; channels_redis' pub/sub layer has none."""
    for name in ("close_pools", "close"):
        close = getattr(layer, name, None)
        if close is not None:
            await close()
            return


async def memory(name: str, seconds: float) -> None:
    layer = LAYERS[name]("")
    channel = await layer.new_channel()
    for duration in (WARM_UP, seconds):
        count, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < duration:
            for _ in range(100):
                await layer.send(channel, message())
                await layer.receive(channel)
            count += 100
    print(json.dumps({"rate": count / elapsed}), flush=True)


async def echo(name: str, url: str) -> None:
    layer = await opened(LAYERS[name](url), serve=True)

    async def answer() -> None:
        while True:
            received = await layer.receive(MEETING)
            await layer.send(received["reply"], message(number=received["number"]))

    tasks = [asyncio.create_task(answer()) for _ in range(64)]
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await closed(layer)


async def drive(name: str, url: str, seconds: float, flight: int) -> None:
    layer = await opened(LAYERS[name](url), serve=False)
    count, end = 0, time.perf_counter() + WARM_UP
    latencies: list[float] = []

    async def one(number: int) -> None:
        nonlocal count
        mine = await layer.new_channel()
        while (begun := time.perf_counter()) < end:
            await layer.send(MEETING, message(reply=mine, number=number))
            answered = await layer.receive(mine)
            assert answered["number"] == number, "an answer to somebody else"
            latencies.append(time.perf_counter() - begun)
            count += 1

    await asyncio.gather(*(one(number) for number in range(flight)))
    count = 0
    latencies.clear()
    begun = time.perf_counter()
    end = begun + seconds
    await asyncio.gather(*(one(number) for number in range(flight)))
    elapsed = time.perf_counter() - begun
    print(json.dumps({"rate": count / elapsed, "median": sorted(latencies)[len(latencies) // 2]}), flush=True)
    await closed(layer)


async def member(name: str, url: str, count: int) -> None:
    layer = await opened(LAYERS[name](url), serve=False)
    missing: dict[int, int] = {}

    async def one(channel: str) -> None:
        while True:
            number = (await layer.receive(channel))["number"]
            missing[number] = missing.get(number, count) - 1
            if not missing[number]:
                del missing[number]
                print(number, flush=True)

    channels = [await layer.new_channel() for _ in range(count)]
    tasks = [asyncio.create_task(one(channel)) for channel in channels]
    # One after the other: channels_redis would want a connection for each.
    for channel in channels:
        await layer.group_add(GROUP, channel)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await closed(layer)


async def group(name: str, url: str, seconds: float, flight: int, processes: int, count: int) -> None:
    layer = await opened(LAYERS[name](url), serve=False)
    pipe = asyncio.subprocess.PIPE
    words = [sys.executable, __file__, "member", name, url, str(count)]
    members = [
        await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe) for _ in range(processes)
    ]
    waiting: dict[int, asyncio.Future[None]] = {}
    missing: dict[int, int] = {}

    async def listen(process: asyncio.subprocess.Process) -> None:
        while line := await process.stdout.readline():
            number = int(line)
            missing[number] -= 1
            if not missing[number]:
                del missing[number]
                waiting.pop(number).set_result(None)

    try:
        for process in members:
            if (await process.stdout.readline()).strip() != b"ready":
                raise SystemExit("a process of members did not start")
        listeners = [asyncio.create_task(listen(process)) for process in members]
        numbers = itertools.count()

        async def one(end: float) -> int:
            done = 0
            while time.perf_counter() < end:
                number = next(numbers)
                missing[number] = processes
                arrived = waiting[number] = asyncio.get_running_loop().create_future()
                await layer.group_send(GROUP, message(number=number))
                async with asyncio.timeout(LOST):
                    await arrived
                done += 1
            return done

        for duration in (WARM_UP, seconds):
            begun = time.perf_counter()
            sent = sum(await asyncio.gather(*(one(begun + duration) for _ in range(flight))))
            elapsed = time.perf_counter() - begun
        print(json.dumps({"rate": sent * processes * count / elapsed}), flush=True)
        for process in members:
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in members), *listeners)
    finally:
        for process in members:
            if process.returncode is None:
                process.kill()
        await closed(layer)


def main(words: list[str]) -> None:
    if words[0] == "memory":
        work = memory(words[1], float(words[2]))
    elif words[0] == "echo":
        work = echo(words[1], words[2])
    elif words[0] == "member":
        work = member(words[1], words[2], int(words[3]))
    elif words[0] == "group":
        work = group(words[1], words[2], float(words[3]), *map(int, words[4:]))
    else:
        work = drive(words[1], words[2], float(words[3]), int(words[4]))
    uvloop.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
