"""A Channels project, unmodified: consumers of each kind, groups, authentication, origins."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, serving

pytest.importorskip("channels", reason="the demo's requirements are not installed: pip install -e '.[demo]'")
websockets = pytest.importorskip("websockets.sync.client")

GOOD = "http://good.example"
WAIT = 10


@pytest.fixture(scope="module", params=[(), ("--workers", "2")], ids=["embedded", "relayed"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Two of them: members of a group are in either."""
    words: tuple[str, ...] = request.param
    return words


@pytest.fixture(scope="module")
def site(workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    with serving("-p", "0", *workers, f"{APPLICATIONS}.channels_site:application") as server:
        yield server


def opened(site: ServerProcess, path: str, **options):
    return websockets.connect(f"ws://127.0.0.1:{site.port}{path}", origin=GOOD, **options)


def refusal(site: ServerProcess, path: str, **options) -> int:
    """The status that refuses a handshake."""
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused, contextlib.ExitStack() as stack:
        stack.enter_context(websockets.connect(f"ws://127.0.0.1:{site.port}{path}", **options))
    return refused.value.response.status_code


def test_group_reaches_every_member(site: ServerProcess) -> None:
    with (
        opened(site, "/room/a/") as first,
        opened(site, "/room/a/") as second,
        opened(site, "/room/b/") as other,
    ):
        first.send("hello")
        assert first.recv(timeout=WAIT) == second.recv(timeout=WAIT) == "hello"
        second.close(4321, "enough")
        assert first.recv(timeout=WAIT) == "left with 4321"
        other.send("only here")
        assert other.recv(timeout=WAIT) == "only here"


def test_sync_consumer(site: ServerProcess) -> None:
    from websockets.exceptions import ConnectionClosed

    with opened(site, "/sync/") as first, opened(site, "/sync/") as second:
        first.send("quiet")
        assert first.recv(timeout=WAIT) == second.recv(timeout=WAIT) == "QUIET"
        first.send("go away")
        with pytest.raises(ConnectionClosed) as closed:
            first.recv(timeout=WAIT)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you said")


def test_subprotocol_headers_and_authentication(site: ServerProcess) -> None:
    with opened(site, "/chooser/", subprotocols=["json.v1", "json.v2"]) as socket:
        assert socket.subprotocol == "json.v2"
        assert socket.response.headers["x-chosen"] == "json.v2"
        assert json.loads(socket.recv(timeout=WAIT))["user"] == "AnonymousUser"


def test_consumer_that_closes_in_connect_refuses(site: ServerProcess) -> None:
    assert refusal(site, "/chooser/", origin=GOOD) == 403


def test_foreign_origin_is_refused(site: ServerProcess) -> None:
    assert refusal(site, "/room/a/", origin="http://evil.example") == 403


def test_http_consumers(site: ServerProcess) -> None:
    answer = fetch(site.port, "/poll/", method="POST", body=b"x" * 100_000)
    assert answer.body == b"you sent " + b"x" * 100_000
    answer = fetch(site.port, "/raw/")
    assert (answer.status, answer.body) == (202, b"raw")
    assert fetch(site.port, "/", headers={"Host": "good.example"}).text == "from Django"
