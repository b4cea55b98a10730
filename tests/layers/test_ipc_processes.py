"""Ipc between real processes: killed, stopped, forked."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

from daphne_like.layers.ipc import IPCChannelLayer
from tests.layers.ipc_layers import open_layers
from tests.layers.port_users import User

PRELUDE = """
import asyncio, json, os, sys
from daphne_like.layers.ipc import IPCChannelLayer
layer = IPCChannelLayer(sys.argv[1])
def say(**what):
    print(json.dumps(what), flush=True)
"""

HOST = """
async def main():
    assert await layer.serve()
    say(ready=True)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

MEMBER = """
async def main():
    await layer.open()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    say(channel=channel)
    while True:
        message = await layer.receive(channel)
        message.pop("data", None)
        say(received=message)
asyncio.run(main())
"""

# A pool of processes that are forked after the layer has been used, as Celery's.
FORKING = """
from asgiref.sync import async_to_sync
channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("g", channel)
if os.fork() == 0:
    own = async_to_sync(layer.new_channel)()
    async_to_sync(layer.send)(channel, {"from": "the child", "own": own})
    async_to_sync(layer.group_add)("g", own)
    received = async_to_sync(layer.receive)(own)
    async_to_sync(layer.send)("done", {"received": received})
    os._exit(0)
message = async_to_sync(layer.receive)(channel)
say(channel=channel, received=message)
async_to_sync(layer.group_send)("g", {"type": "to both"})
say(received=async_to_sync(layer.receive)(channel))
os.wait()
async_to_sync(layer.close)()
say(closed=True)
"""

# The host forks: its child must not keep the members' connections open when it dies.
FORKING_HOST = """
async def main():
    assert await layer.serve()
    await layer.receive("fork")
    if os.fork() == 0:
        say(child=os.getpid())
        os.read(0, 1)
        os._exit(0)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


class Process:
    def __init__(self, process):
        self.process = process

    async def say(self):
        """What it prints next."""
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 20)
        assert line, "it has ended"
        return json.loads(line)

    def signal(self, number):
        os.kill(self.process.pid, number)


@contextlib.asynccontextmanager
async def running(code, path):
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Process(process)
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


async def test_a_member_that_is_killed_has_left(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        port, user = host.port(), User()
        await port.open(user)
        async with running(MEMBER, host.path) as process:
            channel = (await process.say())["channel"]
            await member.send(channel, {"type": "t"})
            assert await process.say() == {"received": {"type": "t"}}
            process.signal(signal.SIGKILL)
            [(what, address)] = await user.until(1)
            assert (what, address) == ("gone", channel.partition(".")[2].partition("!")[0])
            assert host.hub.groups._groups == {}
            # What is sent to it waits, up to the capacity, for it to come back.
            await member.send(channel, {"type": "t"})
        await port.close()


async def test_a_host_that_is_killed_and_its_successor(tmp_path):
    path = str(tmp_path / "s")
    member = IPCChannelLayer(path)
    async with running(HOST, path) as first:
        await first.say()
        await member.open()
        channel = await member.new_channel()
        await member.group_add("g", channel)
        await member.send(channel, {"type": "first"})
        assert await member.receive(channel) == {"type": "first"}
        lost = member._link._connection.gone
        first.signal(signal.SIGKILL)
        await asyncio.wait([lost])
        assert os.path.exists(path)
    async with running(HOST, path) as second:
        await second.say()
        await member.open()
        async with running(MEMBER, path) as other:
            there = (await other.say())["channel"]
            await member.group_send("g", {"type": "to all"})
            assert await member.receive(channel) == {"type": "to all"}
            assert await other.say() == {"received": {"type": "to all"}}
            await member.send(there, {"type": "by name"})
            assert await other.say() == {"received": {"type": "by name"}}
        await member.close()


async def test_a_member_that_is_stopped_harms_nobody(tmp_path):
    async with open_layers(tmp_path, capacity=1000) as (host, member):
        channel = await member.new_channel()
        await member.group_add("g", channel)
        async with running(MEMBER, host.path) as process:
            await process.say()
            process.signal(signal.SIGSTOP)
            os.waitpid(process.process.pid, os.WUNTRACED)
            connection = next(
                each for each in host._broker.members.values() if each.pid == process.process.pid
            )
            for number in range(60):
                await host.group_send("g", {"type": "t", "number": number, "data": bytes(500_000)})
                assert (await member.receive(channel))["number"] == number
            # 30 MB went to it, 16 are held for it.
            assert connection.transport.get_write_buffer_size() < 18 * 1024 * 1024
            process.signal(signal.SIGCONT)
            received = [(await process.say())["received"]["number"] for _ in range(30)]
            assert received == list(range(30))


async def test_a_fork_is_a_process_of_its_own(tmp_path):
    async with open_layers(tmp_path, members=0) as (host,):
        async with running(FORKING, host.path) as process:
            said = await process.say()
            own = said["received"]["own"]
            assert said["received"]["from"] == "the child"
            assert own.partition("!")[0] != said["channel"].partition("!")[0]
            received = {json.dumps(await process.say())}
            assert received == {'{"received": {"type": "to both"}}'}
            # The child may have joined the group after that.
            await host.send(own, {"type": "to the child"})
            assert (await host.receive("done"))["received"]["type"] in ("to both", "to the child")
            assert await process.say() == {"closed": True}


async def test_a_fork_of_the_host_keeps_no_member_from_seeing_it_die(tmp_path):
    path = str(tmp_path / "s")
    async with running(FORKING_HOST, path) as process:
        member = IPCChannelLayer(path)
        await member.open()
        await member.send("fork", {"type": "t"})
        await process.say()
        lost = member._link._connection.gone
        process.signal(signal.SIGKILL)
        await asyncio.wait_for(asyncio.shield(lost), 10)
        await member.close()
