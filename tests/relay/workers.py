"""
What the tests of workers share: a worker on an exchange, and a server that a test plays.

    with at_work(puppet) as shop:
        stream = shop.request("/")
        puppet.call.send("start", status=200)
        assert stream.said() == [...]

`at_work()` looks at the end whether anything is left of what was served: that is a promise of every test.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from daphne_like.relay.envelope import (
    CANCEL,
    CREDIT,
    END,
    EVENTS,
    HANDED_OFF,
    HANDOFF,
    HTTP_CHANNEL,
    WEBSOCKET_CHANNEL,
    WINDOW,
    build_opening,
    item_cost,
)
from daphne_like.relay.worker import Worker
from daphne_like.settings import Settings
from daphne_like.testing.exchange import Exchange
from daphne_like.testing.wire import StillLoop
from tests.asgi.conversation import Puppet

__all__ = ["PlayedServer", "Stream", "Workshop", "at_work", "crossing"]


def crossing(kind: str, **changes: Any) -> dict[str, Any]:
    """A scope as a server sends it."""
    scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"h")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }
    scope |= {"method": "GET"} if kind == "http" else {"subprotocols": []}
    return {**scope, **changes}


class Stream:
    """One stream at one epoch, from the server's side; everything settles before a method returns."""

    def __init__(self, server: "PlayedServer", number: int, epoch: int) -> None:
        self.server = server
        self.number = number
        self.epoch = epoch
        self.credit = WINDOW
        self.got: list[Any] = []  # items, not yet asked for
        self.envelopes: list[Any] = []  # all of them, as they came
        self.sent = 0
        self.arrived = 0
        self.taken = 0
        self.end: Any = None  # (number of items, taken, error)

    def __repr__(self) -> str:
        return f"{self.number}/{self.epoch}: {self.envelopes}"

    # ---- what the worker has said

    def said(self) -> list[Any]:
        """Items since the last look."""
        got, self.got = self.got, []
        return got

    @property
    def handed_off(self) -> bool:
        return any(envelope[0] == HANDOFF for envelope in self.envelopes)

    @property
    def error(self) -> Any:
        """What END said; None before it."""
        return None if self.end is None else self.end[2]

    def note(self, envelope: list[Any]) -> None:
        self.envelopes.append(envelope)
        kind = envelope[0]
        assert self.end is None, f"{envelope} after END"
        if kind == EVENTS:
            _, _, _, seq, items, self.taken = envelope
            self._note_items(seq, items)
        elif kind == CREDIT:
            self.taken = envelope[4]
        elif kind == END:
            seq, self.taken, _, items = envelope[3:]
            self._note_items(seq - len(items) + 1, items)
            self.end = tuple(envelope[3:6])
            if self.end[2] != "SequenceGap":
                assert envelope[3] == self.arrived, "END does not count what came before"

    def _note_items(self, seq: int, items: list[Any]) -> None:
        assert not items or seq == self.arrived + 1, "a gap"
        self.arrived += len(items)
        self.got += items
        self.credit -= sum(map(item_cost, items))

    # ---- what the server says

    def post(self, *envelope: Any) -> None:
        self.server.port.post(self.server.worker.address, list(envelope))
        self.server.loop.settle()

    def feed(self, *items: Any) -> None:
        """EVENTS."""
        first = self.sent + 1
        self.sent += len(items)
        self.post(EVENTS, self.number, self.epoch, first, list(items), self.arrived)

    def give(self, octets: int, taken: int = 0) -> None:
        """CREDIT."""
        self.credit += octets
        self.post(CREDIT, self.number, self.epoch, octets, taken)

    def cancel(self, reason: str, code: int = 1006) -> None:
        """CANCEL."""
        self.post(CANCEL, self.number, self.epoch, reason, code)

    def release(self) -> None:
        """Answer HANDOFF."""
        self.cancel(HANDED_OFF, 1012)


