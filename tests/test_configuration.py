"""daphne_like.configuration: which source wins, and which words are errors where."""

import pytest

from daphne_like.configuration import resolve
from daphne_like.errors import ConfigurationError
from daphne_like.settings import Settings


@pytest.fixture
def toml(tmp_path):
    """Writes a file and returns its name."""

    def write(text: str) -> str:
        path = tmp_path / "site.toml"
        path.write_text(text)
        return str(path)

    return write


def test_nothing_given_is_the_defaults():
    found = resolve({}, environ={})
    assert found.settings == Settings()
    assert found.application is None
    assert found.sources == {}


def test_command_line_over_environment_over_file_over_default(toml):
    name = toml("max_header_count = 1\nverbosity = 1\nbacklog = 1\n")
    environ = {"DAPHNE_LIKE_VERBOSITY": "2", "DAPHNE_LIKE_BACKLOG": "2"}
    found = resolve({"backlog": "3"}, config=name, environ=environ)
    assert found.settings.max_header_count == 1
    assert found.settings.verbosity == 2
    assert found.settings.backlog == 3
    assert found.settings.ping_interval == Settings().ping_interval
    assert found.sources == {
        "max_header_count": name,
        "verbosity": "DAPHNE_LIKE_VERBOSITY",
        "backlog": "--backlog",
    }


def test_a_list_replaces_the_list_below_it(toml):
    name = toml('bind = ["10.0.0.1", "10.0.0.2"]')
    assert resolve({}, config=name, environ={}).settings.bind == ("10.0.0.1", "10.0.0.2")
    assert resolve({}, config=name, environ={"DAPHNE_LIKE_BIND": "::1,::2"}).settings.bind == ("::1", "::2")
    assert resolve({"bind": ["[::3]:80"]}, config=name, environ={}).settings.bind == ("[::3]:80",)


def test_a_flag_alone_overrules(toml):
    name = toml("proxy_headers = true\nwebsocket_compression = true")
    assert resolve({"proxy_headers": False}, config=name, environ={}).settings.proxy_headers is False
    assert resolve({"factory": True}, environ={"DAPHNE_LIKE_FACTORY": "no"}).settings.factory is True


def test_repeated_flags(tmp_path):
    found = resolve({"unix_socket": ["/run/a,b.sock", "/run/c.sock"]}, environ={})
    assert found.settings.unix_socket == ("/run/a,b.sock", "/run/c.sock"), "a path may hold a comma"
    found = resolve({"forwarded_allow_ips": ["::1,unix", "10.0.0.0/8"]}, environ={})
    assert found.settings.forwarded_allow_ips == ("::1", "unix", "10.0.0.0/8")


def test_file_is_named_by_flag_or_else_by_variable(tmp_path):
    for name, backlog in (("flag.toml", 1), ("variable.toml", 2)):
        (tmp_path / name).write_text(f"backlog = {backlog}")
    environ = {"DAPHNE_LIKE_CONFIG": str(tmp_path / "variable.toml")}
    assert resolve({}, environ=environ).settings.backlog == 2
    assert resolve({}, config=str(tmp_path / "flag.toml"), environ=environ).settings.backlog == 1


def test_types_of_a_file(toml):
    name = toml(
        """
        max_body_size = "10m"
        max_head_size = 32768
        unix_socket_mode = 0o660
        keep_alive_timeout = 90
        http_timeout = -1
        websocket_compression = false
        forwarded_allow_ips = ["unix"]
        """
    )
    settings = resolve({}, config=name, environ={}).settings
    assert settings.max_body_size == 10 * 1024 * 1024
    assert settings.max_head_size == 32768
    assert settings.unix_socket_mode == 0o660
    assert settings.keep_alive_timeout == 90.0
    assert settings.http_timeout is None
    assert settings.websocket_compression is False
    assert settings.forwarded_allow_ips == ("unix",)


@pytest.mark.parametrize(
    ("argument", "environ", "text", "expected"),
    [
        ("a:a", {"DAPHNE_LIKE_APPLICATION": "b:b"}, 'application = "c:c"', "a:a"),
        (None, {"DAPHNE_LIKE_APPLICATION": "b:b"}, 'application = "c:c"', "b:b"),
        (None, {}, 'application = "c:c"', "c:c"),
        (None, {"DAPHNE_LIKE_APPLICATION": ""}, "", None),
    ],
)
def test_application_from_each_source(argument, environ, text, expected, toml):
    assert resolve({}, application=argument, config=toml(text), environ=environ).application == expected


