"""
The WebSocket: wishes come in, events go out.

    page -> server   {"type": "pick" | "release", "seat": "C7", "request": 4}
                     {"type": "resume", "after": 17}    now and then; shows that the line is alive, too
    server -> page   {"type": "events", "events": [...], "after": 19}    everything up to 19 has been told
                     {"type": "result", "request": 4, "ok": true | false, "event": {...}, "message": "..."}
                     {"type": "reset"}                  the page's position is unknown here: reload

The page connects with ?after=ID and repeats its position in each "resume", so a connection that was cut, or
moved to another process, goes on exactly where the page is. Events told twice are dropped by the page.
"""

from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from . import feed, wishes
from .visitors import known_visitor

NOT_UNDERSTOOD = 1003
POLICY_VIOLATION = 1008


class SeatConsumer(AsyncJsonWebsocketConsumer):
    groups = (feed.GROUP,)

    async def connect(self) -> None:
        self.visitor = known_visitor(self.scope["session"])
        after = parse_qs(self.scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
        if self.visitor is None or not after.isdecimal():
            await self.close()
            return
        self.cursor = feed.Cursor(int(after))
        await self.accept()
        await self.tell_the_rest()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        try:
            message = await self.decode_json(text_data or "")
        except ValueError:
            await self.close(NOT_UNDERSTOOD, "JSON text messages only")
            return
        match message:
            case {"type": "pick" | "release" as wish, "seat": str(seat), "request": int(request)}:
                answer = await wishes.grant(wish, seat, self.visitor)
                await self.send_json({"type": "result", "request": request, **answer.content})
            case {"type": "resume", "after": int(after)} if after >= 0:
                self.cursor = feed.Cursor(after)
                await feed.expire_holds()
                await self.tell_the_rest(even_if_nothing=True)
            case _:
                await self.close(POLICY_VIOLATION, "unknown message")

    async def seat_event(self, message: dict[str, Any]) -> None:
        """A broadcast from the group. After a gap of more than one batch the rest comes, too."""
        try:
            events = await self.cursor.take(message["event"])
        except feed.UnknownPosition:
            await self.send_json({"type": "reset"})
            return
        if events:
            await self.tell(events)
        if len(events) == feed.BATCH:
            await self.tell_the_rest()

    async def tell_the_rest(self, even_if_nothing: bool = False) -> None:
        try:
            events = await self.cursor.catch_up()
            if events or even_if_nothing:
                await self.tell(events)
            while len(events) == feed.BATCH:
                events = await self.cursor.catch_up()
                await self.tell(events)
        except feed.UnknownPosition:
            await self.send_json({"type": "reset"})

    async def tell(self, events: list[feed.Told]) -> None:
        await self.send_json({"type": "events", "events": events, "after": self.cursor.position})
