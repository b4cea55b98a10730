"""
Listening sockets as the operating system has them: bound here, inherited, or handed over by systemd.

No event loop and no Twisted: the reload supervisor opens sockets for its children with the same functions.
All raise StartupFailed with one line for the user.
"""

import contextlib
import errno
import os
import socket
import stat

from daphne_like.errors import StartupFailed

__all__ = ["bind_tcp", "bind_unix", "describe", "inherit", "remove_unix", "systemd_descriptors"]

# systemd passes sockets from this descriptor on (sd_listen_fds(3)).
SYSTEMD_FIRST = 3

# Read now: Twisted takes the variables away for itself as soon as anybody imports its endpoints.
_SYSTEMD_SAYS = (os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS", ""))


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """
    Bind a TCP socket for each address that *host* means.

    "::" alone also takes IPv4, as NGINX's and Daphne's does; a name with addresses of both families gets a
    socket for each.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        families = {entry[0] for entry in found}
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(families) > 1))
            sock.bind(address)
    except OSError as error:
        for sock in sockets:
            sock.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        reason = "address in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise StartupFailed(f"cannot listen on {where}: {reason}") from None
    return sockets


def bind_unix(path: str, mode: int) -> socket.socket:
    """Bind a Unix socket with file *mode*; a socket file that nobody listens on any more is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        _remove_stale(path)
        # Nobody may connect before the mode is as it should be.
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        finally:
            os.umask(old)
        os.chmod(path, mode)
    except OSError as error:
        sock.close()
        raise StartupFailed(f"cannot listen on unix:{path}: {error.strerror or error}") from None
    return sock


def remove_unix(path: str, inode: int) -> None:
    """Remove a Unix socket's file, unless a successor has put its own there."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN: somebody is there
        if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise OSError(errno.EADDRINUSE, "address in use")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def inherit(descriptor: int, option: str) -> socket.socket:
    """Take over a listening socket that this process was started with; *option* names it in errors."""
    try:
        # A duplicate: whoever counts on the descriptor keeps it when ours is closed.
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise StartupFailed(f"{option} {descriptor}: {error.strerror or error}") from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise StartupFailed(f"{option} {descriptor}: not a stream socket")
    sock.setblocking(False)
    return sock


def systemd_descriptors() -> list[int]:
    """Sockets that systemd has opened for this process. The variables go with it: children have no part."""
    process, count = _SYSTEMD_SAYS
    if "LISTEN_PID" in os.environ:
        process, count = os.environ["LISTEN_PID"], os.environ.get("LISTEN_FDS", "")
    if process != str(os.getpid()):
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return list(range(SYSTEMD_FIRST, SYSTEMD_FIRST + int(count))) if count.isdigit() else []


def describe(sock: socket.socket, tls: bool) -> str:
    """A listening socket in words: a URL where it has one."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else os.fsdecode(name)}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"
