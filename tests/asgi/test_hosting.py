"""Whether tests that run with their application in several places really do."""

import pytest

from daphne_like.asgi.http import HTTPStream
from daphne_like.relay.http_session import HTTPSession
from tests.asgi.conversation import GET, Puppet, serving
from tests.asgi.hosting import OverIPC, OverMemory

pytestmark = pytest.mark.usefixtures("hosting")


def test_application_is_where_the_parameter_says(hosting):
    puppet = Puppet()
    with serving(puppet) as server:
        server.connect().receive(GET)
        speaker = puppet.call._send.__self__
        assert isinstance(speaker, HTTPStream if hosting == "embedded" else HTTPSession)
        assert isinstance(server, OverMemory) == (hosting == "memory")
        if isinstance(server, OverIPC):
            assert hosting == "ipc"
            assert server.near.hub is not None
            assert server.far.hub is None, "both ends are at the hub: nothing crosses the socket"


@pytest.mark.embedded_only("to see that a mark keeps it here")
def test_mark_keeps_a_test_embedded(hosting):
    assert hosting == "embedded"
