"""
What a Django site's settings say about serving it: which application, and which static files.

The application is that of ASGI_APPLICATION. `startproject` writes a module `asgi` and no such setting; so
without it the `asgi` beside WSGI_APPLICATION or ROOT_URLCONF counts, and where there is none, Django alone is
served.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, cast

from asgiref.compatibility import guarantee_single_callable
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from daphne_like.typing import ASGIApplication

__all__ = ["application_name", "default_application", "static_files_installed", "with_static_files"]

# Settings that name something in the package of the project, where `asgi` is, too.
_NEIGHBOURS = ("WSGI_APPLICATION", "ROOT_URLCONF")


def application_name() -> str | None:
    """
    Dotted path of the site's ASGI application; None where the site has none of its own.

    Raises:
        ImproperlyConfigured: ASGI_APPLICATION is no dotted path.
    """
    named = getattr(settings, "ASGI_APPLICATION", None)
    if named is not None:
        if not isinstance(named, str) or "." not in named:
            raise ImproperlyConfigured(
                f"ASGI_APPLICATION is {named!r}; it should be a dotted path such as 'mysite.asgi.application'."
            )
        return named
    for neighbour in _NEIGHBOURS:
        path = getattr(settings, neighbour, None)
        if isinstance(path, str):
            # "mysite.wsgi.application" has the package two steps up, "mysite.urls" one.
            package = path.rsplit(".", 2 if neighbour == "WSGI_APPLICATION" else 1)[0]
            if package != path and _exists(f"{package}.asgi"):
                return f"{package}.asgi.application"
    return None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package is not there, or is a module
        return False


def default_application() -> ASGIApplication:
    """
    The site's ASGI application; Django alone where it names none.

    Raises:
        ImproperlyConfigured: what ASGI_APPLICATION names is not there, or raises while it is imported.
    """
    name = application_name()
    if name is None:
        from daphne_like.django import get_asgi_application

        return cast(ASGIApplication, get_asgi_application())
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"ASGI application {name!r} could not be loaded: cannot import {module_name!r} ({error})."
        ) from error
    try:
        found: Any = getattr(module, attribute)
    except AttributeError as error:
        raise ImproperlyConfigured(
            f"ASGI application {name!r} could not be loaded: {module_name!r} has no {attribute!r}."
        ) from error
    return cast(ASGIApplication, guarantee_single_callable(found))  # type: ignore[no-untyped-call]


def static_files_installed() -> bool:
    """Whether `django.contrib.staticfiles` is there to serve files from."""
    return bool(apps.is_installed("django.contrib.staticfiles"))


def with_static_files(application: ASGIApplication) -> ASGIApplication:
    """*application*, with the files of `django.contrib.staticfiles` at STATIC_URL in front of it."""
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # asks for its app's settings

    return cast(ASGIApplication, ASGIStaticFilesHandler(application))
