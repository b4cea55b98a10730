"""
One coarse clock for all deadlines of a server.

A timer per connection, per request and per ping costs more than the work it guards. Instead everything that
can be late has a `deadline`, and a set of such things is looked through once a resolution; a thing that is late
acts, and sets its next deadline. So a deadline is met up to one resolution late, never early.

The same tick renders the Date field.
"""

import logging
from collections.abc import Callable

from daphne_like import logs
from daphne_like.asgi.stream import Timed
from daphne_like.settings import Settings

__all__ = ["Deadlines", "resolution_for"]

log = logging.getLogger(logs.SERVER)


def resolution_for(settings: Settings) -> float:
    """Seconds between two looks: a second, or a quarter of the shortest time that is set."""
    times = (
        settings.header_timeout,
        settings.keep_alive_timeout,
        settings.body_timeout,
        settings.write_timeout,
        settings.http_timeout,
        settings.application_close_timeout,
        settings.websocket_timeout,
        settings.websocket_connect_timeout,
        settings.websocket_idle_timeout,
        settings.websocket_close_timeout,
        settings.ping_interval,
        settings.ping_timeout,
    )
    return max(0.02, min(1.0, *(time / 4 for time in times if time)))


class Deadlines:
    """
    Args:
        on_tick: called with the time at each look, before the deadlines.
    """

    def __init__(self, on_tick: Callable[[float], None]) -> None:
        self._on_tick = on_tick
        self.watched: set[Timed] = set()

    def watch(self, thing: Timed) -> None:
        """Look at *thing* from now on; doing so twice changes nothing."""
        self.watched.add(thing)

    def unwatch(self, thing: Timed) -> None:
        """Look at *thing* no more."""
        self.watched.discard(thing)

    def tick(self, now: float) -> None:
        """Let everything act whose deadline has passed."""
        self._on_tick(now)
        late = [thing for thing in self.watched if thing.deadline <= now]
        for thing in late:
            if thing in self.watched and thing.deadline <= now:
                try:
                    thing.deadline_passed(now)
                except Exception:  # it would keep the others from ever being looked at
                    log.exception("failed to act on a deadline, trying again at the next look")
