"""
What a stream needs to hold a conversation with an application: its surroundings, and a way to wait.

A *stream* is one request and its response, or one WebSocket. HTTPStream and WebSocketStream keep the
application's side of it (scope, receive, send); below them stand an HTTP connection, which knows the wire, and
a StreamTransport, which keeps the socket.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from daphne_like.asgi.direct import Direct, direct_of
from daphne_like.asgi.forwarded import TrustedPeers
from daphne_like.errors import ClientDisconnected
from daphne_like.http.events import DataReceived, RequestReceived
from daphne_like.http.h1 import H1Connection
from daphne_like.http.h1_tokenizer import FieldTokenizer
from daphne_like.http.identity import Identity
from daphne_like.http.limits import Limits
from daphne_like.logs import AccessLog
from daphne_like.settings import Settings
from daphne_like.typing import Address, ASGIApplication, ServerAddress

__all__ = [
    "LARGE_WRITE",
    "NEVER",
    "ServerContext",
    "Stream",
    "StreamTransport",
    "Timed",
    "Wakeup",
    "came_from_departure",
    "task_starter",
]

# From here on, a write gains nothing from waiting for what else this turn may bring.
LARGE_WRITE = 4096

# When nothing is due.
NEVER = float("inf")


class Timed(Protocol):
    """Something with a deadline, which a coarse clock looks at about once a second."""

    deadline: float

    def deadline_passed(self, now: float) -> None:
        """Act, and set the next deadline (NEVER for none)."""


class Stream(Protocol):
    """
    What the keeper of the socket asks of a stream.

    Attributes:
        wants_data: False while the socket should be paused for this stream.
        task: runs the application.
        described: which one it is, for the log.
    """

    stream_id: int
    task: asyncio.Task[None] | None

    @property
    def wants_data(self) -> bool: ...

    @property
    def described(self) -> dict[str, Any]: ...

    async def run(self) -> None:
        """Call the application, and see to it that the stream ends with it."""

    def client_left(self) -> None:
        """The socket is gone: nothing can be sent any more."""

    def client_silent(self) -> None:
        """The client will send nothing more; it may still read."""

    def handle_data(self, event: DataReceived) -> None:
        """Take what came for this stream."""

    def refused(self, status: int) -> None:
        """The request proved malformed, and the connection answers it with *status*: the rest is off."""

    def writable(self) -> None:
        """The socket takes data again."""

    def shutdown(self) -> None:
        """The server stops: a WebSocket says goodbye, a response goes on."""


class StreamTransport(Protocol):
    """
    The socket, as its streams see it.

    Attributes:
        connection: the HTTP spoken on it. A stream writes there and calls flush() or flush_soon() here.
        context: of the server.
        client: the peer, None for a Unix socket's; server: our own end.
        scheme: "http" or "https".
        tls: the scope's "tls" extension on TLS, else None.
        lost: nothing can be written any more.
        blocked: more waits to be written than the high-water mark allows.
    """

    connection: H1Connection
    context: "ServerContext"
    client: Address | None
    server: ServerAddress | None
    scheme: str
    tls: dict[str, Any] | None
    lost: bool

    @property
    def blocked(self) -> bool: ...

    def flush(self) -> None:
        """Write what the connection has, now."""

    def flush_soon(self) -> None:
        """Write what the connection has at the end of this turn of the event loop."""

    async def drained(self) -> None:
        """Wait until not `blocked`; raises ClientDisconnected when the socket is lost meanwhile."""

    def receive_more(self) -> None:
        """A stream has room for data again."""

    def response_ended(self) -> None:
        """The stream's response is complete: go on with the next request, or close."""

    def upgraded(self) -> None:
        """The connection has become this stream's alone: octets go to octets_received() from now on."""

    def close(self, *, linger: bool) -> None:
        """End the connection when all is written; *linger* where the client may still be sending."""

    def reset(self, reason: str) -> None:
        """Cut the connection: what was sent so far must not look like a whole response."""


