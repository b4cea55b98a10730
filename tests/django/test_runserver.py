"""
`manage.py runserver`, run as its users run it: real processes, real files that change.
"""

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from tests.django.projects import BANNER, Project, make_project, port_of
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import children, eventually

HOST = {"Host": "localhost"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def connect(port: int, path: str):
    return websockets.sync.client.connect(
        f"ws://127.0.0.1:{port}{path}", origin=f"http://localhost:{port}", open_timeout=20
    )


def test_serves_pages_static_files_and_websockets(project):
    """With nothing but the app in INSTALLED_APPS: `asgi` of the project is found without ASGI_APPLICATION."""
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        assert fetch(port, headers=HOST).text == "first version"
        assert fetch(port, "/interface/").text == "asgi"
        assert fetch(port, "/static/shop/hello.txt").text == "a static file\n"
        with connect(port, "/ws/echo/") as client:
            client.send("hello")
            assert client.recv(timeout=20) == "hello"
        server.stderr.wait_for(r'"GET / HTTP/1\.1" 200 13$')
        server.stderr.wait_for(r"WebSocket CONNECT /ws/echo/ \[127\.0\.0\.1:\d+\]")
        server.stderr.wait_for(r"WebSocket DISCONNECT /ws/echo/ \[127\.0\.0\.1:\d+\] 1000")
        server.stdout.wait_for("Starting ASGI/daphne-like version .* development server at http://127.0.0.1:")
        server.stdout.wait_for("In production, run: daphne-like mysite.asgi:application")


def test_request_lines_have_the_time_and_arguments_of_djangos_server(project):
    """Filters of sites look at `record.args[0]` ("GET /static/...") and `record.status_code`."""
    project.write(
        "mysite/log.py",
        "def no_static(record):\n"
        "    assert isinstance(record.args[1], str) and record.status_code in (200, 404)\n"
        "    return not record.args[0].startswith('GET /static/')\n",
    )
    project.write(
        "mysite/settings.py",
        (project.directory / "mysite/settings.py").read_text() + "\nfrom mysite.log import no_static\n"
        "from django.utils.log import DEFAULT_LOGGING as LOGGING\n"
        "LOGGING['filters']['f'] = {'()': 'django.utils.log.CallbackFilter', 'callback': no_static}\n"
        "LOGGING['handlers']['django.server']['filters'] = ['f']\n",
    )
    with project.serving("runserver", "0", "--noreload") as server:
        port = port_of(server)
        fetch(port, "/static/shop/hello.txt")
        fetch(port, "/missing/")
        server.stderr.wait_for(
            r'^\[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "GET /missing/ HTTP/1\.1" 404 \d+$'
        )
        assert "hello.txt" not in server.stderr.text


def test_a_change_reloads_and_refuses_nobody(project):
    """While the site starts anew, its socket stays open in the process that starts it: a client waits."""
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        assert fetch(port).text == "first version"
        failures: list[BaseException] = []
        seen: set[str] = set()
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                try:
                    seen.add(fetch(port).text)
                except ConnectionResetError:
                    continue  # it had been accepted by a process that ended
                except OSError as error:
                    failures.append(error)

        client = threading.Thread(target=ask)
        client.start()
        try:
            project.change(server, "mysite/urls.py", "first version", "second version")
            eventually(lambda: "second version" in seen)
        finally:
            enough.set()
            client.join(20)
        assert failures == []
        assert port_of(server, count=2) == port


def test_what_is_saved_while_the_site_starts(project):
    """After it was read, and before the autoreloader has looked at it for the first time."""
    urls = (project.directory / "mysite/urls.py").read_text()
    project.write("second.txt", urls.replace("first version", "second version"))
    save = "import pathlib; pathlib.Path(__file__).write_text(pathlib.Path('second.txt').read_text())"
    project.write("mysite/urls.py", f"{urls}\n{save}\n")
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        server.stderr.wait_for("urls.py changed, reloading.")
        eventually(lambda: fetch(port).text == "second version")


def test_site_that_writes_a_module_at_each_start_is_not_started_for_ever(tmp_path):
    starts = tmp_path / "starts"
    site = (
        "import os, sys; from daphne_like.django import reloading;"
        f"begun = reloading._BEGUN in os.environ; open({str(starts)!r}, 'a').write(f'{{begun}} ');"
        f"sys.exit(reloading.LOOKED_BACK if begun else 0)"
    )
    parent = (
        "import os, sys; from daphne_like.django.reloading import run_children;"
        f"sys.exit(run_children([sys.executable, '-c', {site!r}], os.environ))"
    )
    assert subprocess.run([sys.executable, "-c", parent], timeout=60).returncode == 0
    assert starts.read_text() == "True True False "


def test_websockets_are_told_of_a_reload(project):
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        with connect(port, "/ws/echo/") as client:
            project.change(server, "mysite/urls.py", "first version", "second version")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=20)
        assert closed.value.rcvd.code == 1012
        port_of(server, count=2)


