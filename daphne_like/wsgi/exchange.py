"""
One request of a WSGI application: the application in a thread, and the coroutine that speaks ASGI for it.

    thread   run()     application(environ, start_response), the iteration of its result, close()
    loop     pump()    receive() when the thread wants more of the body; send() of what it says

What the thread says goes through a deque, in order; the loop takes it with the pool's next batch, within a
millisecond, or at once where the thread waits for an answer. Answers go through a queue.

Back-pressure: each WINDOW / 2 octets the thread asks for an acknowledgement, and goes on with two of them
outstanding: an iterator is drawn as its client takes, no more than WINDOW ahead (and the chunk in hand). A
thread so held is held as long as its client takes: the whole of a response comes out of one thread, since
WSGI applications keep things by thread. Files are the exception: they are sent without one.

Departure: the loop notices at send(), and the thread at its next chunk. The iterator is then closed, as when it
has ended.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import io
import queue
from collections.abc import Callable
from typing import Any

from daphne_like.errors import ClientDisconnected
from daphne_like.threads import Job, ThreadPool
from daphne_like.typing import Message, Receive, Scope, Send
from daphne_like.wsgi.environ import BodyReader
from daphne_like.wsgi.response import FileWrapper, content_length, response_start, sendable_path

__all__ = ["Exchange", "WSGIApplication"]

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Any]

# How far an iterator may be ahead of its client, in octets.
WINDOW = 128 * 1024

# What the thread asks of the loop; anything else that it says is a message to send.
_READ, _ACKNOWLEDGE = object(), object()


class _Left(Exception):
    """The client has left: unwinds the thread's iteration, and is not the application's to see."""


class Exchange(Job):
    """
    Args:
        application: WSGI.
        environ: from build_environ(); what is still missing is added.
        scope: of the request.
        body: what has come of the request's body, and whether more follows.
        pool: of the running event loop.
    """

    __slots__ = (
        "_acknowledgements",
        "_ahead",
        "_answers",
        "_application",
        "_context",
        "_ended",
        "_environ",
        "_error",
        "_extensions",
        "_files",
        "_gone",
        "_head",
        "_head_said",
        "_left",
        "_loop",
        "_pool",
        "_said",
        "_waiter",
        "_whole",
        "_woken",
    )

    def __init__(
        self,
        application: WSGIApplication,
        environ: dict[str, Any],
        scope: Scope,
        body: tuple[bytes, bool],
        pool: ThreadPool,
    ) -> None:
        self._application = application
        self._environ = environ
        self._extensions = scope.get("extensions")
        self._pool = pool
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._said: collections.deque[Any] = collections.deque()
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        # Made by the thread when it first waits; see abandon().
        self._answers: queue.SimpleQueue[Any] | None = None
        self._gone = False
        self._head: Message | None = None
        self._head_said = False
        self._left: int | None = None  # octets that the response's Content-Length still announces
        self._ahead = self._acknowledgements = 0
        self._whole = False
        self._ended = False  # the thread has, with:
        self._error: BaseException | None = None
        # Results that are sent as files and still to be closed: whoever takes one out closes it.
        self._files: collections.deque[Any] = collections.deque()
        environ["wsgi.file_wrapper"] = FileWrapper
        first, more = body
        if more:
            self._answers = queue.SimpleQueue()
            environ["wsgi.input"] = io.BufferedReader(BodyReader(first, True, self._fetch))
        else:
            environ["wsgi.input"] = io.BytesIO(first)

    # ---- in the loop

    async def pump(self, receive: Receive, send: Send) -> None:
        """
        Run the application in a thread, and be its voice until it has ended.

        Raises:
            what the application has raised, or what send() has against it.
        """
        self._pool.submit(self)
        said = self._said
        try:
            while True:
                while said:
                    item = said.popleft()
                    if item is _READ:
                        self._answer(await self._next_piece(receive))
                    elif item is _ACKNOWLEDGE:
                        self._answer(None)
                    else:
                        await self._send(send, item)
                if self._ended:
                    break
                self._waiter = self._loop.create_future()
                await self._waiter
                self._waiter = None
            if self._files:
                await self._pool.call(self._context.run, self._close_file)
            if self._error is not None:
                raise self._error
        finally:
            self._abandon()
            self._error = None  # or it would hold itself, by its traceback

    async def _send(self, send: Send, message: Message) -> None:
        if self._gone:
            return
        try:
            await send(message)
        except OSError as error:
            if message["type"] == "http.response.pathsend" and not isinstance(error, ClientDisconnected):
                raise  # the file's
            self._gone = True

    async def _next_piece(self, receive: Receive) -> tuple[bytes, bool] | None:
        message = await receive()
        if message["type"] != "http.request":
            return None
        return message.get("body", b""), message.get("more_body", False)

    def _answer(self, answer: Any) -> None:
        assert self._answers is not None
        self._answers.put(answer)

    def _abandon(self) -> None:
        """Nobody listens any more: a thread that still runs is to end at its next word."""
        self._gone = True
        if self._answers is not None:
            # Whatever it waits for: at most two acknowledgements, or a piece of the body.
            for _ in range(3):
                self._answers.put(None)
        if self._files:
            self._pool.call(self._context.run, self._close_file)

    def _wake(self) -> None:
        self._woken = False  # what is said from here on needs another call
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- in a thread

    def _say(self, message: Message) -> None:
        self._said.append(message)
        if not self._woken:
            self._woken = True
            self._pool.deliver(self._wake)

    def _ask(self, question: object) -> None:
        """Say what the loop is to answer; the answer is waited for by the caller."""
        if self._answers is None:
            self._answers = queue.SimpleQueue()
        if self._gone:  # looked at after there is a queue: see _abandon()
            raise _Left
        self._said.append(question)
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the process ends, and nobody will answer
            raise _Left from None

    def _fetch(self) -> tuple[bytes, bool] | None:
        """For BodyReader: wait for the next piece of the body."""
        try:
            self._take_acknowledgements(0)
            self._ask(_READ)
        except _Left:
            return None
        assert self._answers is not None
        piece: tuple[bytes, bool] | None = self._answers.get()
        return piece

    def _take_acknowledgements(self, outstanding: int) -> None:
        while self._acknowledgements > outstanding:
            assert self._answers is not None
            self._answers.get()
            self._acknowledgements -= 1

    def run(self) -> None:
        self._context.run(self._run)

    def finished(self) -> None:
        self._ended = True
        self._wake()

    def _run(self) -> None:
        try:
            result = self._application(self._environ, self._start_response)
            try:
                path = self._path_of(result)
                if path is None:
                    self._iterate(result)
                else:
                    self._files.append(result)
                    result = None  # it is closed when it has been sent
                    self._head_said = True
                    self._said.append(self._head)
                    self._said.append({"type": "http.response.pathsend", "path": path})
            finally:
                _close(result)
        except _Left:
            pass
        except BaseException as error:
            self._error = error

    def _close_file(self) -> None:
        """Of a result that was sent as a file."""
        try:
            result = self._files.pop()
        except IndexError:
            return  # the other side was faster
        _close(result)

    def _path_of(self, result: Any) -> str | None:
        if self._head is None or self._head_said:
            return None
        return sendable_path(result, self._head, self._extensions)

    def _iterate(self, result: Any) -> None:
        if type(result) in (list, tuple) and len(result) == 1:
            self._put(result[0], last=True)
            return
        for chunk in result:
            if chunk:
                self._put(chunk)
            elif self._gone:
                raise _Left
        if not self._whole:
            self._put(b"", last=True)

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response()."""
        if exc_info:
            try:
                if self._head_said:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise RuntimeError("start_response() was called twice, the second time without exc_info")
        self._head = response_start(status, headers)
        return self._write

    def _write(self, data: bytes) -> None:
        try:
            self._put(data)
        except _Left:
            raise ClientDisconnected("the client has left") from None

    def _put(self, chunk: Any, last: bool = False) -> None:
        """Say some of the response; wait where the client is slow."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"a WSGI application's response consists of bytes, not {type(chunk).__name__}")
        if not self._head_said:
            if self._head is None:
                raise RuntimeError("the application has not called start_response()")
            self._head_said = True
            self._left = content_length(self._head)
            self._said.append(self._head)
        if self._gone:
            raise _Left
        if self._whole:
            if not chunk:
                return
            raise ValueError("the response is longer than its Content-Length")
        if self._left is not None:
            # All that was announced: the response is whole, though the iterator may have more to do.
            self._left -= len(chunk)
            last = last or (self._left <= 0 and bool(chunk))
        self._whole = last
        self._say({"type": "http.response.body", "body": chunk, "more_body": not last})
        self._ahead += len(chunk)
        if not last and self._ahead >= WINDOW // 2:
            self._ahead = 0
            self._ask(_ACKNOWLEDGE)
            self._acknowledgements += 1
            self._take_acknowledgements(1)
            if self._gone:
                raise _Left


def _close(result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
