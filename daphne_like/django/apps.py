"""
The Django app `daphne_like.django`: its commands, its checks, and the one patch.

    INSTALLED_APPS = ["daphne_like.django", ...]

First, or at least before `django.contrib.staticfiles`, because the first app that has a `runserver` gives it.
"""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["DaphneLikeConfig"]


class DaphneLikeConfig(AppConfig):
    name = "daphne_like.django"
    label = "daphne_like"  # "django" alone would be anybody's
    verbose_name = "daphne_like"

    def ready(self) -> None:
        from . import channels_patch, checks

        channels_patch.apply()
        checks.register()
        checks.warn_server_process()
