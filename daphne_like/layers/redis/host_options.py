"""
The words that say how to be let in by an engine: user, password, database, TLS.

They are redis-py's connection classes' own. From a URL's query all values come as text, from Python's as what
they are.
"""

import ssl
from collections.abc import Callable
from typing import Any

__all__ = ["Wrong", "read_options", "read_tls"]


class Wrong(Exception):
    """What is wrong with an entry of `hosts`, without saying which."""


def read_tls(words: dict[str, Any]) -> bool:
    """
    Take "ssl" out of *words*.

    Raises:
        Wrong: neither true nor false.
    """
    try:
        return _bool(words.pop("ssl", False))
    except ValueError:
        raise Wrong("ssl should be true or false") from None


def read_options(words: dict[str, Any], tls: bool, *, tcp: bool = True) -> dict[str, Any]:
    """
    What *words* say, as redis-py's classes take it. What has no effect is left out.

    Args:
        tls: whether words about it mean something.
        tcp: the same for words about TCP.

    Raises:
        Wrong: an unknown word, or a value that cannot be.
    """
    options = {}
    for word, value in words.items():
        if word in _WITHOUT_EFFECT:
            continue
        known = _WORDS.get(word) or _TLS_WORDS.get(word)
        if known is None:
            raise Wrong(f"no word {word!r}; there are {', '.join([*_WORDS, 'ssl', *_TLS_WORDS])}")
        if word in _TLS_WORDS and not tls:
            raise Wrong(f"{word} without TLS: write rediss://, or ssl")
        if word in _TCP_WORDS and not tcp:
            continue
        read, meant = known
        try:
            options[word] = read(value)
        except (TypeError, ValueError):
            shown = "" if "password" in word else f"={value}"
            raise Wrong(f"{word}{shown} should be {meant}") from None
    return {word: value for word, value in options.items() if value is not None}


# -- what there is -----------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _secret(value: Any) -> str | None:
    # "password": None is what a missing environment variable leaves.
    return None if value is None or value == "" else _text(value)


def _bool(value: Any) -> bool:
    """As redis-py reads it from a URL, but no third thing."""
    if isinstance(value, bool | int):
        return bool(value)
    text = _text(value).lower()
    if text in ("1", "t", "true", "y", "yes", "on"):
        return True
    if text in ("0", "f", "false", "n", "no", "off"):
        return False
    raise ValueError


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _db(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _cert_reqs(value: Any) -> str:
    """None, "none", "CERT_NONE" and ssl.CERT_NONE are one."""
    text = value.name if isinstance(value, ssl.VerifyMode) else str(value)
    text = text.lower().removeprefix("cert_")
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


def _tls_version(value: Any) -> ssl.TLSVersion:
    return ssl.TLSVersion(int(value))


def _as_given(value: Any) -> Any:
    return value


# Word -> how it is read, what it should be.
_WORDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "db": (_db, "the number of a database"),
    "username": (_secret, "text"),
    "password": (_secret, "text"),
    "credential_provider": (_as_given, ""),
    "client_name": (_text, "text"),
    "socket_connect_timeout": (_seconds, "seconds"),
    "socket_keepalive": (_bool, "true or false"),
    "socket_keepalive_options": (_as_given, ""),
    "socket_type": (int, "a number"),
}
_TLS_WORDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ssl_keyfile": (_text, "the path of a file"),
    "ssl_certfile": (_text, "the path of a file"),
    "ssl_ca_certs": (_text, "the path of a file"),
    "ssl_ca_path": (_text, "the path of a folder"),
    "ssl_ca_data": (_text, "certificates"),
    "ssl_cert_reqs": (_cert_reqs, "none, optional or required"),
    "ssl_check_hostname": (_bool, "true or false"),
    "ssl_min_version": (_tls_version, "a number of ssl.TLSVersion"),
    "ssl_ciphers": (_text, "text"),
    "ssl_password": (_text, "text"),
    "ssl_include_verify_flags": (_as_given, ""),
    "ssl_exclude_verify_flags": (_as_given, ""),
}
# A Unix socket is not kept alive.
_TCP_WORDS = {"socket_keepalive", "socket_keepalive_options", "socket_type"}
# What these are about we do ourselves. Words of redis-py's pools, clients and connections, that a configuration
# for channels_redis may hold.
_WITHOUT_EFFECT = {
    "decode_responses",
    "driver_info",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "legacy_responses",
    "lib_name",
    "lib_version",
    "max_connections",
    "maint_notifications_config",
    "parser_class",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "socket_read_size",
    "socket_timeout",
    "timeout",
}
