"""
What Django's own middleware can do on the event loop without waiting for anything.

Django runs each process_request(), process_view() and process_response() in a thread when the view is async,
because it cannot know what they do. Of these, it is known: they compare a few strings, or set a lazy object.
Where one would go on to read a session or a body, it does not do so here: the conditions below say when that
is.

Only the classes themselves count, as Django made them: not what derives from them, nor what somebody has
patched.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from django.conf import settings

__all__ = ["Condition", "inline_request", "inline_response", "inline_view"]

Condition = Callable[..., bool]

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
_SESSION_ENGINES = tuple(
    f"django.contrib.sessions.backends.{name}" for name in ("cache", "cached_db", "db", "signed_cookies")
)
_MESSAGE_STORAGES = "django.contrib.messages.storage."


def _always(*_: Any) -> bool:
    return True


def _session_begins(request: Any) -> bool:
    return settings.SESSION_ENGINE in _SESSION_ENGINES


def _session_ends(request: Any, response: Any) -> bool:
    session = getattr(request, "session", None)
    if session is None:
        return True
    return (
        type(session).__module__ in _SESSION_ENGINES
        and not session.modified
        and not settings.SESSION_SAVE_EVERY_REQUEST
    )


def _no_www(request: Any) -> bool:
    return not settings.PREPEND_WWW  # or it resolves URLs


def _found(request: Any, response: Any) -> bool:
    return bool(response.status_code != 404)  # or it resolves URLs


def _secret_in_cookie(*_: Any) -> bool:
    return not settings.CSRF_USE_SESSIONS


def _safe_method(request: Any, *_: Any) -> bool:
    return request.method in _SAFE_METHODS


def _own_storage(request: Any) -> bool:
    return str(settings.MESSAGE_STORAGE).startswith(_MESSAGE_STORAGES)


def _no_messages(request: Any, response: Any) -> bool:
    storage = getattr(request, "_messages", None)
    if storage is None:
        return True
    return type(storage).__module__.startswith(_MESSAGE_STORAGES) and not (
        storage.used or storage.added_new or storage._queued_messages
    )


# By the class's name, because importing them would need their apps to be installed: conditions for
# process_request(request) and process_response(request, response).
_CONDITIONS: dict[str, tuple[Condition, Condition]] = {
    "django.contrib.auth.middleware.AuthenticationMiddleware": (_always, _always),
    "django.contrib.messages.middleware.MessageMiddleware": (_own_storage, _no_messages),
    "django.contrib.sessions.middleware.SessionMiddleware": (_session_begins, _session_ends),
    "django.middleware.clickjacking.XFrameOptionsMiddleware": (_always, _always),
    "django.middleware.common.CommonMiddleware": (_no_www, _found),
    "django.middleware.csp.ContentSecurityPolicyMiddleware": (_always, _always),
    "django.middleware.csrf.CsrfViewMiddleware": (_secret_in_cookie, _secret_in_cookie),
    "django.middleware.security.SecurityMiddleware": (_always, _always),
}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _conditions(middleware: Any, name: str) -> tuple[Condition, Condition] | None:
    """None where the method *name* is not Django's."""
    kind = type(middleware)
    method = getattr(kind, name, None)
    if (
        type(method) is not types.FunctionType
        or hasattr(method, "__wrapped__")
        or name in vars(middleware)
        or f"{method.__module__}.{method.__qualname__}" != f"{_name(kind)}.{name}"
    ):
        return None
    return _CONDITIONS.get(_name(kind))


def inline_request(middleware: Any) -> Condition | None:
    """When its process_request(request) may run on the event loop; None for never."""
    conditions = _conditions(middleware, "process_request")
    return conditions[0] if conditions is not None else None


def inline_response(middleware: Any) -> Condition | None:
    """When its process_response(request, response) may run on the event loop; None for never."""
    conditions = _conditions(middleware, "process_response")
    return conditions[1] if conditions is not None else None


def inline_view(method: Any) -> Condition | None:
    """When *method*, a bound process_view, may run on the event loop with its arguments; None for never."""
    middleware = getattr(method, "__self__", None)
    name = "django.middleware.csrf.CsrfViewMiddleware"
    if _name(type(middleware)) == name and _conditions(middleware, "process_view") is not None:
        return _safe_method
    return None
