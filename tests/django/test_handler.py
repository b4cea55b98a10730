"""What our ASGIHandler does with threads, contexts, connections, streams and clients that leave."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import django.core.asgi
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync
from django.core.handlers.asgi import ASGIHandler as DjangosHandler
from django.core.signals import request_finished, request_started
from django.db import connection, connections
from django.test import override_settings

from daphne_like.django import get_asgi_application
from daphne_like.django.handler import ASGIHandler
from daphne_like.thread_pools import open_pool
from daphne_like.threads import ThreadPool
from tests.django import handler_site
from tests.django.asgi_calls import Call, call, http_scope
from tests.django.handler_site import EVENTS, GATE, LOOP_THREAD, REACHED
from tests.django.live import Client, live_server


@pytest.fixture(autouse=True)
def clean_site() -> Iterator[None]:
    EVENTS.clear()
    GATE.clear()
    REACHED.clear()
    LOOP_THREAD[0] = threading.get_ident()
    yield
    GATE.set()


@asynccontextmanager
async def fresh_pool(threads: int = 2, max_threads: int = 4) -> AsyncIterator[ThreadPool]:
    """Threads that no other test has used."""
    from daphne_like.thread_pools import pool_for

    loop = asyncio.get_running_loop()
    pool_for(loop).close()
    pool = open_pool(loop, threads, max_threads)
    assert pool is not None
    try:
        yield pool
    finally:
        pool.close()


async def until(happened: Callable[[], Any]) -> None:
    """Wait for something that another thread does."""
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.001)


async def body_of(handler: Any, path: str) -> bytes:
    return (await call(handler, http_scope(path))).body


# -- what it is -----------------------------------------------------------------------------------


def test_it_is_in_djangos_family():
    application = get_asgi_application()
    assert isinstance(application, DjangosHandler)
    assert isinstance(django.core.asgi.get_asgi_application(), DjangosHandler)


async def test_other_scopes_are_refused_as_by_django():
    with pytest.raises(ValueError, match="Django can only handle ASGI/HTTP connections, not websocket"):
        await ASGIHandler()({"type": "websocket"}, None, None)  # type: ignore[arg-type]


async def test_subclass_that_handles_requests_differently_is_djangos_alone():
    class Special(ASGIHandler):
        async def get_response_async(self, request: Any) -> Any:
            handler_site.note("special")
            return await super().get_response_async(request)

    assert (await call(Special(), http_scope("/"))).body == b"Hello, world!"
    assert EVENTS == ["special"]


async def test_subclass_that_only_makes_other_requests_is_quick():
    class Request(ASGIHandler.request_class):  # type: ignore[misc,name-defined]
        pass

    class Special(ASGIHandler):
        request_class = Request

    handler = Special()
    assert handler._is_plain
    assert json.loads(await body_of(handler, "/meta/"))["_class"] == "HttpRequest"


# -- threads --------------------------------------------------------------------------------------


async def test_sync_views_share_long_lived_threads():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        threads = {await body_of(handler, "/thread/") for _ in range(20)}
        assert len(threads) == pool.size == 1


@override_settings(MIDDLEWARE=handler_site.STARTPROJECT)
async def test_async_view_needs_no_thread():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        assert (await call(handler, http_scope("/async/"))).status == 200
        assert pool.size == 0


@override_settings(MIDDLEWARE=handler_site.site_middleware("Outer", "Inner", "OnlyResponse"))
async def test_sync_middleware_around_async_views_takes_a_hop_in_and_one_out():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        await call(handler, http_scope("/async/"))
        # And one for each process_view, which Django calls one by one.
        assert pool._moved == 2 + 2
        assert pool.size == 1


async def test_calls_of_an_async_view_share_a_thread():
    async with fresh_pool():
        handler = ASGIHandler()
        answers = await asyncio.gather(*(call(handler, http_scope("/async/contexts/")) for _ in range(20)))
        for each in answers:
            assert json.loads(each.body) == {
                "seen": [0, None],
                "one thread": True,
                "local": "mine",
                "after": 7,
            }


async def test_requests_that_share_a_thread_share_no_context():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        for _ in range(3):
            found = json.loads(await body_of(handler, "/contexts/"))
            assert found == {"seen": [0, None], "inside": [1, "mine", True, True], "after": 100}
        assert pool.size == 1


async def test_thread_of_a_sync_caller_is_used_where_there_is_one():
    """As when a test of Django's calls an async test, whose database connection is in its own thread."""
    async with fresh_pool() as pool:
        handler = ASGIHandler()

        def sync_caller() -> tuple[bytes, int]:
            async def in_context() -> bytes:
                found: list[bytes] = []

                async def send(message: Any) -> None:
                    found.append(message.get("body", b""))

                async def receive() -> Any:
                    if found:
                        await asyncio.Event().wait()
                    found.append(b"")
                    return {"type": "http.request", "body": b"", "more_body": False}

                await handler(http_scope("/thread/"), receive, send)
                return b"".join(found)

            return async_to_sync(in_context)(), threading.get_ident()

        body, mine = await asyncio.to_thread(sync_caller)
        assert int(body) == mine
        assert pool.size == 0


