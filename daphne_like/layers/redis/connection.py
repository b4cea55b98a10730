"""
One connection to one engine.

redis-py makes it: names and sockets, TLS, users and passwords, the database. Then the transport is taken over by
a protocol of our own, which hands on what hiredis parses, all replies of a read at once. redis-py's own reading
costs a coroutine and a timer for each reply, and its own retries would send twice.

What redis-py keeps private and this stands on: `_reader` and `_writer` of its asyncio connections, which are the
pair of asyncio.open_connection(). Between connect() and the take-over nothing is read, as nothing was asked.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import hiredis
import redis.asyncio.connection as redis_py
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from daphne_like.errors import LayerUnavailable
from daphne_like.layers import socket_file

from .hosts import Host

__all__ = ["NEVER_DONE", "Connection", "Refused", "connect", "pack"]

# Seconds: for a socket to be connected; for all until the first command.
CONNECT_TIMEOUT = 1.0
HELLO_TIMEOUT = 5.0

_NOTHING: Final = object()

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

# Error replies to what was not done, and may be possible a little later.
NEVER_DONE: Final = {
    "ASK": "the slot moves to another node",
    "BUSY": "busy with somebody's script",
    "CLUSTERDOWN": "the cluster is down",
    "EXECABORT": "refused a part of a transaction",
    "LOADING": "loading its data",
    "MASTERDOWN": "a replica without its master",
    "MISCONF": "refuses writes, as it cannot persist them",
    "MOVED": "the slot has moved to another node",
    "NOAUTH": "wants a password",
    "NOREPLICAS": "refuses writes, as too few replicas follow",
    "NOSCRIPT": "has lost its scripts",
    "OOM": "out of memory",
    "READONLY": "a replica, which takes no writes",
    "TRYAGAIN": "the slot is moving to another node",
    "UNBLOCKED": "a replica now",
}


class Refused(Exception):
    """
    An error reply, as it stands in the stream of replies.

    Attributes:
        code: its first word, "NOSCRIPT".
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


class Connection(asyncio.Protocol):
    """
    Args:
        made: redis-py's, connected.
        replied: gets what was read, in order: bytes, int, None, lists of such, Refused.
        lost: the connection is over; gets the reason.
    """

    def __init__(
        self,
        made: redis_py.AbstractConnection,
        replied: Callable[[list[Any]], None],
        lost: Callable[[str], None],
    ) -> None:
        self._made = made
        self._replied = replied
        self._lost = lost
        self._reason = ""
        self._parser = hiredis.Reader(replyError=Refused, notEnoughData=_NOTHING)
        writer = cast(asyncio.StreamWriter, made._writer)
        self._transport = writer.transport
        self._transport.set_protocol(self)
        self._descriptor: int = self._transport.get_extra_info("socket").fileno()
        if self._transport.is_closing():
            # The stream's protocol was told, and nobody listened.
            asyncio.get_running_loop().call_soon(self.connection_lost, None)
        self.write: Callable[[bytes], None] = self._transport.write

    def tell(self, replied: Callable[[list[Any]], None], lost: Callable[[str], None]) -> None:
        """From now on others are told."""
        self._replied = replied
        self._lost = lost

    def abort(self, reason: str) -> None:
        """Close without waiting; `lost` is called a little later."""
        self._reason = self._reason or reason
        self._transport.abort()

    def end(self, reason: str) -> None:
        """The same, and nobody is told of anything any more."""
        self.tell(_ignore, _ignore)
        self.abort(reason)

    def abandon(self) -> None:
        """Let go of the socket without a word; of a loop that has ended, or in the child of a fork."""
        socket_file.let_go(self._descriptor)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        replies = []
        try:
            parser.feed(data)
            gets = parser.gets
            while (reply := gets()) is not _NOTHING:
                replies.append(reply)
        except hiredis.ProtocolError as error:
            self.abort(f"not Redis' protocol: {error}")
        if replies:
            self._replied(replies)

    def connection_lost(self, error: Exception | None) -> None:
        # Dropped here, so that nothing warns of what nobody closed.
        self._made._writer = self._made._reader = None
        lost, self._lost = self._lost, _ignore
        lost(self._reason or (str(error) if error else "the engine hung up"))


def _ignore(_: object) -> None:
    """Nobody is told."""


async def connect(host: Host, commands: Iterable[tuple[Any, ...]]) -> tuple[Connection, list[Any], float]:
    """
    A connection to *host* on which *commands* have been answered. Nobody is told yet of what comes: tell().

    Returns:
        it, the replies to *commands*, and when these were asked (time.monotonic()).

    Raises:
        LayerUnavailable: why it cannot be had, without naming the engine.
    """
    made = _make(host)
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            await made.connect()  # type: ignore[no-untyped-call]
            return await _first_words(made, [pack(words) for words in commands])
    except (TimeoutError, RedisTimeoutError):
        raise LayerUnavailable("nobody has answered") from None
    except (RedisError, OSError, ValueError) as error:
        # ValueError: of a host's name, or of a word for TLS.
        raise LayerUnavailable(str(error)) from error
    finally:
        writer = made._writer
        if writer is not None and not isinstance(writer.transport.get_protocol(), Connection):
            writer.transport.abort()
            made._writer = made._reader = None


def _make(host: Host) -> redis_py.AbstractConnection:
    """redis-py's connection to *host*, not connected yet."""
    options: dict[str, Any] = {"socket_connect_timeout": CONNECT_TIMEOUT, **host.options, "protocol": 2}
    # With a timeout it uses asyncio.wait_for(), which loses cancellations on Python 3.11. We have our own.
    options["socket_timeout"] = None
    if isinstance(host.address, str):
        return redis_py.UnixDomainSocketConnection(path=host.address, **options)
    kind = redis_py.SSLConnection if host.tls else redis_py.Connection
    return kind(host=host.address[0], port=host.address[1], **options)


async def _first_words(
    made: redis_py.AbstractConnection, commands: list[bytes]
) -> tuple[Connection, list[Any], float]:
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    replies: list[Any] = []

    def replied(more: list[Any]) -> None:
        replies.extend(more)
        if len(replies) >= len(commands) and not answered.done():
            answered.set_result(None)

    def lost(reason: str) -> None:
        if not answered.done():
            answered.set_exception(LayerUnavailable(reason))

    connection = Connection(made, replied, lost)
    asked_at = time.monotonic()
    try:
        connection.write(b"".join(commands))
        await answered
    except BaseException:
        connection.abort("given up")
        raise
    return connection, replies, asked_at
