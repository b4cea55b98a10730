"""Self-signed certificates for 127.0.0.1, made where they are needed: none is in the repository to expire."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Certificate", "make_certificate"]

pytest.importorskip("cryptography", reason="the extra [tls] is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Certificate:
    """
    Attributes:
        chain, key: PEM files.
        name: the subject's common name, to tell one certificate from another.
    """

    chain: Path
    key: Path
    name: str

    def trusting(self) -> ssl.SSLContext:
        """A context for clients that trust this certificate alone."""
        return ssl.create_default_context(cafile=self.chain)


def make_certificate(directory: Path, name: str = "first", passphrase: bytes | None = None) -> Certificate:
    """Write chain.pem and key.pem into *directory*, over those that may be there."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(directory / "chain.pem", directory / "key.pem", name)
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    found.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return found
