"""
The hub behind a Unix socket: where processes join the layer that this one hosts.

Each connection is one member, an End for the hub as the host's own is. The hub belongs to the layer object that
hosts it (see ipc.py) and is used under that object's lock, from the broker's event loop and from whichever
threads the host sends in.

What one read brings is handled in one go; answers to it leave at the end of the turn of the event loop, with
everything else that this has for the same member: in one write, or in a few if it is much.

Who may join is decided by the socket file's mode, 0600 unless told otherwise, and once more by the peer's
credentials, where the mode gives nothing to others: the same user, or root.

What waits for a member that does not read:

* direct messages: up to the capacity of its channels;
* envelopes of streams: up to the credit of those;
* a stream that is offered: one for each place it has said to have;
* group messages: none beyond HIGH_WATER octets; they are dropped and counted;
* answers: the broker reads nothing from a member for which more than HIGH_WATER octets wait.
"""

import asyncio
import logging
import os
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable
from typing import Any, cast

from daphne_like import logs
from daphne_like.errors import LayerError

from . import codec, socket_file
from .frames import (
    MAGIC,
    MAX_PAYLOAD,
    VERSION,
    FrameReader,
    Op,
    decode_counts,
    decode_pieces,
    encode,
    encode_deliver,
    encode_name,
    encode_positions,
)
from .hub import Hub

__all__ = ["Broker"]

log = logging.getLogger(logs.LAYERS)

# Pieces of frames (a frame has two) that are written before the end of the turn, so that the member has
# something to do meanwhile: else the two processes would take turns, each idle while the other works.
EAGER = 16

# Octets waiting for one member.
HIGH_WATER = 16 * 1024 * 1024
LOW_WATER = 4 * 1024 * 1024
# Seconds that a connection may take to say HELLO.
HELLO_TIMEOUT = 10.0
# Seconds that close() waits for what has been written to reach the members.
CLOSE_TIMEOUT = 1.0


