"""What an application is told of a connection before anything else (ASGI HTTP & WebSocket spec 2.5)."""

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from tests.asgi.conversation import HANDSHAKE, Puppet, request, sentences, serving

pytestmark = pytest.mark.usefixtures("hosting")

FAR = IPv4Address("TCP", "203.0.113.50", 5000)
UNIX = UNIXAddress(None), UNIXAddress("run/site.sock")


def scope_of(data, *addresses, state=None, **settings):
    puppet = Puppet()
    with serving(puppet, state=state, **settings) as server:
        server.connect(*addresses).receive(data)
        return puppet.call.scope


def test_http_scope():
    scope = scope_of(
        b"GET /caf%C3%A9/a%2Fb?q=%C3%A9&r HTTP/1.1\r\nHost: example.org\r\nX-A: 1\r\nx-a:  2 \r\n\r\n"
    )
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/café/a/b",
        "raw_path": b"/caf%C3%A9/a%2Fb",
        "query_string": b"q=%C3%A9&r",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"x-a", b"1"), (b"x-a", b"2")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {
            "http.response.trailers": {},
            "http.response.pathsend": {},
            "http.response.early_hint": {},
        },
    }


def test_websocket_scope():
    scope = scope_of(HANDSHAKE + b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n\r\n")
    assert "method" not in scope
    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/ws")
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert scope["extensions"] == {"websocket.http.response": {}}


PATHS = [  # target -> path, raw_path, query_string
    (b"/", "/", b"/", b""),
    (b"/?", "/", b"/", b""),
    (b"/?a?b", "/", b"/", b"a?b"),
    (b"//a//b", "//a//b", b"//a//b", b""),
    (b"/a/../b", "/a/../b", b"/a/../b", b""),
    (b"/%00", "/\0", b"/%00", b""),
    (b"/%ff", "/�", b"/%ff", b""),
    (b"/%F0%9F%90%8D", "/🐍", b"/%F0%9F%90%8D", b""),
    (b"/a+b%20c", "/a+b c", b"/a+b%20c", b""),
    (b"http://other/a%41?b", "/aA", b"/a%41", b"b"),
    (b"http://other?b", "/", b"/", b"b"),
]


@pytest.mark.parametrize(("target", "path", "raw_path", "query"), PATHS)
def test_path_is_decoded_once_and_nothing_else(target, path, raw_path, query):
    scope = scope_of(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_absolute_target_replaces_host():
    scope = scope_of(b"GET http://real.example/ HTTP/1.1\r\nHost: other.example\r\nA: 1\r\n\r\n")
    assert scope["headers"] == [(b"host", b"real.example"), (b"a", b"1")]


def test_options_asterisk():
    scope = scope_of(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


def test_headers_with_an_underscore_are_dropped():
    scope = scope_of(request("/", "X_Forwarded_For: 1.2.3.4", "X-Fine: 1"))
    assert scope["headers"] == [(b"host", b"h"), (b"x-fine", b"1")]


def test_methods_keep_their_case():
    assert scope_of(request("/", method="get"))["method"] == "get"
    assert scope_of(request("/", method="M-SEARCH"))["method"] == "M-SEARCH"


# ---- root path

ROOT = [  # target -> path, raw_path, with --root-path /app
    (b"/app/a", "/app/a", b"/app/a"),  # the proxy passes the whole path
    (b"/a%20b", "/app/a b", b"/app/a%20b"),  # the proxy has stripped it
    (b"/", "/app/", b"/app/"),
    (b"/app", "/app", b"/app"),
    (b"/apple", "/app/apple", b"/app/apple"),
]


@pytest.mark.parametrize(("target", "path", "raw_path"), ROOT)
def test_path_holds_the_root_path(target, path, raw_path):
    """Both ways to configure a proxy give an application the same."""
    scope = scope_of(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target, root_path="/app")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/app", path, raw_path)


def test_raw_path_of_a_root_path_that_needs_encoding():
    scope = scope_of(request("/a"), root_path="/é")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/é", "/é/a", b"/%C3%A9/a")


def test_options_asterisk_is_under_no_root_path():
    """It asks about the server, not about any path."""
    scope = scope_of(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", root_path="/app")
    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


# ---- state


def test_state_is_a_shallow_copy():
    """Requests share what is in it, not the dict (lifespan spec, "Lifespan State")."""
    pool = object()
    puppet = Puppet()
    state = {"pool": pool}
    with serving(puppet, state=state) as server:
        server.connect().receive(request("/"))
        puppet.call.scope["state"]["mine"] = 1
        server.connect().receive(HANDSHAKE + b"\r\n")
        assert puppet.call.scope["state"] == {"pool": pool}
        assert puppet.call.scope["state"]["pool"] is pool
    assert state == {"pool": pool}


def test_state_is_absent_without_a_lifespan():
    assert "state" not in scope_of(request("/"))


def test_scopes_share_nothing_that_can_change():
    puppet = Puppet()
    with serving(puppet) as server:
        scopes = []
        for _ in range(2):
            server.connect().receive(request("/"))
            scopes.append(puppet.call.scope)
        scopes[0]["extensions"]["mine"] = scopes[0]["asgi"]["mine"] = {}
        scopes[0]["headers"].append((b"mine", b"1"))
        assert "mine" not in scopes[1]["extensions"]
        assert "mine" not in scopes[1]["asgi"]
        assert len(scopes[1]["headers"]) == 1


def test_the_same_request_again_has_fields_of_its_own():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        for _ in range(3):
            wire.receive(request("/"))
            call = puppet.call
            assert call.scope["headers"] == [(b"host", b"h")]
            call.scope["headers"].append((b"mine", b"1"))
            call.scope["headers"][0] = (b"host", b"other")
            call.send("http.response.start", status=204)
            call.send("http.response.body")
            call.returns()


# ---- proxies

FORWARDED = request(
    "/",
    "X-Forwarded-For: 198.51.100.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: public.example",
    "X-Forwarded-Port: 4711",
)


def test_forwarding_headers_of_a_trusted_peer():
    scope = scope_of(FORWARDED, proxy_headers=True)
    assert (scope["client"], scope["scheme"]) == (("198.51.100.7", 4711), "https")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"public.example"]
    assert (b"x-forwarded-for", b"198.51.100.7") in scope["headers"]


def test_forwarding_headers_are_nothing_without_the_option(caplog):
    scope = scope_of(FORWARDED)
    assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 50000), "http")
    assert (b"host", b"h") in scope["headers"]
    assert sentences(caplog) == []


def test_forwarding_headers_of_others_are_ignored_and_warned_of_once(caplog):
    puppet = Puppet()
    with serving(puppet, proxy_headers=True) as server:
        for _ in range(3):
            server.connect(FAR).receive(FORWARDED)
            scope = puppet.call.scope
            assert (scope["client"], scope["scheme"]) == (("203.0.113.50", 5000), "http")
            assert (b"host", b"h") in scope["headers"]
    (record,) = caplog.records
    assert record.message == "ignored forwarding headers: peer is not in --forwarded-allow-ips (said once)"
    assert (record.levelname, record.peer, record.header) == (
        "WARNING",
        ("203.0.113.50", 5000),
        "x-forwarded-for",
    )


def test_untrusted_peer_without_forwarding_headers_is_no_warning(caplog):
    scope_of(request("/"), FAR, proxy_headers=True)
    assert sentences(caplog) == []


def test_trusted_peers_can_be_named():
    scope = scope_of(FORWARDED, FAR, proxy_headers=True, forwarded_allow_ips=("203.0.113.0/24",))
    assert scope["client"] == ("198.51.100.7", 4711)


def test_unix_peers_are_trusted_with_proxy_headers():
    """NGINX in front of a Unix socket, as Daphne's documentation has it."""
    scope = scope_of(FORWARDED, *UNIX, proxy_headers=True, unix_socket=("run/site.sock",))
    assert scope["client"] == ("198.51.100.7", 4711)
    assert scope["server"] == ("run/site.sock", None)
    scope = scope_of(FORWARDED, *UNIX, proxy_headers=True)  # somebody else has opened it
    assert scope["client"] is None


def test_websocket_behind_a_tls_proxy_is_wss():
    scope = scope_of(
        HANDSHAKE + b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n\r\n", proxy_headers=True
    )
    assert scope["scheme"] == "wss"


def test_daphne_root_path_of_a_trusted_peer():
    scope = scope_of(request("/a", "Daphne-Root-Path: /mounted%20here"), proxy_headers=True)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
        "/mounted here",
        "/mounted here/a",
        b"/mounted%20here/a",
    )
    assert scope["headers"] == [(b"host", b"h")]


def test_daphne_root_path_of_others_is_taken_out_only():
    scope = scope_of(request("/a", "Daphne-Root-Path: /evil"), FAR, proxy_headers=True)
    assert (scope["root_path"], scope["path"], scope["headers"]) == ("", "/a", [(b"host", b"h")])


# ---- TLS


def test_tls_extension():
    tls = {"tls_version": 0x0304}
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.protocol.scheme, wire.protocol.tls = "https", tls
        wire.receive(request("/"))
        assert puppet.call.scope["scheme"] == "https"
        assert puppet.call.scope["extensions"]["tls"] == tls
        wire = server.connect()
        wire.protocol.scheme, wire.protocol.tls = "https", tls
        wire.receive(HANDSHAKE + b"\r\n")
        assert puppet.call.scope["scheme"] == "wss"
        assert puppet.call.scope["extensions"]["tls"] == tls
