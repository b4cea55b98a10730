"""
Runs Django's own tests (its runtests.py) with requests of the test clients taken through an ASGI handler.

Called in Django's folder of tests:

    HARNESS_HANDLER=plain|django|ours|direct HARNESS_OUTCOMES=FILE python django_harness.py LABEL...

Django's test clients have handlers of their own, which call the middleware without any WSGI or ASGI between. For
a test of an ASGI handler that is too little: here both clients make a scope of their request, call the handler
as a server would, and take the response out of what it sends. Status, headers and body are what came over the
"wire"; the response object that the tests look at is the one that the handler has made.

    plain     nothing is replaced at all
    django    Django's own handler, which shows what the tests make of being taken this way
    ours      our handler, as under any ASGI server
    direct    our handler, as under our own server and worker, which offer it asgi.direct

One line of JSON for each test goes to HARNESS_OUTCOMES.
"""

import asyncio
import concurrent.futures
import contextvars
import functools
import json
import os
import runpy
import sys
import threading
import unittest
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import django
import django.core.asgi
import django.core.handlers.asgi
from django.core.handlers import base
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse
from django.test import client
from django.test.client import conditional_content_removal

HANDLER = os.environ["HARNESS_HANDLER"]

# What a request's scope carries through the handler, for the harness.
BOX = "harness.box"

# Seconds after which a request counts as stuck.
EXCHANGE_TIMEOUT = 60.0

