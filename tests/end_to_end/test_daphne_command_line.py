"""
Daphne's documented command lines, with the program's name changed, have the effect that Daphne documents.

Each test is one line of Daphne's README, of its --help or of Channels' deployment page.
"""

import json
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.end_to_end.certificates import make_certificate
from tests.end_to_end.clients import connect, drain, fetch, read_until
from tests.end_to_end.processes import (
    APPLICATIONS,
    ServerProcess,
    complaint_of,
    connected,
    eventually,
    free_port,
    serving,
)

websockets = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")

PLAIN = f"{APPLICATIONS}.plain:application"


def scope_at(where: int | str, **headers: str):
    return fetch(where, "/scope", headers=headers).json


def talking_to(server: ServerProcess, path: str = "/ws/", **options):
    return websockets.connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, **options)


# ---- where to listen


def test_bind_and_port() -> None:
    """daphne -b 0.0.0.0 -p 8001 django_project.asgi:application"""
    port = free_port()
    with serving("-b", "0.0.0.0", "-p", str(port), PLAIN) as server:
        assert scope_at(port)["server"] == ["127.0.0.1", port]
        assert server.address == f"http://0.0.0.0:{port}"


def test_ipv6() -> None:
    """daphne -b :: -p 8001 django_project.asgi:application"""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving("-b", "::", "-p", "0", PLAIN) as server:
        assert fetch(server.port).status == 200  # IPv4 too
        with socket.create_connection(("::1", server.port), timeout=10) as sock:
            sock.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b'"client": ["::1", ' in read_until(sock, b"}")


def test_unix_socket(tmp_path: Path) -> None:
    """daphne -u /run/daphne.sock django_project.asgi:application"""
    path = str(tmp_path / "daphne.sock")
    with serving("-u", path, PLAIN) as server:
        scope = scope_at(path)
        assert (scope["client"], scope["server"]) == (None, [path, None])
        assert server.address == f"unix:{path}"
    assert not Path(path).exists()


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "daphne.sock")
    with serving("-u", path, PLAIN, exit_code=-signal.SIGKILL) as server:
        server.kill()
    assert Path(path).exists()
    with serving("-u", path, PLAIN):
        assert fetch(path).status == 200


def test_unix_socket_in_use(tmp_path: Path) -> None:
    path = str(tmp_path / "daphne.sock")
    with serving("-u", path, PLAIN):
        code, lines = complaint_of("-u", path, PLAIN)
        assert (code, lines) == (3, [f"daphne-like: cannot listen on unix:{path}: address in use"])
        assert fetch(path).status == 200


def test_file_descriptor() -> None:
    """daphne --fd 5 django_project.asgi:application"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with serving("--fd", str(listener.fileno()), PLAIN, pass_fds=[listener.fileno()]):
            assert fetch(listener.getsockname()[1]).status == 200


def test_tcp_endpoint() -> None:
    """daphne -e tcp:8080:interface=127.0.0.1 django_project.asgi:application"""
    port = free_port()
    with serving("-e", f"tcp:{port}:interface=127.0.0.1", PLAIN):
        assert fetch(port).status == 200


def test_unix_endpoint(tmp_path: Path) -> None:
    path = str(tmp_path / "daphne.sock")
    with serving("-e", f"unix:{path}:mode=600", PLAIN):
        assert fetch(path).status == 200
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_several_endpoints(tmp_path: Path) -> None:
    """daphne -e tcp:port=8000:interface=127.0.0.1 -e unix:/run/daphne.sock -p 8001 ..."""
    first, second, path = free_port(), free_port(), str(tmp_path / "daphne.sock")
    words = ("-e", f"tcp:port={first}:interface=127.0.0.1", "-e", f"unix:{path}", "-p", str(second), PLAIN)
    with serving(*words) as server:
        server.stderr.wait_for("listening", count=3)
        assert [fetch(where).status for where in (first, second, path)] == [200, 200, 200]


def test_ssl_endpoint(tmp_path: Path) -> None:
    """daphne -e ssl:443:privateKey=key.pem:certKey=crt.pem django_project.asgi:application"""
    certificate = make_certificate(tmp_path)
    port = free_port()
    endpoint = f"ssl:{port}:privateKey={certificate.key}:certKey={certificate.chain}:interface=127.0.0.1"
    with serving("-e", endpoint, PLAIN):
        answer = fetch(port, "/scope", tls=certificate.trusting())
        assert answer.json["scheme"] == "https"
        echoed = fetch(port, "/echo", method="POST", body=bytes(1 << 20), tls=certificate.trusting())
        assert echoed.body == bytes(1 << 20)
        # Refused, and said so over TLS: neither a cut connection nor an error of Twisted's.
        with connect(port, tls=certificate.trusting()) as sock:
            sock.sendall(b"this is not HTTP\r\n\r\n")
            assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
            drain(sock)
        with websockets.connect(f"wss://127.0.0.1:{port}/ws/", ssl=certificate.trusting()) as talk:
            talk.send("over Twisted's TLS")
            assert talk.recv(timeout=10) == "over Twisted's TLS"


def test_connection_over_an_ssl_endpoint_closes_at_once(tmp_path: Path) -> None:
    """Twisted's TLS waits with closing for as long as a producer is registered."""
    certificate = make_certificate(tmp_path)
    port = free_port()
    endpoint = f"ssl:{port}:privateKey={certificate.key}:certKey={certificate.chain}:interface=127.0.0.1"
    with serving("-e", endpoint, PLAIN), connect(port, tls=certificate.trusting(), timeout=3) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        read_until(sock, b"\r\n\r\n")
        drain(sock)