async def test_thread_of_an_outer_context_is_used():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        async with ThreadSensitiveContext():
            task = asyncio.get_running_loop().create_task(body_of(handler, "/thread/"))
            await task
            assert pool.size == 0


async def test_view_that_waits_does_not_keep_others_waiting():
    async with fresh_pool():
        handler = ASGIHandler()
        waiting = Call(handler, http_scope("/waits/"))
        await until(REACHED.is_set)
        assert await body_of(handler, "/") == b"Hello, world!"
        GATE.set()
        assert (await waiting.end()).body == b"done"


async def test_own_converters_are_not_asked_on_the_event_loop():
    handler = ASGIHandler()
    assert await body_of(handler, "/own/word/") == b"word"
    assert EVENTS == [("converter", False)]


async def test_async_view_behind_a_hint_that_is_wrong_runs_by_async_to_sync():
    handler = ASGIHandler()
    handler._hints.is_async = lambda path: False  # type: ignore[method-assign]
    assert (await call(handler, http_scope("/async/"))).body == b"Hello, world!"
    handler._hints.is_async = lambda path: True  # type: ignore[method-assign]
    assert (await call(handler, http_scope("/"))).body == b"Hello, world!"


# -- database connections -------------------------------------------------------------------------


async def test_persistent_connections_persist_and_are_no_more_than_threads():
    opened: list[int] = []

    def note_connection(**_: Any) -> None:
        opened.append(threading.get_ident())

    from django.db.backends.signals import connection_created

    connection_created.connect(note_connection)
    connections.settings["default"]["CONN_MAX_AGE"] = None
    try:
        async with fresh_pool(2, 4):
            handler = ASGIHandler()
            for path in ("/rows/", "/async/rows/"):
                for _ in range(10):
                    answers = await asyncio.gather(*(call(handler, http_scope(path)) for _ in range(8)))
                    assert {each.body for each in answers} == {b"2"}
        assert 1 <= len(opened) <= 4
        assert len(set(opened)) == len(opened)
    finally:
        connections.settings["default"]["CONN_MAX_AGE"] = 0
        connection_created.disconnect(note_connection)


@pytest.mark.parametrize("path", ["/rows/", "/async/rows/"])
async def test_connections_that_do_not_persist_are_closed_with_their_request(path):
    async with fresh_pool(1, 1) as pool:
        handler = ASGIHandler()
        assert await body_of(handler, path) == b"2"

        def open_connections() -> list[bool]:
            return [each.connection is not None for each in connections.all(initialized_only=True)]

        assert await pool.call(open_connections) == [False]


@pytest.mark.parametrize(("path", "expected"), [("/transaction/", b"True"), ("/no-transaction/", b"False")])
async def test_atomic_requests(path, expected):
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    try:
        assert await body_of(ASGIHandler(), path) == expected
    finally:
        connections.settings["default"]["ATOMIC_REQUESTS"] = False


async def test_thread_with_a_transaction_left_open_is_not_used_again():
    async with fresh_pool(1, 2) as pool:
        ASGIHandler()._own_pool()
        lease = pool.lease()

        def begin() -> threading.Thread:
            connection.set_autocommit(False)
            return threading.current_thread()

        first = await lease.submit(begin)
        lease.end()
        assert await pool.call(threading.current_thread) is not first


# -- streams --------------------------------------------------------------------------------------


async def test_sync_stream_is_pulled_no_further_than_its_client_takes():
    """Django pulls the whole iterator before the first octet leaves."""

    class Slow(Call):
        async def taken(self) -> None:
            if len(self.answer.body) > 200_000:
                await asyncio.Event().wait()

    async with fresh_pool() as pool:
        slow = Slow(ASGIHandler(), http_scope("/noted-stream/"))
        await until(lambda: len(slow.answer.body) > 200_000)
        await pool.call(lambda: None)
        pulled = [what[1] for what in EVENTS if what[0] == "pulled"]
        assert max(pulled) * 16384 < 400_000
        # Nobody is kept waiting by it: no thread is held.
        assert not pool._resting
        slow.disconnect()
        await slow.end()
        assert EVENTS[-1] == "generator closed"


