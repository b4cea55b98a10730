"""
What this process serves with, for the parts of a site that ask: Django's checks, thread pools.

A process of ours (server, worker, `runserver`, `runworker`) says so before it imports the application. In any
other process, `manage.py shell` or another server, there is nothing to know.
"""

from __future__ import annotations

from .settings import Settings

__all__ = ["announce", "serving"]


class _Announced:
    settings: Settings | None = None


def announce(settings: Settings | None) -> None:
    """Say that the application will be served with *settings*; None takes it back, for tests."""
    _Announced.settings = settings


def serving() -> Settings | None:
    """The settings of the server or worker that this process is; None where it is neither."""
    return _Announced.settings
