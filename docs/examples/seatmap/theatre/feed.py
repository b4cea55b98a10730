"""
The feed: every event reaches every reader, in order and once, whatever carries it.

A broadcast over the channel layer is what makes it *immediate*, the table of events is what makes it
*exact*: channel layers deliver at most once and may drop messages of a slow reader. So a reader keeps its
position, takes a broadcast at its word only if it is the very next event, and otherwise reads the table; in
quiet moments it looks there too.

`Cursor` is that rule. WebSocket consumers feed it by hand, SSE and long-poll through `follow`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer

from . import booking
from .models import Event
from .visitors import Visitor

GROUP = "seats"
BATCH = 200

Told = dict[str, Any]  # an event as the page gets it, see told()


class UnknownPosition(Exception):
    """The reader's position lies in the future: its page comes from another database. It must reload."""


def told(event: Event) -> Told:
    """
    *event* for the page; times are milliseconds since 1970.

    Also what crosses the channel layer, so only types that every layer can carry.
    """
    return {
        "id": event.id,
        "kind": event.kind,
        "seat": event.seat_id,
        "visitor": event.visitor,
        "name": Visitor(event.visitor).name,
        "until": int(event.held_until.timestamp() * 1000) if event.held_until else None,
    }


async def broadcast(events: list[Event]) -> None:
    """Tell all readers in all processes. Call it after the commit."""
    layer = get_channel_layer()
    for event in events:
        await layer.group_send(GROUP, {"type": "seat.event", "event": told(event)})


async def expire_holds() -> None:
    """End the overdue holds and say so."""
    await broadcast(await database_sync_to_async(booking.expire_holds)())


class Cursor:
    """The position of one reader. The methods return what they have not returned before, and skip nothing."""

    def __init__(self, position: int) -> None:
        self.position = position

    async def catch_up(self) -> list[Told]:
        """
        At most BATCH events after the position, from the table; empty when there are none.

        Raises: UnknownPosition.
        """
        events = await database_sync_to_async(booking.events_after)(self.position, BATCH)
        if not events and self.position > await database_sync_to_async(booking.newest_position)():
            raise UnknownPosition(self.position)
        return self._advance([told(event) for event in events])

    async def take(self, event: Told) -> list[Told]:
        """What a broadcast of *event* makes known: nothing if it is old, more than it after a gap."""
        if event["id"] <= self.position:
            return []
        if event["id"] == self.position + 1:
            return self._advance([event])
        return await self.catch_up()

    def _advance(self, events: list[Told]) -> list[Told]:
        if events:
            self.position = events[-1]["id"]
        return events


async def follow(position: int, look_every: float) -> AsyncIterator[list[Told]]:
    """
    Batches of events after *position*, for ever; an empty one after *look_every* seconds without news.

    Close it (contextlib.aclosing) to leave the group. Raises: UnknownPosition.
    """
    cursor = Cursor(position)
    async with _subscription() as receive:
        # The order matters: an event that happens between the two is in the table and in the mailbox.
        while events := await cursor.catch_up():
            yield events
        while True:
            try:
                async with asyncio.timeout(look_every):
                    message = await receive()
            except TimeoutError:
                await expire_holds()
                yield await cursor.catch_up()
            else:
                if events := await cursor.take(message["event"]):
                    yield events


@asynccontextmanager
async def _subscription() -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    try:
        yield lambda: layer.receive(channel)
    finally:
        await layer.group_discard(GROUP, channel)
