"""RelayWSGI: a WSGI server's requests, answered by workers at a layer."""

import asyncio
import contextlib
import io
import wsgiref.util
import wsgiref.validate

import pytest

from daphne_like.errors import RelayError
from daphne_like.layers.ipc import IPCChannelLayer
from daphne_like.relay.keeper import Terms
from daphne_like.relay.worker import Worker
from daphne_like.settings import Settings
from daphne_like.wsgi import RelayWSGI

TEXT = (b"content-type", b"text/plain")


class Site:
    """An ASGI application, by path; `scopes` are those it was called with."""

    def __init__(self):
        self.scopes = []
        self.left = asyncio.Event()
        self.sent = 0
        self.worker = None

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await getattr(self, scope["path"].strip("/") or "hello")(receive, send)

    async def hello(self, receive, send):
        await respond(send, b"hello", headers=[(b"x-a", b"b"), (b"connection", b"close")])

    async def count(self, receive, send):
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await respond(send, b"%d" % size, status=299)

    async def stream(self, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d " % number, "more_body": True})
        await send({"type": "http.response.body"})

    async def endless(self, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
                self.sent += 10_000
        self.left.set()

    async def breaks(self, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [TEXT]})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise ZeroDivisionError

    async def fails(self, receive, send):
        raise ZeroDivisionError


async def respond(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": [TEXT, *headers]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def relayed(tmp_path, site, **terms):
    """A RelayWSGI whose requests *site* answers, in this event loop."""
    path = str(tmp_path / "layer.sock")
    application = RelayWSGI(f"ipc:{path}", terms=Terms(**terms) if terms else None)
    try:
        await asyncio.to_thread(application._start)
        if site is None:
            yield application
            return
        layer = IPCChannelLayer(path)
        await layer.open()
        worker = site.worker = Worker(site, layer, Settings())
        await worker.start()
        try:
            yield application
        finally:
            await worker.drain(5)
            await worker.stop()
            await layer.close()
    finally:
        await asyncio.to_thread(application.close)


def environ_for(path="/", body=b"", **changes):
    environ = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "wsgi.input": io.BytesIO(body)}
    if body:
        environ |= {"CONTENT_LENGTH": str(len(body)), "REQUEST_METHOD": "POST"}
    environ |= changes
    wsgiref.util.setup_testing_defaults(environ)
    return environ


def call(application, environ):
    """What a WSGI server does: (status, headers, body), in a thread."""
    heads = []

    def start_response(status, headers, exc_info=None):
        heads.append((status, headers))
        return lambda data: None

    result = wsgiref.validate.validator(application)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return *heads[0], body


async def ask(application, path="/", body=b"", **changes):
    return await asyncio.to_thread(call, application, environ_for(path, body, **changes))


async def test_request_and_response(tmp_path):
    site = Site()
    async with relayed(tmp_path, site) as application:
        status, headers, body = await ask(
            application,
            "/",
            QUERY_STRING="a=%20",
            HTTP_X_YZ="1",
            REMOTE_ADDR="192.0.2.7",
            REMOTE_PORT="4711",
        )
    assert (status, body) == ("200 OK", b"hello")
    assert headers == [("content-type", "text/plain"), ("x-a", "b")], "hop-by-hop fields are the server's own"
    (scope,) = site.scopes
    assert (scope["type"], scope["method"], scope["path"], scope["raw_path"]) == ("http", "GET", "/", b"/")
    assert scope["query_string"] == b"a=%20"
    assert (b"x-yz", b"1") in scope["headers"]
    assert scope["client"] == ("192.0.2.7", 4711)
    assert scope["server"] == ("127.0.0.1", 80)


async def test_paths(tmp_path):
    site = Site()
    setattr(site, "app/é", site.hello)
    async with relayed(tmp_path, site) as application:
        await ask(application, "/hello", REQUEST_URI="/%68ello?x")
        await ask(application, "/\xc3\xa9", SCRIPT_NAME="/app")
    assert [(s["path"], s["raw_path"], s["root_path"]) for s in site.scopes] == [
        ("/hello", b"/%68ello", ""),
        ("/app/é", b"/app/%C3%A9", "/app"),
    ]


@pytest.mark.parametrize("size", [3, 65536, 65537, 2_000_000])
async def test_bodies(tmp_path, size):
    async with relayed(tmp_path, Site()) as application:
        status, _, body = await ask(application, "/count", b"x" * size)
    assert (status, body) == ("299 Unknown", b"%d" % size)


async def test_a_body_of_unknown_length(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        environ = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b"x" * 100_000)}
        _, _, body = await ask(application, "/count", REQUEST_METHOD="PUT", **environ)
        assert body == b"100000"
        # Where the server does not promise an end, there is no body without a length.
        del environ["wsgi.input_terminated"]
        _, _, body = await ask(application, "/count", REQUEST_METHOD="PUT", **environ)
        assert body == b"0"


async def test_streaming(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        assert (await ask(application, "/stream"))[2] == b"0 1 2 "


async def test_a_client_that_leaves_is_told_to_the_application_and_holds_it_back_before(tmp_path):
    site = Site()

    def take_some(application):
        result = application(environ_for("/endless"), lambda *_: None)
        for _ in range(3):
            next(result)
        result.close()

    async with relayed(tmp_path, site) as application:
        await asyncio.to_thread(take_some, application)
        await site.left.wait()
    assert site.sent < 2_000_000


async def test_a_response_that_breaks_off_raises(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        with pytest.raises(RelayError):
            await ask(application, "/breaks")


async def test_a_failing_application_is_500(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        assert (await ask(application, "/fails"))[0] == "500 Internal Server Error"


async def test_nobody_there_is_503(tmp_path):
    async with relayed(tmp_path, None, queue_timeout=0.2) as application:
        assert (await ask(application))[0] == "503 Service Unavailable"


async def test_a_body_that_breaks_off(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        environ = environ_for("/count", b"x" * 100_000, CONTENT_LENGTH="200000")
        with pytest.raises((RelayError, OSError)):
            await asyncio.to_thread(call, application, environ)


async def test_many_at_once(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        answers = await asyncio.gather(*(ask(application, "/count", b"y" * n) for n in range(1, 50)))
    assert [int(body) for _, _, body in answers] == list(range(1, 50))


async def test_it_begins_anew_after_close(tmp_path):
    async with relayed(tmp_path, Site()) as application:
        assert (await ask(application))[2] == b"hello"
        await asyncio.to_thread(application.close)
        assert (await ask(application))[2] == b"hello"
