"""
What stands between a host's receive() and send() and a lease: the coroutines of a relayed stream.

The application's own task, the host's, takes to the client what the worker says. Only where there is something
to take from the client, a second task does: for WebSockets and for bodies that have not come whole. (Under a
host that does not tell of departures, for every stream: there, receive() is the only way to hear of one.)

A host of ours gives requests that have come whole directly (asgi.direct): one whose response comes in one piece,
as most do, has no task at all. Where it turns out to be any other, the task begins then.

receive() is called only while the lease has credit for what it may give, and never cancelled as long as the
stream lives. What a client has taken is told to the lease after `await send()`, which is where its TCP window
reaches the worker.

How a stream ends that its application did not end:

    verdict            request: nothing has been sent    something has   WebSocket: not accepted    accepted
    OVER               500                               as it is        500                        close 1000
    FAILED, BROKEN     500                               cut             500                        close 1011
    UNAVAILABLE        503                               cut             503                        close 1012
    LOST_WORKER        502                               cut             503                        close 1012

To cut is to return with the response unfinished: every host breaks the connection off then. A host of ours is
told by RelayError, which it does not take for a mistake of its application.

When the client is gone there is nothing more to do here; the lease lives on until the worker's application has
ended.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from daphne_like import logs
from daphne_like.asgi.departure import DEPARTURE, RECEIVE_ARRIVED
from daphne_like.asgi.direct import Exchange
from daphne_like.errors import ClientDisconnected, RelayError
from daphne_like.relay.http_lease import HTTPLease
from daphne_like.relay.keeper import BROKEN, ENDED, FAILED, GONE, LOST_WORKER, OVER, UNAVAILABLE
from daphne_like.relay.lease import Lease
from daphne_like.relay.websocket_lease import WebSocketLease
from daphne_like.typing import Message, Receive, Scope, Send

# What a host of ours offers (asgi.departure); None under other hosts.
Departure = tuple[Callable[..., None] | None, Callable[[], Message | None] | None]

__all__ = ["Departure", "relay_directly", "relay_request", "relay_websocket", "take_departure"]

log = logging.getLogger(logs.SERVER)

RETRY_AFTER = (b"retry-after", b"1")
PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")

_STATUS = {OVER: 500, FAILED: 500, BROKEN: 500, UNAVAILABLE: 503, LOST_WORKER: 502}
_TEXT = {
    500: b"Internal Server Error\n",
    502: b"The worker was lost\n",
    503: b"No worker is free\n",
}
_REASON = {
    OVER: "the worker's application ended without a complete response",
    FAILED: "the worker's application failed",
    BROKEN: "an envelope was lost",
    UNAVAILABLE: "no worker went on with it",
    LOST_WORKER: "the worker was lost",
}
_REFUSAL = {**_STATUS, LOST_WORKER: 503}
_CODE = {OVER: 1000, FAILED: 1011, BROKEN: 1011, UNAVAILABLE: 1012, LOST_WORKER: 1012}


def take_departure(scope: Scope) -> "Departure":
    """What a host of ours offers, taken out of *scope*, so that none of it has to be kept from crossing."""
    extensions = scope.get("extensions")
    if not extensions:
        return None, None
    return extensions.pop(DEPARTURE, None), extensions.pop(RECEIVE_ARRIVED, None)


async def relay_request(lease: HTTPLease, offered: Departure, receive: Receive, send: Send) -> None:
    """Carry a request to a worker, and its response back."""
    departure, receive_arrived = offered
    feeder: asyncio.Task[None] | None = None
    if receive_arrived is not None:
        message = receive_arrived()
        if message is not None:
            lease.feed(message)
    if departure is None or not lease.body_ended:
        lease.held_body = _expects_continue(lease.scope)
        feeder = asyncio.get_running_loop().create_task(_feed_request(lease, receive, departure is None))
        if departure is None:
            await asyncio.sleep(0)  # a turn for the feeder: what has come already goes with the opening
    try:
        if departure is not None:
            departure(lease.client_departed)
        if not lease.verdict:
            lease.open()
        await _respond(lease, send, departure)
    finally:
        if not lease.is_over:
            lease.abandon()
        if feeder is not None:
            feeder.cancel()


async def _respond(lease: HTTPLease, send: Send, departure: Callable[..., None] | None) -> None:
    """Take the response to the client, or what there is instead."""
    try:
        await _deliver_response(lease, send)
        if not lease.client_lost and lease.verdict is not GONE:
            if not lease.begun:
                await _answer(lease, send)
            elif departure is not None and not lease.whole:
                raise RelayError(_REASON[lease.verdict])
    except asyncio.CancelledError:
        lease.abandon()  # the host waits no longer: neither does the worker
        raise
    finally:
        if not lease.is_over:
            lease.abandon()
        if departure is not None:
            departure(None)


def relay_directly(lease: HTTPLease, exchange: Exchange) -> None:
    """The same for a request that has come whole, from a host of ours."""
    message = exchange.receive_arrived()
    if message is not None:
        lease.feed(message)
    response = lease.waiter = _Response(lease, exchange)
    exchange.tell_departure(response.client_departed)
    try:
        if not lease.verdict:
            lease.open()
    except Exception as error:
        lease.waiter = None
        lease.abandon()
        exchange.tell_departure(None)
        exchange.ended(error)


class _Response:
    """Woken as a coroutine would be: takes the response to the client if that has come in one piece."""

    __slots__ = ("_exchange", "_lease")

    def __init__(self, lease: HTTPLease, exchange: Exchange) -> None:
        self._lease = lease
        self._exchange = exchange

    def client_departed(self, lost: bool) -> None:
        lease = self._lease
        if lease.waiter is self and self._exchange.is_over:
            # The host has answered in our place (--http-timeout): the worker's application ends as ours would.
            lease.waiter = None
            lease.abandon()
            self._end()
        else:
            lease.client_departed(lost)

    def done(self) -> bool:
        return False

    def set_result(self, _: None, /) -> None:
        lease, exchange = self._lease, self._exchange
        whole = lease.take_whole()
        if whole is None:
            exchange.proceed(_respond(lease, exchange.send, exchange.tell_departure))
        else:
            start, body = whole
            exchange.answer(start.get("status", 0), start.get("headers", ()), body.get("body", b""))
            self._end()

    def _end(self) -> None:
        self._exchange.tell_departure(None)  # which is a circle
        self._exchange.ended(None)


async def _deliver_response(lease: HTTPLease, send: Send) -> None:
    entries = lease.entries
    while True:
        while entries:
            entry = entries.popleft()
            message = lease.deliver(entry)
            if message is not None:
                try:
                    await send(message)
                except OSError as error:
                    if message["type"] == "http.response.pathsend" and type(error) is not ClientDisconnected:
                        raise  # the file
                    lease.client_departed(True)
                    entries.clear()
                    break
            if lease.state is not ENDED:
                lease.delivered(entry)
        if lease.verdict or lease.client_lost:
            return
        waiter = asyncio.get_running_loop().create_future()
        lease.waiter = waiter
        await waiter


async def _answer(lease: HTTPLease, send: Send) -> None:
    """Answer in place of an application."""
    status = _STATUS[lease.verdict]
    headers = [PLAIN_TEXT, RETRY_AFTER] if status == 503 else [PLAIN_TEXT]
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": _TEXT[status]})
    except OSError:
        log.debug("client left before it was answered", extra=lease.described)


def _expects_continue(scope: Mapping[str, Any]) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])


async def _feed_request(lease: HTTPLease, receive: Receive, tells_departure: bool) -> None:
    """
    Args:
        tells_departure: receive() is the only one to tell of a departure, so that one is always kept open.
    """
    while lease.state is not ENDED:
        if not lease.body_ended and not lease.may_feed:
            await _until_feedable(lease)
            continue
        message = await receive()
        if message["type"] == "http.request":
            lease.feed(message)
        elif tells_departure:
            lease.client_departed(True)
            return
        if not tells_departure and (lease.body_ended or message["type"] != "http.request"):
            return


async def _until_feedable(lease: Lease) -> None:
    waiter = asyncio.get_running_loop().create_future()
    lease.feed_waiter = waiter
    await waiter


async def relay_websocket(lease: WebSocketLease, offered: Departure, receive: Receive, send: Send) -> None:
    """Carry a WebSocket to a worker; while it lasts, to one after the other."""
    departure, _ = offered
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    feeder: asyncio.Task[None] | None = None
    try:
        if departure is not None:
            departure(lease.client_departed)
        if not lease.verdict:
            lease.open()
        feeder = asyncio.get_running_loop().create_task(_feed_websocket(lease, receive))
        await _deliver_websocket(lease, send)
        if lease.client_lost:
            if not lease.verdict:
                await feeder  # its last words
        elif lease.verdict is not GONE and not lease.closed:
            code = _CODE[lease.verdict]
            if code == 1000 and not lease.entered:
                code = 1011  # of a later epoch, whose application did not even accept
            await _close(lease, send, code)
    except asyncio.CancelledError:
        lease.abandon()  # the host waits no longer: neither does the worker
        raise
    finally:
        if not lease.is_over:
            lease.abandon()
        if departure is not None:
            departure(None)
        if feeder is not None:
            feeder.cancel()


async def _deliver_websocket(lease: WebSocketLease, send: Send) -> None:
    entries = lease.entries
    while True:
        if lease.farewell is not None and not lease.closed:
            entries.appendleft(lease.farewell)
        while entries:
            entry = entries.popleft()
            message = lease.deliver(entry)
            if message is not None:
                try:
                    await send(message)
                except OSError:
                    lease.client_departed(True)
                    entries.clear()
                    break
            if lease.state is not ENDED:
                lease.delivered(entry)
        if lease.verdict or lease.client_lost:
            return
        waiter = asyncio.get_running_loop().create_future()
        lease.waiter = waiter
        await waiter


async def _close(lease: WebSocketLease, send: Send, code: int) -> None:
    """End the WebSocket in place of an application."""
    try:
        if lease.accepted:
            await send({"type": "websocket.close", "code": code, "reason": ""})
        elif "websocket.http.response" in (lease.scope.get("extensions") or {}):
            status = _REFUSAL[lease.verdict]
            headers = [PLAIN_TEXT, RETRY_AFTER] if status == 503 else [PLAIN_TEXT]
            await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"WebSocket connection refused\n"})
        else:
            await send({"type": "websocket.close", "code": code, "reason": ""})
    except OSError:
        log.debug("client left before it was told", extra=lease.described)


async def _feed_websocket(lease: WebSocketLease, receive: Receive) -> None:
    while lease.state is not ENDED:
        if not lease.may_feed:
            await _until_feedable(lease)
            continue
        message = await receive()
        lease.feed(message)
        if message["type"] == "websocket.disconnect":
            return
