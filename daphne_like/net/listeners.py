"""
What the settings say about listening, made into ports that accept.

TCP (-b, -p), Unix sockets (-u), inherited descriptors (--fd) and sockets that systemd hands over are accepted
on by the event loop's own transports. So are Twisted endpoint strings (-e) that say nothing but tcp: or unix:;
any other is Twisted's own endpoint, with the same protocol class behind it.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.interfaces import IListeningPort

from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.net.factory import ServerFactory
from daphne_like.net.loop_tls import Handshakes
from daphne_like.net.loop_transport import LoopServerEndpoint, LoopTransport
from daphne_like.net.sockets import (
    bind_tcp,
    bind_unix,
    describe,
    inherit,
    remove_unix,
    systemd_descriptors,
)
from daphne_like.net.tls import TLSCertificate
from daphne_like.settings import Settings

__all__ = ["Listeners"]

_PLAIN_TCP = re.compile(r"tcp:(?:port=)?(\d+)(?::interface=((?:[^:\\]|\\:)*))?(?::backlog=(\d+))?")
_PLAIN_FD = re.compile(r"fd:(?:fileno=)?(\d+)")  # Daphne's own addition to Twisted's
_PLAIN_UNIX = re.compile(r"unix:(?:address=)?([^:\\]+)(?::mode=([0-7]{3}))?(?::backlog=(\d+))?")


class Listeners:
    """
    All listening sockets of a server.

    Args:
        reactor: gives Twisted's reactor; asked only where an endpoint string needs it.
        on_handshake_end: called when a TLS handshake has ended.

    Attributes:
        addresses: where the server listens, in words; for tests that asked for port 0, too.
    """

    def __init__(
        self, settings: Settings, reactor: Callable[[], Any], on_handshake_end: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._on_handshake_end = on_handshake_end
        self._handshakes: Handshakes | None = None
        self._ports: list[IListeningPort] = []
        self._unix_files: list[tuple[str, int]] = []
        self.addresses: list[str] = []

    async def start(self, factory: ServerFactory, certificate: TLSCertificate | None) -> None:
        """
        Bind everything, then listen on everything.

        Raises:
            StartupFailed: an address in use, a descriptor that is no socket...; nothing listens then.
            ConfigurationError: an endpoint string that Twisted does not know.
        """
        self.addresses.clear()
        loop = asyncio.get_running_loop()
        tls = certificate is not None
        if certificate is None:
            accepting = LoopTransport.accepting
        else:
            self._handshakes = Handshakes(
                certificate.context,
                limit=self._settings.max_connections,
                timeout=self._settings.header_timeout,
                on_end=self._on_handshake_end,
            )
            accepting = self._handshakes.accepting
        try:
            with contextlib.ExitStack() as unused:
                bound = []
                for sock, backlog in self._sockets():
                    unused.callback(sock.close)
                    try:
                        sock.listen(backlog)
                    except OSError:  # two options that mean the same address
                        where = describe(sock, tls)
                        raise StartupFailed(f"cannot listen on {where}: address in use") from None
                    bound.append((sock, backlog))
                for sock, backlog in bound:
                    endpoint = LoopServerEndpoint(loop, sock, backlog=backlog, accepting=accepting)
                    self._ports.append(await endpoint.listen_async(factory))
                    self.addresses.append(describe(sock, tls))
                unused.pop_all()
            for string in self._settings.endpoint:
                if not any(plain.fullmatch(string) for plain in (_PLAIN_TCP, _PLAIN_UNIX, _PLAIN_FD)):
                    await self._listen_on_twisted(string, factory)
        except BaseException:
            await self.stop()
            raise

    async def _listen_on_twisted(self, string: str, factory: ServerFactory) -> None:
        from twisted.internet import endpoints  # slow to import, and seldom needed

        try:
            endpoint = endpoints.serverFromString(self._reactor(), string)
        except IndexError:  # systemd: looks for a socket by its name, or by its number
            raise ConfigurationError(
                f"--endpoint {string}: there is no such socket, or a word is missing"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(f"--endpoint {string}: {error}") from None
        except OSError as error:  # ssl: reads its files here
            raise StartupFailed(f"cannot listen on {string}: {error}") from None
        try:
            deferred = endpoint.listen(factory)
            self._ports.append(await deferred.asFuture(asyncio.get_running_loop()))
        except Exception as error:  # whatever the endpoint's own plug-in raises
            raise StartupFailed(f"cannot listen on {string}: {error}") from None
        self.addresses.append(string)

    def _sockets(self) -> Iterator[tuple[socket.socket, int]]:
        """Bound sockets with their backlog, from everything but Twisted's endpoints."""
        settings = self._settings
        backlog = settings.backlog
        if not settings.sockets_named and (descriptors := systemd_descriptors()):
            for descriptor in descriptors:
                yield inherit(descriptor, "systemd's socket"), backlog
            return
        for host, port in settings.tcp_addresses():
            for sock in bind_tcp(host, port):
                yield sock, backlog
        for path in settings.unix_socket:
            yield self._bind_unix(path, settings.unix_socket_mode), backlog
        for descriptor in settings.file_descriptor:
            yield inherit(descriptor, "--fd"), backlog
        for string in settings.endpoint:
            if match := _PLAIN_TCP.fullmatch(string):
                host = (match[2] or "0.0.0.0").replace("\\:", ":")
                for sock in bind_tcp(host, int(match[1])):
                    yield sock, int(match[3] or backlog)
            elif match := _PLAIN_FD.fullmatch(string):
                yield inherit(int(match[1]), "-e fd:"), backlog
            elif match := _PLAIN_UNIX.fullmatch(string):
                yield self._bind_unix(match[1], int(match[2] or "666", 8)), int(match[3] or backlog)

    def _bind_unix(self, path: str, mode: int) -> socket.socket:
        sock = bind_unix(path, mode)
        self._unix_files.append((path, os.stat(path).st_ino))
        return sock

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes are under way: connections to be."""
        return self._handshakes.under_way if self._handshakes is not None else 0

    def cut_handshakes(self) -> None:
        """End TLS handshakes that outlast the server's time to stop."""
        if self._handshakes is not None:
            self._handshakes.cut()

    async def stop(self) -> None:
        """Stop accepting; remove the files of Unix sockets. TLS handshakes under way are the last ones."""
        if self._handshakes is not None:
            self._handshakes.stop()
        ports, self._ports = self._ports, []
        for port in ports:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped.asFuture(asyncio.get_running_loop())
        files, self._unix_files = self._unix_files, []
        for path, inode in files:
            remove_unix(path, inode)
