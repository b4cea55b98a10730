"""
Streaming responses over sync iterators, no further ahead than the client takes them.

Django pulls the whole iterator into memory first. Here a job pulls WINDOW octets at most and gives the thread
back; the next one comes when the client has taken them. What the iterator yields leaves at once, also when it
then waits.

An iterator may be reading from the database, over a connection that belongs to its thread. So a stream keeps
its thread as long as a connection is open there (files do not: see hop.py), and it does so alone: nobody else
finds the thread. At most half of --max-threads may be held so. Who comes after that is pulled to its end, as
with Django.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Iterator
from typing import Any

from daphne_like.asgi.stream import Wakeup
from daphne_like.thread_jobs import Job, Lease
from daphne_like.threads import ThreadPool
from daphne_like.typing import Send

from .hop import enter, response_headers
from .receivers import in_hand

__all__ = ["SyncStream"]

# Octets that are pulled ahead of the client.
WINDOW = 64 * 1024

_END: Any = object()


class SyncStream:
    """
    Args:
        lease: of the thread to stay in; None where any will do.
        context: the request's; nobody else enters it from now on.
        chunk_size: octets of a body message, at most.
    """

    def __init__(
        self,
        response: Any,
        pool: ThreadPool,
        lease: Lease | None,
        context: contextvars.Context,
        chunk_size: int,
    ) -> None:
        self.response = response
        self.pool = pool
        self.context = context
        self.parts: deque[bytes] = deque()
        self.iterator: Iterator[bytes] | None = None
        self.exhausted = False
        self.error: BaseException | None = None
        self.arrived = Wakeup()
        self.pulling = False
        self.loop = asyncio.get_running_loop()
        self._chunk_size = chunk_size
        if lease is None:
            lease = pool.lease()
            lease.loosen()
        lease.pins = True
        self.lease = lease

    async def send_to(self, send: Send) -> None:
        """Send the response; raises what the iterator raised, or send()."""
        await send(
            {
                "type": "http.response.start",
                "status": self.response.status_code,
                "headers": response_headers(self.response),
            }
        )
        while True:
            while self.parts:
                await self._send_part(send, self.parts.popleft())
            if self.error is not None:
                raise self.error
            if self.pulling:
                await self.arrived.wait()
            elif self.exhausted:
                break
            else:
                self.pulling = True
                self.lease.submit_job(_Pull(self))
        await send({"type": "http.response.body"})

    async def _send_part(self, send: Send, part: bytes) -> None:
        for begin in range(0, len(part), self._chunk_size) or (0,):
            chunk = part[begin : begin + self._chunk_size]
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    def close_later(self) -> asyncio.Future[None]:
        """Close the response, in the thread that it was pulled in, and let go of that."""
        closing = self.lease.submit(self.context.run, self._close)
        self.lease.end()
        return closing

    async def close(self) -> None:
        """The same, and wait for it."""
        await asyncio.shield(self.close_later())

    def _close(self) -> None:
        enter(self.context, self.loop, [])
        self.response.close()


class _Pull(Job):
    """The next of what a stream has."""

    __slots__ = ("_stream", "lease")

    def __init__(self, stream: SyncStream) -> None:
        self._stream = stream
        self.lease = stream.lease

    def run(self) -> None:
        self._stream.context.run(self._run)

    def _run(self) -> None:
        stream = self._stream
        enter(stream.context, stream.loop, [])
        try:
            if stream.iterator is None:
                stream.iterator = iter(stream.response)
            size = 0
            while True:
                part = next(stream.iterator, _END)
                if part is _END:
                    stream.exhausted = True
                    return
                stream.parts.append(part)
                size += len(part)
                if size >= WINDOW and (not in_hand() or stream.pool.may_hold()):
                    return
                stream.pool.deliver(stream.arrived.wake)
        except BaseException as error:
            stream.error = error

    def finished(self) -> None:
        self._stream.pulling = False
        self._stream.arrived.wake()
