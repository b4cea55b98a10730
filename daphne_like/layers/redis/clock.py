"""
What time it is at an engine, without asking each time.

The engine's clock is read now and then (TIME). What it said was true somewhen between our asking and its answer:
in the middle, give or take half. Between two readings our own monotonic clock goes on.
"""

import time

__all__ = ["EngineClock"]

# What our clock and the engine's may drift apart, in seconds per second; for choosing between an old reading
# that was good and a new one that is less so.
DRIFT = 0.0005


class EngineClock:
    """Until the first reading, the time is that of this machine."""

    __slots__ = ("_error", "_offset", "_read_at")

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._error = float("inf")
        self._read_at = 0.0

    def now(self) -> float:
        """Seconds since the epoch, by the engine's clock."""
        return self._offset + time.monotonic()

    def read(self, reply: list[bytes], asked_at: float, answered_at: float) -> None:
        """
        Args:
            reply: to TIME: seconds, microseconds.
            asked_at, answered_at: time.monotonic() of before and after.
        """
        seconds, microseconds = reply
        offset = int(seconds) + int(microseconds) / 1e6 - (asked_at + answered_at) / 2
        error = (answered_at - asked_at) / 2
        old_error = self._error + DRIFT * (answered_at - self._read_at)
        # Too far apart for both to be true: the engine's clock was set, or it is another engine.
        was_set = abs(offset - self._offset) > error + old_error
        if error <= old_error or was_set:
            self._offset, self._error, self._read_at = offset, error, answered_at