EMPTY_VARIABLES = [  # variable, field, what the file below says, what holds
    ("DAPHNE_LIKE_BACKLOG", "backlog", "backlog = 7", 7),
    ("DAPHNE_LIKE_CERTIFICATE", "certificate", 'certificate = "c.pem"', "c.pem"),
    ("DAPHNE_LIKE_LIFESPAN", "lifespan", 'lifespan = "on"', "on"),
    ("DAPHNE_LIKE_FORWARDED_ALLOW_IPS", "forwarded_allow_ips", 'forwarded_allow_ips = ["*"]', ()),
    ("DAPHNE_LIKE_ACCESS_LOG", "access_log", 'access_log = "-"', ""),
    ("DAPHNE_LIKE_SERVER_NAME", "server_name", 'server_name = "x"', ""),
    ("DAPHNE_LIKE_ROOT_PATH", "root_path", 'root_path = "/x"', ""),
]


@pytest.mark.parametrize(("variable", "field", "text", "expected"), EMPTY_VARIABLES)
def test_empty_variable_counts_as_absent_unless_empty_is_a_value(variable, field, text, expected, toml):
    settings = resolve({}, config=toml(text), environ={variable: ""}).settings
    assert getattr(settings, field) == expected


def test_errors_name_the_place_where_the_value_stands(toml):
    with pytest.raises(ConfigurationError, match=r"^--backlog: 'many'"):
        resolve({"backlog": "many"}, environ={})
    with pytest.raises(ConfigurationError, match=r"^DAPHNE_LIKE_BACKLOG: 'many'"):
        resolve({}, environ={"DAPHNE_LIKE_BACKLOG": "many"})
    name = toml('backlog = "many"')
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, config=name, environ={})
    assert str(caught.value) == f"{name}: backlog: 'many' is not a whole number"


def test_an_overruled_value_is_judged_too(toml):
    """A typing mistake in the file does not wait for the day that the flag is left out."""
    with pytest.raises(ConfigurationError, match="backlog: 0 is not in"):
        resolve({"backlog": "5"}, config=toml("backlog = 0"), environ={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_boddy_size = 1", "unknown key max_boddy_size; did you mean max_body_size?"),
        ("aplication = 'a:b'", "unknown key aplication; did you mean application?"),
        ("[daphne_like]\nbacklog = 1", "unknown key daphne_like"),
        ("application = 1", "application: 1 is not text"),
        ("backlog = ", "not TOML"),
    ],
)
def test_files_that_cannot_be_right(text, said, toml):
    name = toml(text)
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, config=name, environ={})
    assert str(caught.value).startswith(f"{name}: ")
    assert said in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        resolve({}, config=str(tmp_path / "absent.toml"), environ={})
    (tmp_path / "latin1.toml").write_bytes(b'server_name = "caf\xe9"')
    with pytest.raises(ConfigurationError, match="not TOML"):
        resolve({}, config=str(tmp_path / "latin1.toml"), environ={})


def test_unknown_variable_is_an_error():
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, environ={"DAPHNE_LIKE_MAX_BODYSIZE": "1"})
    assert "DAPHNE_LIKE_MAX_BODYSIZE; did you mean DAPHNE_LIKE_MAX_BODY_SIZE?" in str(caught.value)


def test_service_links_of_kubernetes_are_passed_over():
    """A service called daphne-like puts these into every container of its namespace."""
    environ = {
        "DAPHNE_LIKE_PORT": "tcp://10.0.0.7:80",
        "DAPHNE_LIKE_SERVICE_HOST": "10.0.0.7",
        "DAPHNE_LIKE_SERVICE_PORT": "80",
        "DAPHNE_LIKE_SERVICE_PORT_HTTP": "80",
        "DAPHNE_LIKE_PORT_80_TCP": "tcp://10.0.0.7:80",
        "DAPHNE_LIKE_PORT_80_TCP_PROTO": "tcp",
        "DAPHNE_LIKE_PORT_80_TCP_ADDR": "10.0.0.7",
    }
    assert resolve({}, environ=environ).settings == Settings()
