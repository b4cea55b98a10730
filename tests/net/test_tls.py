"""TLS at the socket: scheme, the scope's extension, and a certificate that is read again."""

import asyncio
import logging
import ssl

import pytest

from daphne_like import Server, Settings
from daphne_like.errors import StartupFailed
from daphne_like.net.tls import TLSCertificate
from tests.asgi.conversation import GET, sentences
from tests.end_to_end.certificates import make_certificate
from tests.net.real import ask, connect, echo_scope, port_of, read_all, scope_told, served


def secured(certificate):
    return {"certificate": str(certificate.chain), "private_key": str(certificate.key), "port": 0}


async def presented(server, trusting):
    """The certificate that a new connection gets, in PEM."""
    async with connect(server, ssl=trusting) as (_, writer):
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return ssl.DER_cert_to_PEM_cert(der)


async def test_scope_on_tls(tmp_path):
    certificate = make_certificate(tmp_path)
    async with served(**secured(certificate)) as server:
        assert server.addresses == [f"https://127.0.0.1:{port_of(server)}"]
        told = await scope_told(server, ssl=certificate.trusting())
        assert told["scheme"] == "https"
        tls = told["extensions"]["tls"]
        assert tls["tls_version"] == 0x0304
        assert tls["cipher_suite"] in (0x1301, 0x1302, 0x1303)
        assert tls["client_cert_chain"] == []
        assert tls["client_cert_name"] is tls["client_cert_error"] is None
        assert tls["server_cert"].strip() == certificate.chain.read_text().strip()


async def test_tls_1_2_is_spoken_and_nothing_older(tmp_path):
    """RFC 8996."""
    certificate = make_certificate(tmp_path)
    async with served(**secured(certificate)) as server:
        context = certificate.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        told = await scope_told(server, ssl=context)
        assert told["extensions"]["tls"]["tls_version"] == 0x0303
        assert told["extensions"]["tls"]["cipher_suite"] > 0
    assert (
        TLSCertificate(str(certificate.chain), str(certificate.key)).context.minimum_version
        >= ssl.TLSVersion.TLSv1_2
    )


async def test_alpn_is_http_1_1(tmp_path):
    certificate = make_certificate(tmp_path)
    async with served(**secured(certificate)) as server:
        context = certificate.trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with connect(server, ssl=context) as (_, writer):
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_plain_scope_has_no_tls():
    async with served() as server:
        told = await scope_told(server)
        assert told["scheme"] == "http"
        assert "tls" not in told["extensions"]


async def test_certificate_is_read_again_for_new_connections(tmp_path, caplog):
    """Old connections stay as they are."""
    caplog.set_level(logging.INFO, logger="daphne_like")
    first = make_certificate(tmp_path, "first")
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    async with served(**secured(first)) as server:
        async with connect(server, ssl=trusting) as (reader, writer):
            before = await presented(server, trusting)
            second = make_certificate(tmp_path, "second")
            server.reload_certificate()
            after = await presented(server, trusting)
            assert before.strip() != after.strip()
            assert after.strip() == second.chain.read_text().strip()
            told = await scope_told(server, ssl=second.trusting())
            assert told["extensions"]["tls"]["server_cert"].strip() == after.strip()
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
    assert "certificate reloaded" in sentences(caplog)


@pytest.mark.parametrize("how", ["missing", "nonsense", "other key"])
async def test_certificate_that_cannot_be_read_again_leaves_the_old_one(tmp_path, caplog, how):
    certificate = make_certificate(tmp_path)
    trusting = certificate.trusting()
    async with served(**secured(certificate)) as server:
        if how == "missing":
            certificate.chain.unlink()
        elif how == "nonsense":
            certificate.chain.write_text("nonsense")
        else:
            (tmp_path / "other").mkdir()
            certificate.key.write_bytes(make_certificate(tmp_path / "other").key.read_bytes())
        server.reload_certificate()
        assert (await ask(server, ssl=trusting)).status == 200
    assert sentences(caplog) == ["certificate not reloaded, the old one stays in use"]


async def test_reload_without_tls_is_nothing():
    async with served() as server:
        server.reload_certificate()


BAD = [  # certificate, key -> the line says
    ("missing.pem", None, "missing.pem"),
    ("empty", None, "empty"),
    ("chain", None, "chain.pem"),  # no key in it
    ("chain", "missing.pem", "missing.pem"),
    ("chain", "other key", "key.pem"),
]


@pytest.mark.parametrize(("chain", "key", "named"), BAD)
async def test_certificate_that_cannot_be_used_is_one_line(tmp_path, chain, key, named):
    certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    (tmp_path / "empty").write_text("")
    names = {"chain": certificate.chain, "other key": other.key}
    settings = Settings(
        verbosity=0,
        port=0,
        certificate=str(names.get(chain, tmp_path / chain)),
        private_key=None if key is None else str(names.get(key, tmp_path / key)),
    )
    with pytest.raises(StartupFailed) as raised:
        await Server(echo_scope, settings).start()
    assert str(raised.value).startswith("cannot use the certificate in ")
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_chain_with_the_key_in_one_file(tmp_path):
    certificate = make_certificate(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.key.read_bytes() + certificate.chain.read_bytes())
    async with served(certificate=str(both), port=0) as server:
        told = await scope_told(server, ssl=certificate.trusting())
        assert told["extensions"]["tls"]["server_cert"].strip() == certificate.chain.read_text().strip()
        assert "PRIVATE" not in told["extensions"]["tls"]["server_cert"]


async def test_certificate_with_text_before_it(tmp_path):
    """`openssl x509 -text` writes such files; the text may be in any encoding."""
    certificate = make_certificate(tmp_path)
    pem = certificate.chain.read_bytes()
    certificate.chain.write_bytes("Subject: CN=Zürich\n".encode() + pem)
    async with served(**secured(certificate)) as server:
        assert (await ask(server, ssl=certificate.trusting())).status == 200


async def test_plain_http_on_a_tls_socket_is_no_traceback(tmp_path, caplog):
    certificate = make_certificate(tmp_path)
    async with served(**secured(certificate)) as server:
        async with connect(server) as (reader, writer):
            writer.write(GET)
            await read_all(reader)
        assert (await ask(server, ssl=certificate.trusting())).status == 200


async def test_large_answer_and_upload_over_tls(tmp_path):
    """Backpressure passes through the TLS layer, both ways."""
    certificate = make_certificate(tmp_path)
    size = 3 * 1024 * 1024

    async def echo(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]}
        )
        while True:
            message = await receive()
            await send(
                {"type": "http.response.body", "body": message["body"], "more_body": message["more_body"]}
            )
            if not message["more_body"]:
                return

    async with served(echo, **secured(certificate)) as server:
        async with connect(server, ssl=certificate.trusting()) as (reader, writer):
            head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
            writer.write(head + bytes(size))
            data, reset = await read_all(reader)
            assert not reset
            assert len(data.partition(b"\r\n\r\n")[2]) == size
            await asyncio.sleep(0)
