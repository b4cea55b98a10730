"""
What `hosts=` says: which engines there are, and how to be let in.

As channels_redis takes it, a list of

    "redis://user:password@host:6379/0"         rediss:// with TLS; a name, an address, or [::1]
    "unix:///run/redis.sock?db=0"               redis+unix:// is the same
    ("host", 6379)
    {"host": "host", "port": 6379, "password": ..., "ssl": True, ...} or {"path": "/run/redis.sock", ...}
    {"address": one of the URLs, ...}
    {"sentinels": [("host", 26379), ...], "master_name": "site", "sentinel_kwargs": {...}, ...}

and besides

    "redis+sentinel://user:password@host:26379,other:26379/site/0"      rediss+sentinel:// with TLS
    "redis+cluster://user:password@host:6379,other:6379"                rediss+cluster:// with TLS
    {"cluster": [("host", 6379), ...], ...}

Several entries are independent engines that share the work. Further words, in a dict or in a URL's query, are
redis-py's, a URL's before a dict's. Those that would have redis-py try again, time out or decode by itself are
taken and have no effect: what is sent twice, and when, is decided by this package. Words for the sentinels
themselves are in "sentinel_kwargs", or in the query with "sentinel_" before them; those of a rediss+sentinel URL
speak TLS as the engines do.

Passwords are in no message, no log line and no repr.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from daphne_like.errors import ConfigurationError

from .host_options import Wrong, read_options, read_tls

__all__ = ["DEFAULT_HOSTS", "AnyHost", "ClusterHost", "Host", "SentinelHost", "parse", "without_secrets"]

DEFAULT_HOSTS = ("redis://localhost:6379",)

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Host:
    """
    One engine.

    Args:
        address: (host, port), or the path of a Unix socket.
        options: words of redis-py's connection classes, without the address.
        tls: whether its connections are encrypted.
        master_only: what answers may be a replica that does not know yet: ROLE is to be asked before anything
            else, and another than "master" refused. Who may not ask (NOPERM) is let through.
    """

    address: Address | str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    master_only: bool = False

    def __str__(self) -> str:
        return self.address if isinstance(self.address, str) else show_address(self.address)


@dataclass(frozen=True, slots=True)
class SentinelHost:
    """
    One engine that sentinels know the address of, under a name.

    Args:
        sentinels: where to ask.
        options, tls: of the engine, as in Host.
    """

    master_name: str
    sentinels: tuple[Host, ...]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False

    def at(self, address: Address) -> Host:
        """The engine, at *address*."""
        return Host(address, self.options, self.tls, master_only=True)

    def __str__(self) -> str:
        return f"{self.master_name} of {','.join(map(str, self.sentinels))}"


@dataclass(frozen=True, slots=True)
class ClusterHost:
    """
    A cluster.

    Args:
        startup: nodes to ask first. Others are found through them.
        options, tls: of every node, as in Host.
    """

    startup: tuple[Address, ...]
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False

    def at(self, address: Address) -> Host:
        """Its node at *address*."""
        return Host(address, self.options, self.tls)

    def __str__(self) -> str:
        return f"cluster {','.join(map(show_address, self.startup))}"


AnyHost = Host | SentinelHost | ClusterHost


def parse(hosts: Any = None) -> tuple[AnyHost, ...]:
    """
    What `hosts=` says; nothing is localhost.

    Raises:
        ConfigurationError: naming the entry, the word, and what would be right.
    """
    if not hosts:
        hosts = DEFAULT_HOSTS
    # Channels' users know this one.
    if isinstance(hosts, str | bytes | Mapping) or not isinstance(hosts, Iterable):
        raise ConfigurationError("hosts: should be a list of hosts, even if there is only one")
    found = []
    for index, entry in enumerate(hosts):
        try:
            found.append(_read_entry(entry))
        except Wrong as wrong:
            shown = f" {without_secrets(entry)}" if isinstance(entry, str) else ""
            raise ConfigurationError(f"hosts[{index}]{shown}: {wrong}") from None
    if len(found) > 1 and any(isinstance(host, ClusterHost) for host in found):
        raise ConfigurationError("hosts: a cluster is one entry: name its nodes in it")
    return tuple(found)


def without_secrets(url: str) -> str:
    """*url* as it may be shown: the password of its authority and of its query are three asterisks."""
    match = _match_url(url)
    if match is None:
        # Whatever it is meant to be: a password with a slash, probably.
        return re.sub(r"//.*@", "//***@", url)
    username, colon, _ = (match[2] or "").partition(":")
    if colon:
        start, end = match.span(2)
        url = f"{url[:start]}{username}:***{url[end:]}"
    return re.sub(r"(?<=[?&])(\w*password)=[^&]*", r"\1=***", url)


def show_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- entries -----------------------------------------------------------------------------------------


def _read_entry(entry: Any) -> AnyHost:
    if isinstance(entry, str):
        return _read_url(entry, {})
    if isinstance(entry, Mapping):
        return _read_dict(entry)
    if isinstance(entry, tuple | list):
        return Host(_read_address(entry, DEFAULT_PORT))
    raise Wrong("should be a URL, a pair of host and port, or a dict")


def _read_dict(given: Mapping[str, Any]) -> AnyHost:
    words = dict(given)
    if "address" in words:
        address = words.pop("address")
        # asgi_redis and the first channels_redis had pairs here.
        if isinstance(address, tuple | list):
            host, port = _read_address(address, DEFAULT_PORT)
            return _read_dict({**words, "host": host, "port": port})
        if not isinstance(address, str):
            raise Wrong("address should be a URL")
        return _read_url(address, words)
    tls = read_tls(words)
    if "sentinels" in words or "master_name" in words:
        return _read_sentinel_dict(words, tls)
    if "cluster" in words:
        startup = _read_addresses("cluster", words.pop("cluster"), DEFAULT_PORT)
        return _cluster(startup, read_options(words, tls), tls)
    if "path" in words:
        path = words.pop("path")
        if not isinstance(path, str) or not path:
            raise Wrong("path should be that of a Unix socket")
        return Host(path, read_options(words, tls=False, tcp=False))
    address = _read_address((words.pop("host", "localhost"), words.pop("port", DEFAULT_PORT)), DEFAULT_PORT)
    return Host(address, read_options(words, tls), tls)


def _read_sentinel_dict(words: dict[str, Any], tls: bool) -> SentinelHost:
    sentinels = _read_addresses("sentinels", words.pop("sentinels", None), DEFAULT_SENTINEL_PORT)
    master_name = words.pop("master_name", None)
    if not isinstance(master_name, str) or not master_name:
        raise Wrong("master_name should be what the sentinels call the engine")
    theirs = dict(words.pop("sentinel_kwargs", None) or {})
    # "whether it is there" and "how often it is looked at" are the pool's, of which we have none.
    for word in ("is_master", "check_connection"):
        words.pop(word, None)
    return _sentinel(master_name, sentinels, theirs, read_options(words, tls), tls)


def _sentinel(
    name: str, sentinels: tuple[Address, ...], theirs: dict[str, Any], options: dict[str, Any], tls: bool
) -> SentinelHost:
    their_tls = read_tls(theirs)
    try:
        their_options = read_options(theirs, their_tls)
    except Wrong as wrong:
        raise Wrong(f"of the sentinels: {wrong}") from None
    asked = tuple(Host(address, their_options, their_tls) for address in sentinels)
    return SentinelHost(name, asked, options, tls)


def _cluster(startup: tuple[Address, ...], options: dict[str, Any], tls: bool) -> ClusterHost:
    if options.pop("db", 0):
        raise Wrong("db: a cluster has database 0 only")
    return ClusterHost(startup, options, tls)


def _read_addresses(word: str, given: Any, default_port: int) -> tuple[Address, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise Wrong(f"{word} should be a list of pairs of host and port")
    return tuple(_read_address(pair, default_port) for pair in given)


def _read_address(pair: Any, default_port: int) -> Address:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Wrong("an address should be a pair of host and port")
    host, port = pair
    if not isinstance(host, str) or not host:
        raise Wrong("host should be a name or an address")
    try:
        number = int(port) if port is not None else default_port
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 65536:
        raise Wrong(f"port {port!r} should be 1..65535")
    return host, number


# -- URLs --------------------------------------------------------------------------------------------

# Scheme, authority, path, query. urlsplit() of newer Pythons refuses "[::1]" beside other hosts.
_URL = re.compile(r"([a-z+]+)://(?:([^/?#]*)@)?([^@/?#]*)(/[^?#]*)?(?:\?([^#]*))?")


def _match_url(url: str) -> re.Match[str] | None:
    match = _URL.fullmatch(url)
    # "redis://user:pass/word@host" would be database "word@host" of the host "user", and be shown.
    if match is not None and match[3] and "@" in url[match.end(3) :]:
        return None
    return match


@dataclass(frozen=True, slots=True)
class _Url:
    """
    A URL in its parts.

    Args:
        addresses: with their ports, as they are written.
        path: without slashes at its ends.
        own: words of its query and its authority.
        beside: words that stand beside it in a dict, and yield to its own.
    """

    scheme: str
    addresses: list[str]
    path: str
    own: dict[str, Any]
    beside: dict[str, Any]

    def words(self, db: str) -> tuple[dict[str, Any], bool]:
        """All of them, where *db* is the path's opinion of the database; and whether to speak TLS."""
        if db:
            self.own.setdefault("db", db)
        words = {**self.beside, **self.own}
        secure = read_tls(words)
        return words, secure or self.scheme.startswith("rediss")


