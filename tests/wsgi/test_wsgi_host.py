"""WSGIHost: a WSGI application behind an ASGI conversation, with its thread, its body and its endings."""

import asyncio
import contextvars
import gzip
import os
import sys
import threading
import wsgiref.validate

import pytest

from daphne_like.errors import ClientDisconnected
from daphne_like.wsgi.exchange import WINDOW
from tests.wsgi.conversations import Conversation

CHUNK = b"x" * 16384


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Caf\xe9", "\xe9")])
    return [b"hello"]


async def test_a_response_in_one_piece():
    talk = await Conversation(hello).run()
    assert talk.sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"x-caf\xe9", b"\xe9")],
        },
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]
    assert talk.receives == 0, "a request without a body needs no receive()"


async def test_the_standard_librarys_validator_has_nothing_against_us():
    def application(environ, start_response):
        assert environ["wsgi.input"].read(10) == b"abc"
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"one ")
        return iter([b"two"])

    headers = [(b"host", b"a"), (b"content-length", b"3"), (b"content-type", b"text/plain")]
    talk = Conversation(wsgiref.validate.validator(application), method="POST", headers=headers)
    talk.feed(b"abc")
    await talk.run()
    assert talk.body == b"one two"
    assert talk.whole


async def test_it_runs_in_a_thread_and_in_a_context_of_its_own():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def application(environ, start_response):
        seen.append((variable.get(), threading.current_thread()))
        variable.set("theirs")
        start_response("200 OK", [])

        def result():
            seen.append((variable.get(), threading.current_thread()))
            yield b"x"

        return result()

    variable.set("outside")
    await Conversation(application).run()
    assert [value for value, _ in seen] == ["outside", "theirs"]
    assert seen[0][1] is seen[1][1], "the whole response comes out of one thread"
    assert seen[0][1] is not threading.current_thread()
    assert variable.get() == "outside"


async def test_chunks_leave_while_the_application_goes_on():
    """ "WSGI servers [...] must not delay the transmission of any block" -- PEP 3333"""
    go_on = threading.Event()

    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        assert go_on.wait(10)
        yield b"second"

    talk = Conversation(application)
    task = asyncio.create_task(talk.run())
    await talk.until(lambda: talk.body == b"first")
    assert not task.done()
    go_on.set()
    await task
    assert talk.body == b"firstsecond"
    assert talk.whole


async def test_a_slow_client_holds_the_iterator_back():
    ahead = []

    def application(environ, start_response):
        start_response("200 OK", [])
        for number in range(100):
            ahead.append(number * len(CHUNK) - len(talk.body))
            yield CHUNK

    talk = Conversation(application)
    talk.gate.clear()
    task = asyncio.create_task(talk.run())
    await talk.waits_in_send.wait()
    talk.gate.set()
    await task
    assert talk.body == CHUNK * 100
    assert WINDOW // 2 <= max(ahead) <= WINDOW


async def test_the_client_leaves_in_the_middle():
    closed = threading.Event()

    class Result:
        def __iter__(self):
            return self

        def __next__(self):
            return CHUNK

        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [])
        return Result()

    talk = Conversation(application)
    talk.gate.clear()
    task = asyncio.create_task(talk.run())
    await talk.waits_in_send.wait()
    talk.leave()
    await task
    assert closed.is_set()


async def test_write_raises_when_the_client_has_left():
    raised = []

    def application(environ, start_response):
        write = start_response("200 OK", [])
        try:
            while True:
                write(CHUNK)
        except OSError as error:
            raised.append(error)
            raise

    talk = Conversation(application)
    talk.gate.clear()
    task = asyncio.create_task(talk.run())
    await talk.waits_in_send.wait()
    talk.leave()
    with pytest.raises(ClientDisconnected):
        await task
    assert raised


async def test_close_is_called_when_all_is_well():
    order = []

    class Result(list):
        def close(self):
            order.append("closed")

    def application(environ, start_response):
        start_response("200 OK", [])
        return Result([b"a", b"b"])

    talk = await Conversation(application).run()
    assert (talk.body, order) == (b"ab", ["closed"])


# ---- the request's body


def count(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"%d" % len(body)]


async def test_a_small_body_is_collected_before_a_thread_is_taken():
    started = threading.Event()

    def application(environ, start_response):
        started.set()
        return count(environ, start_response)

    talk = Conversation(application, method="POST", headers=[(b"content-length", b"6")])
    task = asyncio.create_task(talk.run())
    talk.feed(b"abc", more=True)
    await talk.until(lambda: talk.receives == 2)
    assert not started.is_set()
    talk.feed(b"def")
    await task
    assert talk.body == b"6"


