"""
Who is at the other end: a random id in the signed session cookie, and a name and a colour made from it.

The id may be told to everybody. What proves who one is, is the signature of the cookie.
"""

import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

KEY = "visitor"
MANNERS = ("Amber", "Brisk", "Calm", "Dapper", "Early", "Fabled", "Gentle", "Hearty",
           "Ivory", "Jolly", "Keen", "Lucky", "Merry", "Nimble", "Olive", "Quiet")  # fmt: skip
BIRDS = ("Avocet", "Bittern", "Curlew", "Dunlin", "Egret", "Finch", "Goshawk", "Heron",
         "Ibis", "Jackdaw", "Kestrel", "Linnet", "Merlin", "Nuthatch", "Oriole", "Plover")  # fmt: skip
COLOURS = ("#d9480f", "#2b8a3e", "#1c62c4", "#b0229c", "#5c7a0b", "#6d28d9")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Built from the id alone, so every process calls a visitor the same."""

    id: str

    @property
    def name(self) -> str:
        number = int(self.id, 16)
        return f"{MANNERS[number % 16]} {BIRDS[number // 16 % 16]}"

    @property
    def colour(self) -> str:
        return COLOURS[int(self.id, 16) // 256 % len(COLOURS)]


def known_visitor(session: MutableMapping[str, Any]) -> Visitor | None:
    """The visitor of *session*, if the page has been opened with it."""
    visitor_id = session.get(KEY)
    return Visitor(visitor_id) if visitor_id else None


def visitor_of(session: MutableMapping[str, Any]) -> Visitor:
    """The visitor of *session*, introduced now if new; the response then sets the cookie."""
    if KEY not in session:
        session[KEY] = secrets.token_hex(8)
    return Visitor(session[KEY])
