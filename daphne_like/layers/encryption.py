"""
What is written to an engine that others may read: sealed with Fernet (AES-CBC and HMAC), by `cryptography`.

Keys can be rotated: the first one seals, all open. So a new key is put behind the old one everywhere, then in
front of it everywhere, then the old one is dropped everywhere.

A key is any text or octets, of which the SHA-256 is used, as channels_redis does.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from daphne_like.errors import ConfigurationError

__all__ = ["Encryption"]


class Encryption:
    """
    Args:
        keys: the first seals, all open.

    Raises:
        ConfigurationError: not keys, or `cryptography` is not installed.
    """

    def __init__(self, keys: Iterable[str | bytes]) -> None:
        if isinstance(keys, str | bytes):
            raise ConfigurationError("symmetric_encryption_keys should be a list of keys")
        found = list(keys)
        if not found or not all(isinstance(key, str | bytes) and key for key in found):
            raise ConfigurationError("symmetric_encryption_keys should be a list of keys, none of them empty")
        try:
            from cryptography import fernet
        except ImportError:
            raise ConfigurationError(
                "symmetric_encryption_keys needs the package `cryptography`: install daphne-like[redis]"
            ) from None
        self._invalid: Any = fernet.InvalidToken
        self._fernet = fernet.MultiFernet([fernet.Fernet(_derive(key)) for key in found])

    def seal(self, payload: bytes) -> bytes:
        """What can be shown to anybody."""
        return self._fernet.encrypt(payload)

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed with one of the keys; None for anything else."""
        try:
            return self._fernet.decrypt(sealed)
        except self._invalid:
            return None


def _derive(key: str | bytes) -> bytes:
    octets = key.encode() if isinstance(key, str) else key
    return base64.urlsafe_b64encode(hashlib.sha256(octets).digest())
