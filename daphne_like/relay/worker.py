"""
A worker: takes streams that servers offer, and runs the application for each of them.

    start()   joins the layer and says how many streams of each shared channel it has places for
    offer     -> a Session, a task; its place is given back when it ends
    drain()   serves nothing new; HTTP sessions run to their end, WebSockets are handed off
    stop()    leaves the layer with what is left, as if it had died: servers have what can go on do so elsewhere

Places are the only bound on how much runs at a time; servers see in them how busy a worker is, since the layer
gives each stream to whoever has the most free places. All that sessions say within one turn of the event loop
leaves together.

A server that goes, or the layer as a whole, takes its sessions with it: each is told that its client is lost.

Other channels by name ("thumbnails") run one application instance each: see channel_runner.
"""

import asyncio
import fnmatch
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from daphne_like import logs
from daphne_like.asgi.direct import direct_of
from daphne_like.asgi.stream import NEVER, Wakeup
from daphne_like.errors import ConfigurationError, RelayError
from daphne_like.layers.port import Envelope
from daphne_like.relay.channel_runner import ChannelRunner
from daphne_like.relay.envelope import (
    BOUND,
    CANCEL,
    CREDIT,
    END,
    EVENTS,
    HTTP_CHANNEL,
    KEEPALIVE,
    WEBSOCKET_CHANNEL,
    read_opening,
)
from daphne_like.relay.foreign_port import port_of
from daphne_like.relay.http_session import HTTPSession
from daphne_like.relay.session import Session
from daphne_like.relay.websocket_session import WebSocketSession
from daphne_like.settings import Settings
from daphne_like.typing import ASGIApplication

__all__ = ["Worker"]

log = logging.getLogger(logs.SERVER)

# How many WebSockets are on their way to another worker at once: enough to be quick, and the workers that
# take them are not stampeded.
HANDOFFS_AT_ONCE = 64

# For the layer to confirm that nothing more is coming, and for cancelled applications to end.
ANSWER_TIME = 2.0
END_TIME = 2.0

BEAT = 1.0

_AnySession = HTTPSession | WebSocketSession

_CLASSES: dict[str, type[_AnySession]] = {
    HTTP_CHANNEL: HTTPSession,
    WEBSOCKET_CHANNEL: WebSocketSession,
}