async def test_a_client_that_leaves_before_its_small_body_is_whole_costs_no_thread():
    talk = Conversation(count, method="POST", headers=[(b"content-length", b"6")])
    talk.feed(b"abc", more=True)
    talk.leave()
    await talk.run()
    assert talk.sent == []


BODIES = {
    "large": [(b"content-length", b"400000")],
    "chunked": [(b"transfer-encoding", b"chunked")],
}


@pytest.mark.parametrize("headers", BODIES.values(), ids=BODIES)
async def test_a_body_is_read_as_the_application_asks(headers):
    talk = Conversation(count, method="POST", headers=headers)
    for _ in range(3):
        talk.feed(b"x" * 100_000, more=True)
    talk.feed(b"x" * 100_000)
    await talk.run()
    assert talk.body == b"400000"
    assert talk.receives == 4


async def test_nothing_is_asked_of_a_client_that_awaits_100_until_the_application_reads():
    def application(environ, start_response):
        start_response("403 Forbidden", [])
        return [b"no"]

    headers = [(b"content-length", b"3"), (b"expect", b"100-continue")]
    talk = await Conversation(application, method="PUT", headers=headers).run()
    assert (talk.status, talk.receives) == (403, 0)


async def test_the_client_leaves_in_the_middle_of_its_body():
    raised = []

    def application(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
        start_response("400 Bad Request", [])
        return []

    talk = Conversation(application, method="POST", headers=BODIES["chunked"])
    talk.feed(b"abc", more=True)
    talk.leave()
    await talk.run()
    assert isinstance(raised[0], ClientDisconnected)


async def test_reading_while_the_response_has_begun():
    """An echo, both ways at once."""

    def application(environ, start_response):
        start_response("200 OK", [])
        while data := environ["wsgi.input"].read1(50_000):
            yield data

    talk = Conversation(application, method="POST", headers=BODIES["chunked"])
    for _ in range(20):
        talk.feed(b"y" * 50_000, more=True)
    talk.feed(b"")
    await talk.run()
    assert talk.body == b"y" * 1_000_000


# ---- mistakes


def no_start(environ, start_response):
    return [b"x"]


def text(environ, start_response):
    start_response("200 OK", [])
    return ["x"]


def strange_status(environ, start_response):
    start_response("OK", [])
    return []


def bytes_status(environ, start_response):
    start_response(b"200 OK", [])
    return []


def bytes_headers(environ, start_response):
    start_response("200 OK", [(b"a", b"b")])
    return []


def twice(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def too_long(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return iter([b"a", b"b"])


def raises(environ, start_response):
    raise ZeroDivisionError


def exits(environ, start_response):
    raise SystemExit(3)


def none(environ, start_response):
    start_response("200 OK", [])


MISTAKES = {
    no_start: "start_response",
    text: "bytes, not str",
    strange_status: "three digits",
    bytes_status: "not bytes",
    bytes_headers: "pairs of str",
    twice: "twice",
    too_long: "Content-Length",
    raises: None,
    exits: "3",
    none: "NoneType",
}


@pytest.mark.parametrize("application", MISTAKES, ids=lambda a: a.__name__)
async def test_a_mistake_comes_out_of_the_conversation(application):
    """Where the server answers 500, or cuts, as for any ASGI application that raises."""
    talk = Conversation(application)
    with pytest.raises(BaseException, match=MISTAKES[application]) as raised:
        await talk.run()
    assert not isinstance(raised.value, asyncio.CancelledError)


async def test_an_error_page_instead_of_what_was_begun():
    """start_response() with exc_info, before and after the head has left."""

    def application(environ, start_response):
        start_response("200 OK", [])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [("x", "y")], sys.exc_info())
        return [b"sorry"]

    talk = await Conversation(application).run()
    assert (talk.status, talk.body) == (500, b"sorry")

    def too_late(environ, start_response):
        write = start_response("200 OK", [])
        write(b"x")
        return application(environ, start_response)

    late = Conversation(too_late)
    with pytest.raises(RuntimeError, match="twice"):
        await late.run()

    def much_too_late(environ, start_response):
        write = start_response("200 OK", [])
        write(b"x")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    late = Conversation(much_too_late)
    with pytest.raises(ZeroDivisionError):
        await late.run()
    assert not late.whole


async def test_what_follows_the_last_announced_octet_still_runs():
    after = []

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        yield b"ab"
        after.append("stored")
        yield b""

    talk = await Conversation(application).run()
    assert after == ["stored"]
    assert [m.get("more_body") for m in talk.sent[1:]] == [False], "no further message is needed"


async def test_head_and_empty_responses():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return []

    talk = await Conversation(application, method="HEAD").run()
    assert talk.sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_cancelled_while_the_application_runs():
    """--http-timeout: the thread ends at its next word, and its iterator is closed."""
    closed = threading.Event()
    go_on = threading.Event()

    def application(environ, start_response):
        start_response("200 OK", [])
        try:
            yield b"x"
            assert go_on.wait(10)
            while True:
                yield CHUNK
        finally:
            closed.set()

    talk = Conversation(application)
    task = asyncio.create_task(talk.run())
    await talk.until(lambda: talk.body)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 10)


async def test_cancelled_while_the_thread_waits_for_the_client():
    ended = threading.Event()

    def application(environ, start_response):
        try:
            environ["wsgi.input"].read()
        finally:
            ended.set()

    talk = Conversation(application, method="POST", headers=BODIES["chunked"])
    task = asyncio.create_task(talk.run())
    await talk.until(lambda: talk.receives)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)


