"""
The page, and the two fallbacks for browsers and networks without WebSocket.

Both feeds begin at the position that the page was made at, `?after=ID`: whatever happened while the page was
on its way is delivered first. A position that lies in the future is answered with "reset": the page reloads.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from . import booking, feed, wishes
from .models import Seat, Zone
from .visitors import Visitor, visitor_of

LONGEST_WAIT = 25.0  # seconds; proxies and browsers are patient for at least 30
LOOK_EVERY = 10.0  # seconds; the page takes a stream without a pulse for 25 s to be dead
PULSE = "event: pulse\ndata:\n\n"
RETRY_AFTER = 2000  # milliseconds until EventSource comes back


@require_GET
@never_cache
async def seat_map(request: HttpRequest) -> HttpResponse:
    """The page, with the state of the house in it."""
    await feed.expire_holds()
    return await sync_to_async(_render_seat_map)(request)


@require_POST
async def wish(request: HttpRequest, label: str, wish: str) -> JsonResponse:
    """Pick or release a seat; the body is empty, the answer is that of the WebSocket's "result"."""
    answer = await wishes.grant(wish, label, visitor_of(request.session))
    return JsonResponse(answer.content, status=answer.status)


@require_GET
@never_cache
async def poll(request: HttpRequest) -> HttpResponse:
    """
    The events after ?after=ID as JSON, as soon as there are any, else none after ?wait=SECONDS (at most 25).

    With wait=0 this is a look at the feed, which also ends the overdue holds.
    """
    try:
        after = _position(request.GET.get("after", ""))
        wait = min(float(request.GET.get("wait", LONGEST_WAIT)), LONGEST_WAIT)
        if not wait >= 0:  # catches nan as well
            raise ValueError(wait)
    except ValueError:
        return HttpResponseBadRequest("after: an event id; wait: seconds\n", content_type="text/plain")
    try:
        if wait == 0:
            await feed.expire_holds()
            events = await feed.Cursor(after).catch_up()
        else:
            events = await _first_news(after, wait)
    except feed.UnknownPosition:
        return JsonResponse({"reset": True})
    return JsonResponse({"events": events, "after": events[-1]["id"] if events else after})


@require_GET
async def stream(request: HttpRequest) -> HttpResponse:
    """
    The events after ?after=ID as Server-Sent Events.

    Each carries its id, so a browser that comes back says where it was in Last-Event-ID; that counts more
    than the address, which stays what it was when the page was made.
    """
    try:
        after = _position(request.headers.get("Last-Event-ID") or request.GET.get("after", ""))
    except ValueError:
        return HttpResponseBadRequest("after: an event id\n", content_type="text/plain")
    response = StreamingHttpResponse(_server_sent_events(after), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # NGINX would collect a page of events first
    return response


async def _server_sent_events(after: int) -> AsyncIterator[str]:
    yield f"retry: {RETRY_AFTER}\n\n{PULSE}"
    try:
        async with aclosing(feed.follow(after, LOOK_EVERY)) as batches:
            async for events in batches:
                yield (
                    "".join(f"id: {event['id']}\ndata: {json.dumps(event)}\n\n" for event in events) or PULSE
                )
    except feed.UnknownPosition:
        yield "event: reset\ndata:\n\n"


async def _first_news(after: int, wait: float) -> list[feed.Told]:
    try:
        async with asyncio.timeout(wait), aclosing(feed.follow(after, LOOK_EVERY)) as batches:
            async for events in batches:
                if events:
                    return events
    except TimeoutError:
        pass  # nothing happened, which is an answer as well
    return []


def _position(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)


def _render_seat_map(request: HttpRequest) -> HttpResponse:
    # The position is read before the seats: what happens in between is in the seats *and* told again by
    # the feed, which does no harm; the other way round it would be in neither.
    position = booking.newest_position()
    seats = list(Seat.objects.select_related("zone"))
    visitor = visitor_of(request.session)
    rows: dict[str, list[Seat]] = defaultdict(list)
    for seat in seats:
        rows[seat.row].append(seat)
    state = {
        "after": position,
        "now": int(timezone.now().timestamp() * 1000),
        "visitor": visitor.id,
        "limit": settings.SEATS_PER_VISITOR,
        "token": get_token(request),
        "held": {seat.label: _held(seat) for seat in seats if seat.holder},
    }
    context = {
        "state": state,
        "visitor": visitor,
        "rows": rows.items(),
        "zones": Zone.objects.all(),
        "free": sum(not seat.holder for seat in seats),
        "seats": len(seats),
        "width": 2 * max((abs(seat.x) for seat in seats), default=1)
        + 3.4,  # room for the letters of the rows
        "depth": max((seat.y for seat in seats), default=1) + 1.2,
        "hold_minutes": settings.HOLD_SECONDS // 60,
    }
    return render(request, "theatre/seat_map.html", context)


def _held(seat: Seat) -> dict[str, Any]:
    return {
        "visitor": seat.holder,
        "name": Visitor(seat.holder).name,
        "until": int(seat.held_until.timestamp() * 1000),
    }
