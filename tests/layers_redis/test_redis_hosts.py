"""What `hosts=` takes: as channels_redis does, and Sentinel, Cluster and more as URLs."""

import ssl
from typing import Any

import pytest

from daphne_like.errors import ConfigurationError
from daphne_like.layers.redis.hosts import ClusterHost, Host, SentinelHost, parse, without_secrets

LOCAL = ("localhost", 6379)

ENGINES: list[tuple[Any, Host]] = [
    ("redis://localhost:6379", Host(LOCAL)),
    ("redis://", Host(LOCAL)),
    ("redis://cache", Host(("cache", 6379))),
    ("redis://cache:7000/3", Host(("cache", 7000), {"db": 3})),
    ("redis://cache/3?db=4", Host(("cache", 6379), {"db": 4})),
    ("redis://[::1]:7000", Host(("::1", 7000))),
    ("redis://:word@cache", Host(("cache", 6379), {"password": "word"})),
    (
        "redis://user:p%40ss%2Fword@cache",
        Host(("cache", 6379), {"username": "user", "password": "p@ss/word"}),
    ),
    ("redis://user:p@ss:word@cache", Host(("cache", 6379), {"username": "user", "password": "p@ss:word"})),
    ("redis://cache?client_name=site", Host(("cache", 6379), {"client_name": "site"})),
    ("redis://cache?socket_connect_timeout=2.5", Host(("cache", 6379), {"socket_connect_timeout": 2.5})),
    ("redis://cache?socket_keepalive=no", Host(("cache", 6379), {"socket_keepalive": False})),
    ("rediss://cache", Host(("cache", 6379), tls=True)),
    ("rediss://cache?ssl_cert_reqs=none", Host(("cache", 6379), {"ssl_cert_reqs": "none"}, tls=True)),
    (
        "rediss://cache?ssl_check_hostname=false",
        Host(("cache", 6379), {"ssl_check_hostname": False}, tls=True),
    ),
    ("unix:///run/redis.sock", Host("/run/redis.sock")),
    ("unix:///run/redis.sock?db=2", Host("/run/redis.sock", {"db": 2})),
    (
        "unix://user:word@/run/redis.sock",
        Host("/run/redis.sock", {"username": "user", "password": "word"}),
    ),
    ("redis+unix:///run/a%20b.sock", Host("/run/a b.sock")),
    (("cache", 7000), Host(("cache", 7000))),
    (["cache", "7000"], Host(("cache", 7000))),
    ({"host": "cache"}, Host(("cache", 6379))),
    ({"host": "cache", "port": 7000, "password": "word"}, Host(("cache", 7000), {"password": "word"})),
    ({"host": "cache", "password": None}, Host(("cache", 6379))),
    ({"host": "cache", "ssl": True}, Host(("cache", 6379), tls=True)),
    ({"path": "/run/redis.sock", "db": 1}, Host("/run/redis.sock", {"db": 1})),
    ({"address": "redis://cache"}, Host(("cache", 6379))),
    ({"address": "redis://cache/3", "db": 4}, Host(("cache", 6379), {"db": 3})),
    ({"address": "redis://cache", "db": 4}, Host(("cache", 6379), {"db": 4})),
    # asgi_redis and the first channels_redis
    ({"address": ("cache", 7000), "db": 4}, Host(("cache", 7000), {"db": 4})),
    # Heroku's documentation
    (
        {"address": "rediss://:word@cache:7000", "ssl_cert_reqs": None},
        Host(("cache", 7000), {"password": "word", "ssl_cert_reqs": "none"}, tls=True),
    ),
    (
        {"address": "rediss://cache", "ssl_cert_reqs": ssl.CERT_OPTIONAL},
        Host(("cache", 6379), {"ssl_cert_reqs": "optional"}, tls=True),
    ),
]


@pytest.mark.parametrize(("entry", "expected"), ENGINES)
def test_one_engine(entry: Any, expected: Host) -> None:
    assert parse([entry]) == (expected,)


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_nothing_is_localhost(nothing: Any) -> None:
    assert parse(nothing) == (Host(LOCAL),)


