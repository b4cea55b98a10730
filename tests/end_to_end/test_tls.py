"""TLS by --certificate: as curl and Python see it, and with a certificate that is replaced while serving."""

import json
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.certificates import Certificate, make_certificate
from tests.end_to_end.clients import connect, drain, fetch, random_octets, read_until
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, complaint_of, serving

websockets = pytest.importorskip("websockets.sync.client")

PLAIN = f"{APPLICATIONS}.plain:application"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def words_of(certificate: Certificate) -> tuple[str, ...]:
    return ("--certificate", str(certificate.chain), "--private-key", str(certificate.key))


@pytest.fixture(scope="module")
def server(certificate: Certificate, workers: tuple[str, ...]) -> Iterator[ServerProcess]:
    with serving("-p", "0", *words_of(certificate), *workers, PLAIN) as server:
        assert server.address.startswith("https://")
        yield server


def curl(certificate: Certificate, *words: str) -> str:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "15",
        "--cacert",
        str(certificate.chain),
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.needs("curl")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(server: ServerProcess, certificate: Certificate, version: str) -> None:
    """Two requests over one connection, as curl makes them."""
    url = f"https://127.0.0.1:{server.port}"
    printed = curl(
        certificate, f"--tlsv{version}", "--tls-max", version, f"{url}/scope", f"{url}/echo",
        "--next", "--silent", "--cacert", str(certificate.chain), "--data", "hello", f"{url}/echo",
    )  # fmt: skip
    scope, _ = json.JSONDecoder().raw_decode(printed)
    assert printed.endswith("hello")
    assert scope["scheme"] == "https"
    told = scope["extensions"]["tls"]
    assert told["server_cert"] == certificate.chain.read_text()
    assert told["tls_version"] == {"1.2": 0x0303, "1.3": 0x0304}[version]
    assert told["cipher_suite"] is not None


def test_connection_is_kept(server: ServerProcess, certificate: Certificate) -> None:
    with connect(server.port, tls=certificate.trusting()) as sock:
        for _ in range(50):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_until(sock, b"\n\r\n").startswith(b"HTTP/1.1 200")


def test_connection_close(server: ServerProcess, certificate: Certificate) -> None:
    """The whole answer, then TLS's own end: not a cut connection that could have been anybody's."""
    with connect(server.port, tls=certificate.trusting()) as sock:
        sock.suppress_ragged_eofs = False
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert drain(sock).startswith(b"HTTP/1.1 200")


def test_bodies_of_many_records(server: ServerProcess, certificate: Certificate) -> None:
    body = random_octets(3_000_000)
    answer = fetch(server.port, "/echo", method="POST", body=body, tls=certificate.trusting(), timeout=60)
    assert answer.body == body


def test_slow_reader_gets_everything(server: ServerProcess, certificate: Certificate) -> None:
    with connect(server.port, tls=certificate.trusting()) as sock:
        sock.sendall(b"GET /two-large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        first = sock.recv(1000)
        fetch(server.port, "/", tls=certificate.trusting())  # nobody else waits for it
        assert len(first + drain(sock)) > 16 << 20


def test_cut_response_does_not_look_whole(certificate: Certificate, workers: tuple[str, ...]) -> None:
    """TLS can tell an end from a cut: there is no close_notify after half a response."""
    with serving("-p", "0", *words_of(certificate), *workers, PLAIN, expected_trouble=True) as server:
        with connect(server.port, tls=certificate.trusting()) as sock:
            sock.suppress_ragged_eofs = False
            sock.sendall(b"GET /raises-after-start HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                drain(sock)


def test_websocket(server: ServerProcess, certificate: Certificate) -> None:
    tls = certificate.trusting()
    with websockets.connect(f"wss://127.0.0.1:{server.port}/ws/scope", ssl=tls) as talk:
        assert json.loads(talk.recv(timeout=10))["scheme"] == "wss"
        talk.send("x" * 200_000)
        assert len(talk.recv(timeout=10)) == 200_000


def test_plain_http_is_no_trouble(server: ServerProcess, certificate: Certificate) -> None:
    """Who does not speak TLS, or leaves in the middle of its handshake, is nobody's error."""
    with connect(server.port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not drain(sock).startswith(b"HTTP/")
    connect(server.port).close()
    with pytest.raises(ssl.SSLError):
        connect(server.port, tls=ssl.create_default_context())
    assert fetch(server.port, tls=certificate.trusting()).status == 200


def test_certificate_is_replaced_while_serving(tmp_path: Path) -> None:
    """SIGHUP: new connections see the new one, an old connection lives on."""
    first = make_certificate(tmp_path, "first")
    old = first.trusting()
    with serving("-p", "0", *words_of(first), PLAIN) as server, connect(server.port, tls=old) as kept:
        second = make_certificate(tmp_path, "second")
        assert fetch(server.port, tls=old).status == 200  # not before it is told
        server.signal(signal.SIGHUP)
        server.stderr.wait_for("certificate reloaded")
        assert fetch(server.port, tls=second.trusting()).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(server.port, tls=old)
        kept.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in read_until(kept, b"}")


def test_broken_certificate_does_not_replace_a_good_one(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = certificate.trusting()
    with serving("-p", "0", *words_of(certificate), PLAIN) as server:
        certificate.chain.write_text("-----BEGIN CERTIFICATE-----\nhalf a file")
        server.signal(signal.SIGHUP)
        server.stderr.wait_for("certificate not reloaded, the old one stays in use")
        assert fetch(server.port, tls=tls).status == 200


def test_key_with_a_passphrase(tmp_path: Path) -> None:
    """One line, not a question: a server has nobody to ask, least of all on SIGHUP."""
    certificate = make_certificate(tmp_path, passphrase=b"secret")
    code, lines = complaint_of("-p", "0", *words_of(certificate), PLAIN)
    assert (code, len(lines)) == (3, 1), lines
    assert "cannot use the certificate in" in lines[0]


def test_sighup_without_tls_changes_nothing() -> None:
    with serving("-p", "0", PLAIN) as server:
        pid = fetch(server.port).body
        server.signal(signal.SIGHUP)
        assert fetch(server.port).body == pid


def test_idle_connections_do_not_hold_up_the_stop(certificate: Certificate) -> None:
    """A pool's idle connection does not read, so it does not answer TLS's goodbye."""
    with serving("-p", "0", *words_of(certificate), PLAIN) as server:
        with connect(server.port, tls=certificate.trusting()) as idle:
            idle.sendall(b"GET /notes HTTP/1.1\r\nHost: a\r\n\r\n")
            read_until(idle, b"]")
            begin = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begin < 10
