"""The environ that a WSGI application gets (PEP 3333), and the wsgi.input in it."""

import io
import sys
import wsgiref.validate

import pytest

from daphne_like.errors import ClientDisconnected
from daphne_like.wsgi.environ import BodyReader, build_environ, declared_length
from tests.wsgi.conversations import http_scope


def environ_of(**changes):
    return build_environ(http_scope(**changes), multiprocess=False)


def test_it_is_what_pep_3333_says():
    environ = environ_of(path="/a/b", query_string=b"x=1&y=%20")
    assert environ["REQUEST_METHOD"] == "GET"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/a/b")
    assert environ["QUERY_STRING"] == "x=1&y=%20"
    assert environ["REQUEST_URI"] == "/a/b?x=1&y=%20"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", "8000")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.7", "4711")
    assert environ["wsgi.errors"] is sys.stderr
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert type(environ) is dict


def test_the_standard_librarys_validator_has_nothing_against_it():
    environ = environ_of(path="/a")
    environ["wsgi.input"] = io.BytesIO()
    wsgiref.validate.check_environ(environ)


PATHS = [  # raw path, root path -> SCRIPT_NAME, PATH_INFO
    (b"/caf%C3%A9", "", "", "/caf\xc3\xa9"),
    (b"/%FF", "", "", "/\xff"),
    (b"/app/x", "/app", "/app", "/x"),
    (b"/app", "/app", "/app", ""),
    (b"/%C3%A9/x", "/é", "/\xc3\xa9", "/x"),
    (b"/application", "/app", "/app", "/application"),
    (b"/a%2Fb", "", "", "/a/b"),
]


@pytest.mark.parametrize(("raw_path", "root_path", "script_name", "path_info"), PATHS)
def test_paths_are_octets_in_latin_1(raw_path, root_path, script_name, path_info):
    environ = environ_of(raw_path=raw_path, root_path=root_path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_servers_without_raw_path():
    scope = http_scope("/é")
    del scope["raw_path"]
    environ = build_environ(scope, multiprocess=False)
    assert environ["PATH_INFO"] == "/\xc3\xa9"
    assert environ["REQUEST_URI"] == "/%C3%A9"


def test_header_fields():
    environ = environ_of(
        headers=[
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"accept", b"a"),
            (b"accept", b"b"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"x-caf\xe9", b"\xe9"),
        ]
    )
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_CAF\xc9"] == "\xe9"
    assert "HTTP_CONTENT_TYPE" not in environ


def test_fields_with_underscores_cannot_pose_as_others():
    """CVE-2015-0219; our own server drops them before, others do not."""
    environ = environ_of(headers=[(b"x_forwarded_for", b"evil"), (b"x-forwarded-for", b"good")])
    assert environ["HTTP_X_FORWARDED_FOR"] == "good"


UNIX = [  # Host, scheme -> SERVER_NAME, SERVER_PORT: "can never be empty strings"
    (b"www.example.com", "http", "www.example.com", "80"),
    (b"www.example.com", "https", "www.example.com", "443"),
    (b"www.example.com:8080", "https", "www.example.com", "8080"),
    (b"[::1]", "http", "[::1]", "80"),
    (b"", "http", "localhost", "80"),
]


@pytest.mark.parametrize(("host", "scheme", "name", "port"), UNIX)
def test_on_a_unix_socket(host, scheme, name, port):
    environ = environ_of(
        client=None, server=("/run/site.sock", None), scheme=scheme, headers=[(b"host", host)]
    )
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)
    assert environ["REMOTE_ADDR"] == ""


LENGTHS = [
    ("1.1", [], (0, False)),
    ("1.1", [(b"content-length", b"7")], (7, False)),
    ("1.1", [(b"transfer-encoding", b"chunked")], (None, False)),
    ("1.1", [(b"content-length", b"7"), (b"expect", b"100-continue")], (7, True)),
    ("2", [], (None, False)),
    ("2", [(b"content-length", b"0")], (0, False)),
]


@pytest.mark.parametrize(("version", "headers", "expected"), LENGTHS)
def test_what_is_declared_of_the_body(version, headers, expected):
    assert declared_length(http_scope(http_version=version, headers=headers)) == expected


def reader(first: bytes, *pieces: bytes) -> io.BufferedReader:
    left = list(pieces)

    def fetch() -> tuple[bytes, bool]:
        return left.pop(0), bool(left)

    return io.BufferedReader(BodyReader(first, bool(pieces), fetch))


def test_reading():
    assert reader(b"abc", b"", b"de", b"f").read() == b"abcdef"
    body = reader(b"ab\nc", b"d\n", b"e")
    assert body.read(1) == b"a"
    assert body.readline() == b"b\n"
    assert list(body) == [b"cd\n", b"e"]
    assert body.read() == b""
    assert reader(b"a\nb", b"\n").readlines() == [b"a\n", b"b\n"]


def test_reading_what_will_not_come():
    answers = [(b"b", True), None, None]
    body = io.BufferedReader(BodyReader(b"a", True, lambda: answers.pop(0)))
    assert body.read(2) == b"ab"
    for _ in range(2):
        with pytest.raises(ClientDisconnected):
            body.read(1)