def test_several_engines_keep_their_order() -> None:
    hosts = parse(["redis://b", ("a", 1), "redis://c"])

    assert [str(host) for host in hosts] == ["b:6379", "a:1", "c:6379"]


@pytest.mark.parametrize(
    "word",
    [
        "socket_timeout",
        "retry_on_timeout",
        "health_check_interval",
        "max_connections",
        "decode_responses",
        "retry",
        "protocol",
    ],
)
def test_words_about_trying_again_and_reading_have_no_effect(word: str) -> None:
    """What is sent twice, and when, is decided here; a configuration that has them works all the same."""
    assert parse([{"host": "cache", word: 1}]) == (Host(("cache", 6379)),)


SENTINELS = (Host(("a", 26379)), Host(("b", 7000)))
SENTINEL_SITES: list[tuple[Any, SentinelHost]] = [
    ("redis+sentinel://a,b:7000/site", SentinelHost("site", SENTINELS)),
    (
        "redis+sentinel://user:word@a,b:7000/site/2",
        SentinelHost("site", SENTINELS, {"username": "user", "password": "word", "db": 2}),
    ),
    (
        "redis+sentinel://[::1]/site?sentinel_password=word",
        SentinelHost("site", (Host(("::1", 26379), {"password": "word"}),)),
    ),
    (
        "rediss+sentinel://a/site?ssl_ca_certs=/ca.pem",
        SentinelHost(
            "site",
            (Host(("a", 26379), {"ssl_ca_certs": "/ca.pem"}, tls=True),),
            {"ssl_ca_certs": "/ca.pem"},
            tls=True,
        ),
    ),
    (
        "rediss+sentinel://a/site?sentinel_ssl=0",
        SentinelHost("site", (Host(("a", 26379)),), tls=True),
    ),
    (
        {"sentinels": [("a", 26379), ["b", 7000]], "master_name": "site", "password": "word"},
        SentinelHost("site", SENTINELS, {"password": "word"}),
    ),
    (
        {"sentinels": [("a", 26379)], "master_name": "site", "sentinel_kwargs": {"password": "word"}},
        SentinelHost("site", (Host(("a", 26379), {"password": "word"}),)),
    ),
    (
        {"sentinels": [("a", 26379)], "master_name": "site", "sentinel_kwargs": None, "ssl": True},
        SentinelHost("site", (Host(("a", 26379)),), tls=True),
    ),
]


@pytest.mark.parametrize(("entry", "expected"), SENTINEL_SITES)
def test_engine_behind_sentinels(entry: Any, expected: SentinelHost) -> None:
    assert parse([entry]) == (expected,)


def test_an_engine_that_sentinels_name_has_to_be_a_master() -> None:
    (site,) = parse(["redis+sentinel://a/site"])

    assert isinstance(site, SentinelHost)
    assert site.at(("c", 1)) == Host(("c", 1), master_only=True)


CLUSTERS: list[tuple[Any, ClusterHost]] = [
    ("redis+cluster://a,b:7000", ClusterHost((("a", 6379), ("b", 7000)))),
    ("redis+cluster://a/0", ClusterHost((("a", 6379),))),
    (
        "rediss+cluster://user:word@a?ssl_ca_certs=/ca.pem",
        ClusterHost(
            (("a", 6379),),
            {"ssl_ca_certs": "/ca.pem", "username": "user", "password": "word"},
            tls=True,
        ),
    ),
    ({"cluster": [("a", 6379), ("b", 7000)]}, ClusterHost((("a", 6379), ("b", 7000)))),
]


@pytest.mark.parametrize(("entry", "expected"), CLUSTERS)
def test_cluster(entry: Any, expected: ClusterHost) -> None:
    assert parse([entry]) == (expected,)