def test_a_view_that_runs_holds_up_no_reload(project):
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET /slow/?seconds=600 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: fetch(port, "/interface/").text == "asgi")
            project.change(server, "mysite/urls.py", "first version", "second version")
            port_of(server, count=2)
        assert fetch(port).text == "second version"


def test_a_mistake_is_shown_and_mended_by_the_next_change(project):
    with project.serving("runserver", "0", expected_trouble=True) as server:
        port = port_of(server)
        project.change(server, "mysite/urls.py", "def index", "def def index")
        server.stderr.wait_for("SyntaxError")
        project.change(server, "mysite/urls.py", "def def index", "def index", count=2)
        port_of(server, count=2)
        assert fetch(port).text == "first version"


def test_a_mistake_in_asgi_names_the_application(project):
    project.write("mysite/asgi.py", "import nowhere_to_be_found\n")
    done = project.run("runserver", "0", "--noreload")
    assert done.returncode != 0
    assert "ASGI application 'mysite.asgi.application' could not be loaded" in done.stderr
    assert "nowhere_to_be_found" in done.stderr


def test_without_asgi_module_django_is_served(project):
    os.unlink(project.directory / "mysite" / "asgi.py")
    with project.serving("runserver", "0", "--noreload") as server:
        assert fetch(port_of(server), "/interface/").text == "asgi"


def test_without_staticfiles(tmp_path):
    """Broken in Daphne 4.2.0 (django/daphne#558)."""
    project = make_project(tmp_path, "INSTALLED_APPS.remove('django.contrib.staticfiles')\n")
    with project.serving("runserver", "0", "--noreload") as server:
        port = port_of(server)
        assert fetch(port).text == "first version"
        assert fetch(port, "/static/shop/hello.txt").status == 404
    assert "--nostatic" not in project.run("runserver", "--help").stdout


def test_static_files_are_for_debug(tmp_path):
    project = make_project(tmp_path, "DEBUG = False\nALLOWED_HOSTS = ['localhost']\n")
    with project.serving("runserver", "0", "--noreload") as server:
        assert fetch(port_of(server), "/static/shop/hello.txt", headers=HOST).status == 404
    with project.serving("runserver", "0", "--noreload", "--insecure") as server:
        assert fetch(port_of(server), "/static/shop/hello.txt", headers=HOST).status == 200


def test_nostatic(project):
    with project.serving("runserver", "0", "--noreload", "--nostatic") as server:
        assert fetch(port_of(server), "/static/shop/hello.txt").status == 404


def test_noasgi_is_djangos_server(project):
    with project.serving("runserver", "8329", "--noreload", "--noasgi", ready=BANNER) as server:
        assert fetch(8329, "/interface/").text == "wsgi"
        assert fetch(8329, "/static/shop/hello.txt").text == "a static file\n"
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_control_c_stops_both_processes(project):
    """A terminal tells both; a supervisor or an editor may tell the first one only."""
    with project.serving("runserver", "0") as server:
        port = port_of(server)
        [child] = children(server.process.pid)
        with connect(port, "/ws/echo/") as client:
            server.signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=20)
        assert closed.value.rcvd.code == 1012
        assert server.wait() == 0
        assert not Path(f"/proc/{child}").exists()


def test_control_c_in_a_terminal(project):
    with project.serving("runserver", "0") as server:
        [child] = children(server.process.pid)
        port = port_of(server)
        with connect(port, "/ws/echo/"):
            os.kill(child, signal.SIGINT)
            server.signal(signal.SIGINT)
            assert server.wait() == 0


