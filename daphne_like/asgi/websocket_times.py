"""
When an open WebSocket is due for something: a ping, a goodbye, or the end.

No timers and no I/O: times go in, a verdict comes out. Anything received counts as a sign of life; that the
answer to a ping is a pong is not insisted on.
"""

from typing import Literal

from daphne_like.asgi.stream import NEVER
from daphne_like.settings import Settings

__all__ = ["WebSocketTimes"]


class WebSocketTimes:
    """
    Args:
        now: when the handshake was complete.

    Attributes:
        opened: that time.
        heard: when something was received last.
        last_message: when a message went either way last.
    """

    __slots__ = ("_pinged", "_settings", "heard", "last_message", "opened")

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._pinged: float | None = None
        self.opened = self.heard = self.last_message = now

    def due(self, now: float) -> Literal["lifetime", "idle", "dead", "ping"] | None:
        """What has to be done at *now*. After "ping" its answer is waited for."""
        settings = self._settings
        if settings.websocket_timeout and now >= self.opened + settings.websocket_timeout:
            return "lifetime"
        if settings.websocket_idle_timeout and now >= self.last_message + settings.websocket_idle_timeout:
            return "idle"
        if self._pinged is not None and self.heard >= self._pinged:
            self._pinged = None
        if self._pinged is not None:
            if not settings.ping_timeout:
                self._pinged = None  # forgiven: the next interval has its own ping
            elif now >= self._pinged + settings.ping_timeout:
                return "dead"
        elif settings.ping_interval and now >= self.heard + settings.ping_interval:
            self._pinged = now
            return "ping"
        return None

    def next_deadline(self, now: float) -> float:
        """The earliest time after *now* at which something can be due."""
        settings = self._settings
        deadline = NEVER
        if settings.websocket_timeout:
            deadline = self.opened + settings.websocket_timeout
        if settings.websocket_idle_timeout:
            deadline = min(deadline, self.last_message + settings.websocket_idle_timeout)
        if settings.ping_interval:
            last = self.heard
            if self._pinged is not None and self._pinged > last:
                last = self._pinged
                if settings.ping_timeout:
                    deadline = min(deadline, self._pinged + settings.ping_timeout)
            # Also while a pong is awaited: when it has come, the next ping is due from then on.
            deadline = min(deadline, max(last + settings.ping_interval, now + 0.001))
        return deadline