# ---- files


def serve_file(path, position=0):
    def application(environ, start_response):
        file = open(path, "rb")  # noqa: SIM115  # closed by the wrapper
        application.file = file
        file.seek(position)
        start_response("200 OK", [])
        result = environ["wsgi.file_wrapper"](file)
        close = result.close

        def closing():
            close()
            application.closed.set()

        result.close = closing
        return result

    application.closed = threading.Event()
    return application


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(400_000))
    return path


async def test_a_file_is_sent_as_one_and_closed_afterwards(large):
    application = serve_file(large)
    talk = await Conversation(application).run()
    assert talk.sent[0]["headers"] == [(b"content-length", b"400000")]
    assert talk.sent[1:] == [{"type": "http.response.pathsend", "path": str(large)}]
    assert application.file.closed


async def test_a_file_is_open_until_it_has_been_sent(large):
    application = serve_file(large)
    talk = Conversation(application)
    talk.gate.clear()
    task = asyncio.create_task(talk.run())
    await talk.waits_in_send.wait()
    assert not application.file.closed
    talk.leave()
    await task
    assert application.file.closed


async def test_a_file_is_closed_when_its_response_is_cancelled(large):
    application = serve_file(large)
    talk = Conversation(application)
    talk.gate.clear()
    task = asyncio.create_task(talk.run())
    await talk.waits_in_send.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(application.closed.wait, 10)


async def test_a_file_that_is_not_sent_whole_is_read(large):
    talk = await Conversation(serve_file(large, position=100_000)).run()
    assert talk.body == large.read_bytes()[100_000:]


async def test_without_the_extension_a_file_is_read(large):
    talk = await Conversation(serve_file(large), extensions={}).run()
    assert talk.body == large.read_bytes()


async def test_a_file_that_was_replaced_meanwhile_is_read(large):
    """What was opened counts, and not what has its name now."""

    def application(environ, start_response):
        file = open(large, "rb")  # noqa: SIM115
        content = large.read_bytes()
        large.unlink()
        large.write_bytes(b"z" * 400_000)
        application.content = content
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    talk = await Conversation(application).run()
    assert talk.body == application.content


async def test_gzip_files_are_not_sent_as_they_lie_on_disk(tmp_path):
    path = tmp_path / "a.gz"
    content = os.urandom(600_000)
    with gzip.open(path, "wb") as file:
        file.write(content)

    def application(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](gzip.open(path))

    talk = await Conversation(application).run()
    assert talk.body == content


# ---- other scopes


async def test_websockets_are_refused():
    talk = Conversation(hello, type="websocket")
    talk.inbound.put_nowait({"type": "websocket.connect"})
    await talk.run()
    assert talk.sent == [{"type": "websocket.close"}]


async def test_lifespan_is_answered():
    talk = Conversation(hello, type="lifespan")
    talk.inbound.put_nowait({"type": "lifespan.startup"})
    talk.inbound.put_nowait({"type": "lifespan.shutdown"})
    await talk.run()
    assert [m["type"] for m in talk.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_many_at_once():
    """As many as there are threads block, others wait, and all are answered."""

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    talks = [Conversation(application, method="POST", headers=BODIES["chunked"]) for _ in range(100)]
    tasks = [asyncio.create_task(talk.run()) for talk in talks]
    for number, talk in enumerate(talks):
        talk.feed(b"%d" % number)
    await asyncio.gather(*tasks)
    assert [talk.body for talk in talks] == [b"%d" % number for number in range(100)]
