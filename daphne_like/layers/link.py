"""
A member's way to the broker: one connection over a Unix socket, made again whenever it is lost.

A link lives on one event loop; what is not answered may be said from other threads. What a turn of the loop
says leaves in one write at its end, or in a few if it is much.

When the broker goes away, whoever awaits an answer gets LayerUnavailable, as nobody knows what it had done. The
link tries again, with back-off and jitter, until it is stopped. Requests made meanwhile wait for ready(), which
has a limit. As soon as it is back, before anything else is said, its user tells the new broker again what the
old one knew (LinkUser.joined): the truth about wants and memberships is in the member's process.
"""

import asyncio
import collections
import contextlib
import logging
import os
import random
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable
from typing import Any, Protocol, cast

from daphne_like import logs
from daphne_like.errors import LayerUnavailable

from . import socket_file
from .frames import MAGIC, VERSION, FrameReader, Op, decode_positions, encode, encode_counts, encode_name
from .member import End

__all__ = ["Link", "LinkUser"]

log = logging.getLogger(logs.LAYERS)

# Pieces of frames that are written before the end of the turn, as the broker does.
EAGER = 16

# Seconds: between attempts, each half to whole of twice the one before; for a broker to say WELCOME; for it to
# take leave of us.
FIRST_DELAY = 0.05
MAX_DELAY = 2.0
HELLO_TIMEOUT = 5.0
LEAVE_TIMEOUT = 1.0


class LinkUser(End, Protocol):
    """A member behind a link: what the hub tells it, as plain calls in the link's event loop."""

    def refused(self, ref: int) -> None:
        """An offer found its channel full."""

    def all_told(self) -> None:
        """So much for what has come with one read."""

    def joined(self) -> None:
        """The broker is there; it knows nothing of us but the name. Say it all."""

    def lost(self) -> None:
        """The broker is gone; what it delivered so far stays good."""

    def tick(self) -> None:
        """About once a second while the broker is there."""

    async def take_over(self) -> bool:
        """No broker is there: become it, if that is our part. True ends the link."""


