"""Listening: everything that the options name, and one line where it cannot be."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from daphne_like import Server, Settings
from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.net.sockets import bind_tcp, bind_unix, inherit, remove_unix
from tests.asgi.conversation import GET
from tests.net.real import ask, echo_scope, port_of, scope_told, served


def can_bind(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind(address)
    except OSError:
        return False
    return True


needs_v6 = pytest.mark.skipif(not can_bind(socket.AF_INET6, ("::1", 0)), reason="no IPv6 here")


async def refused_start(**settings):
    """The error of a server that cannot start."""
    server = Server(echo_scope, Settings(verbosity=0, **settings))
    with pytest.raises((StartupFailed, ConfigurationError)) as raised:
        await server.start()
    await server.stop()
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- TCP


async def test_tcp():
    async with served(bind=("127.0.0.1:0",)) as server:
        told = await scope_told(server)
        assert told["server"] == ["127.0.0.1", port_of(server)]
        assert told["client"][0] == "127.0.0.1"
        assert server.addresses == [f"http://127.0.0.1:{port_of(server)}"]


@needs_v6
async def test_tcp_of_ipv6():
    async with served(bind=("[::1]:0",)) as server:
        assert server.addresses == [f"http://[::1]:{port_of(server)}"]
        told = await scope_told(server, host="::1")
        assert (told["server"], told["client"][0]) == (["::1", port_of(server)], "::1")


@needs_v6
async def test_every_interface_of_both_kinds():
    """The address :: alone takes IPv4 too, as NGINX's does and Daphne's did."""
    async with served(bind=("[::]:0",)) as server:
        assert (await scope_told(server, host="::1"))["client"][0] == "::1"
        assert (await scope_told(server, host="127.0.0.1"))["client"][0] in ("::ffff:127.0.0.1", "127.0.0.1")


async def test_several_at_once(tmp_path):
    path = str(tmp_path / "s")
    async with served(bind=("127.0.0.1:0", "127.0.0.2:0"), unix_socket=(path,)) as server:
        assert len(server.addresses) == 3
        assert (await ask(server)).status == 200


async def test_port_in_use():
    async with served() as server:
        port = port_of(server)
        text = await refused_start(bind=(f"127.0.0.1:{port}",))
        assert text == f"cannot listen on 127.0.0.1:{port}: address in use"


async def test_start_that_fails_at_its_second_socket_leaves_the_first_free():
    async with served() as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        await refused_start(bind=(f"127.0.0.1:{free}", f"127.0.0.1:{port_of(server)}"))
        with socket.create_server(("127.0.0.1", free)):
            pass


async def test_one_address_named_twice_in_two_ways_is_one_line():
    """The kernel lets both be bound, and refuses the second to listen."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    text = await refused_start(
        bind=(f"127.0.0.1:{free}",), endpoint=(f"tcp:{free}:interface=127.0.0.1",), port=free
    )
    assert "address in use" in text.lower()


async def test_address_of_another_machine():
    assert (await refused_start(bind=("192.0.2.1:0",))).startswith("cannot listen on 192.0.2.1:0: ")


async def test_name_that_does_not_resolve():
    assert (await refused_start(bind=("nobody.invalid:0",))).startswith("cannot listen on nobody.invalid:0: ")


def test_bind_tcp_gives_sockets_that_do_not_block():
    (sock,) = bind_tcp("127.0.0.1", 0)
    with sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


# ---- Unix sockets


async def test_unix_socket(tmp_path):
    path = tmp_path / "site.sock"
    async with served(unix_socket=(str(path),)) as server:
        told = await scope_told(server)
        assert (told["client"], told["server"]) == (None, [str(path), None])
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert server.addresses == [f"unix:{path}"]
    assert not path.exists()


FORWARDED = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")


async def client_told(server):
    return json.loads((await ask(server, FORWARDED)).body)["client"]


async def test_peers_of_unix_sockets_that_we_have_opened_are_believed(tmp_path):
    async with served(unix_socket=(str(tmp_path / "site.sock"),), proxy_headers=True) as server:
        assert await client_told(server) == ["192.0.2.1", 0]


@pytest.mark.parametrize("named", [False, True], ids=["not named", "named"])
@pytest.mark.parametrize("kind", ["descriptor", "endpoint"])
async def test_peers_of_other_unix_sockets_have_to_be_named(tmp_path, kind, named):
    """Whoever has opened it has said who may connect, and to what end we do not know."""
    path = str(tmp_path / "other.sock")
    trusted = ("127.0.0.1", "unix") if named else ("127.0.0.1",)
    with socket.socket(socket.AF_UNIX) as sock:
        if kind == "descriptor":
            sock.bind(path)
            where = {"file_descriptor": (sock.fileno(),)}
        else:
            where = {"endpoint": (f"unix:{path}",)}
        async with served(**where, proxy_headers=True, forwarded_allow_ips=trusted) as server:
            assert await client_told(server) == (["192.0.2.1", 0] if named else None)