@dataclass(slots=True, eq=False)
class ServerContext:
    """
    What all streams of a server share.

    Attributes:
        application: ASGI 3.
        clock: seconds, monotonic; exact.
        spawn: starts a coroutine as a task.
        watch, unwatch: have the coarse clock look at a deadline, or stop that.
        state: what the application's lifespan has left for its requests; None where it has no lifespan.
        running: the streams whose application has not ended; requests: how many of them are HTTP.
        idle: called when one of `running` has ended while draining.
        draining: the server is stopping.
        tells_departure: scopes carry the extension of asgi.departure, for an application that asks for it.
        direct: the application's way around coroutines: asgi.direct.
        takes_shortcuts: it has one of these two.
    """

    application: ASGIApplication
    settings: Settings
    clock: Callable[[], float]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    watch: Callable[[Timed], None]
    unwatch: Callable[[Timed], None]
    identity: Identity
    state: dict[str, Any] | None = None
    tokenizer: FieldTokenizer = field(default_factory=FieldTokenizer)
    running: set[Stream] = field(default_factory=set)
    requests: int = 0
    idle: Callable[[], None] | None = None
    draining: bool = False
    warned_of_proxy: bool = False
    keep_alive: float = field(init=False)
    limits: Limits = field(init=False)
    access_log: AccessLog = field(init=False)
    _named: TrustedPeers = field(init=False)
    _named_and_unix: TrustedPeers = field(init=False)
    max_requests: int | None = field(init=False)
    http_timeout: float | None = field(init=False)
    root_path: str = field(init=False)
    proxy_headers: bool = field(init=False)
    tells_departure: bool = field(init=False)
    direct: Direct | None = field(init=False)
    takes_shortcuts: bool = field(init=False)
    probes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.limits = Limits(
            settings.max_head_size,
            settings.max_header_count,
            settings.max_target_length,
            settings.max_body_size,
        )
        self.access_log = AccessLog(settings)
        self._named = TrustedPeers(settings.forwarded_allow_ips)
        self._named_and_unix = TrustedPeers(settings.forwarded_allow_ips, unix=True)
        # Looked at for each request.
        self.keep_alive = self.settings.keep_alive_timeout or NEVER
        self.max_requests = self.settings.max_concurrent_requests
        self.http_timeout = self.settings.http_timeout
        self.root_path = self.settings.root_path
        self.proxy_headers = self.settings.proxy_headers
        self.tells_departure = getattr(self.application, "wants_departure", False)
        self.direct = direct_of(self.application)
        self.takes_shortcuts = self.tells_departure or self.direct is not None
        probes = [path for path in (settings.health_path, settings.ready_path) if path]
        self.probes = (*probes, *(settings.root_path + path for path in probes))

    def trusted_by(self, server: ServerAddress | None) -> TrustedPeers:
        """Whose forwarding fields are believed on connections to *server*: on own Unix sockets, all peers'."""
        is_own = server is not None and server[1] is None and server[0] in self.settings.unix_socket
        return self._named_and_unix if is_own else self._named

    def is_full_for(self, event: RequestReceived) -> bool:
        """--max-concurrent-requests is reached. Probes of the server itself come in: who is busy is not ill."""
        full = self.max_requests is not None and self.requests >= self.max_requests
        return full and event.raw_path.decode("latin-1") not in self.probes


def task_starter(
    loop: asyncio.AbstractEventLoop,
) -> Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]:
    """
    Starts coroutines of applications as tasks of *loop*: by its task factory, if there is one.

    Otherwise with a name, as Python before 3.12 composes one for each, whether or not anybody ever looks at it.
    """
    factory_of = loop.get_task_factory

    def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if factory_of() is None:
            return asyncio.Task(coroutine, loop=loop, name="daphne_like application")
        return loop.create_task(_in_the_next_turn(coroutine))

    return start


async def _in_the_next_turn(coroutine: Coroutine[Any, Any, None]) -> None:
    """An eager task would run, and might end, before anybody knows of its stream."""
    try:
        await asyncio.sleep(0)
    except BaseException:
        coroutine.close()
        raise
    await coroutine


def came_from_departure(error: BaseException | None) -> bool:
    """Whether *error* is our ClientDisconnected, or what a framework made of it (Starlette has its own)."""
    for _ in range(10):  # chains are short, and could in theory be circles
        if error is None:
            return False
        if isinstance(error, ClientDisconnected):
            return True
        error = error.__cause__ or error.__context__
    return False


class Wakeup:
    """
    Lets coroutines wait until something may have changed.

    Several may wait at once, and each may be cancelled without the others noticing: a future is never shared.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] | None = None

    async def wait(self) -> None:
        """Wait for the next wake(). The caller looks again at what it waited for."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def wake(self) -> None:
        """End all wait()s."""
        if self._waiters is not None:
            waiters = self._waiters
            self._waiters = None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
