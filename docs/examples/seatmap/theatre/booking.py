"""
Picking and releasing seats, in the database.

The rule that makes two visitors who pick the same seat differ: one conditional UPDATE, from "free" to
"held by me", which the database carries out for exactly one of them. The event is written in the same
transaction, so nobody can see the one without the other.

A hold ends after HOLD_SECONDS. No background task watches: whoever looks (a pick, an open feed in a quiet
moment, a page being loaded) ends the overdue holds first and broadcasts that. While nobody looks it makes
no difference, and it needs neither a scheduler nor an agreement between processes.

All functions are blocking. They return or raise; telling the others is `feed.broadcast`'s work, after
the commit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from .models import Event, Seat
from .visitors import Visitor


class Refused(Exception):
    """
    A wish that cannot be granted; str() is the sentence for the visitor.

    `reason` is for programs, `status` for HTTP. `event` is the newest event of the seat, if there is one:
    with it the page can show the truth at once.
    """

    reason: ClassVar[str]
    status: ClassVar[int] = 409

    def __init__(self, sentence: str, event: Event | None = None) -> None:
        super().__init__(sentence)
        self.event = event


class UnknownSeat(Refused):
    reason = "unknown"
    status = 404


class SeatTaken(Refused):
    reason = "taken"


class NotYours(Refused):
    reason = "not-yours"


class TooManySeats(Refused):
    reason = "limit"


@dataclass(frozen=True, slots=True)
class Granted:
    """`event` is the newest event of the seat; `news` is what has to be broadcast, in order."""

    event: Event
    news: list[Event]


def hold(label: str, visitor: Visitor) -> Granted:
    """
    Hold the seat *label* for *visitor*.

    Holding a seat twice is granted without a new event: a request may be repeated because its response
    was lost.

    Raises: UnknownSeat, SeatTaken, TooManySeats.
    """
    with transaction.atomic():
        now = timezone.now()
        news = _expire(now)
        seat = _seat(label)
        if seat.holder == visitor.id:
            return Granted(event=seat.events.latest("id"), news=news)
        if Seat.objects.filter(holder=visitor.id).count() >= settings.SEATS_PER_VISITOR:
            most = settings.SEATS_PER_VISITOR
            raise TooManySeats(f"You hold {most} seats already. Release one to pick another.")
        until = now + timedelta(seconds=settings.HOLD_SECONDS)
        won = Seat.objects.filter(pk=label, holder="").update(holder=visitor.id, held_until=until)
        if not won:
            newest = seat.events.latest("id")
            rival = Visitor(newest.visitor).name
            raise SeatTaken(f"Sorry, {rival} was a moment faster: seat {label} is taken.", newest)
        event = Event.objects.create(kind=Event.Kind.HELD, seat=seat, visitor=visitor.id, held_until=until)
        return Granted(event=event, news=[*news, event])


def release(label: str, visitor: Visitor) -> Granted:
    """
    Give the seat *label* back.

    Raises: UnknownSeat; NotYours, also when the hold has expired.
    """
    with transaction.atomic():
        news = _expire(timezone.now())
        seat = _seat(label)
        freed = Seat.objects.filter(pk=label, holder=visitor.id).update(holder="", held_until=None)
        if not freed:
            raise NotYours(f"Seat {label} is no longer yours.", seat.events.last())
        event = Event.objects.create(kind=Event.Kind.RELEASED, seat=seat, visitor=visitor.id)
        return Granted(event=event, news=[*news, event])


def expire_holds() -> list[Event]:
    """End the overdue holds; returns their events. Takes the write lock only when there are any."""
    now = timezone.now()
    if not Seat.objects.filter(held_until__lte=now).exists():
        return []
    with transaction.atomic():
        return _expire(now)


def events_after(position: int, limit: int) -> list[Event]:
    """At most *limit* events with an id above *position*, oldest first."""
    return list(Event.objects.filter(id__gt=position)[:limit])


def newest_position() -> int:
    """The id of the newest event, 0 before the first."""
    newest = Event.objects.order_by("-id").values_list("id", flat=True).first()
    return newest or 0


def _expire(now: datetime) -> list[Event]:
    """In the caller's transaction: a refusal rolls this back as well, and the next look does it again."""
    news = []
    overdue = Seat.objects.filter(held_until__lte=now)
    for seat in overdue.order_by("held_until"):
        if overdue.filter(pk=seat.pk).update(holder="", held_until=None):
            news.append(Event.objects.create(kind=Event.Kind.EXPIRED, seat=seat, visitor=seat.holder))
    return news


def _seat(label: str) -> Seat:
    try:
        return Seat.objects.get(pk=label)
    except Seat.DoesNotExist:
        raise UnknownSeat("There is no such seat in this house.") from None
