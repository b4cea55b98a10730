"""
What the theatre keeps: zones, seats, and everything that happened to the seats.

`Event` is the one truth about order. Its ids only grow, every change of a seat writes its event in the same
transaction, and a reader that remembers the last id it saw can always ask for the rest: this is what makes
WebSocket, Server-Sent Events and long-poll tell the same story.

SQLite has one writer at a time, so ids appear in their order. On a database with concurrent writers an
id could become visible before a smaller one: take a lock in `booking` before writing events there.
"""

from django.db import models


class Zone(models.Model):
    """Seats of one price."""

    slug = models.SlugField(primary_key=True)
    name = models.CharField(max_length=40)
    price = models.PositiveIntegerField(help_text="Euro")
    position = models.PositiveSmallIntegerField(unique=True)

    class Meta:
        ordering = ("position",)

    def __str__(self) -> str:
        return self.name


class Seat(models.Model):
    """A seat, where it stands, and who holds it until when."""

    label = models.CharField(max_length=6, primary_key=True, help_text="row and number, e.g. C7")
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="seats")
    row = models.CharField(max_length=2)
    number = models.PositiveSmallIntegerField()
    x = models.FloatField(help_text="from the middle of the house to the right, in seat widths")
    y = models.FloatField(help_text="from the edge of the stage into the house, in seat widths")
    turn = models.FloatField(help_text="degrees clockwise, so that the seat looks at the stage")
    holder = models.CharField(max_length=32, blank=True, default="", db_index=True)
    held_until = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        ordering = ("row", "number")
        constraints = (
            models.UniqueConstraint(fields=("row", "number"), name="one_seat_per_place"),
            models.CheckConstraint(
                condition=models.Q(holder="", held_until=None)
                | (~models.Q(holder="") & models.Q(held_until__isnull=False)),
                name="holder_and_end_go_together",
            ),
        )

    def __str__(self) -> str:
        return self.label


class Event(models.Model):
    """Something that happened to a seat. The id is the position in the feed."""

    class Kind(models.TextChoices):
        HELD = "held"
        RELEASED = "released"
        EXPIRED = "expired"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    seat = models.ForeignKey(Seat, on_delete=models.CASCADE, related_name="events")
    visitor = models.CharField(max_length=32, help_text="who holds the seat now, or held it before")
    held_until = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.id} {self.kind} {self.seat_id}"