async def test_stream_that_reads_from_a_database_stays_in_its_thread():
    async with fresh_pool() as pool:
        handler = ASGIHandler()
        answer, *others = await asyncio.gather(
            call(handler, http_scope("/rows-stream/")),
            *(call(handler, http_scope("/rows/")) for _ in range(20)),
        )
        assert [int(answer.body[n : n + 6]) for n in range(0, len(answer.body), 4096)] == list(range(1, 401))
        assert len({what[1] for what in EVENTS if what[0] == "thread"}) == 1
        assert {each.body for each in others} == {b"2"}
        assert not pool._resting


async def test_more_database_streams_than_half_of_the_threads_are_pulled_whole():
    class Stuck(Call):
        async def taken(self) -> None:
            await asyncio.Event().wait()

    async with fresh_pool(2, 4) as pool:
        handler = ASGIHandler()
        stuck = [Stuck(handler, http_scope("/rows-stream/")) for _ in range(6)]
        for each in stuck:
            await each.said.wait()
        for each in stuck:
            each.taken = instant  # type: ignore[method-assign]
        assert await asyncio.wait_for(body_of(handler, "/rows/"), 30) == b"2"
        assert pool.size <= 4
        for each in stuck:
            each.disconnect()
        await asyncio.gather(*(each.end() for each in stuck))


async def instant() -> None:
    """A client that takes everything."""


async def test_broken_stream_fails_where_it_breaks_and_is_closed():
    """Django says nothing of what came before, and leaves the response open."""
    answer = await call(ASGIHandler(), http_scope("/broken-stream/"))
    assert (answer.status, answer.body, answer.complete) == (200, b"first", False)
    assert str(answer.error) == "broken stream"


async def test_held_async_streams_hold_no_threads():
    async with fresh_pool() as pool:
        calls = [Call(ASGIHandler(), http_scope("/async/waits/")) for _ in range(100)]
        await until(REACHED.is_set)
        assert pool.size == 0
        for each in calls:
            each.disconnect()
        await asyncio.gather(*(each.end() for each in calls))
        assert EVENTS == ["cancelled"] * 100


# -- clients that leave ---------------------------------------------------------------------------


async def test_departure_cancels_an_async_view():
    finished: list[Any] = []

    def note_finish(**_: Any) -> None:
        finished.append(1)

    request_finished.connect(note_finish)
    try:
        running = Call(ASGIHandler(), http_scope("/async/waits/"))
        await until(REACHED.is_set)
        running.disconnect()
        answer = await running.end()
    finally:
        request_finished.disconnect(note_finish)
    assert (answer.status, answer.error) == (0, None)
    assert EVENTS == ["cancelled"]
    assert finished == [1]


async def test_departure_cancels_what_async_to_sync_waits_for():
    running = Call(ASGIHandler(), http_scope("/waits-for-coroutine/"))
    await until(REACHED.is_set)
    running.disconnect()
    answer = await running.end()
    assert (answer.status, answer.error) == (0, None)
    assert EVENTS == ["cancelled"]


async def test_departure_before_a_sync_view_has_begun_spares_it():
    async with fresh_pool(1, 1):
        handler = ASGIHandler()
        first = Call(handler, http_scope("/waits/"))
        await until(REACHED.is_set)
        second = Call(handler, http_scope("/waits/"))
        second.disconnect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        GATE.set()
        assert (await first.end()).body == b"done"
        assert (await second.end()).status == 0
        assert EVENTS == ["view begins", "view ends"]


async def test_departure_while_the_body_comes_begins_nothing():
    started: list[Any] = []

    def note_start(**_: Any) -> None:
        started.append(1)

    request_started.connect(note_start)
    try:
        running = Call(ASGIHandler(), http_scope("/echo/", "POST"), body=[b"x", b"y"][:0])
        running.inbox.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
        running.disconnect()
        assert (await running.end()).status == 0
    finally:
        request_started.disconnect(note_start)
    assert started == []


async def test_server_that_cancels_is_obeyed():
    running = Call(ASGIHandler(), http_scope("/async/waits/"))
    await until(REACHED.is_set)
    running.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.task
    assert EVENTS == ["cancelled"]


# -- under our own server -------------------------------------------------------------------------

HOSTED = pytest.mark.parametrize("relayed", [False, True], ids=["embedded", "relayed"])


