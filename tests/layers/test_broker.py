"""The hub's Unix socket as strangers, old members and members that do not read see it. Raw frames throughout."""

import asyncio
import contextlib
import os
import socket
import stat

import pytest

from daphne_like.errors import LayerUnavailable
from daphne_like.layers import broker as broker_module
from daphne_like.layers import socket_file
from daphne_like.layers.frames import (
    MAGIC,
    MAX_FRAME,
    VERSION,
    FrameReader,
    Op,
    encode,
    encode_name,
    encode_positions,
)
from daphne_like.layers.ipc import IPCChannelLayer
from tests.layers.ipc_layers import open_layers


class Peer:
    """Whoever connects to the socket: octets out, frames in."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._frames = FrameReader()
        self._received = []

    def send(self, op, numbers=(), names=(), payload=b""):
        self._writer.write(encode(op, numbers, b"".join(map(encode_name, names)), len(payload)) + payload)

    def send_octets(self, octets):
        self._writer.write(octets)

    def hello(self, name="peer", version=VERSION, pid=None):
        self.send(Op.HELLO, (MAGIC, version, pid or os.getpid()), (name,))

    async def receive(self):
        """The next frame; None at the end of the connection."""
        async with asyncio.timeout(10):
            while not self._received:
                data = await self._reader.read(65536)
                if not data:
                    return None
                self._received = self._frames.receive_data(data)
                assert not self._frames.error
        return self._received.pop(0)

    async def close(self):
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(layer, hello=True, **options):
    peer = Peer(*await asyncio.open_unix_connection(layer.path))
    try:
        if hello:
            peer.hello(**options)
            assert (await peer.receive())[:3] == (Op.WELCOME, MAGIC, VERSION)
        yield peer
    finally:
        await peer.close()


async def hosts_still(layer):
    """Whoever is well goes on."""
    async with connect(layer, name="well") as peer:
        peer.send(Op.SEND, (1e12,), ("specific.well!x",), b"payload")
        frames = [await peer.receive(), await peer.receive()]
        assert (Op.DELIVER, 1e12, True, "specific.well!x", b"payload") in frames
        assert (Op.ACK, 1, b"") in frames


def refusals(caplog):
    return [record.reason for record in caplog.records if record.message == "ipc connection closed"]


# -- strangers -------------------------------------------------------------------------------------

STRANGERS = [
    (b"GET / HTTP/1.1\r\nHost: site\r\n\r\n", "a frame longer than a frame can be"),
    (b"\0\0\0\1\xff", "a frame of an unknown kind"),
    (encode(Op.SEND, (1.0,), encode_name("c"), 0), "it is no member"),
    (encode(Op.HELLO, (b"other", VERSION, 1), encode_name("m"), 0), "it is no member"),
    (
        encode(Op.HELLO, (MAGIC, 99, 1), encode_name("m"), 0),
        f"it speaks version 99 of the frames, not {VERSION}",
    ),
    (encode(Op.HELLO, (MAGIC, VERSION, 1), encode_name("no-name!"), 0), "its name is none"),
    (encode(Op.HELLO, (MAGIC, VERSION, 1), encode_name(""), 0), "its name is none"),
]


@pytest.mark.parametrize(("octets", "reason"), STRANGERS)
async def test_a_stranger_is_told_and_hung_up_on(tmp_path, caplog, octets, reason):
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, hello=False) as peer:
            peer.send_octets(octets)
            op, magic, version, _, why = await peer.receive()
            assert (op, magic, version, why.decode()) == (Op.REFUSED, MAGIC, VERSION, reason)
            assert await peer.receive() is None
        assert refusals(caplog) == [reason]
        await hosts_still(layer)


MISBEHAVIOUR = [
    (encode(Op.SEND, (1.0,), encode_name("c"), MAX_FRAME), "a frame longer than a frame can be"),
    (encode(Op.WELCOME, (MAGIC, VERSION, 1), b"", 0), "a frame that only a broker sends, or a second HELLO"),
    (encode(Op.HELLO, (MAGIC, VERSION, 1), encode_name("b"), 0), None),
    (encode(Op.TAKEN, (), b"", 3) + b"abc", "a count that ends early"),
    (encode(Op.STREAM_HELD, (True,), encode_name("s"), 3) + b"abc", "a piece that ends early"),
]


@pytest.mark.parametrize(("octets", "reason"), MISBEHAVIOUR)
async def test_a_member_that_sends_garbage_leaves(tmp_path, caplog, octets, reason):
    async with open_layers(tmp_path) as (layer, other):
        channel = await other.new_channel()
        async with connect(layer, name="faulty") as peer:
            peer.send(Op.GROUP_SEND, (1e12,), ("g",), b"before")
            peer.send_octets(octets)
            frames = [await peer.receive(), await peer.receive()]
            assert [frame[0] for frame in frames] == [Op.ACK, Op.REFUSED]
            assert await peer.receive() is None
        assert refusals(caplog) == [reason or MISBEHAVIOUR[1][1]]
        await layer.send(channel, {"type": "t"})
        assert await other.receive(channel) == {"type": "t"}
        await hosts_still(layer)


async def test_an_error_of_ours_costs_one_member(tmp_path, caplog, monkeypatch):
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer) as peer:
            with monkeypatch.context() as patch:
                patch.setattr(layer.hub, "flush", lambda: 1 / 0)
                peer.send(Op.FLUSH)
                assert (await peer.receive())[-1] == b"an error of ours"
        assert "error while handling a member's frame" in caplog.messages
        await hosts_still(layer)


async def test_who_says_nothing_is_hung_up_on(tmp_path, monkeypatch):
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, hello=False) as silent, connect(layer) as member:
            member.send(Op.STATISTICS)
            assert (await member.receive())[0] == Op.ANSWER  # both connections have been made
            monkeypatch.setattr(broker_module, "HELLO_TIMEOUT", -1)
            layer._broker.tick()
            assert (await silent.receive())[-1] == b"it said nothing"
            member.send(Op.STATISTICS)
            assert (await member.receive())[0] == Op.ANSWER


async def test_a_probe_leaves_no_trace(tmp_path, caplog):
    """Another server looks whether somebody listens by connecting."""
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, hello=False):
            pass
        await hosts_still(layer)
    assert refusals(caplog) == []


# -- who may join ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "mode", "admitted"),
    [
        (os.geteuid(), 0o600, True),
        (0, 0o600, True),
        (54321, 0o600, False),
        # Who could open the file is in the group.
        (54321, 0o660, True),
    ],
)
async def test_who_may_join(tmp_path, monkeypatch, uid, mode, admitted):
    monkeypatch.setattr(socket_file, "peer_credentials", lambda sock: (4711, uid))
    async with open_layers(tmp_path, members=0, mode=mode) as (layer,):
        async with connect(layer, hello=False) as peer:
            peer.hello()
            frame = await peer.receive()
            if admitted:
                assert frame[0] == Op.WELCOME
            else:
                assert frame[-1] == b"it belongs to another user"
                assert await peer.receive() is None


def test_credentials_are_the_kernel_s():
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert socket_file.peer_credentials(here) == (os.getpid(), os.geteuid())


async def test_two_processes_of_one_name(tmp_path):
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, name="same", pid=1000) as first:
            async with connect(layer, hello=False) as second:
                second.hello("same", pid=1001)
                assert (await second.receive())[-1] == b"another process has its name"
            async with connect(layer, hello=False) as third:
                third.hello(layer._mailbox.name, pid=1001)
                assert (await third.receive())[-1] == b"the host has its name"
            first.send(Op.FLUSH)
            assert {(await first.receive())[0], (await first.receive())[0]} == {Op.FLUSHED, Op.ACK}


async def test_a_member_that_comes_back_before_it_was_missed(tmp_path):
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, name="same") as old, connect(layer, name="same") as new:
            assert await old.receive() is None
            new.send(Op.SEND, (1e12,), ("specific.same!x",), b"payload")
            assert {(await new.receive())[0], (await new.receive())[0]} == {Op.DELIVER, Op.ACK}


# -- answers ---------------------------------------------------------------------------------------


async def test_one_acknowledgement_for_many_says_which_were_full(tmp_path):
    async with open_layers(tmp_path, members=0, capacity=1) as (layer,):
        async with connect(layer) as peer:
            for channel in ("a", "a", "b", "b", "c"):
                peer.send(Op.SEND, (1e12,), (channel,), b"payload")
            assert await peer.receive() == (Op.ACK, 5, encode_positions([1, 3]))


async def test_leaving_politely_loses_nothing(tmp_path):
    """What was said before the end of a connection is handled, what was for it is still sent."""
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, name="polite") as peer:
            peer.send(Op.SEND, (1e12,), ("specific.polite!x",), b"to myself")
            peer.send(Op.SEND, (1e12,), ("shared",), layer_payload())
            peer._writer.write_eof()
            assert {(await peer.receive())[0], (await peer.receive())[0]} == {Op.DELIVER, Op.ACK}
            assert await peer.receive() is None
        assert await layer.receive("shared") == {"type": "t"}


def layer_payload():
    from daphne_like.layers.codec import pack

    return pack({"type": "t"})


# -- members that do not read ----------------------------------------------------------------------


async def test_group_messages_for_a_member_that_does_not_read_are_dropped(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(broker_module, "HIGH_WATER", 1_000_000)
    monkeypatch.setattr(broker_module, "LOW_WATER", 100_000)
    caplog.set_level("INFO")
    async with open_layers(tmp_path) as (layer, other):
        here, there = await layer.new_channel(), await other.new_channel()
        await layer.group_add("g", here)
        await other.group_add("g", there)
        async with connect(layer, name="deaf") as peer:
            peer.send(Op.GROUP_ADD, (), ("g", "specific.deaf!x", ""))
            assert {(await peer.receive())[0], (await peer.receive())[0]} == {Op.GROUP_ADDED, Op.ACK}
            connection = layer._broker.members["deaf"]
            for number in range(100):
                await other.group_send("g", {"type": "t", "number": number, "data": bytes(200_000)})
                # Nobody else misses anything.
                assert (await other.receive(there))["number"] == number
                assert (await layer.receive(here))["number"] == number
            assert connection.transport.get_write_buffer_size() < 1_500_000
            assert "member does not read" in caplog.messages
            received = 0
            while "member reads again" not in caplog.messages:
                received += (await peer.receive())[0] == Op.DELIVER_GROUP
            [dropped] = [each.dropped for each in caplog.records if each.message == "member reads again"]
            peer.send(Op.FLUSH)
            while (await peer.receive())[0] != Op.FLUSHED:
                received += 1
            assert received + dropped == 100
            assert dropped > 50


async def test_from_a_member_that_does_not_read_nothing_is_read(tmp_path, monkeypatch):
    """Its answers would wait for it without bound."""
    monkeypatch.setattr(broker_module, "HIGH_WATER", 100_000)
    monkeypatch.setattr(broker_module, "LOW_WATER", 10_000)
    async with open_layers(tmp_path, members=0) as (layer,):
        async with connect(layer, name="deaf") as peer:
            connection = layer._broker.members["deaf"]
            for number in range(100):
                await layer.send(f"channel.{number}", {"type": "t"})
            for _ in range(1000):
                peer.send(Op.STATISTICS)
            while not connection._clogged:
                await hosts_still(layer)
            answers = 0
            while answers < 1000:
                answers += (await peer.receive())[0] == Op.ANSWER


# -- the socket file -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660])
async def test_the_file_s_mode(tmp_path, mode):
    async with open_layers(tmp_path, members=0, mode=mode) as (layer,):
        assert stat.S_IMODE(os.stat(layer.path).st_mode) == mode
        assert os.listdir(tmp_path) == ["s"]
    assert os.listdir(tmp_path) == []


async def test_a_dead_broker_s_file_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    async with open_layers(tmp_path, members=0) as (layer,):
        await hosts_still(layer)


async def test_a_live_broker_s_file_is_not(tmp_path):
    async with open_layers(tmp_path, members=0) as (layer,):
        inode = os.stat(layer.path).st_ino
        assert socket_file.bind(layer.path, 0o600) is None
        assert os.stat(layer.path).st_ino == inode
        await hosts_still(layer)


async def test_a_successor_s_file_stays(tmp_path):
    bound = socket_file.bind(str(tmp_path / "s"), 0o600)
    os.unlink(bound.path)
    successor = socket_file.bind(bound.path, 0o600)
    bound.remove()
    bound.socket.close()
    assert os.path.exists(bound.path)
    successor.socket.close()
    successor.remove()
    assert os.listdir(tmp_path) == []


async def test_a_lock_that_its_holder_has_removed_is_no_lock(tmp_path):
    """A file of that name may be left by a holder that was killed: it is nobody's then."""
    (tmp_path / "s.lock").touch()
    async with open_layers(tmp_path, members=0) as (layer,):
        await hosts_still(layer)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["no/such/directory/s", "file"])
async def test_a_place_that_cannot_be_bound(tmp_path, where):
    (tmp_path / "file").write_text("something else")
    layer = IPCChannelLayer(str(tmp_path / where))
    with pytest.raises(LayerUnavailable, match="cannot listen on ipc:"):
        await layer.serve()
    await layer.close()
    assert (tmp_path / "file").read_text() == "something else"
