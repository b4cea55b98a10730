"""daphne_like.settings and .options: what may stand in an option, and what it then holds."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import ConfigurationError
from daphne_like.options import GIB, KIB, MIB
from daphne_like.settings import GROUPS, Settings, options, options_by_name, split_address

# -- the table itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_option_is_explained(option):
    assert option.help.endswith(".")
    assert option.why.endswith(".")
    assert option.group in GROUPS
    assert option.flag.startswith("--")
    assert "_" not in option.flag


def test_no_two_options_share_a_flag():
    flags = [flag for each in options() for flag in (*each.flags, each.off_flag) if flag]
    assert len(flags) == len(set(flags))


def test_groups_stand_together():
    """The order of the fields is the order of the documentation: no group is interrupted."""
    seen = list(dict.fromkeys(each.group for each in options()))
    assert seen == list(GROUPS)
    assert [each.group for each in options()] == sorted((each.group for each in options()), key=seen.index)


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_default_can_be_written_as_text(option):
    if option.default is not None:
        assert option.parse(option.text(option.default), option.flag) == option.default


def test_settings_are_immutable_and_equal_by_value():
    assert Settings() == Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().backlog = 1  # type: ignore[misc]


# -- Daphne 4.2 -----------------------------------------------------------------------------------

DAPHNE_DEFAULTS = {  # daphne/cli.py of 4.2, by our fields' names
    "port": None,
    "websocket_timeout": 86400,
    "websocket_connect_timeout": 5,
    "verbosity": 1,
    "http_timeout": None,
    "access_log": None,
    "log_fmt": "%(asctime)-15s %(levelname)-8s %(message)s",
    "ping_interval": 20,
    "ping_timeout": 30,
    "websocket_max_message_size": 1024 * 1024,
    "websocket_max_frame_size": 1024 * 1024,
    "application_close_timeout": 10,
    "root_path": "",
    "proxy_headers": False,
    "proxy_headers_host": "X-Forwarded-For",
    "proxy_headers_port": "X-Forwarded-Port",
}


@pytest.mark.parametrize(("name", "default"), DAPHNE_DEFAULTS.items())
def test_defaults_are_daphnes(name, default):
    assert getattr(Settings(), name) == default


ADDRESSES = [  # options of the command line -> TCP sockets; daphne/cli.py and daphne/endpoints.py
    ({}, [("127.0.0.1", 8000)]),
    ({"port": 9000}, [("127.0.0.1", 9000)]),
    ({"port": 0}, [("127.0.0.1", 0)]),
    ({"bind": ["0.0.0.0"]}, [("0.0.0.0", 8000)]),
    ({"bind": ["0.0.0.0"], "port": 80}, [("0.0.0.0", 80)]),
    ({"bind": ["::1"], "port": 80}, [("::1", 80)]),
    ({"bind": ["[::]"]}, [("::", 8000)]),
    ({"unix_socket": ["/run/a.sock"]}, []),
    ({"file_descriptor": [0]}, []),
    ({"endpoint": ["tcp:80"]}, []),
    ({"unix_socket": ["/run/a.sock"], "port": 80}, [("127.0.0.1", 80)]),
    ({"unix_socket": ["/run/a.sock"], "bind": ["10.0.0.1"]}, [("10.0.0.1", 8000)]),
    # Ours: several, with ports of their own.
    (
        {"bind": ["[::1]:81", "localhost:82", "a.example"], "port": 83},
        [("::1", 81), ("localhost", 82), ("a.example", 83)],
    ),
    ({"bind": ["127.0.0.1", "127.0.0.1:8000"]}, [("127.0.0.1", 8000)]),
]


@pytest.mark.parametrize(("given", "expected"), ADDRESSES)
def test_tcp_addresses(given, expected):
    assert list(Settings(**given).tcp_addresses()) == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [({}, False), ({"port": 0}, True), ({"bind": ["::"]}, True), ({"file_descriptor": [0]}, True)],
)
def test_sockets_named(given, named):
    """Only a server whose sockets nobody named takes systemd's, or else the default."""
    assert Settings(**given).sockets_named is named


def test_restart_rules_are_pairs_in_their_order():
    given = ["/chat/*=close", "*.ws=resume", "close", "/late=resume"]
    assert Settings(on_worker_restart=given).restart_rules == (
        ("/chat/*", "close"),
        ("*.ws", "resume"),
        ("*", "close"),
        ("/late", "resume"),
    )


ACCESS_LOGS = [
    ({}, "-"),
    ({"verbosity": 0}, ""),
    ({"verbosity": 0, "access_log": "-"}, "-"),
    ({"access_log": "/var/log/site.log"}, "/var/log/site.log"),
    ({"access_log": ""}, ""),
]


