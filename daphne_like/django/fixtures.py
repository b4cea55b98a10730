"""
The live server as a pytest fixture.

    pytest_plugins = ["daphne_like.django.fixtures"]        # in the top conftest.py

    def test_chat(asgi_live_server):
        with websockets.sync.client.connect(asgi_live_server.ws_url + "/ws/chat/") as socket: ...

With pytest-django the test gets a `transactional_db`: what it stores is seen by the server, and gone after the
test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daphne_like.django.testing import LiveServer

__all__ = ["asgi_live_server"]

# pytest-django's fixture, and its name among plugins.
DATABASES = "transactional_db"
PYTEST_DJANGO = "django"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """pytest-django makes the databases of tests that name this fixture, so these tests had better do so."""
    if config.pluginmanager.has_plugin(PYTEST_DJANGO):
        for item in items:
            names = getattr(item, "fixturenames", [])
            if "asgi_live_server" in names and DATABASES not in names:
                names.insert(0, DATABASES)


@pytest.fixture
def asgi_live_server() -> Iterator[LiveServer]:
    """A LiveServer of the site that runs for one test; `asgi_live_server + "/path"` is a URL of it."""
    with LiveServer() as server:
        yield server