def _read_url(url: str, beside: dict[str, Any]) -> AnyHost:
    match = _match_url(url)
    if match is None:
        raise Wrong("should be a URL such as redis://host:6379/0, its user and password percent-encoded")
    scheme, user, addresses, path, query = match.groups(default="")
    read = _SCHEMES.get(scheme)
    if read is None:
        raise Wrong(f"scheme {scheme!r} should be one of {', '.join(_SCHEMES)}")
    own: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    username, _, password = user.partition(":")
    if username:
        own["username"] = unquote(username)
    if password:
        own["password"] = unquote(password)
    hosts = addresses.split(",") if addresses else []
    return read(_Url(scheme, hosts, unquote(path), own, beside))


def _split_addresses(texts: list[str], default_port: int) -> tuple[Address, ...]:
    addresses = []
    for text in texts or ["localhost"]:
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^\[\]:]+))?(?::(\d*))?", text)
        if match is None:
            raise Wrong("an address should be a host, or host:port")
        host = unquote(match[1] or match[2] or "localhost")
        addresses.append(_read_address((host, match[3] or default_port), default_port))
    return tuple(addresses)


def _read_tcp_url(url: _Url) -> Host:
    if len(url.addresses) > 1:
        raise Wrong("several addresses: write redis+cluster:// or redis+sentinel://, or an entry for each")
    words, tls = url.words(db=url.path.strip("/"))
    (address,) = _split_addresses(url.addresses, DEFAULT_PORT)
    return Host(address, read_options(words, tls), tls)