# Keys of environ that a scope has another place for.
NOT_EXTRA = ("CONTENT_LENGTH", "CONTENT_TYPE", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REQUEST_METHOD")
NOT_EXTRA += ("SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "REMOTE_PORT")


# -- the handler in the place of Django's ------------------------------------------------------------


def put_in_place() -> None:
    if HANDLER in ("ours", "direct"):
        import daphne_like.django
        from daphne_like.django.handler import ASGIHandler

        django.core.asgi.get_asgi_application = daphne_like.django.get_asgi_application
        django.core.asgi.ASGIHandler = ASGIHandler
        django.core.handlers.asgi.ASGIHandler = ASGIHandler
    if HANDLER != "plain":
        share_connections()
        note_responses()
        client.ClientHandler.__call__ = call_sync
        client.AsyncClientHandler.__call__ = call_async


class _Storage:
    """As asgiref's Local, but the same for all threads, except in event loops: those have none, as ever."""

    def __init__(self) -> None:
        self.__dict__["_shared"] = {}
        self.__dict__["_own"] = threading.local()

    def _dict(self) -> dict[str, Any]:
        return self._shared if asyncio._get_running_loop() is None else self._own.__dict__

    def __getattr__(self, name: str) -> Any:
        try:
            return self._dict()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._dict()[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self._dict()[name]
        except KeyError:
            raise AttributeError(name) from None


def share_connections() -> None:
    """
    One database connection for tests and views: TestCase's transaction is to be the view's.

    At any moment one of them alone runs: the test waits for its response.
    """
    connections._connections = _Storage()
    BaseDatabaseWrapper.allow_thread_sharing = property(lambda self: True)


class Box:
    """
    A request's way through the handler.

    Attributes:
        given: what the request gets beside its scope; request, response: as the handler has them.
    """

    def __init__(self, given: dict[str, Any], enforce_csrf_checks: bool) -> None:
        self.given = given
        self.enforce_csrf_checks = enforce_csrf_checks
        self.request: Any = None
        self.response: Any = None
        self.body: bytes | None = None


def note_responses() -> None:
    """Have each request that comes by with a Box leave itself and its response there."""
    request_init = django.core.handlers.asgi.ASGIRequest.__init__
    get_response = base.BaseHandler.get_response
    get_response_async = base.BaseHandler.get_response_async

    def noting_init(self: Any, scope: Any, body_file: Any) -> None:
        request_init(self, scope, body_file)
        box = scope.get(BOX)
        if box is not None:
            box.request = self
            self._dont_enforce_csrf_checks = not box.enforce_csrf_checks
            self.META.update(box.given)

    def note(request: Any, response: Any) -> Any:
        box = getattr(request, "scope", {}).get(BOX)
        if box is not None:
            box.response = response
        return response

    async def noting_async(self: Any, request: Any) -> Any:
        return note(request, await get_response_async(self, request))

    django.core.handlers.asgi.ASGIRequest.__init__ = noting_init
    base.BaseHandler.get_response = lambda self, request: note(request, get_response(self, request))
    base.BaseHandler.get_response_async = noting_async


# -- the test clients ---------------------------------------------------------------------------------


def handler_of(test_client: Any) -> Any:
    """The handler that stands for a client's, made when it first asks something: settings are there then."""
    found = test_client.__dict__.get("_harness_handler")
    if found is None:
        # The class, and no subclass: what a subclass changes, a handler must not take short cuts around.
        found = test_client._harness_handler = django.core.handlers.asgi.ASGIHandler()
    return found


@functools.cache
def server_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="server", daemon=True).start()
    return loop


def call_sync(self: Any, environ: dict[str, Any]) -> Any:
    """In the place of ClientHandler.__call__()."""
    scope, body = scope_of(environ)
    given = {key: value for key, value in environ.items() if key not in NOT_EXTRA}
    box = Box(given, self.enforce_csrf_checks)
    scope[BOX] = box
    # In another thread's event loop, and in no context of ours, as in a server: asgiref would else find a sync
    # caller, or the thread of the view that makes this request, and wait for it.
    answer = concurrent.futures.Future()
    begin = functools.partial(begin_exchange, answer, exchange(handler_of(self), scope, body, box))
    server_loop().call_soon_threadsafe(begin, context=contextvars.Context())
    response = answer.result(EXCHANGE_TIMEOUT)
    box.request.environ = environ
    response.wsgi_request = box.request
    if response.streaming and not response.is_async:
        response.streaming_content = iter([box.body])
    return conditional_content_removal(box.request, response)


async def call_async(self: Any, scope: dict[str, Any]) -> Any:
    """In the place of AsyncClientHandler.__call__()."""
    body_file = scope.pop("_body_file", None)
    box = Box({}, self.enforce_csrf_checks)
    scope[BOX] = box
    response = await exchange(handler_of(self), scope, read_all(body_file), box)
    response.asgi_request = box.request
    if response.streaming and not response.is_async:
        response.streaming_content = iter([box.body])
    return conditional_content_removal(box.request, response)


def read_all(file: Any) -> bytes:
    if file is None:
        return b""
    return file.read(len(file)) if len(file) else b""


def begin_exchange(answer: Any, coroutine: Any) -> None:
    async def run() -> None:
        try:
            answer.set_result(await coroutine)
        except BaseException as error:
            answer.set_exception(error)

    answer.task = asyncio.get_running_loop().create_task(run())


def scope_of(environ: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The scope, and the body, of the request that a test client has made an environ of."""
    headers = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            headers.append((key[5:], value))
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value not in ("", None):
            headers.append((key, value))
    path = environ["PATH_INFO"].encode("latin-1")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": environ["SCRIPT_NAME"] + path.decode("utf-8", "replace"),
        "raw_path": quote(path).encode(),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": environ["SCRIPT_NAME"],
        "headers": [
            (name.lower().replace("_", "-").encode("latin-1"), str(value).encode("latin-1"))
            for name, value in headers
            if value != ""
        ],
        "client": (environ["REMOTE_ADDR"], 0),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "extensions": {},
    }
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return scope, environ["wsgi.input"].read(length) if length else b""


class Server:
    """The server's side of a request that has come whole, and whose client stays."""

    def __init__(self, body: bytes) -> None:
        self.messages: list[Any] = []
        self._body: bytes | None = body
        self._over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._body is None:
            await self._over.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._over.set()


class Exchange(Server):
    """The same as asgi.direct.Exchange has it."""

    is_exchange = True

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        super().__init__(body)
        self.scope = scope
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def receive_arrived(self) -> dict[str, Any] | None:
        if self._body is None:
            return None
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    def tell_departure(self, callback: Any) -> None:
        """Nobody leaves."""

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        self.messages.append({"type": "http.response.start", "status": status, "headers": headers})
        self.messages.append({"type": "http.response.body", "body": body})
        self._over.set()

    def answer(self, status: int, headers: Any, body: bytes) -> None:
        self.respond(status, headers, body)
        self.ended.set_result(None)

    def failed(self, error: BaseException) -> None:
        self.ended.set_result(error)

    def proceed(self, conversation: Any) -> None:
        async def go_on() -> None:
            try:
                await conversation
            except BaseException as error:
                self.ended.set_result(error)
            else:
                self.ended.set_result(None)

        self.task = asyncio.get_running_loop().create_task(go_on())


async def exchange(handler: Any, scope: dict[str, Any], body: bytes, box: Box) -> Any:
    """
    Have *handler* answer, as a server would; its response, with what came over the wire in it.

    Raises:
        AssertionError: the wire had something else than the response says.
    """
    server = Exchange(scope, body) if HANDLER == "direct" else Server(body)
    if not (isinstance(server, Exchange) and handler.daphne_like_direct(server)):
        await handler(scope, server.receive, server.send)
    elif (error := await server.ended) is not None:
        raise error
    messages = server.messages
    response = box.response
    if response is None:  # a request that could not even be made
        response = HttpResponse(status=messages[0]["status"])
    assert messages, "nothing was sent"
    start, *rest = messages
    assert start["type"] == "http.response.start", start
    assert all(m["type"] == "http.response.body" for m in rest), rest
    assert not rest[-1].get("more_body"), "the response was not completed"
    assert start["status"] == response.status_code, (start, response)
    wanted = [
        (str(name).encode().lower(), value if isinstance(value, bytes) else str(value).encode("latin-1"))
        for name, value in response.items()
    ]
    wanted += [
        (b"set-cookie", c.output(header="").strip().encode("ascii")) for c in response.cookies.values()
    ]
    assert [(name.lower(), value) for name, value in start["headers"]] == wanted, (start, wanted)
    box.body = b"".join(m.get("body", b"") for m in rest)
    if not response.streaming:
        assert box.body == response.content, (box.body, response.content)
    elif response.is_async:
        response.streaming_content = pieces(box.body)
    return response


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


# -- outcomes ----------------------------------------------------------------------------------------


def note_outcomes(file: Any) -> None:
    """Write a line for the outcome of each test; a failed subtest is a failure, too."""

    def noting(name: str, outcome: str) -> None:
        original = getattr(unittest.TestResult, name)

        def method(self: Any, test: Any, *more: Any) -> Any:
            said = outcome
            if name == "addSubTest":
                said = "failed" if more[1] is not None else ""
                more_words = more[1]
            else:
                more_words = more[0] if more else ""
            if said:
                words = more_words[1] if isinstance(more_words, tuple) else more_words
                line = {"test": test.id(), "outcome": said, "words": f"{type(words).__name__}: {words}"}
                file.write(json.dumps(line) + "\n")
                file.flush()
            return original(self, test, *more)

        setattr(unittest.TestResult, name, method)

    for name, outcome in {
        "addSuccess": "passed",
        "addExpectedFailure": "passed",
        "addSkip": "skipped",
        "addError": "failed",
        "addFailure": "failed",
        "addUnexpectedSuccess": "failed",
        "addSubTest": "",
    }.items():
        noting(name, outcome)


def lines_of(file: Any) -> Iterator[dict[str, str]]:
    for line in file:
        yield json.loads(line)


def main() -> None:
    # Once there are settings and apps, and before any test is imported.
    setup = django.setup

    def setup_and_put_in_place(*words: Any, **more: Any) -> None:
        django.setup = setup  # get_asgi_application() calls it again
        setup(*words, **more)
        put_in_place()

    django.setup = setup_and_put_in_place
    with open(os.environ["HARNESS_OUTCOMES"], "w", encoding="utf-8") as file:
        note_outcomes(file)
        sys.argv = ["runtests.py", "--parallel=1", "--verbosity=0", *sys.argv[1:]]
        sys.path[0] = os.getcwd()
        runpy.run_path("runtests.py", run_name="__main__")


if __name__ == "__main__":
    main()
