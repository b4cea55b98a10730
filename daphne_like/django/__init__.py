"""
Everything that knows Django.

    from daphne_like.django import get_asgi_application       in the place of django.core.asgi's

It is also an app, "daphne_like.django" (see apps.py). Importing it imports no Django: INSTALLED_APPS names it
before the settings are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .handler import ASGIHandler

__all__ = ["get_asgi_application"]


def get_asgi_application() -> ASGIHandler:
    """As django.core.asgi.get_asgi_application(): set Django up, and make its ASGI application."""
    import django

    django.setup(set_prefix=False)
    from .handler import ASGIHandler

    return ASGIHandler()