class Worker:
    """
    Args:
        application: ASGI 3.
        layer_or_port: a Port, a layer of ours (which has one), or any other channel layer.
        settings: read are `only`, `channels`, `worker_sessions`, `worker_websockets` and
            `application_close_timeout`.
        state: what the application's lifespan has left for its requests; None where it has no lifespan.
        on_served: called after each session that ended.

    Attributes:
        served: streams taken so far.
        draining: nothing new is served.
        beat: time.monotonic() of the event loop's last beat, each second. May be read from any thread: when it
            grows old, the event loop is stuck.
    """

    def __init__(
        self,
        application: ASGIApplication,
        layer_or_port: Any,
        settings: Settings | None = None,
        *,
        state: dict[str, Any] | None = None,
        on_served: Callable[[], None] | None = None,
    ) -> None:
        settings = settings if settings is not None else Settings()
        self._port = port = port_of(layer_or_port)
        self.post = port.post
        self.application = application
        self._direct = direct_of(application)
        self.state = state
        self.application_close_timeout = settings.application_close_timeout
        self.draining = False
        self.served = 0
        self.beat = time.monotonic()
        self._on_served = on_served
        places = {HTTP_CHANNEL: settings.worker_sessions, WEBSOCKET_CHANNEL: settings.worker_websockets}
        self._places = {
            channel: count
            for channel, count in places.items()
            if not settings.only or any(fnmatch.fnmatchcase(channel, glob) for glob in settings.only)
        }
        self._free = dict.fromkeys(places, 0)  # places that have been told to the layer
        self._returned = dict.fromkeys(places, 0)  # places that will be, at the end of this turn
        self._running = dict.fromkeys(places, 0)
        self._sessions: dict[str, dict[int, _AnySession]] = {}  # by server and stream
        self._watched: set[Session] = set()
        self._to_flush: list[Session] = []
        self._turn_scheduled = False
        self._to_hand_off: deque[WebSocketSession] = deque()
        self._handing_off: set[Session] = set()
        self._stopped = 0  # of those that run: their applications have been cancelled
        self._nothing_follows: asyncio.Future[None] | None = None
        self._changed = Wakeup()
        self._beating: asyncio.TimerHandle | None = None
        self._runners: list[ChannelRunner] = []
        if settings.channels:
            if not hasattr(layer_or_port, "receive"):
                raise ConfigurationError("--channels: needs a channel layer to receive from")
            self._runners = [ChannelRunner(application, layer_or_port, name) for name in settings.channels]
        self._leaving: Callable[[str], None] | None = getattr(layer_or_port, "stream_leaving", None)
        self._left: Callable[[str], None] | None = getattr(layer_or_port, "stream_left", None)
        self._inherited: Callable[[str, Mapping[str, str]], None] | None = getattr(
            layer_or_port, "stream_inherited", None
        )

    # ---- life

    @property
    def address(self) -> str:
        """Its name on the layer; "" while it is not there."""
        return self._port.address

    @property
    def sessions(self) -> dict[str, int]:
        """How many run now, by shared channel."""
        return self._running.copy()

    def in_hand(self) -> dict[str, list[list[int]]]:
        """
        What must not be done again elsewhere, should the event loop never come back from this turn.

        May be called from any thread.

        Returns:
            by server, [stream, epoch, taken]: of requests whose application has begun; and of WebSockets whose
            application has taken something in this turn, which their servers do not know yet.
        """
        found: dict[str, list[list[int]]] = {}
        # Copies: the event loop's thread may have come back.
        sessions: list[Session] = [
            each for each in list(self._to_flush) if isinstance(each, WebSocketSession)
        ]
        for streams in list(self._sessions.values()):
            sessions += [
                each for each in list(streams.values()) if isinstance(each, HTTPSession) and each.begun
            ]
        for session in sessions:
            found.setdefault(session.server, []).append([session.stream, session.epoch, session.taken])
        return found

    async def start(self) -> None:
        """
        Join the layer and serve.

        Raises:
            LayerUnavailable: it cannot be reached.
        """
        self._loop = asyncio.get_running_loop()
        self._create_task = self._loop.create_task
        await self._port.open(self)
        self._beat()
        self._serve()
        for runner in self._runners:
            runner.start()

    def _serve(self) -> None:
        """Tell the layer of all places that are free."""
        for channel, places in self._places.items():
            self._free[channel] = places - self._running[channel]
            self._returned[channel] = 0
            self._port.serve(channel, self._free[channel])

    async def drain(self, timeout: float | None = None) -> bool:
        """
        Serve nothing new, and wait until the sessions have ended.

        HTTP sessions run to their end, but for event streams, which are offered back to their servers as
        WebSockets are: a few at a time. Channels stop after the message in hand.

        Applications that have been cancelled and do not end are not waited for.

        Args:
            timeout: seconds; None for no limit. What is left then is for stop() to end.

        Returns:
            whether all others have ended.
        """
        if not self.draining:
            self._begin_drain()
        try:
            async with asyncio.timeout(timeout):
                await self._last_offer()
                while sum(self._running.values()) > self._stopped:
                    await self._changed.wait()
                for runner in self._runners:
                    await runner.ended()
        except TimeoutError:
            return False
        self._port.flush()
        return True

    def _begin_drain(self) -> None:
        self.draining = True
        for channel, free in self._free.items():
            if free:
                self._port.serve(channel, -free)
            self._free[channel] = 0
        for runner in self._runners:
            runner.drain()
        for session in self._each_session():
            self._hand_off(session)

    async def _last_offer(self) -> None:
        """Wait until no offer can be on its way to us: what we post to ourselves comes behind all of them."""
        self._nothing_follows = self._loop.create_future()
        self.post(self._port.address, [KEEPALIVE])
        self._port.flush()
        await asyncio.wait((self._nothing_follows,), timeout=ANSWER_TIME)

    def _hand_off(self, session: _AnySession) -> None:
        """Offer a stream back to its server, WebSockets a few at a time."""
        if session.closes:
            session.hand_off()  # all at once: it is the server that spreads their ends
        elif isinstance(session, WebSocketSession):
            self._to_hand_off.append(session)
            self._hand_off_next()
        elif session not in self._handing_off and session.hand_off():
            self._handing_off.add(session)

    def _hand_off_next(self) -> None:
        while self._to_hand_off and len(self._handing_off) < HANDOFFS_AT_ONCE:
            session = self._to_hand_off.popleft()
            if session.hand_off():
                self._handing_off.add(session)

    def _each_session(self) -> list[_AnySession]:
        return [session for streams in self._sessions.values() for session in streams.values()]

    async def stop(self) -> None:
        """Leave the layer, and cancel what is left."""
        self.draining = True
        await asyncio.gather(*(runner.stop() for runner in self._runners))
        each = self._each_session()
        sessions = {session.task: session for session in each if session.task is not None}
        for session in each:
            session.abandon()
        self._end_of_turn()
        await self._port.close()
        if sessions:
            _, pending = await asyncio.wait(sessions, timeout=END_TIME)
            for task in pending:
                log.error("an application does not end, leaving it behind", extra=sessions[task].described)
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    def _beat(self) -> None:
        self.beat = time.monotonic()
        self._beating = self._loop.call_later(BEAT, self._beat)
        if self._watched:
            now = self._loop.time()
            for session in [each for each in self._watched if each.deadline <= now]:
                self.unwatch(session)
                session.deadline_passed()
        if self.draining:
            for streams in self._sessions.values():
                for session in streams.values():
                    if isinstance(session, HTTPSession):
                        self._hand_off(session)  # its event stream may have begun meanwhile

    # ---- for the port

    def offer_received(self, channel: str, sender: str, ref: int, opening: list[Any]) -> None:
        """A stream to serve."""
        try:
            opened = read_opening(opening)
            session = _CLASSES[channel](self, sender, channel, opened)
        except (RelayError, KeyError, TypeError, ValueError) as error:
            self._refuse(channel, sender, opening, error)
            return
        self._free[channel] -= 1
        self._running[channel] += 1
        self.served += 1
        streams = self._sessions.get(sender)
        if streams is None:
            streams = self._sessions[sender] = {}
        elif session.stream in streams:
            streams[session.stream].server_lost()  # an epoch that its server has given up
        streams[session.stream] = session
        if self.state is not None:
            session.scope["state"] = self.state.copy()
        if not self._port.knows_claims:
            self.post(sender, [BOUND, session.stream, session.epoch])
            self._port.flush()  # alone, and before the application can do anything
        if (
            self._direct is None
            or type(session) is not HTTPSession
            or not session.is_whole
            or not session.run_directly(self._direct)
        ):
            session.task = self._create_task(session.run())
        if self.draining:
            self._hand_off(session)

    def _refuse(self, channel: str, sender: str, opening: Any, error: Exception) -> None:
        """It was offered by a server of another version, or is garbage."""
        log.error(
            "refused a stream that this worker does not understand",
            extra={"channel": channel, "server": sender, "reason": str(error)},
        )
        if channel in self._returned:
            self._free[channel] -= 1
            self._give_place_back(channel)
        if isinstance(opening, (list, tuple)) and len(opening) > 2:
            _, stream, epoch = opening[:3]
            if type(stream) is int and type(epoch) is int:
                self._port.post(sender, [END, stream, epoch, 0, 0, type(error).__name__, []])

    def envelopes_received(self, sender: str, batch: list[Envelope]) -> None:
        """What a server says to sessions."""
        streams = self._sessions.get(sender)
        if streams is None:
            if self._nothing_follows is not None and sender == self._port.address:
                self._answered()
                return
            streams = {}  # all of them have ended
        for envelope in batch:
            try:
                kind = envelope[0]
                session = streams.get(envelope[1]) if len(envelope) > 2 else None
                if session is None or session.epoch != envelope[2]:
                    if kind == KEEPALIVE and len(envelope) > 2:
                        self.post(sender, [END, envelope[1], envelope[2], -1, 0, "unknown", []])
                    continue
                if kind == EVENTS:
                    session.events_received(envelope[3], envelope[4], envelope[5])
                elif kind == CREDIT:
                    session.credit_received(envelope[3], envelope[4])
                elif kind == CANCEL:
                    session.cancelled(envelope[3], envelope[4])
                elif kind == KEEPALIVE:
                    session.keepalive_received(envelope[3], envelope[4])
            except (IndexError, TypeError, ValueError, KeyError, AttributeError):
                log.exception("envelope that this worker does not understand", extra={"server": sender})

    def offer_claimed(self, ref: int, by: str) -> None:
        """Not ours: workers offer nothing."""

    def offer_refused(self, ref: int) -> None:
        """Not ours: workers offer nothing."""

    def member_gone(self, address: str) -> None:
        """If it was a server: its streams are gone."""
        for session in list(self._sessions.get(address, {}).values()):
            session.server_lost()

    def port_stalled(self) -> None:
        """What is posted waits, and so does nobody here."""

    def port_resumed(self) -> None:
        """It goes on."""

    def port_lost(self) -> None:
        """No server can be reached."""
        for address in list(self._sessions):
            self.member_gone(address)
        for channel in self._free:
            self._free[channel] = 0
        if self._nothing_follows is not None:
            self._answered()

    def _answered(self) -> None:
        assert self._nothing_follows is not None
        if not self._nothing_follows.done():
            self._nothing_follows.set_result(None)

    def port_regained(self) -> None:
        """Serve again."""
        if not self.draining:
            self._serve()

    # ---- for sessions

    def flush_soon(self, session: Session) -> None:
        """Have session.flush() called at the end of this turn of the event loop."""
        self._to_flush.append(session)
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._turn_scheduled = False
        sessions = self._to_flush
        self._to_flush = []
        for session in sessions:
            try:
                session.flush()
            except Exception:
                # The others, marked as scheduled, would never be flushed again.
                log.exception("session failed at the end of a turn, broke it off", extra=session.described)
                session.server_lost()
        if not self.draining:
            for channel, count in self._returned.items():
                if count:
                    self._returned[channel] = 0
                    self._free[channel] += count
                    self._port.serve(channel, count)
        self._port.flush()

    def watch(self, session: Session, seconds: float) -> None:
        """Have session.deadline_passed() called when *seconds* are over."""
        session.deadline = min(session.deadline, self._loop.time() + seconds)
        self._watched.add(session)

    def unwatch(self, session: Session) -> None:
        """Have it not called."""
        session.deadline = NEVER
        self._watched.discard(session)

    def stream_leaving(self, label: str) -> None:
        """Have the layer keep the stream's group messages from now on."""
        if self._leaving is not None:
            self._leaving(label)

    def stream_left(self, label: str) -> None:
        """Have the layer hand over what the stream's channels still hold."""
        if self._left is not None:
            self._left(label)

    def stream_inherited(self, label: str, will: Mapping[str, str]) -> None:
        """Tell the layer what a lost worker's has left for it."""
        if self._inherited is not None:
            self._inherited(label, will)

    def session_stopped(self) -> None:
        """One more that is not waited for."""
        self._stopped += 1
        self._changed.wake()

    def session_ended(self, session: Session) -> None:
        """Give its place back."""
        if session.stopped:
            self._stopped -= 1
        streams = self._sessions.get(session.server)
        if streams is not None and streams.get(session.stream) is session:
            del streams[session.stream]
            if not streams:
                del self._sessions[session.server]
        self._running[session.channel] -= 1
        self._give_place_back(session.channel)
        if self.draining:
            self._handing_off.discard(session)
            self._hand_off_next()
            self._changed.wake()
        if self._on_served is not None:
            self._on_served()

    def _give_place_back(self, channel: str) -> None:
        self._returned[channel] += 1
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._end_of_turn)
