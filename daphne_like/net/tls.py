"""
TLS at the socket: the context, its certificate read again on request, and what applications are told.

The event loop's own TLS is used (Python's ssl module over OpenSSL), for it works at the loop's speed. One
context serves for the life of the server: load_cert_chain() on it replaces the certificate for new
connections, and leaves old ones as they are.
"""

import ssl
from typing import Any

from daphne_like.errors import StartupFailed

__all__ = ["TLSCertificate", "tls_extension"]

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class TLSCertificate:
    """
    Args:
        certificate: path of a PEM file, intermediate certificates after the server's own.
        private_key: path of a PEM file; None where the key is in *certificate*.

    Attributes:
        context: for listening sockets.
        pem: the server's certificate, without those after it.

    Raises:
        StartupFailed: a file cannot be read, or they do not fit together.
    """

    def __init__(self, certificate: str, private_key: str | None) -> None:
        self._certificate = certificate
        self._private_key = private_key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        self.context.set_alpn_protocols(["http/1.1"])
        self.pem = ""
        self.load()

    def load(self) -> None:
        """Read the files again; when that fails, what was loaded before stays in use."""
        try:
            with open(self._certificate, encoding="latin-1") as file:  # text may stand around the PEM
                text = file.read()
            self.context.load_cert_chain(self._certificate, self._private_key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            files = self._certificate + (f" and {self._private_key}" if self._private_key else "")
            raise StartupFailed(f"cannot use the certificate in {files}: {reason}") from None
        end = "-----END CERTIFICATE-----"
        begin = text.find("-----BEGIN CERTIFICATE-----")
        self.pem = text[begin : text.index(end) + len(end)] + "\n"


def _no_passphrase() -> str:
    """OpenSSL would ask for it on the terminal, and stop the event loop until somebody answers."""
    raise ValueError("the private key has a passphrase, which cannot be asked for")


def tls_extension(ssl_object: ssl.SSLObject | None, certificate: TLSCertificate | None) -> dict[str, Any]:
    """
    What the scope's "tls" extension says of a connection (ASGI TLS extension 0.2).

    Client certificates are not asked for, so its keys about them are empty. None for *ssl_object*: the
    connection is encrypted by somebody who does not tell how.
    """
    cipher = ssl_object.cipher() if ssl_object is not None else None
    suite = None
    if ssl_object is not None and cipher is not None:
        ciphers = ssl_object.context.get_ciphers()
        suite = next((c["id"] & 0xFFFF for c in ciphers if c["name"] == cipher[0]), None)
    return {
        "server_cert": certificate.pem if certificate is not None else None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(ssl_object.version() or "") if ssl_object is not None else None,
        "cipher_suite": suite,
    }