async def test_unix_socket_mode(tmp_path):
    path = tmp_path / "site.sock"
    async with served(unix_socket=(str(path),), unix_socket_mode=0o600):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def stale(path):
    """The file that a killed server leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


async def test_stale_unix_socket_is_replaced(tmp_path):
    path = tmp_path / "site.sock"
    stale(path)
    async with served(unix_socket=(str(path),)) as server:
        assert (await ask(server)).status == 200


async def test_unix_socket_that_somebody_serves_is_left_alone(tmp_path):
    path = tmp_path / "site.sock"
    async with served(unix_socket=(str(path),)) as server:
        assert (
            await refused_start(unix_socket=(str(path),)) == f"cannot listen on unix:{path}: address in use"
        )
        assert (await ask(server)).status == 200


async def test_file_that_is_no_socket_is_never_removed(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    assert "no socket is in the way" in await refused_start(unix_socket=(str(path),))
    assert path.read_text() == "data"


async def test_unix_socket_in_a_folder_that_is_missing(tmp_path):
    assert "No such file" in await refused_start(unix_socket=(str(tmp_path / "missing" / "s"),))


async def test_failed_start_removes_the_unix_sockets_that_it_made(tmp_path):
    path = tmp_path / "site.sock"
    async with served() as server:
        await refused_start(unix_socket=(str(path),), bind=(f"127.0.0.1:{port_of(server)}",))
        await refused_start(unix_socket=(str(path), str(tmp_path / "missing" / "s")))
    assert not path.exists()


def test_unix_socket_of_a_successor_is_not_removed(tmp_path):
    """It has replaced the file while we drained."""
    path = str(tmp_path / "site.sock")
    with bind_unix(path, 0o666):
        inode = os.stat(path).st_ino
    kept = os.open(path, os.O_PATH)  # so that the inode's number is not used again
    with bind_unix(path, 0o666):
        remove_unix(path, inode)
        assert os.path.exists(path)
        remove_unix(path, os.stat(path).st_ino)
        assert not os.path.exists(path)
        remove_unix(path, inode)
    os.close(kept)


# ---- descriptors


async def test_inherited_descriptor():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with served(file_descriptor=(listener.fileno(),)) as server:
            assert server.addresses == [f"http://127.0.0.1:{listener.getsockname()[1]}"]
            assert (await ask(server)).status == 200
        assert listener.fileno() >= 0
        assert listener.getsockname()


async def test_inherited_descriptor_of_a_unix_socket(tmp_path):
    path = tmp_path / "site.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with served(file_descriptor=(listener.fileno(),)) as server:
            told = await scope_told(server)
            assert (told["client"], told["server"]) == (None, [str(path), None])
    assert path.exists(), "who made it removes it"


async def test_descriptor_that_is_not_open():
    with socket.socket() as sock:
        number = sock.fileno()
    assert await refused_start(file_descriptor=(number,)) == f"--fd {number}: Bad file descriptor"


async def test_descriptor_that_is_no_socket(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        assert (await refused_start(file_descriptor=(file.fileno(),))).startswith(f"--fd {file.fileno()}: ")


async def test_descriptor_of_a_datagram_socket():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert (
            await refused_start(file_descriptor=(sock.fileno(),))
            == f"--fd {sock.fileno()}: not a stream socket"
        )


def test_inherit_leaves_the_original_to_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inherit(listener.fileno(), "--fd").close()
        assert listener.getsockname()


# ---- systemd


SAYS = """
import json, os
os.environ.update({environment!r})
if "LISTEN_PID" in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ["LISTEN_PID"]))
from daphne_like.net.sockets import systemd_descriptors
print(json.dumps([systemd_descriptors(), sorted(name for name in os.environ if name.startswith("LISTEN_"))]))
"""


def systemd_says(**environment):
    """In a process of its own: what it takes for systemd's sockets, and what its children would see."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(environment=environment)],
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_systemd_descriptors():
    """The variables go with them: children have no part."""
    assert systemd_says(LISTEN_PID="0", LISTEN_FDS="2", LISTEN_FDNAMES="http:https") == [[3, 4], []]


def test_systemd_descriptors_of_another_process():
    """Those of a parent that started us without taking the variables away."""
    assert systemd_says(LISTEN_PID="1", LISTEN_FDS="2")[0] == []
    assert systemd_says(LISTEN_FDS="2")[0] == []
    assert systemd_says()[0] == []


@pytest.mark.parametrize("count", ["", "x", "-1", "0"])
def test_systemd_that_hands_over_nothing(count):
    assert systemd_says(LISTEN_PID="0", LISTEN_FDS=count)[0] == []


# ---- Twisted's endpoint strings


async def test_plain_tcp_endpoint_needs_no_reactor():
    async with served(endpoint=("tcp:0:interface=127.0.0.1",)) as server:
        assert (await ask(server)).status == 200


@needs_v6
async def test_plain_tcp_endpoint_of_ipv6():
    async with served(endpoint=(r"tcp:port=0:interface=\:\:1",)) as server:
        assert (await ask(server, host="::1")).status == 200


async def test_plain_unix_endpoint(tmp_path):
    path = tmp_path / "s"
    async with served(endpoint=(f"unix:{path}:mode=600",)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(server)).status == 200


async def test_endpoint_of_twisted_without_its_reactor():
    """Served where run() has installed the reactor: tests/end_to_end/test_daphne_command_line.py."""
    assert "reactor" in await refused_start(endpoint=("ssl:0:privateKey=key.pem",))


# ---- stopping


async def test_stop_refuses_new_connections_at_once():
    async with served() as server:
        port = port_of(server)
        assert (await ask(server)).status == 200
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


async def test_port_is_free_again_after_stop():
    async with served() as server:
        port = port_of(server)
        await ask(server)
    async with served(bind=(f"127.0.0.1:{port}",)) as server:
        assert (await ask(server)).status == 200


async def test_backlog_takes_a_burst():
    """A thousand clients that connect before the loop has a moment; Twisted's default would drop most."""
    async with served() as server:
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(200):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port_of(server)))
                clients.append(client)
            assert (await ask(server)).status == 200