def _read_unix_url(url: _Url) -> Host:
    if url.addresses or not url.path:
        raise Wrong("should be unix:///path/of/a.sock")
    words, _ = url.words(db="")
    return Host(url.path, read_options(words, tls=False, tcp=False))


def _read_sentinel_url(url: _Url) -> SentinelHost:
    name, _, db = url.path.strip("/").partition("/")
    words, tls = url.words(db)
    name = name or words.pop("master_name", "")
    if not name:
        raise Wrong("should name the engine as the sentinels do: redis+sentinel://host:26379/NAME")
    theirs = dict(words.pop("sentinel_kwargs", None) or {})
    for word in [word for word in words if word.startswith("sentinel_")]:
        theirs[word.removeprefix("sentinel_")] = words.pop(word)
    if tls and "ssl" not in theirs:
        shared = {word: value for word, value in words.items() if word.startswith("ssl_")}
        theirs = {**shared, **theirs, "ssl": True}
    sentinels = _split_addresses(url.addresses, DEFAULT_SENTINEL_PORT)
    return _sentinel(name, sentinels, theirs, read_options(words, tls), tls)


def _read_cluster_url(url: _Url) -> ClusterHost:
    words, tls = url.words(db=url.path.strip("/"))
    return _cluster(_split_addresses(url.addresses, DEFAULT_PORT), read_options(words, tls), tls)


_SCHEMES: dict[str, Callable[[_Url], AnyHost]] = {
    "redis": _read_tcp_url,
    "rediss": _read_tcp_url,
    "unix": _read_unix_url,
    "redis+unix": _read_unix_url,
    "redis+sentinel": _read_sentinel_url,
    "rediss+sentinel": _read_sentinel_url,
    "redis+cluster": _read_cluster_url,
    "rediss+cluster": _read_cluster_url,
}
