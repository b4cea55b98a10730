"""
Debian's NGINX in front of a server under test: one process, with a configuration in a temporary directory.

`daemon off` and `master_process off` keep NGINX in the foreground, in one process, as whoever runs the tests:
it needs no rights, and ends with the process that we started.
"""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.end_to_end.processes import eventually, free_port

__all__ = ["Nginx", "nginx_before", "nginx_running"]

STOP_WITHIN = 10.0

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 64m;

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      '';
    }}
    upstream site {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://site;
            proxy_http_version 1.1;
            proxy_set_header Host              $http_host;
            proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Port  $remote_port;
            proxy_set_header X-Forwarded-Host  "";
            proxy_set_header Forwarded         "";
            proxy_set_header Daphne-Root-Path  "";
            proxy_set_header Upgrade           $http_upgrade;
            proxy_set_header Connection        $connection_upgrade;
        }}
        location /events {{
            proxy_pass http://site;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
        location /unbuffered-upload/ {{
            proxy_pass http://site/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
    }}
}}
"""


class Nginx:
    """
    Attributes:
        port: on 127.0.0.1.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port

    @property
    def complaints(self) -> list[str]:
        """What NGINX has to say about its upstream."""
        lines = (self.directory / "error.log").read_text().splitlines()
        return [line for line in lines if "[error]" in line or "[crit]" in line or "[alert]" in line]


@contextmanager
def nginx_before(upstream: str | Sequence[str], directory: Path) -> Iterator[Nginx]:
    """NGINX that passes everything on to *upstream*, one or several: "127.0.0.1:8000", "unix:/run/site.sock"."""
    upstreams = [upstream] if isinstance(upstream, str) else upstream
    servers = "\n        ".join(f"server {each};" for each in upstreams)
    port = free_port()
    text = CONFIGURATION.format(directory=directory, port=port, servers=servers)
    with nginx_running(text, directory, port) as nginx:
        yield nginx


@contextmanager
def nginx_running(text: str, directory: Path, port: int) -> Iterator[Nginx]:
    """NGINX with *text* as its configuration, once it accepts connections on *port*."""
    nginx = Nginx(directory, port)
    configuration = directory / "nginx.conf"
    configuration.write_text(text, encoding="utf-8")
    command = ["nginx", "-p", str(directory), "-c", str(configuration), "-e", str(directory / "error.log")]

    def accepts() -> bool:
        assert process.poll() is None, (directory / "error.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", nginx.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            eventually(accepts)
            yield nginx
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
