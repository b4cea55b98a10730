"""
What this process serves with, for the parts of a site that ask: Django's checks, thread pools.

A process of ours (server, worker, `runserver`, `runworker`) says so before it imports the application. In any
other process, `manage.py shell` or another server, there is nothing to know.
"""

from __future__ import annotations

from collections.abc import Callable

from .settings import Settings

__all__ = ["announce", "serving", "supervisor_told"]

# Takes a sentence and its facts.
Warn = Callable[[str, dict[str, str]], None]


class _Announced:
    settings: Settings | None = None
    warn: Warn | None = None


def announce(settings: Settings | None, warn: Warn | None = None) -> None:
    """
    Say that the application will be served with *settings*; None takes it back, for tests.

    Args:
        warn: has the supervisor log what all of its workers have to say, once.
    """
    _Announced.settings = settings
    _Announced.warn = warn


def serving() -> Settings | None:
    """The settings of the server or worker that this process is; None where it is neither."""
    return _Announced.settings


def supervisor_told(sentence: str, **facts: str) -> bool:
    """Warn of something that is so in each worker; False where no supervisor is there to do it."""
    if _Announced.warn is None:
        return False
    _Announced.warn(sentence, facts)
    return True
