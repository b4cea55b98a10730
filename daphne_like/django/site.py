"""
What a Django site's settings say about serving it: which application, and which files.

The application is that of ASGI_APPLICATION. `startproject` writes a module `asgi` and no such setting; so
without it the `asgi` beside WSGI_APPLICATION or ROOT_URLCONF counts, and where there is none, Django alone is
served.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import posixpath
from typing import Any, cast

from asgiref.compatibility import guarantee_single_callable
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.http import HttpRequest
from django.utils._os import safe_join

from daphne_like.typing import ASGIApplication

__all__ = [
    "application_name",
    "default_application",
    "static_files_installed",
    "with_collected_files",
    "with_media_files",
    "with_static_files",
]

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
        if not isinstance(named, str) or "." not in named or ":" in named:
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


def with_media_files(application: ASGIApplication) -> ASGIApplication:
    """*application*, with the files that MEDIA_ROOT has at MEDIA_URL in front of it, as in Django's tests."""
    return _with_files("MEDIA_URL", "MEDIA_ROOT", application)


def with_collected_files(application: ASGIApplication) -> ASGIApplication:
    """The same with STATIC_URL and STATIC_ROOT, for sites without `django.contrib.staticfiles`."""
    return _with_files("STATIC_URL", "STATIC_ROOT", application)


def _with_files(url: str, root: str, application: ASGIApplication) -> ASGIApplication:
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
    from django.views.static import serve

    class FilesHandler(ASGIStaticFilesHandler):
        """Settings are looked at with each request: tests override them. What is not there is the site's."""

        def __init__(self, application: ASGIApplication) -> None:
            self.application = application

        def _should_handle(self, path: str) -> bool:
            folder, base = getattr(settings, root), getattr(settings, url)
            # Where nothing is set, Django has "/" and the current directory.
            if not folder or not base or base == "/" or not path.startswith(base):
                return False
            try:
                return os.path.isfile(safe_join(folder, self.file_path(path)))
            except (SuspiciousFileOperation, ValueError):  # outside of the folder; a null character
                return False

        def file_path(self, path: str) -> str:
            return posixpath.normpath(path.removeprefix(getattr(settings, url))).lstrip("/")

        def serve(self, request: HttpRequest) -> Any:
            return serve(request, self.file_path(request.path), document_root=getattr(settings, root))

    return cast(ASGIApplication, FilesHandler(application))