def test_address_in_use(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words in ((), ("--noreload",)):
            done = project.run("runserver", str(port), *words)
            assert done.returncode == 1
            assert f"Error: cannot listen on 127.0.0.1:{port}: address in use" in done.stderr
            assert "Traceback" not in done.stderr


def test_options_of_daphne(project):
    words = (
        "--http_timeout",
        "1",
        "--websocket_handshake_timeout",
        "4",
        "--websocket-max-message-size",
        "10",
    )
    # Django's own handler leaves tasks behind when it is cancelled.
    with project.serving("runserver", "0", "--noreload", *words, expected_trouble=True) as server:
        port = port_of(server)
        assert fetch(port, "/slow/?seconds=2").status == 503
        with connect(port, "/ws/echo/") as client:
            client.send("more than ten octets")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=20)
        assert closed.value.rcvd.code == 1009


def test_settings_of_daphne_and_the_environment(tmp_path):
    project = make_project(tmp_path, "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE = 10\nFORCE_SCRIPT_NAME = '/app'\n")
    with project.serving(
        "runserver", "0", "--noreload", environment={"DAPHNE_LIKE_HEALTH_PATH": "/healthz"}
    ) as server:
        port = port_of(server)
        assert fetch(port, "/app/healthz").status == 200
        assert fetch(port, "/app/script-name/").text == "/app"
        with connect(port, "/app/ws/echo/") as client:
            client.send("more than ten octets")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=20)
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--http_timeout", "soon"), "--http-timeout: 'soon' is not a number of seconds"),
        (("--private-key", "key.pem"), "--private-key key.pem: needs --certificate"),
        (("--config", "missing.toml"), "--config missing.toml"),
        (("nonsense:port",), '"nonsense:port" is not a valid port number or address:port pair.'),
    ],
)
def test_words_that_cannot_be_right(project, words, complaint):
    done = project.run("runserver", *words)
    assert done.returncode != 0
    assert f"CommandError: {complaint}" in done.stderr


@pytest.mark.needs("openssl")
def test_https(project, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out certificate.pem",
        shell=True,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with project.serving(
        "runserver", "0", "--noreload", "--certificate", str(certificate), "--private-key", str(key)
    ) as server:
        assert server.stdout.wait_for(BANNER)[1] == "https"
        assert fetch(port_of(server), tls=context).text == "first version"


def test_https_to_a_server_that_speaks_http(project):
    with project.serving("runserver", "0", "--noreload") as server:
        with socket.create_connection(("127.0.0.1", port_of(server)), timeout=20) as client:
            client.sendall(bytes.fromhex("16030100a5010000a10303"))
            server.stderr.wait_for("You're accessing the development server over HTTPS")


def test_groups_without_a_broker(tmp_path):
    """ChannelLayer is memory in runserver, which is one process."""
    project = make_project(
        tmp_path, "CHANNEL_LAYERS = {'default': {'BACKEND': 'daphne_like.layers.ChannelLayer'}}\n"
    )
    with project.serving("runserver", "0", "--noreload") as server:
        port = port_of(server)
        with connect(port, "/ws/room/") as one, connect(port, "/ws/room/") as other:
            one.send("to all")
            assert one.recv(timeout=20) == "to all"
            assert other.recv(timeout=20) == "to all"


def test_a_command_that_wraps_ours(tmp_path):
    """As whitenoise.runserver_nostatic does: it is listed first and inherits the next app's command."""
    project = make_project(tmp_path, "INSTALLED_APPS.insert(0, 'wrapping')\n")
    project.write("wrapping/__init__.py", "")
    project.write("wrapping/management/__init__.py", "")
    project.write("wrapping/management/commands/__init__.py", "")
    project.write(
        "wrapping/management/commands/runserver.py",
        "from daphne_like.django.management.commands.runserver import Command as Ours\n"
        "class Command(Ours):\n"
        "    def add_arguments(self, parser):\n"
        "        super().add_arguments(parser)\n"
        "        assert parser.get_default('use_static_handler') is True\n"
        "        parser.set_defaults(use_static_handler=False)\n"
        "        parser.description += ' (wrapped)'\n",
    )
    assert project.run("check").returncode == 0
    with project.serving("runserver", "0", "--noreload") as server:
        port = port_of(server)
        assert fetch(port, "/interface/").text == "asgi"
        assert fetch(port, "/static/shop/hello.txt").status == 404


def test_ipv6_and_names(project):
    for words, host in ((("-6", "0"), "[::1]"), (("localhost:0",), "localhost"), (("0:0",), "0.0.0.0")):
        with project.serving("runserver", *words, "--noreload") as server:
            assert server.stdout.wait_for(BANNER)[2] == host