# sd_listen_fds(3): the first socket is descriptor 3, and LISTEN_PID is the process that is to have them.
SYSTEMD = """
import os, sys
listener = int(sys.argv[1])
if listener == 3:
    os.set_inheritable(3, True)
else:
    os.dup2(listener, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.executable, [sys.executable, "-m", "daphne_like", *sys.argv[2:]])
"""


@pytest.mark.parametrize("words", [(), ("-e", "systemd:domain=INET:index=0")], ids=["found", "endpoint"])
def test_systemd(words: tuple[str, ...]) -> None:
    """daphne -e systemd:domain=INET:index=0 ...; ours also finds the sockets without being told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        with serving(*words, PLAIN, program=(sys.executable, "-c", SYSTEMD, str(fd)), pass_fds=[fd]):
            assert fetch(listener.getsockname()[1]).status == 200


def test_default_is_port_8000_of_loopback() -> None:
    """daphne django_project.asgi:application"""
    try:
        socket.create_server(("127.0.0.1", 8000)).close()
    except OSError:
        pytest.skip("somebody else listens on port 8000")
    with serving(PLAIN) as server:
        assert server.address == "http://127.0.0.1:8000"


# ---- what applications are told


def test_root_path() -> None:
    """daphne --root-path=/forum ..."""
    with serving("-p", "0", "--root-path=/ws", PLAIN) as server:
        for path in ("/ws/scope", "/scope"):  # left in place by the proxy, taken off by it
            with talking_to(server, path) as socket:
                scope = json.loads(socket.recv(timeout=10))
            assert (scope["root_path"], scope["path"]) == ("/ws", "/ws/scope")


def test_proxy_headers() -> None:
    """daphne --proxy-headers ..."""
    told = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Port": "1234", "X-Forwarded-Proto": "https"}
    with serving("-p", "0", "--proxy-headers", PLAIN) as server:
        scope = scope_at(server.port, **told)
        assert (scope["client"], scope["scheme"]) == (["203.0.113.7", 1234], "https")
    with serving("-p", "0", PLAIN) as server:
        scope = scope_at(server.port, **told)
        assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")


def test_proxy_headers_of_another_name() -> None:
    """daphne --proxy-headers --proxy-headers-host=X-Real-IP --proxy-headers-port=X-Real-Port ..."""
    words = ("--proxy-headers", "--proxy-headers-host=X-Real-IP", "--proxy-headers-port=X-Real-Port")
    with serving("-p", "0", *words, PLAIN) as server:
        told = {"X-Real-IP": "203.0.113.8", "X-Real-Port": "99", "X-Forwarded-For": "192.0.2.1"}
        assert scope_at(server.port, **told)["client"] == ["203.0.113.8", 99]
    code, lines = complaint_of("-p", "0", "--proxy-headers-host=X-Real-IP", PLAIN)
    assert code == 2
    assert "needs --proxy-headers" in lines[0]


# ---- what is said and written


def test_server_name() -> None:
    """daphne -s my-server / --no-server-name"""
    with serving("-p", "0", "-s", "my-server", PLAIN) as server:
        assert fetch(server.port).headers["server"] == "my-server"
    with serving("-p", "0", "--no-server-name", PLAIN) as server:
        assert "server" not in fetch(server.port).headers


def test_access_log_to_a_file(tmp_path: Path) -> None:
    """daphne --access-log /var/log/access.log ..."""
    log = tmp_path / "access.log"
    with serving("-p", "0", "--access-log", str(log), PLAIN) as server:
        fetch(server.port, "/unknown?a=b")
        assert re.match(r'127\.0\.0\.1 - - \[.*\] "GET /unknown\?a=b HTTP/1\.1" 404 9 ', log.read_text())
        log.rename(tmp_path / "access.log.1")  # logrotate's way
        fetch(server.port)
        assert '"GET / HTTP/1.1" 200 ' in log.read_text()
        assert '"GET ' not in server.stdout.text


def test_access_log_to_stdout() -> None:
    """daphne --access-log - ..., which is also the default from verbosity 1 on"""
    for words in (("--access-log", "-", "-v", "0"), ("-v", "1")):
        port = free_port()
        with serving("-p", str(port), *words, PLAIN, ready=connected(port)) as server:
            fetch(port)
            server.stdout.wait_for(r'"GET / HTTP/1\.1" 200 ')


def test_verbosity() -> None:
    """daphne -v 0..3: warnings; information and access log; debug; asyncio's debug mode too"""
    seen = []
    for level in range(4):
        port = free_port()
        # 0.3 s in the event loop: asyncio's debug mode complains from 0.1 s on.
        with serving("-v", str(level), "-p", str(port), PLAIN, ready=connected(port)) as server:
            fetch(port, "/block?0.3")
            with connect(port) as sock:
                sock.sendall(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
                sock.shutdown(socket.SHUT_WR)
                with pytest.raises(ConnectionResetError):  # which is worth a line of debugging
                    sock.recv(100)
        seen.append(
            (
                "listening" in server.stderr.text,
                "GET /block" in server.stdout.text,
                "DEBUG" in server.stderr.text,
                re.search(r"Executing .* took 0\.[3-9]", server.stderr.text) is not None,
            )
        )
    assert seen == [
        (False, False, False, False),
        (True, True, False, False),
        (True, True, True, False),
        (True, True, True, True),
    ]


def test_log_format() -> None:
    """daphne --log-fmt "%(levelname)s %(message)s" ..."""
    with serving("-p", "0", "--log-fmt", "<%(levelname)s> %(message)s", PLAIN) as server:
        assert server.stderr.wait_for("^<INFO> listening address=http://127.0.0.1:")


# ---- how long, and how much


def test_http_timeout() -> None:
    """daphne -t 1 ...: a request that takes longer is answered with 503"""
    with serving("-p", "0", "-t", "1", PLAIN) as server:
        assert fetch(server.port, "/slow?30").status == 503
        assert fetch(server.port, "/slow?0.1").status == 200
        server.stderr.wait_for("took longer than --http-timeout")


def test_pings() -> None:
    """daphne --ping-interval 1 --ping-timeout 1 ...: who answers stays, who does not is dropped"""
    with serving("-p", "0", "--ping-interval", "1", "--ping-timeout", "1", PLAIN) as server:
        with talking_to(server) as alive, connect(server.port) as deaf:
            deaf.sendall(
                b"GET /ws/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            read_until(deaf, b"\x89\x00")  # a ping without payload
            with pytest.raises(ConnectionResetError):
                drain(deaf)
            alive.send("still here")
            assert alive.recv(timeout=10) == "still here"
            server.stdout.wait_for('"WSDISCONNECT /ws/ HTTP/1.1" 1006 ')


def test_websocket_timeouts() -> None:
    """daphne --websocket_timeout 1 --websocket_connect_timeout 1 ..."""
    with serving("-p", "0", "--websocket_timeout", "1", "--websocket_connect_timeout", "1", PLAIN) as server:
        with talking_to(server) as socket, pytest.raises(exceptions.ConnectionClosed):
            socket.recv(timeout=10)
        with pytest.raises(exceptions.InvalidStatus) as refused, talking_to(server, "/ws/never-accepts"):
            pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("option", ["--websocket-max-message-size", "--websocket-max-frame-size"])
def test_websocket_sizes(option: str) -> None:
    """daphne --websocket-max-message-size 1000 ...: beyond, close code 1009"""
    with serving("-p", "0", option, "1000", PLAIN) as server, talking_to(server) as socket:
        socket.send("x" * 1000)
        assert len(socket.recv(timeout=10)) == 1000
        socket.send("x" * 1001)
        with pytest.raises(exceptions.ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd.code == 1009


def test_application_close_timeout() -> None:
    """daphne --application-close-timeout 1 ...: who does not end after its client has left is cancelled"""
    with serving("-p", "0", "--application-close-timeout", "1", PLAIN) as server:
        sock = connect(server.port)
        sock.sendall(b"GET /stubborn?3 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: "stubborn: begun" in fetch(server.port, "/notes").json)
        sock.close()
        eventually(lambda: "stubborn: cancelled" in fetch(server.port, "/notes").json)
        server.stderr.wait_for("did not end after its client left")