@HOSTED
async def test_requests_through_our_own_server(relayed):
    handler = get_asgi_application()
    async with live_server(handler, relayed=relayed) as port:
        client = await Client.connect(port)
        assert await client.answer("/?name=you") == (200, b"Hello, you!")
        assert await client.answer("/async/") == (200, b"Hello, world!")
        assert await client.answer("/", "HEAD") == (200, b"")
        assert await client.answer("/status/204/") == (204, b"")
        assert (await client.answer("/raises/500/"))[0] == 500
        assert (await client.answer("/nowhere/"))[0] == 404
        body = b"x" * 200_000
        assert await client.answer("/echo/", "POST", "Content-Type: a/b\r\n", body) == (200, body)
        assert await client.answer("/async/echo/", "POST", "Content-Type: a/b\r\n", body) == (200, body)
        status, stream = await client.answer("/stream/?n=20000")
        assert (status, stream) == (200, b"".join(b"part %d\n" % number for number in range(20000)))
        assert await client.answer("/async/stream/") == (200, b"part 0\npart 1\npart 2\n")
        assert await client.answer("/sync/async-stream/") == (200, b"from the view last")
        status, rows = await client.answer("/rows-stream/")
        assert len(rows) == 400 * 4096
        assert (await client.answer("/file/"))[0] == 200
        client.close()


@HOSTED
async def test_sync_requests_take_no_task_under_our_own_server(relayed):
    handler = get_asgi_application()
    called: list[str] = []
    original = type(handler).__call__

    class Watched(type(handler)):  # type: ignore[misc]
        pass

    async with live_server(handler, relayed=relayed) as port:
        type(handler).__call__ = lambda self, scope, receive, send: (  # type: ignore[method-assign]
            called.append(scope.get("path", "")) or original(self, scope, receive, send)
        )
        try:
            client = await Client.connect(port)
            assert (await client.answer("/"))[0] == 200
            assert called == []
            assert (await client.answer("/async/"))[0] == 200
            assert called == ["/async/"]
            client.close()
        finally:
            type(handler).__call__ = original  # type: ignore[method-assign]


@HOSTED
async def test_many_requests_at_once(relayed):
    async with live_server(get_asgi_application(), relayed=relayed) as port:

        async def use() -> None:
            client = await Client.connect(port)
            for path in ("/", "/rows/", "/async/rows/", "/contexts/", "/async/contexts/", "/sleeps/"):
                assert (await client.answer(path))[0] == 200
            client.close()

        await asyncio.gather(*(use() for _ in range(40)))


@HOSTED
async def test_client_that_vanishes_cancels_its_view(relayed):
    async with live_server(get_asgi_application(), relayed=relayed) as port:
        for path in ("/async/waits/", "/waits-for-coroutine/"):
            EVENTS.clear()
            REACHED.clear()
            client = await Client.connect(port)
            await client.send(path)
            await until(REACHED.is_set)
            client.vanish()
            await until(lambda: EVENTS == ["cancelled"])


@HOSTED
async def test_client_that_vanishes_ends_a_sync_stream(relayed):
    async with live_server(get_asgi_application(), relayed=relayed) as port:
        client = await Client.connect(port, limit=1024)
        await client.send("/noted-stream/")
        assert await client.head() == 200
        client.vanish()
        await until(lambda: EVENTS and EVENTS[-1] == "generator closed")


@HOSTED
async def test_client_that_only_stops_sending_gets_its_answer(relayed):
    async with live_server(get_asgi_application(), relayed=relayed) as port:
        client = await Client.connect(port)
        await client.send("/waits/")
        await until(REACHED.is_set)
        client.writer.write_eof()
        GATE.set()
        assert await client.head() == 200
        client.close()


@HOSTED
async def test_error_of_a_receiver_is_a_500_and_logged(relayed, caplog):
    def broken(**_: Any) -> None:
        raise RuntimeError("broken receiver")

    async with live_server(get_asgi_application(), relayed=relayed) as port:
        request_started.connect(broken)
        try:
            client = await Client.connect(port)
            await client.send("/")
            assert await client.head() == 500
            client.close()
        finally:
            request_started.disconnect(broken)
        assert "application failed" in caplog.text


@HOSTED
async def test_error_while_closing_is_logged_and_the_answer_stands(relayed, caplog):
    def broken(**_: Any) -> None:
        raise RuntimeError("broken receiver")

    async with live_server(get_asgi_application(), relayed=relayed) as port:
        request_finished.connect(broken)
        try:
            client = await Client.connect(port)
            for path in ("/", "/async/"):
                assert (await client.answer(path))[0] == 200
                await until(lambda: "broken receiver" in caplog.text)
                caplog.clear()
            client.close()
        finally:
            request_finished.disconnect(broken)