@pytest.mark.parametrize(("given", "target"), ACCESS_LOGS)
def test_access_log_is_on_from_verbosity_1_unless_said_otherwise(given, target):
    assert Settings(**given).access_log_target == target


# -- values ---------------------------------------------------------------------------------------

PARSED = [  # field, text -> value
    ("bind", "127.0.0.1:80, [::1]:80", ("127.0.0.1:80", "[::1]:80")),
    ("bind", "", ()),
    ("port", "0", 0),
    ("port", " 8080 ", 8080),
    ("port", "", None),
    ("unix_socket_mode", "660", 0o660),
    ("unix_socket_mode", "0o600", 0o600),
    ("file_descriptor", "3,4", (3, 4)),
    ("max_head_size", "65536", 65536),
    ("max_head_size", "32k", 32 * KIB),
    ("max_body_size", "10 MiB", 10 * MIB),
    ("max_body_size", "2GB", 2 * GIB),
    ("max_body_size", "0", 0),
    ("max_concurrent_requests", "", None),
    ("max_concurrent_requests", "100", 100),
    ("keep_alive_timeout", "7.5", 7.5),
    ("keep_alive_timeout", "0", 0),
    ("http_timeout", "30", 30.0),
    ("http_timeout", "0", None),
    ("http_timeout", "-1", None),
    ("websocket_timeout", "-1", 0),
    ("websocket_connect_timeout", "-1", 0),
    ("factory", "yes", True),
    ("factory", "0", False),
    ("lifespan", "off", "off"),
    ("forwarded_allow_ips", "10.0.0.0/8, unix,::1", ("10.0.0.0/8", "unix", "::1")),
    ("forwarded_allow_ips", "", ()),
    ("server_name", "", ""),
    ("server_name", "Apache/2.4 (my own)", "Apache/2.4 (my own)"),
    ("root_path", "/app/v1", "/app/v1"),
    ("access_log_skip", "/healthz,/readyz", ("/healthz", "/readyz")),
    ("workers", "4", 4),
    ("workers_max_rss", "400m", 400 * MIB),
    ("worker_stuck_timeout", "0", 0),
    ("only", "websocket.*,http.request", ("websocket.*", "http.request")),
    ("channels", "thumbnails, emails", ("thumbnails", "emails")),
    ("on_worker_restart", "/chat/*=close,resume", ("/chat/*=close", "resume")),
    ("layer", "ipc:/run/site.sock?mode=660", "ipc:/run/site.sock?mode=660"),
    ("health_path", "/healthz", "/healthz"),
    ("ready_path", "/readyz", "/readyz"),
    ("endpoint", r"tcp:8000:interface=\:\:1", (r"tcp:8000:interface=\:\:1",)),
]


@pytest.mark.parametrize(("name", "text", "expected"), PARSED)
def test_text_becomes_value(name, text, expected):
    value = options_by_name()[name].parse(text, name)
    assert value == expected
    assert type(value) is type(expected) or options_by_name()[name].kind is float
    assert getattr(Settings(**{name: value}), name) == expected