class Broker:
    """
    Serves *hub* at a Unix socket.

    Args:
        lock: held around every call into the hub.
        mode: of the socket file.
    """

    def __init__(self, hub: Hub, lock: threading.RLock, *, path: str, mode: int = 0o600) -> None:
        self.hub = hub
        self.lock = lock
        self.path = path
        self.mode = mode
        self.members: dict[str, MemberConnection] = {}
        self._connections: set[MemberConnection] = set()
        self._server: asyncio.Server | None = None
        self._file: socket_file.BoundSocket | None = None
        self._dirty: list[MemberConnection] = []

    async def start(self) -> bool:
        """
        Bind and listen, in the running event loop, which stays the broker's.

        Returns:
            False where another broker lives at that path.

        Raises:
            LayerUnavailable: the path cannot be bound.
        """
        self.loop = asyncio.get_running_loop()
        self._file = socket_file.bind(self.path, self.mode)
        if self._file is None:
            return False
        self._server = await self.loop.create_unix_server(
            lambda: MemberConnection(self), sock=self._file.socket, backlog=socket_file.BACKLOG
        )
        return True

    async def close(self) -> None:
        """End every connection, after what has been written to it, and remove the socket file."""
        if self._server is None or self._file is None:
            return
        # The file first: whoever comes now waits for the next broker instead of being hung up on.
        self._file.remove()
        self._server.close()
        self._server = None
        self._flush()
        gone = [connection.gone for connection in self._connections]
        for connection in list(self._connections):
            connection.transport.close()
        if gone:
            await asyncio.wait(gone, timeout=CLOSE_TIMEOUT)
        for connection in list(self._connections):
            connection.transport.abort()
        if gone:
            await asyncio.wait(gone)

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's sockets, or its members would not see it die."""
        if self._server is None or self.loop.is_closed():
            return
        if self._file is not None:
            socket_file.let_go(self._file.socket.fileno())
        for connection in self._connections:
            socket_file.let_go(connection.transport.get_extra_info("socket").fileno())

    def tick(self) -> None:
        """Call about once a second, in the broker's event loop: ends connections that have never said HELLO."""
        now = self.loop.time()
        for connection in list(self._connections):
            if not connection.name and now - connection.since > HELLO_TIMEOUT:
                connection.refuse("it said nothing")

    def admit(self, connection: "MemberConnection", name: str, pid: int) -> str:
        """Make *connection* the member *name*. Returns why not, or ""."""
        if not (name.isascii() and name.isalnum()) or len(name) > 64:
            return "its name is none"
        before = self.members.get(name)
        if before is not None:
            if before.pid != pid:
                return "another process has its name"
            # It has come back before we noticed that it was gone.
            before.leave()
            before.transport.abort()
        connection.name = name
        connection.pid = pid
        try:
            self.hub.join(connection)
        except LayerError:
            connection.name = ""
            return "the host has its name"
        self.members[name] = connection
        log.debug("member joined", extra={"member": name, "pid": pid})
        return ""

    # -- what the connections need of it -----------------------------------------------------------

    def opened(self, connection: "MemberConnection") -> None:
        self._connections.add(connection)

    def closed(self, connection: "MemberConnection") -> None:
        self._connections.discard(connection)

    def flush_soon(self, connection: "MemberConnection") -> None:
        """*connection* has something to write at the end of this turn. Under the lock."""
        if not self._dirty:
            if running_loop() is self.loop:
                self.loop.call_soon(self._flush)
            else:
                self.loop.call_soon_threadsafe(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        with self.lock:
            dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()


class MemberConnection(asyncio.Protocol):
    """
    A member, as hub and socket see it.

    Attributes:
        name: "" until HELLO has been accepted.
        since: loop time of its beginning.
        gone: done once the connection has ended.
    """

    transport: asyncio.Transport

    def __init__(self, broker: Broker) -> None:
        self.name = ""
        self.pid = 0
        self.since = broker.loop.time()
        self.gone: asyncio.Future[None] = broker.loop.create_future()
        self._broker = broker
        self._hub = broker.hub
        self._reader = FrameReader()
        self._is_stranger = False
        self._out: list[bytes] = []
        # Octets of group messages in _out, and whether the transport holds too much already.
        self._group_octets = 0
        self._clogged = False
        self._dropped = 0
        self._answered = 0
        self._full: list[int] = []
        # What leaving streams held, where that takes more than one frame.
        self._held: dict[str, list[tuple[str, bytes, float]]] = {}
        self._handlers: dict[int, Callable[..., None]] = {
            Op.WANT: self._want,
            Op.PUT_BACK: self._put_back,
            Op.TAKEN: self._taken,
            Op.GROUP_ADD: self._group_add,
            Op.GROUP_DISCARD: self._group_discard,
            Op.GROUP_SEND: self._group_send,
            Op.FLUSH: self._flush_hub,
            Op.STATISTICS: self._statistics,
            Op.OFFER: self._offer,
            Op.WITHDRAW: self._withdraw,
            Op.SERVE: self._serve,
            Op.STREAM_LEAVING: self._stream_leaving,
            Op.STREAM_HELD: self._stream_held,
        }

    # -- the event loop ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._broker.opened(self)
        pid, uid = self._credentials()
        self.pid = pid
        # Where the mode lets others write to the file, the kernel has judged already.
        self._is_stranger = uid not in (os.geteuid(), 0) and not self._broker.mode & 0o022

    def _credentials(self) -> tuple[int, int]:
        found = socket_file.peer_credentials(self.transport.get_extra_info("socket"))
        return found or (0, os.geteuid())

    def data_received(self, data: bytes) -> None:
        if self._is_stranger:
            # Not before it has written: it might not read the reason otherwise.
            self.refuse("it belongs to another user")
            return
        frames = self._reader.receive_data(data)
        reason = self._reader.error and f"a frame {self._reader.error}"
        hub, name = self._hub, self.name
        with self._broker.lock:
            try:
                if frames and not name:
                    self._hello(frames.pop(0))
                    name = self.name
                for frame in frames:
                    op = frame[0]
                    if op == Op.SEND:
                        if not hub.put(frame[2], frame[3], frame[1]):
                            self._full.append(self._answered)
                        self._answered += 1
                    elif op == Op.POST:
                        hub.post(name, frame[1], frame[2])
                    else:
                        self._handlers.get(op, _out_of_place)(*frame[1:])
            except ValueError as error:
                reason = str(error)
            except Exception:
                log.exception("error while handling a member's frame", extra={"member": name})
                reason = "an error of ours"
            if self._answered:
                self._acknowledge()
        if reason:
            self.refuse(reason)

    def pause_writing(self) -> None:
        self._clogged = True
        self.transport.pause_reading()
        log.warning("member does not read", extra={"member": self.name, "pid": self.pid})

    def resume_writing(self) -> None:
        self._clogged = False
        if not self.transport.is_closing():
            self.transport.resume_reading()
        log.info("member reads again", extra={"member": self.name, "dropped": self._dropped})

    def eof_received(self) -> None:
        """It takes its leave: what was delivered still reaches it, what comes later waits for its return."""
        with self._broker.lock:
            self.leave()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        with self._broker.lock:
            self.leave()
        self._broker.closed(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def leave(self) -> None:
        """Leave the hub, if it had joined. Under the lock."""
        if self.name and self._broker.members.get(self.name) is self:
            del self._broker.members[self.name]
            self._hub.leave(self)
            log.debug("member left", extra={"member": self.name, "pid": self.pid, "dropped": self._dropped})
        self.name = ""

    def refuse(self, reason: str) -> None:
        """Something is wrong with this peer: say so, to it and to the log, and end the connection."""
        log.warning("ipc connection closed", extra={"member": self.name, "pid": self.pid, "reason": reason})
        with self._broker.lock:
            self.leave()
        self.flush()
        text = reason.encode()
        self.transport.write(encode(Op.REFUSED, (MAGIC, VERSION, os.getpid()), b"", len(text)) + text)
        self.transport.close()

    def flush(self) -> None:
        """Write what has gathered."""
        with self._broker.lock:
            out, self._out = self._out, []
            self._group_octets = 0
        if out and not self.transport.is_closing():
            self.transport.write(b"".join(out))

    def _write(self, head: bytes, payload: bytes = b"") -> None:
        if not self._out:
            self._broker.flush_soon(self)
        self._out.append(head)
        if payload:
            self._out.append(payload)
            if len(self._out) >= EAGER and running_loop() is self._broker.loop:
                self.flush()

    # -- what the hub delivers ---------------------------------------------------------------------

    def deliver(self, channel: str, payload: bytes, expires: float, counted: bool) -> None:
        self._write(encode_deliver(expires, counted, channel, len(payload)), payload)

    def deliver_group(self, group: str, payload: bytes, expires: float) -> None:
        if self._clogged or self._group_octets > HIGH_WATER:
            self._dropped += 1
            return
        self._group_octets += len(payload)
        self._write(encode(Op.DELIVER_GROUP, (expires,), encode_name(group), len(payload)), payload)

    def deliver_kept(self, channel: str, group: str, payload: bytes, expires: float) -> None:
        names = encode_name(channel) + encode_name(group)
        self._write(encode(Op.DELIVER_KEPT, (expires,), names, len(payload)), payload)

    def group_added(self, group: str, channel: str) -> None:
        self._write(encode(Op.GROUP_ADDED, (), encode_name(group) + encode_name(channel), 0))

    def group_discarded(self, group: str, channel: str) -> None:
        self._write(encode(Op.GROUP_DISCARDED, (), encode_name(group) + encode_name(channel), 0))

    def stream_diverted(self, stream: str) -> None:
        self._write(encode(Op.STREAM_DIVERTED, (), encode_name(stream), 0))

    def flushed(self) -> None:
        self._write(encode(Op.FLUSHED, (), b"", 0))

    def deliver_post(self, sender: str, payload: bytes) -> None:
        self._write(encode(Op.DELIVER_POST, (), encode_name(sender), len(payload)), payload)

    def deliver_offer(self, channel: str, sender: str, ref: int, payload: bytes) -> None:
        names = encode_name(channel) + encode_name(sender)
        self._write(encode(Op.DELIVER_OFFER, (ref,), names, len(payload)), payload)

    def claimed(self, ref: int, by: str) -> None:
        self._write(encode(Op.CLAIMED, (ref,), encode_name(by), 0))

    def member_gone(self, name: str) -> None:
        self._write(encode(Op.MEMBER_GONE, (), encode_name(name), 0))

    # -- what the member says ----------------------------------------------------------------------

    def _hello(self, frame: tuple[Any, ...]) -> None:
        if frame[0] != Op.HELLO or frame[1] != MAGIC:
            raise ValueError("it is no member")
        _, _, version, pid, name, _ = frame
        self.pid = pid
        if version != VERSION:
            raise ValueError(f"it speaks version {version} of the frames, not {VERSION}")
        if reason := self._broker.admit(self, name, pid):
            raise ValueError(reason)
        self._write(encode(Op.WELCOME, (MAGIC, VERSION, os.getpid()), b"", 0))

    def _acknowledge(self) -> None:
        payload = encode_positions(self._full)
        self._write(encode(Op.ACK, (self._answered,), b"", len(payload)), payload)
        self._answered = 0
        self._full.clear()

    def _want(self, count: int, channel: str, _: bytes) -> None:
        if count >= 0:
            self._hub.want(self, channel, count)
        else:
            self._hub.unwant(self, channel, -count)

    def _put_back(self, expires: float, channel: str, payload: bytes) -> None:
        self._hub.put_back(channel, payload, expires)

    def _taken(self, counts: bytes) -> None:
        self._hub.taken(self, decode_counts(counts))

    def _group_add(self, group: str, channel: str, stream: str, _: bytes) -> None:
        self._hub.group_add(self, group, channel, stream)
        self._answered += 1

    def _group_discard(self, group: str, channel: str, _: bytes) -> None:
        self._hub.group_discard(group, channel)
        self._answered += 1

    def _group_send(self, expires: float, group: str, payload: bytes) -> None:
        self._hub.put_group(group, payload, expires)
        self._answered += 1

    def _flush_hub(self, _: bytes) -> None:
        self._hub.flush()
        self._answered += 1

    def _statistics(self, _: bytes) -> None:
        answer = codec.pack(self._hub.statistics())
        if len(answer) > MAX_PAYLOAD:
            answer = codec.pack({})
        self._write(encode(Op.ANSWER, (), b"", len(answer)), answer)

    def _offer(self, ref: int, limit: int, channel: str, payload: bytes) -> None:
        by = self._hub.offer(self, channel, ref, payload, limit)
        if by is None:
            self._write(encode(Op.OFFER_REFUSED, (ref,), b"", 0))
        elif by:
            self.claimed(ref, by)

    def _withdraw(self, ref: int, channel: str, _: bytes) -> None:
        self._hub.withdraw(self, channel, ref)

    def _serve(self, places: int, channel: str, _: bytes) -> None:
        self._hub.serve(self, channel, places)

    def _stream_leaving(self, stream: str, _: bytes) -> None:
        self._hub.stream_leaving(self, stream)

    def _stream_held(self, complete: bool, stream: str, pieces: bytes) -> None:
        held = self._held.setdefault(stream, [])
        held += decode_pieces(pieces)
        if complete:
            del self._held[stream]
            self._hub.stream_held(self, stream, held)


def _out_of_place(*_: object) -> None:
    raise ValueError("a frame that only a broker sends, or a second HELLO")
