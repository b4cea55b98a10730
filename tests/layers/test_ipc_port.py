"""The relay's port over ipc: at the host, at a member, and across the death of a host."""

import asyncio
import contextlib

import pytest

from daphne_like.errors import InvalidMessage, LayerUnavailable
from daphne_like.layers import ipc_port
from daphne_like.layers.ipc import IPCChannelLayer
from tests.layers.ipc_layers import open_layers
from tests.layers.port_users import User


@contextlib.asynccontextmanager
async def open_port(layer):
    port, user = layer.port(), User()
    await port.open(user)
    try:
        yield port, user
    finally:
        await port.close()


async def test_envelopes_cross_both_ways_in_batches(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        async with open_port(host) as (server, server_user), open_port(member) as (worker, worker_user):
            assert server.address != worker.address
            for number in range(3):
                server.post(worker.address, [1, number, b"x"])
            assert await worker_user.until(1) == [
                ("envelopes", server.address, [[1, 0, b"x"], [1, 1, b"x"], [1, 2, b"x"]])
            ]
            worker.post(server.address, [5, "done"])
            assert await server_user.until(1) == [("envelopes", worker.address, [[5, "done"]])]


async def test_members_reach_each_other(tmp_path):
    async with open_layers(tmp_path, members=2) as (_, one, two):
        async with open_port(one) as (a, a_user), open_port(two) as (b, b_user):
            a.post(b.address, [1])
            a.post(a.address, [2])
            assert await b_user.until(1) == [("envelopes", a.address, [[1]])]
            assert await a_user.until(1) == [("envelopes", a.address, [[2]])]


@pytest.mark.parametrize("offering", ["host", "member"])
async def test_an_offer_goes_to_who_serves_and_its_offerer_is_told(tmp_path, offering):
    async with open_layers(tmp_path) as layers:
        first, second = layers if offering == "host" else layers[::-1]
        async with open_port(first) as (server, server_user), open_port(second) as (worker, worker_user):
            server.offer("http.request", 7, {"stream": 7}, 1)
            worker.serve("http.request", 1)
            assert await worker_user.until(1) == [("offer", "http.request", server.address, 7, {"stream": 7})]
            assert await server_user.until(1) == [("claimed", 7, worker.address)]
            server.offer("http.request", 8, {"stream": 8}, 1)
            server.offer("http.request", 9, {"stream": 9}, 1)
            assert await server_user.until(1) == [("refused", 9)]
            server.withdraw("http.request", 8)
            server.offer("http.request", 10, {"stream": 10}, 1)
            server.flush()
            # The offers of two connections have no order; that of what one says has.
            server.post(worker.address, ["after"])
            assert await worker_user.until(1) == [("envelopes", server.address, [["after"]])]
            worker.serve("http.request", 1)
            assert await worker_user.until(1) == [
                ("offer", "http.request", server.address, 10, {"stream": 10})
            ]


async def test_closing_a_port_is_told_to_the_others(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        async with open_port(host) as (server, server_user):
            async with open_port(member) as (worker, _):
                address = worker.address
                worker.post(server.address, ["last words"])
            assert worker.address == ""
            assert await server_user.until(2) == [
                ("envelopes", address, [["last words"]]),
                ("gone", address),
            ]


async def test_what_cannot_be_packed_is_the_poster_s_error(tmp_path):
    async with open_layers(tmp_path) as (_, member):
        async with open_port(member) as (port, _):
            with pytest.raises(InvalidMessage):
                port.post("somebody", [object()])
            with pytest.raises(InvalidMessage):
                port.offer("http.request", 1, {"scope": object()}, 0)


async def test_a_port_is_open_once(tmp_path):
    async with open_layers(tmp_path) as (_, member):
        async with open_port(member) as (port, _):
            with pytest.raises(LayerUnavailable):
                await port.open(User())


async def test_without_a_host_there_is_no_port(tmp_path):
    layer = IPCChannelLayer(str(tmp_path / "s"), send_timeout=0.05)
    port = layer.port()
    with pytest.raises(LayerUnavailable, match="no such socket"):
        await port.open(User())
    assert port.address == ""
    await layer.close()


async def test_more_than_a_frame_holds_leaves_in_several(tmp_path):
    """1000 streams may each have a window's worth for the same worker in one turn."""
    async with open_layers(tmp_path) as (host, member):
        async with open_port(host) as (server, server_user), open_port(member) as (worker, worker_user):
            for port, to, user in [(server, worker, worker_user), (worker, server, server_user)]:
                for number in range(100):
                    port.post(to.address, [1, number, bytes(200_000)])
                received = []
                while len(received) < 100:
                    [(_, _, batch)] = await user.until(1)
                    received += [number for _, number, _ in batch]
                assert received == list(range(100))


async def test_an_envelope_that_no_frame_holds_ends_nothing_else(tmp_path, caplog):
    async with open_layers(tmp_path) as (host, member):
        async with open_port(host) as (server, server_user), open_port(member) as (worker, _):
            worker.post(server.address, [1, bytes(9 * 1024 * 1024)])
            worker.post(server.address, [2])
            assert (await server_user.until(1))[0][2] == [[2]]
    assert "relay envelope larger than a frame" in caplog.messages


async def test_the_host_goes_and_comes_back(tmp_path):
    async with open_layers(tmp_path) as (host, member):
        async with open_port(member) as (worker, worker_user):
            address = worker.address
            await host.close()
            assert await worker_user.until(1) == [("lost",)]
            worker.post("nobody", ["into the void"])
            await host.serve()
            assert await worker_user.until(1) == [("regained",)]
            assert worker.address == address
            async with open_port(host) as (server, _):
                worker.serve("http.request", 1)
                server.offer("http.request", 1, {}, 0)
                assert await worker_user.until(1) == [("offer", "http.request", server.address, 1, {})]
            await worker_user.until(1)


async def test_a_server_takes_the_place_of_the_host(tmp_path):
    """Of two servers on one layer one hosts it; when that ends, the other one does, and its port goes on."""
    async with open_layers(tmp_path) as (host, member):
        second = IPCChannelLayer(host.path)
        assert not await second.serve()
        async with open_port(second) as (server, server_user), open_port(member) as (worker, worker_user):
            await host.close()
            assert await server_user.until(2) == [("lost",), ("regained",)]
            assert await worker_user.until(2) == [("lost",), ("regained",)]
            assert second.hub is not None
            server.offer("http.request", 1, {}, 0)
            worker.serve("http.request", 1)
            assert await worker_user.until(1) == [("offer", "http.request", server.address, 1, {})]
            assert await server_user.until(1) == [("claimed", 1, worker.address)]
        await second.close()


async def test_a_user_s_exception_costs_nobody_else(tmp_path, caplog):
    class Faulty(User):
        def envelopes_received(self, sender, batch):
            super().envelopes_received(sender, batch)
            raise RuntimeError("a bug")

    async with open_layers(tmp_path) as (host, member):
        port, user = member.port(), Faulty()
        await port.open(user)
        async with open_port(host) as (server, _):
            server.post(port.address, [1])
            await user.until(1)
            server.post(port.address, [2])
            await user.until(1)
        await user.until(1)
        await port.close()


async def test_batches_keep_order_and_bound(monkeypatch):
    monkeypatch.setattr(ipc_port, "MAX_BATCH", 10)
    packed = [bytes([number]) * 4 for number in range(6)]
    assert list(ipc_port._batches(packed)) == [packed[0:2], packed[2:4], packed[4:6]]
    assert list(ipc_port._batches(packed[:2])) == [packed[:2]]
    large = [b"x" * 30, b"y"]
    assert list(ipc_port._batches(large)) == [large[:1], large[1:]]
    await asyncio.sleep(0)