REFUSED = [  # field, text, a part of what is said
    ("bind", ":8000", "the host is missing"),
    ("bind", "*:8000", "not a host"),
    ("bind", "localhost:http", "port 'http'"),
    ("bind", "localhost:65536", "0..65535"),
    ("bind", "localhost:", "port ''"),
    ("bind", "[::1", "brackets"),
    ("bind", "[::1]8000", "brackets"),
    ("bind", "[localhost]:80", "not an IPv6 address"),
    ("bind", "1:2:3", "not an IPv6 address"),
    ("bind", "http://localhost:80", "not a URL"),
    ("bind", "local host", "not a host"),
    ("port", "http", "whole number"),
    ("port", "65536", "0..65535"),
    ("port", "-1", "0..65535"),
    ("port", "8000.0", "whole number"),
    ("unix_socket_mode", "rw", "octal"),
    ("unix_socket_mode", "888", "octal"),
    ("unix_socket_mode", "1777", "0000..0777"),
    ("unix_socket", "a\0b", "NUL"),
    ("file_descriptor", "-1", "0 or more"),
    ("backlog", "0", "1..2147483647"),
    ("max_head_size", "64 kilo", "a size in bytes"),
    ("max_head_size", "1", "1024 or more"),
    ("max_head_size", "-5", "a size in bytes"),
    ("max_body_size", "9" * 20, "too large"),
    ("max_body_size", "9" * 5000, "a size in bytes"),
    ("max_header_count", "0", "1 or more"),
    ("max_concurrent_requests", "0", "1 or more"),
    ("keep_alive_timeout", "-1", "not above 0; 0 means no bound"),
    ("websocket_timeout", "-2", "not above 0; 0 means never"),
    ("header_timeout", "soon", "number of seconds"),
    ("header_timeout", "nan", "number of seconds"),
    ("header_timeout", "inf", "number of seconds"),
    ("websocket_close_timeout", "0", "0.1 or more"),
    ("websocket_compression_window", "8", "9..15"),
    ("websocket_compression_window", "16", "9..15"),
    ("verbosity", "4", "0..3"),
    ("factory", "maybe", "true or false"),
    ("lifespan", "sometimes", "auto, on, off"),
    ("access_log_format", "xml", "combined, json"),
    ("proxy_headers_host", "X-Real-IP:", "not a header name"),
    ("proxy_headers_host", "X_REAL_IP", "'_'"),
    ("forwarded_allow_ips", "proxy.example", "not an IP address"),
    ("forwarded_allow_ips", "10.0.0.1/8", "the network is 10.0.0.0/8"),
    ("root_path", "app", "begins with '/'"),
    ("root_path", "/app/", "not end"),
    ("root_path", "/a b", "no space"),
    ("server_name", "a\r\nSet-Cookie: x=y", "printable ASCII"),
    ("server_name", " padded", "printable ASCII"),
    ("log_fmt", "", "empty"),
    ("log_fmt", "%(asctime", "format"),
    ("log_fmt", "no field", "format"),
    ("access_log_skip", "healthz", "a path"),
    ("access_log_skip", "/healthz?full", "without a query"),
    ("layer", "", "empty"),
    ("workers", "-1", "0 or more"),
    ("worker_sessions", "0", "1 or more"),
    ("queue_timeout", "-1", "above 0"),
    ("health_path", "healthz", "a path"),
    ("channels", "thumbnails!", "a channel's name"),
    ("channels", "x" * 100, "99 letters"),
    ("only", "websocket *", "a channel's name"),
    ("on_worker_restart", "restart", "resume or close"),
    ("on_worker_restart", "chat=close", "begins with '/'"),
    ("certificate", "", "empty"),
]


@pytest.mark.parametrize(("name", "text", "said"), REFUSED)
def test_text_is_refused_in_one_line_that_names_option_value_and_what_is_right(name, text, said):
    option = options_by_name()[name]
    with pytest.raises(ConfigurationError) as caught:
        option.parse(text, option.flag)
    line = str(caught.value)
    assert line.startswith(f"{option.flag}: ")
    assert said.lower() in line.lower()
    assert "\n" not in line


WRONG_TYPES = [
    ("port", "8000"),
    ("port", 80.5),
    ("port", True),
    ("bind", "127.0.0.1"),
    ("bind", [1]),
    ("factory", 1),
    ("lifespan", None),
    ("root_path", b"/app"),
    ("header_timeout", "30"),
    ("header_timeout", None),
    ("header_timeout", float("inf")),
    ("header_timeout", 10**400),
    ("max_body_size", 1.5),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_construction_refuses_another_type(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        Settings(**{name: value})


def test_construction_keeps_the_type_of_the_field():
    settings = Settings(
        bind=["::1"], header_timeout=3, max_body_size="1m", unix_socket_mode="0600", websocket_timeout=-1
    )
    assert settings.bind == ("::1",)
    assert type(settings.header_timeout) is float
    assert settings.max_body_size == MIB
    assert settings.unix_socket_mode == 0o600
    assert settings.websocket_timeout == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"private_key": "key.pem"}, "--private-key key.pem: needs --certificate"),
        ({"proxy_headers_host": "X-Real-IP"}, "--proxy-headers-host X-Real-IP: needs --proxy-headers"),
        (
            {"limit_max_requests_jitter": 5},
            "--limit-max-requests-jitter 5: needs --limit-max-requests",
        ),
        ({"proxy_headers_port": "X-Port"}, "--proxy-headers-port X-Port: needs --proxy-headers"),
    ],
)
def test_options_that_mean_nothing_alone(given, said):
    with pytest.raises(ConfigurationError) as caught:
        Settings(**given)
    assert str(caught.value) == said


def test_certificate_alone_may_hold_the_key():
    assert Settings(certificate="both.pem").private_key is None


@given(st.text())
def test_any_text_is_an_address_or_a_valueerror(text):
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert host
    assert port is None or 0 <= port <= 65535


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
@given(text=st.text(alphabet=st.sampled_from("0123456789.,-+kKmeEinfa/:[]* \0\x7fé"), max_size=12))
def test_any_text_is_a_value_or_a_configuration_error(option, text):
    """No text raises anything else, and an accepted one survives being written and read again."""
    try:
        value = option.parse(text, option.flag)
    except ConfigurationError as error:
        value = None
        assert str(error).startswith(option.flag)  # noqa: PT017 - which texts are refused is not the point here
    if value is not None:
        assert option.parse(option.text(value), option.flag) == value
