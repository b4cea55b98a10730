from django.core.management.base import BaseCommand
from django.db import transaction

from theatre import plan
from theatre.models import Seat, Zone


class Command(BaseCommand):
    help = "Write the plan of the house into the database. Seats that are there keep their holders."

    @transaction.atomic
    def handle(self, *args: object, **options: object) -> None:
        for position, zone in enumerate(plan.ZONES):
            Zone.objects.update_or_create(
                slug=zone.slug, defaults={"name": zone.name, "price": zone.price, "position": position}
            )
        seats = [
            Seat(
                label=f"{seat.row}{seat.number}",
                zone_id=seat.zone,
                row=seat.row,
                number=seat.number,
                x=seat.x,
                y=seat.y,
                turn=seat.turn,
            )
            for seat in plan.seats()
        ]
        Seat.objects.bulk_create(
            seats,
            update_conflicts=True,
            unique_fields=["label"],
            update_fields=["zone", "x", "y", "turn"],
        )
        self.stdout.write(f"The house has {Seat.objects.count()} seats in {Zone.objects.count()} zones.")
