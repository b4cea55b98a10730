"""
The socket file of an `ipc` layer: bound by one broker at a time, whatever dead ones have left behind.

Several processes may try at the same moment, when the broker that they all knew has died. Looking whether
somebody listens and taking the place is therefore done under a lock (flock(2) of a file beside the socket,
which exists as long as somebody holds or awaits it).
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from daphne_like.errors import LayerUnavailable

__all__ = ["BoundSocket", "bind", "let_go", "peer_credentials"]

BACKLOG = 256

# struct ucred: pid, uid, gid.
_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket and the file that it was bound to."""

    socket: socket.socket
    path: str
    inode: int

    def remove(self) -> None:
        """Remove the file, unless a successor has put its own there."""
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)


def bind(path: str, mode: int) -> BoundSocket | None:
    """
    Listen at *path*, with that file mode; a file that nobody listens at any more is replaced.

    Returns:
        None where somebody listens already.

    Raises:
        LayerUnavailable: it cannot be bound: no such directory, not permitted, another file in the way.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with _alone(path):
            if not _remove_stale(path):
                sock.close()
                return None
            # Nobody may connect before the mode is as it should be.
            old = os.umask(0o777 & ~mode)
            try:
                sock.bind(path)
            finally:
                os.umask(old)
            os.chmod(path, mode)
            # Before the lock is given up: to others a socket that does not listen looks stale.
            sock.listen(BACKLOG)
            return BoundSocket(sock, path, os.stat(path).st_ino)
    except OSError as error:
        sock.close()
        raise LayerUnavailable(f"cannot listen on ipc:{path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    name = path + ".lock"
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Its holder before us has removed it: a lock of what is no longer there keeps nobody out.
            try:
                current = os.stat(name).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current:
                try:
                    yield
                finally:
                    os.unlink(name)
                return
        finally:
            os.close(descriptor)


def _remove_stale(path: str) -> bool:
    """Whether the place is free now."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in the way")
    except FileNotFoundError:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN: somebody is there
        if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
            return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True


def peer_credentials(sock: socket.socket) -> tuple[int, int] | None:
    """Process and user at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def let_go(descriptor: int) -> None:
    """
    Give up a socket that belongs to the process that this one was forked from.

    The number stays taken: objects that the child has inherited may close it some day.
    """
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