WRONG: list[tuple[Any, str]] = [
    ("redis://localhost", "hosts: should be a list"),
    ({"host": "localhost"}, "hosts: should be a list"),
    (6379, "hosts: should be a list"),
    ([6379], "hosts[0]: should be a URL"),
    (["redis://localhost", "http://localhost"], "hosts[1] http://localhost: scheme 'http'"),
    (["localhost"], "should be a URL such as"),
    (["redis://a,b"], "redis+cluster://"),
    (["redis://a:http"], "an address should be"),
    (["redis://a:70000"], "port '70000' should be 1..65535"),
    (["redis://a/first"], "db=first should be the number of a database"),
    (["redis://a/-1"], "db=-1"),
    (["redis://a?dbb=1"], "no word 'dbb'; there are db,"),
    (["redis://a?ssl_ca_certs=/ca.pem"], "ssl_ca_certs without TLS"),
    (["rediss://a?ssl_cert_reqs=maybe"], "ssl_cert_reqs=maybe should be none, optional or required"),
    (["rediss://a?ssl_min_version=1.2"], "ssl_min_version=1.2"),
    (["rediss://a?ssl_check_hostname=perhaps"], "ssl_check_hostname=perhaps should be true or false"),
    (["redis://a?socket_connect_timeout=0"], "socket_connect_timeout=0 should be seconds"),
    (["unix://run/redis.sock"], "unix:///path"),
    (["unix://"], "unix:///path"),
    ([("a", 1, 2)], "a pair of host and port"),
    ([("", 1)], "host should be a name"),
    ([{"host": "a", "port": "http"}], "port 'http'"),
    ([{"address": 3}], "address should be a URL"),
    ([{"path": ""}], "path should be"),
    ([{"sentinels": [("a", 1)]}], "master_name should be"),
    ([{"master_name": "site"}], "sentinels should be a list"),
    (["redis+sentinel://a"], "should name the engine"),
    (["redis+sentinel://a/x?sentinel_dbb=1"], "of the sentinels: no word 'dbb'"),
    (["redis+cluster://a/1"], "a cluster has database 0 only"),
    (["redis+cluster://a", "redis://b"], "a cluster is one entry"),
    ([{"cluster": []}], "cluster should be a list"),
    ([{"host": "a", "ssl": "perhaps"}], "ssl should be true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("hosts", "complaint"), WRONG)
def test_what_is_wrong_is_named(hosts: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(hosts)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "redis://user:SECRET@cache?dbb=1",
        "redis://:SECRET@cache?dbb=1",
        "redis://user:SECRET/1@cache",
        "redis://user:SECRET?1@cache",
        "redis://user:SECRET#1@cache",
        "redis://user:12345SECRET/1@cache",
        "redis://a@b:SECRET@cache?dbb=1",
        "redis://cache?password=SECRET&dbb=1",
        "redis://cache?dbb=1&sentinel_password=SECRET",
        "http://user:SECRET@cache",
        "redis+sentinel://user:SECRET@cache",
        {"host": "cache", "password": b"SECRET"},
        {"address": "redis://user:SECRET/1@cache"},
    ],
)
def test_no_password_in_a_complaint(entry: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse([entry])
    assert "SECRET" not in f"{caught.value}{caught.value.__cause__}"


def test_no_password_in_what_is_printed() -> None:
    hosts = parse(["redis://user:SECRET@a", "redis+sentinel://:SECRET@b/site?sentinel_password=SECRET"])
    cluster = parse(["redis+cluster://:SECRET@a"])

    assert "SECRET" not in f"{hosts!r}{cluster!r}{list(map(str, hosts))}{cluster[0]}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/1", "redis://cache:6379/1"),
        ("redis://user@cache", "redis://user@cache"),
        ("redis://user:word@cache/1?x=y", "redis://user:***@cache/1?x=y"),
        ("redis://:word@cache", "redis://:***@cache"),
        ("redis+sentinel://u:p@a,b/site?sentinel_password=x&db=1", "redis+sentinel://u:***@a,b/site?sentinel_password=***&db=1"),
        ("redis://u:p/q@cache", "redis://***@cache"),
        ("ipc:/run/site.sock", "ipc:/run/site.sock"),
    ],
)  # fmt: skip
def test_url_as_it_may_be_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
