"""A visitor's wish, granted or refused: the same for WebSocket and POST."""

from dataclasses import dataclass
from typing import Any

from channels.db import database_sync_to_async

from . import booking, feed
from .visitors import Visitor

WISHES = {"pick": booking.hold, "release": booking.release}


@dataclass(frozen=True, slots=True)
class Answer:
    """`content` is for the page, see consumers.py; `status` for HTTP."""

    content: dict[str, Any]
    status: int = 200


async def grant(wish: str, label: str, visitor: Visitor) -> Answer:
    """Carry out *wish*, "pick" or "release", and tell everybody what changed."""
    try:
        granted = await database_sync_to_async(WISHES[wish])(label, visitor)
    except booking.Refused as refusal:
        event = feed.told(refusal.event) if refusal.event else None
        content = {"ok": False, "reason": refusal.reason, "message": str(refusal), "event": event}
        return Answer(content, refusal.status)
    await feed.broadcast(granted.news)
    return Answer({"ok": True, "event": feed.told(granted.event)})