class PlayedServer:
    """The relay in a server, played by a test."""

    def __init__(self, loop: StillLoop, exchange: Exchange, worker: Worker) -> None:
        self.loop = loop
        self.worker = worker
        self.port = exchange.port("server")
        self.streams: dict[tuple[int, int], Stream] = {}
        self.batches: list[list[Any]] = []
        self.claims: dict[int, str] = {}
        self.gone: list[str] = []
        self._numbers = itertools.count(1)

    def offer(
        self,
        kind: str,
        *items: Any,
        ended: bool = True,
        epoch: int = 1,
        resume: str = "",
        number: int = 0,
        credit: int = WINDOW,
        closes: bool = False,
        will: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Stream:
        stream = Stream(self, number or next(self._numbers), epoch)
        stream.sent = len(items)
        self.streams[stream.number, epoch] = stream
        scope = crossing(kind, **changes)
        opening = build_opening(stream.number, epoch, scope, list(items), ended, resume, credit, closes)
        if will is not None:
            opening.append(will)
        channel = HTTP_CHANNEL if kind == "http" else WEBSOCKET_CHANNEL
        self.port.offer(channel, stream.number, opening, 0)
        self.loop.settle()
        return stream

    def envelopes_received(self, sender: str, batch: list[Any]) -> None:
        self.batches.append(batch)
        for envelope in batch:
            self.streams[envelope[1], envelope[2]].note(envelope)

    def offer_claimed(self, ref: int, by: str) -> None:
        self.claims[ref] = by

    def member_gone(self, address: str) -> None:
        self.gone.append(address)

    def offer_received(self, *_: Any) -> None:
        raise AssertionError("a server serves nothing")

    def offer_refused(self, ref: int) -> None:
        raise AssertionError("refused")

    def port_lost(self) -> None:
        """Nothing to play."""

    def port_regained(self) -> None:
        """Nothing to play."""


class Workshop:
    """
    Attributes:
        server: one server; others come from join().
    """

    def __init__(self, application: Any, layer: Any, state: Any, settings: dict[str, Any]) -> None:
        self.loop = StillLoop()
        self.exchange = Exchange()
        self.port = self.exchange.port("worker")
        if layer is not None:
            layer.port = lambda: self.port
        self.worker = Worker(application, layer or self.port, Settings(verbosity=0, **settings), state=state)
        self.server = self.join()
        self.loop.run_until_complete(self.worker.start())
        self.loop.settle()

    def join(self) -> PlayedServer:
        """Another server."""
        server = PlayedServer(self.loop, self.exchange, self.worker)
        self.loop.run_until_complete(server.port.open(server))
        return server

    def request(self, path: str = "/", *items: Any, ended: bool = True, **changes: Any) -> Stream:
        return self.server.offer("http", *items, ended=ended, path=path, **changes)

    def websocket(self, *items: Any, **changes: Any) -> Stream:
        return self.server.offer("websocket", *items, ended=False, **changes)

    def opened(self, puppet: Puppet, **changes: Any) -> Stream:
        """A WebSocket that the application has accepted."""
        stream = self.websocket(**changes)
        assert puppet.call.receive() == {"type": "websocket.connect"}
        puppet.call.send("websocket.accept")
        (accept,) = stream.said()
        assert accept["type"] == "websocket.accept"
        return stream

    def advance(self, seconds: float) -> None:
        """Move the clock, a second at a time."""
        while seconds > 0:
            self.loop.now += min(1.0, seconds)
            seconds -= 1.0
            self.loop.settle()

    def begin_drain(self, timeout: float | None = None) -> "asyncio.Task[bool]":
        task = self.loop.create_task(self.worker.drain(timeout))
        self.loop.settle()
        return task

    def stop(self) -> None:
        self.loop.run_until_complete(self.worker.stop())


@contextlib.contextmanager
def at_work(
    application: Any, *, layer: Any = None, state: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Workshop]:
    """A worker that serves. At the end the servers leave, and nothing of anything may be left."""
    shop = Workshop(application, layer, state, settings)
    loop = shop.loop
    reported: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    try:
        yield shop
        for port in list(shop.exchange.ports.values()):
            if port is not shop.port:
                shop.exchange.kill(port)
        loop.settle()
        if isinstance(application, Puppet):
            for call in application.calls:
                if not call.over:
                    call.returns()
        shop.advance(shop.worker.application_close_timeout + 2)
        assert not any(shop.worker.sessions.values())
        assert shop.worker._sessions == {}
        assert shop.worker._watched == set()
        shop.stop()
        loop.settle()
        assert asyncio.all_tasks(loop) == set()
        assert reported == []
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()
