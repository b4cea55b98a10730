"""
The plan of the house: where every seat stands and what it costs.

Rows are arcs around a point behind the stage, cut by two radial aisles into a left, a middle and a right
block; between rows H and I there is a cross aisle. Lengths are in seat widths; the origin is the middle of
the edge of the stage, x to the right, y into the house. Angles are measured from the middle line.

Pure geometry: the seeding command writes it into the database, which is the truth from then on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, degrees, radians, sin

ROWS = "ABCDEFGHIJKL"
CIRCLE_BEGINS = "I"
FIRST_RADIUS = 15.5
ROW_PITCH = 1.2
SEAT_PITCH = 1.02
CROSS_AISLE = 1.0
AISLE_ANGLE = radians(11.5)
AISLE_WIDTH = 1.25
STAGE_TO_FIRST_ROW = 4.1


@dataclass(frozen=True, slots=True)
class ZonePlan:
    slug: str
    name: str
    price: int


@dataclass(frozen=True, slots=True)
class SeatPlan:
    row: str
    number: int
    zone: str
    x: float
    y: float
    turn: float


ZONES = (
    ZonePlan("golden", "Golden Circle", 95),
    ZonePlan("stalls", "Stalls", 64),
    ZonePlan("circle", "Dress Circle", 48),
    ZonePlan("gallery", "Gallery", 29),
)


def seats() -> Iterator[SeatPlan]:
    """Every seat, row by row from the stage, from left to right."""
    for depth, row in enumerate(ROWS):
        radius = FIRST_RADIUS + depth * ROW_PITCH + (CROSS_AISLE if row >= CIRCLE_BEGINS else 0.0)
        # The outer walls open a little towards the back, as in most houses.
        wall = radians(27.5 if row < CIRCLE_BEGINS else 28.5)
        aisle = AISLE_WIDTH / 2 / radius
        number = 0
        for block, angles in {
            "left": [-angle for angle in reversed(_side_block(radius, AISLE_ANGLE + aisle, wall))],
            "middle": _middle_block(radius, AISLE_ANGLE - aisle),
            "right": _side_block(radius, AISLE_ANGLE + aisle, wall),
        }.items():
            for angle in angles:
                number += 1
                yield SeatPlan(
                    row=row,
                    number=number,
                    zone=_zone(row, block),
                    x=round(radius * sin(angle), 3),
                    y=round(radius * cos(angle) - FIRST_RADIUS + STAGE_TO_FIRST_ROW, 3),
                    turn=round(-degrees(angle), 2),
                )


def _side_block(radius: float, aisle: float, wall: float) -> list[float]:
    """Angles of the seats, from the aisle outwards; what is left over stays free along the wall."""
    pitch = SEAT_PITCH / radius
    return [aisle + (place + 0.5) * pitch for place in range(round((wall - aisle) / pitch))]


def _middle_block(radius: float, aisle: float) -> list[float]:
    """Angles of the seats, spread evenly so that both aisles have straight edges."""
    count = int(2 * aisle * radius / SEAT_PITCH)
    return [aisle * ((2 * place + 1) / count - 1) for place in range(count)]


def _zone(row: str, block: str) -> str:
    if row >= CIRCLE_BEGINS:
        return "circle" if block == "middle" else "gallery"
    return "golden" if block == "middle" and row in "BCDEF" else "stalls"
