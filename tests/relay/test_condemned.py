"""Workers that are killed for what they do: nobody else does it again, and what they have not begun goes on."""

from typing import Any

from daphne_like.relay.worker import Worker
from tests.asgi.conversation import GET, HANDSHAKE, Puppet, frame, response
from tests.relay.relayed import relayed
from tests.relay.test_application import answer
from tests.relay.workers import at_work

# ---- what a worker has in hand, as its supervisor's thread sees it in the middle of a turn


def test_requests_whose_application_has_begun():
    seen: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(shop.worker.in_hand())
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    with at_work(application) as shop:
        shop.exchange.hold(shop.port)
        first, second = shop.request(), shop.request()
        shop.exchange.release(shop.port)
        shop.loop.settle()
        server = shop.server.port.address
        # The second waits for its first turn while the first is at work.
        assert seen[0] == {server: [[first.number, 1, 0]]}
        assert [second.number, 1, 0] in seen[1][server]
        assert shop.worker.in_hand() == {}


def test_websockets_that_have_taken_something_of_which_nobody_knows_yet():
    seen: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            seen.append(shop.worker.in_hand())

    with at_work(application) as shop:
        busy = shop.server.offer("websocket", ended=False)
        shop.server.offer("websocket", ended=False)
        busy.feed("one", "two")
        server = shop.server.port.address
        assert seen == [{server: [[busy.number, 1, 1]]}, {server: [[busy.number, 1, 2]]}]
        assert shop.worker.in_hand() == {}


def test_worker_without_streams_has_nothing_in_hand():
    with at_work(Puppet()) as shop:
        assert isinstance(shop.worker, Worker)
        assert shop.worker.in_hand() == {}


# ---- what its server makes of that


def test_requests_that_were_not_begun_run_again_and_the_other_is_502():
    with relayed() as bench:
        wires = [bench.ask(GET), bench.ask(GET)]
        begun, _ = bench.worker.sessions.values()
        bench.relay.worker_condemned(
            bench.worker.port.address, {bench.relay_port.address: [[*begun.key, 0]], "another": [[2, 1, 0]]}
        )
        other = bench.add_worker()
        bench.worker.kill()
        answer(other.take())
        assert [response(wire).status for wire in wires] == [502, 200]


def test_no_request_runs_again_where_the_worker_does_not_say():
    with relayed() as bench:
        wires = [bench.ask(GET), bench.ask(GET)]
        bench.relay.worker_condemned(bench.worker.port.address)
        bench.add_worker()
        bench.worker.kill()
        assert [response(wire).status for wire in wires] == [502, 502]


def test_what_is_said_of_another_epoch_or_of_others_does_not_count():
    with relayed(workers=2) as bench:
        wire = bench.ask(GET)
        holder, other = bench.workers if bench.worker.has_got_something else bench.workers[::-1]
        stream, epoch = holder.take().key
        server = bench.relay_port.address
        bench.relay.worker_condemned(holder.port.address, {server: [[stream, epoch + 1, 0], [99, 1, 0]]})
        bench.relay.worker_condemned(other.port.address, {server: [[stream, epoch, 0]]})
        holder.kill()
        answer(other.take())
        assert response(wire).status == 200


def test_frames_that_were_taken_are_not_given_to_the_next_and_others_are():
    with relayed() as bench:
        wire = bench.ask(HANDSHAKE + b"\r\n")
        session = bench.worker.take()
        session.say({"type": "websocket.accept", "subprotocol": None, "headers": []})
        wire.receive(frame(1, b"one"), frame(1, b"two"))
        assert session.items == ["one", "two"]
        other = bench.add_worker()
        taken = {bench.relay_port.address: [[*session.key, 1]]}
        bench.relay.worker_condemned(bench.worker.port.address, taken)
        bench.worker.kill()
        assert other.take().items == ["two"]