class Link:
    """
    Args:
        path: of the broker's socket.
        user: its name is the member's, kept from broker to broker.
        send_timeout: seconds that an answer, or a broker, is waited for.

    Attributes:
        loop: the event loop that it lives on; None before start().
        connected: there is a broker, and it has let us in. What is said now comes after what joined() said.
    """

    def __init__(self, path: str, user: LinkUser, *, send_timeout: float = 10.0) -> None:
        self.path = path
        self.user = user
        self.send_timeout = send_timeout
        self.loop: asyncio.AbstractEventLoop | None = None
        self.connected = False
        # Connected, and the broker knows all that joined() said.
        self._settled = False
        self._connection: _Connection | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._reason = "nobody has answered"
        # What was logged last of being out of reach, so that it is said once.
        self._said = ""

    def start(self) -> None:
        """Begin to connect, in the running event loop, which stays the link's until stop()."""
        self.loop = asyncio.get_running_loop()
        self._task = self.loop.create_task(self._stay_connected(), name="daphne_like ipc member")

    async def stop(self, *, found: bool = False) -> None:
        """
        Take leave: what was said before arrives, and what was on its way to us is still delivered.

        Args:
            found: who waits in ready() goes on; otherwise it gets LayerUnavailable.
        """
        if found:
            self._wake_waiting()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(LayerUnavailable(f"ipc:{self.path}: the layer was closed"))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        connection = self._connection
        if connection is not None:
            connection.leave()
            await asyncio.wait([connection.gone], timeout=LEAVE_TIMEOUT)
            connection.transport.abort()
            await asyncio.wait([connection.gone])
            self._forget(connection, "the layer was closed")
        self.loop = None

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's connection without a word."""
        # A closed loop has closed its sockets, and the number may be another's.
        if self._connection is not None and self.loop is not None and not self.loop.is_closed():
            socket_file.let_go(self._connection.descriptor)

    async def ready(self) -> None:
        """
        Wait for a broker that knows what this member is part of, or for take_over() to have made one.

        Raises:
            LayerUnavailable: none in `send_timeout` seconds, or stopped.
        """
        if self._settled:
            return
        if self._task is None or self._task.done():
            raise LayerUnavailable(f"ipc:{self.path}: the layer was closed")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(self.send_timeout):
                await waiter
        except TimeoutError:
            raise LayerUnavailable(
                f"ipc:{self.path}: no way to the layer in {self.send_timeout:g} s: {self._reason}"
            ) from None
        finally:
            self._waiting.discard(waiter)

    def request(self, head: bytes, payload: bytes = b"") -> "asyncio.Future[bool]":
        """
        Say what is acknowledged, while connected. In the link's event loop.

        Returns:
            a future: False where the channel was full; LayerUnavailable where no answer came.
        """
        connection = cast(_Connection, self._connection)
        answer = connection.create_future()
        connection.expect(answer)
        connection.write(head, payload)
        return answer

    async def statistics(self) -> bytes:
        """The hub's, packed. While connected, in the link's event loop."""
        return await cast(_Connection, self._connection).ask_statistics()

    def register(self, head: bytes) -> None:
        """Say what is acknowledged without awaiting that. Otherwise as tell()."""
        if running_loop() is not self.loop:
            self._call(self.register, head)
        elif self.connected and self._connection is not None:
            self._connection.expect(None)
            self._connection.write(head, b"")

    def tell(self, head: bytes, payload: bytes = b"") -> None:
        """Say what is not answered, from any thread. Unsaid without a broker: joined() tells it what counts."""
        if running_loop() is not self.loop:
            self._call(self.tell, head, payload)
        elif self.connected and self._connection is not None:
            self._connection.write(head, payload)

    def took(self, prefix: str, count: int) -> None:
        """Counted messages have been read, or are too old: said with the others of this turn. As tell()."""
        if running_loop() is not self.loop:
            self._call(self.took, prefix, count)
        elif self.connected and self._connection is not None:
            self._connection.count_taken(prefix, count)

    def flush(self) -> None:
        """Write now what waits for the end of the turn. In the link's event loop."""
        if self._connection is not None and running_loop() is self.loop:
            self._connection.flush()

    def _call(self, function: Any, *args: Any) -> None:
        loop = self.loop
        if self.connected and loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connection
                loop.call_soon_threadsafe(function, *args)

    # -- staying connected -------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, LayerUnavailable) as error:
                self._unreachable(error)
            else:
                delay = FIRST_DELAY
                await asyncio.shield(connection.gone)
                log.warning("layer lost", extra={"layer": f"ipc:{self.path}", "reason": self._reason})
            if await self.user.take_over():
                self._wake_waiting()
                return
            # Jitter: all members lose the same broker at the same moment.
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(delay * 2, MAX_DELAY)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HELLO_TIMEOUT):
            _, connection = await loop.create_unix_connection(lambda: _Connection(self, loop), self.path)
            try:
                await asyncio.shield(connection.welcomed)
            except BaseException:
                connection.transport.abort()
                raise
        return connection

    def _unreachable(self, error: Exception) -> None:
        if isinstance(error, FileNotFoundError):
            self._reason = "there is no such socket"
        elif isinstance(error, TimeoutError):
            self._reason = "nobody has answered"
        elif isinstance(error, OSError):
            self._reason = error.strerror or str(error)
        else:
            self._reason = str(error)
        # Once per reason, not per attempt.
        if self._reason != self._said:
            self._said = self._reason
            log.warning("layer out of reach", extra={"layer": f"ipc:{self.path}", "reason": self._reason})

    def welcomed(self, connection: "_Connection") -> None:
        """*connection* is the one now. Called by it, before anything else that came with the WELCOME."""
        self._connection = connection
        self.connected = True
        if self._said:
            log.info("layer joined", extra={"layer": f"ipc:{self.path}"})
            self._said = ""
        self.user.joined()
        connection.when_answered(self._settle)

    def ended(self, connection: "_Connection") -> None:
        """*connection* is over. Called by it."""
        self._forget(connection, connection.reason or "the broker has gone")

    def _forget(self, connection: "_Connection", reason: str) -> None:
        connection.fail(LayerUnavailable(f"ipc:{self.path}: {reason}"))
        if self._connection is connection:
            self._connection = None
            self.connected = self._settled = False
            self._reason = self._said = reason
            self.user.lost()

    def _settle(self) -> None:
        if self.connected:
            self._settled = True
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """
    One connection to one broker.

    Attributes:
        pending: acknowledgements awaited, in order; None where nobody looks.
        questions: the same for ANSWERs.
        progress: loop time of the last answer, or of the first request since then.
        welcomed, gone: futures of its beginning and end.
        reason: why the broker ended it, where it said so.
    """

    transport: asyncio.Transport

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.pending: collections.deque[asyncio.Future[bool] | None] = collections.deque()
        self.questions: collections.deque[asyncio.Future[bytes]] = collections.deque()
        self.progress = 0.0
        self.reason = ""
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._link = link
        self._loop = loop
        self.create_future: Callable[[], asyncio.Future[bool]] = loop.create_future
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._flushing = False
        self._counts: dict[str, int] = {}
        self._watch: asyncio.TimerHandle | None = None
        user = link.user
        self._handlers: dict[int, Callable[..., None]] = {
            Op.DELIVER_GROUP: lambda expires, group, payload: user.deliver_group(group, payload, expires),
            Op.DELIVER_KEPT: lambda expires, channel, group, payload: user.deliver_kept(
                channel, group, payload, expires
            ),
            Op.GROUP_ADDED: lambda group, channel, _: user.group_added(group, channel),
            Op.GROUP_DISCARDED: lambda group, channel, _: user.group_discarded(group, channel),
            Op.STREAM_DIVERTED: lambda stream, _: user.stream_diverted(stream),
            Op.FLUSHED: lambda _: user.flushed(),
            Op.DELIVER_OFFER: lambda ref, channel, sender, payload: user.deliver_offer(
                channel, sender, ref, payload
            ),
            Op.CLAIMED: lambda ref, by, _: user.claimed(ref, by),
            Op.OFFER_REFUSED: lambda ref, _: user.refused(ref),
            Op.MEMBER_GONE: lambda name, _: user.member_gone(name),
            Op.ANSWER: self._answered,
            Op.WELCOME: self._welcomed,
            Op.REFUSED: self._refused,
        }

    # -- out ---------------------------------------------------------------------------------------

    def write(self, head: bytes, payload: bytes) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)
        self._out.append(head)
        if payload:
            self._out.append(payload)
            if len(self._out) >= EAGER:
                self.flush()

    def expect(self, answer: "asyncio.Future[bool] | None") -> None:
        """One more acknowledgement."""
        if not self.pending:
            self.progress = self._loop.time()
        self.pending.append(answer)

    def when_answered(self, call: Callable[[], None]) -> None:
        """Call once all that is pending now has been acknowledged; never if the connection ends before."""
        if not self.pending:
            call()
            return
        # Nobody looks at those of joined().
        last = self.pending[-1] = self.create_future()
        last.add_done_callback(lambda done: None if done.exception() else call())

    async def ask_statistics(self) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.questions.append(answer)
        self.write(encode(Op.STATISTICS, (), b"", 0), b"")
        return await answer

    def count_taken(self, prefix: str, count: int) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)
        self._counts[prefix] = self._counts.get(prefix, 0) + count

    def flush(self) -> None:
        self._flushing = False
        out = self._out
        if self._counts:
            # Before the requests of this turn: those may be waiting for the room.
            counts = encode_counts(self._counts)
            out[:0] = (encode(Op.TAKEN, (), b"", len(counts)), counts)
            self._counts.clear()
        if out:
            self._out = []
            if not self.transport.is_closing():
                self.transport.write(b"".join(out))

    def leave(self) -> None:
        """Say all that is to be said, and nothing more."""
        self.flush()
        if not self.transport.is_closing():
            self.transport.write_eof()

    def fail(self, error: LayerUnavailable) -> None:
        """No answer comes to what has been asked."""
        for answer in (*self.pending, *self.questions):
            if answer is not None and not answer.done():
                answer.set_exception(error)

    # -- in ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.descriptor = transport.get_extra_info("socket").fileno()
        name = encode_name(self._link.user.name)
        self.transport.write(encode(Op.HELLO, (MAGIC, VERSION, os.getpid()), name, 0))

    def data_received(self, data: bytes) -> None:
        frames = self._reader.receive_data(data)
        reason = self._reader.error and f"the broker sent a frame {self._reader.error}"
        user = self._link.user
        try:
            for frame in frames:
                op = frame[0]
                if op == Op.DELIVER:
                    user.deliver(frame[3], frame[4], frame[1], frame[2])
                elif op == Op.DELIVER_POST:
                    user.deliver_post(frame[1], frame[2])
                elif op == Op.ACK:
                    self._acknowledged(frame[1], frame[2])
                else:
                    self._handlers.get(op, _out_of_place)(*frame[1:])
        except ValueError as error:
            reason = str(error)
        user.all_told()
        if reason:
            self.reason = reason
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(LayerUnavailable(self.reason or "the broker hung up"))
            # Who awaits it may have been cancelled.
            self.welcomed.exception()
        if self._watch is not None:
            self._watch.cancel()
        self._link.ended(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def _welcomed(self, magic: bytes, version: int, _pid: int, _: bytes) -> None:
        if magic != MAGIC or version != VERSION:
            raise ValueError(f"the broker speaks version {version} of the frames, not {VERSION}")
        if not self.welcomed.done():
            self.welcomed.set_result(None)
            self._link.welcomed(self)
            self._look_after()

    def _refused(self, _magic: bytes, _version: int, _pid: int, why: bytes) -> None:
        raise ValueError(f"the broker refused us: {why.decode(errors='replace')}")

    def _answered(self, payload: bytes) -> None:
        if not self.questions:
            raise ValueError("the broker answered what nobody asked")
        answer = self.questions.popleft()
        if not answer.done():
            answer.set_result(payload)

    def _acknowledged(self, count: int, positions: bytes) -> None:
        pending = self.pending
        if count > len(pending):
            raise ValueError("the broker answered what nobody asked")
        full = frozenset(decode_positions(positions)) if positions else ()
        for position in range(count):
            answer = pending.popleft()
            if answer is not None and not answer.done():
                answer.set_result(position not in full)
        self.progress = self._loop.time()

    def _look_after(self) -> None:
        """Once a second: a broker that is there but does not answer (stopped, stuck) is waited for no longer."""
        self._watch = self._loop.call_later(1, self._look_after)
        self._link.user.tick()
        limit = self._link.send_timeout
        if self.pending and self._loop.time() - self.progress > limit:
            # They stay in the order of answers, which may come yet.
            self.fail(LayerUnavailable(f"ipc:{self._link.path}: no answer in {limit:g} s"))


def _out_of_place(*_: object) -> None:
    raise ValueError("the broker sent what only members send")
