"""
Which requests are for async views, found out before anything else is done with them.

A hint only: Django resolves the URL again, behind the middleware, which may have its own idea of URLconf or
path. What is called sync here and proves to be async runs by async_to_sync(), in the thread; the other way
round, by sync_to_async(): as Django has it.

A site without any async view needs no resolving here: its URLconf is walked through once. Otherwise each path
is resolved, and its answer kept (CACHE_SIZE). Where a converter of the site's own would have to be asked,
which may ask a database, the answer is "sync".
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.converters import DEFAULT_CONVERTERS
from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern
from django.utils.translation import get_language_from_path

__all__ = ["ViewHints"]

CACHE_SIZE = 4096

# How deep URLconfs may include each other here.
MAX_DEPTH = 20


class ViewHints:
    """Of one handler."""

    def __init__(self) -> None:
        self._resolver: URLResolver | None = None
        self._mixed = False
        self._known: dict[str, bool] = {}

    def is_async(self, path: str) -> bool:
        """Whether the view for *path* (Django's path_info) is most likely async. Raises nothing."""
        try:
            resolver = get_resolver(settings.ROOT_URLCONF)
            if resolver is not self._resolver:
                self._mixed = _has_async_view(resolver, MAX_DEPTH)
                self._known = {}
                self._resolver = resolver
            if not self._mixed:
                return False
            known = self._known.get(path)
            if known is None:
                known = bool(_find(resolver, path, MAX_DEPTH))
                if len(self._known) >= CACHE_SIZE:
                    self._known.clear()
                self._known[path] = known
            return known
        except Exception:
            return False  # a URLconf that cannot be read: Django will say so, to the client


def _has_async_view(resolver: URLResolver, depth: int) -> bool:
    if not depth:
        return True
    return any(
        _has_async_view(each, depth - 1) if isinstance(each, URLResolver) else _is_async(each)
        for each in resolver.url_patterns
    )


def _is_async(pattern: Any) -> bool:
    return bool(iscoroutinefunction(pattern.callback))


def _find(resolver: URLResolver, path: str, depth: int) -> bool | None:
    """Whether the view is async; None where there is none."""
    if not depth:
        return False
    rest = _match(resolver.pattern, path)
    if rest is None:
        return None
    if rest is _UNCERTAIN:
        return False
    for each in resolver.url_patterns:
        found: bool | None = None
        if isinstance(each, URLResolver):
            found = _find(each, rest, depth - 1)
        elif type(each) is not URLPattern:
            found = False
        else:
            matched = _match(each.pattern, rest)
            if matched is _UNCERTAIN:
                found = False
            elif matched is not None:
                found = _is_async(each)
        if found is not None:
            return found
    return None


# Stands for "perhaps": compared by identity, so that no path can be it.
_UNCERTAIN = "".join(("\0", "uncertain"))


def _match(pattern: Any, path: str) -> str | None:
    """What of *path* the pattern leaves; None where it does not match."""
    kind = type(pattern)
    if kind is LocalePrefixPattern:
        return _without_language(pattern, path)
    if kind is RoutePattern:
        if any(type(each) not in _CONVERTERS for each in pattern.converters.values()):
            return _UNCERTAIN if pattern.regex.search(path) else None
    elif kind is not RegexPattern:
        return _UNCERTAIN
    match = pattern.match(path)
    return None if match is None else str(match[0])


_CONVERTERS = frozenset(type(each) for each in DEFAULT_CONVERTERS.values())


def _without_language(pattern: Any, path: str) -> str | None:
    """Which language it is going to be is for middleware to say; most likely the one in the path."""
    language = get_language_from_path("/" + path)
    if language is not None:
        prefix, _, rest = path.partition("/")
        if prefix.lower() == language.lower():
            return rest
    return None if pattern.prefix_default_language else path
