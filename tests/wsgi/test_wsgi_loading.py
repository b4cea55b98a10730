"""Which interface an application is taken to have, and what becomes of that."""

import functools
import sys
import types

import pytest

from daphne_like.errors import ConfigurationError
from daphne_like.settings import Settings
from daphne_like.wsgi import WSGIHost, load_application


def plain_wsgi(environ, start_response):
    return []


def optional_wsgi(environ, start_response, extra=None):
    return []


class WSGIClass:
    """PEP 3333: "or a class"."""

    def __init__(self, environ, start_response):
        self.environ = environ

    def __iter__(self):
        return iter(())


class WSGIObject:
    def __call__(self, request, respond):
        return []


async def asgi(scope, receive, send):
    pass


class ASGIObject:
    async def __call__(self, scope, receive, send):
        pass


class ASGI2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        pass


def anything(*arguments):
    return plain_wsgi(*arguments)


@pytest.fixture
def load(monkeypatch):
    module = types.ModuleType("module_of_wsgi_tests")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def load(found, **settings):
        module.found = found
        return load_application(f"{module.__name__}:found", Settings(**settings))

    return load


WSGI = [plain_wsgi, WSGIClass, WSGIObject(), WSGIObject().__call__, functools.partial(optional_wsgi, extra=1)]
ASGI = [asgi, ASGIObject(), ASGI2, functools.partial(asgi)]


@pytest.mark.parametrize("found", WSGI, ids=lambda found: type(found).__name__)
def test_wsgi_is_found_out(load, found):
    assert isinstance(load(found), WSGIHost)
    assert isinstance(load(found, interface="wsgi"), WSGIHost)
    with pytest.raises(ConfigurationError, match="is a WSGI application"):
        load(found, interface="asgi")


@pytest.mark.parametrize("found", ASGI, ids=lambda found: type(found).__name__)
def test_asgi_is_found_out(load, found):
    assert not isinstance(load(found), WSGIHost)
    assert not isinstance(load(found, interface="asgi"), WSGIHost)
    with pytest.raises(ConfigurationError, match="no WSGI application"):
        load(found, interface="wsgi")


def test_what_could_be_either_is_asgi_unless_told(load):
    assert not isinstance(load(anything), WSGIHost)
    assert isinstance(load(anything, interface="wsgi"), WSGIHost)


def test_a_factory_may_make_wsgi(load):
    assert isinstance(load(lambda: plain_wsgi, factory=True), WSGIHost)
