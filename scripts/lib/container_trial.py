"""
Performs the Dockerfile, and the site's of docs/examples/deploy, in Debian roots; then runs what came out.

See scripts/container for what stands for what.
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dockerfile import Image, WrongFile, build

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "container"
DEPLOY = ROOT / "docs" / "examples" / "deploy"

PACKAGES = "python3,python3-venv,ca-certificates"
BASE_TIMEOUT = 1200.0
START_WITHIN = 120.0
STOP_WITHIN = 30.0

PLAIN_SITE = """
import asyncio, os

async def application(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(2)
    body = f"{os.getpid()} {os.getuid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


class Failed(Exception):
    """Something was not as it should be."""


def expect(what: str, holds: bool, seen: object = "") -> None:
    print(f"  {'ok ' if holds else 'NOT'} {what}{f' ({seen})' if seen != '' else ''}", flush=True)
    if not holds:
        raise Failed(what)


# -- the base ----------------------------------------------------------------------------------------


def base_image() -> Image:
    """
    A Debian with Python, of the release and from the mirror that this machine uses.

    Raises:
        Failed: debootstrap could not make it.
    """
    root = CACHE / "base"
    if (root / ".made").exists():
        return Image(root, [root])
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    mirror = release and mirror_of(release[1])
    if not release or not mirror:
        raise Failed("this machine's Debian release and mirror are not to be found")
    print(f"Making a Debian root ({release[1]}) in {root.relative_to(ROOT)}", flush=True)
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release[1], str(root), mirror]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BASE_TIMEOUT)
    if done.returncode != 0:
        raise Failed(f"debootstrap: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    # Certificates that this machine trusts, for pip.
    shutil.copy2("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    (root / ".made").touch()
    return Image(root, [root])


def mirror_of(release: str) -> str | None:
    """Where apt has the packages of this release from."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        uri, suite, component = line.split()
        if (suite, component) == (release, "main"):
            return uri
    return None


# -- looking -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def fetch(port: int, path: str = "/", timeout: float = 20.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def wait_until(what: str, holds: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_WITHIN
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            output = process.communicate(timeout=STOP_WITHIN)[0] if process.poll() is not None else b""
            raise Failed(f"{what}: {output.decode()[-3000:] or 'not in time'}")
        time.sleep(0.2)  # between two health checks, which are processes


def processes_of(process: "subprocess.Popen[bytes]") -> dict[int, tuple[str, str, str]]:
    """What runs below *process*: pid -> (pid in its namespace, user id, command line)."""
    found: dict[int, tuple[str, str, str]] = {}
    parents = [process.pid]
    while parents:
        children = [
            int(word)
            for pid in parents
            for task in Path(f"/proc/{pid}/task").glob("*/children")
            for word in task.read_text().split()
        ]
        for pid in children:
            status = Path(f"/proc/{pid}/status").read_text()
            inside = re.search(r"^NSpid:.*\t(\d+)$", status, re.M)
            user = re.search(r"^Uid:\t(\d+)", status, re.M)
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found[pid] = (inside[1] if inside else "", user[1] if user else "", line)
        parents = children
    return found


@contextlib.contextmanager
def running(image: Image, words: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The image's server, healthy; and its port."""
    port = free_port()
    environment = {"DAPHNE_LIKE_PORT": str(port)}
    with image.run(words, environment) as process:
        wait_until("it becomes healthy", lambda: image.is_healthy(environment), process)
        yield process, port


def try_server(image: Image) -> None:
    """The image with a small application in /app."""
    (image.root / "app" / "mysite").mkdir(parents=True, exist_ok=True)
    (image.root / "app" / "mysite" / "asgi.py").write_text(PLAIN_SITE)
    (image.root / "app" / "mysite" / "__init__.py").touch()
    uid = str(image.ids()[0])
    expect("the image's user is not root", uid != "0", uid)
    owned = subprocess.run(
        ["find", str(image.root), "-xdev", "-user", uid], capture_output=True, text=True, check=True
    ).stdout.split()
    expect("its user owns no file", owned == [], " ".join(owned[:3]))
    expect("the sources are not in the image", not (image.root / "src").exists())

    with image.run([], {}) as process:
        output = process.communicate(timeout=START_WITHIN)[0].decode()
        expect("docker run IMAGE prints the help", process.returncode == 0 and "--workers" in output)

    with running(image, ["mysite.asgi:application", "--workers", "4"]) as (process, port):
        expect("docker run IMAGE mysite.asgi:application --workers 4 becomes healthy", True)
        found = processes_of(process)
        first = [line for inside, _, line in found.values() if inside == "1"]
        expect("the server is process 1", len(first) == 1 and "daphne-like" in first[0], first[0])
        wait_until("four workers", lambda: len(workers_of(process)) == 4, process)
        expect("it has four workers", True)
        expect("nobody is root", {user for _, user, _ in processes_of(process).values()} == {uid})
        status, body = fetch(port)
        expect("the application answers", status == 200 and body.split()[1].decode() == uid, body.decode())
        slow = ask_slowly(port)
        first_pid = next(pid for pid, (inside, *_) in processes_of(process).items() if inside == "1")
        os.kill(first_pid, signal.SIGTERM)
        began = time.monotonic()
        answer = b""
        while more := slow.recv(65536):
            answer += more
        expect("a request in flight is answered after SIGTERM", answer.startswith(b"HTTP/1.1 200 "))
        process.wait(STOP_WITHIN)
        took = time.monotonic() - began
        expect(
            "and it has ended by itself", process.returncode == 0, f"exit {process.returncode}, {took:.1f} s"
        )

    broken = {"DAPHNE_LIKE_PORT": str(free_port())}
    expect("without a server, it is not healthy", not image.is_healthy(broken))


def workers_of(process: "subprocess.Popen[bytes]") -> list[str]:
    return [line for _, _, line in processes_of(process).values() if "worker_process" in line]


def ask_slowly(port: int) -> socket.socket:
    """A request that takes two seconds, on its way."""
    client = socket.create_connection(("127.0.0.1", port), timeout=STOP_WITHIN)
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    time.sleep(0.5)  # it is the server's now; nothing outside of it could tell
    return client


def make_project(work: Image, folder: Path) -> None:
    """`startproject`, made in *work*, with what a deployed site has beside it."""
    work.user = "root"
    work.perform("mkdir -p /srv; pip install --no-cache-dir --quiet 'django>=5.2,<5.3'")
    work.perform("django-admin startproject mysite /srv")
    shutil.copytree(work.root / "srv", folder)
    settings = folder / "mysite" / "settings.py"
    text = settings.read_text().replace("ALLOWED_HOSTS = []", 'ALLOWED_HOSTS = ["127.0.0.1"]')
    settings.write_text(text + '\nSTATIC_ROOT = BASE_DIR / "static"\n')
    (folder / "requirements.txt").write_text("django>=5.2,<5.3\n")


def try_site(image: Image) -> None:
    """The image of a Django site."""
    expect("static files are collected", (image.root / "app/static/admin/css/base.css").exists())
    with running(image, []) as (process, port):
        status, body = fetch(port, "/admin/login/")
        expect("Django's admin asks for a name", status == 200 and b"id_username" in body, status)
        expect("it has four workers", len(workers_of(process)) == 4)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/container", description=__doc__.strip().splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the roots where they are")
    keep = parser.parse_args().keep
    began = time.monotonic()
    CACHE.mkdir(parents=True, exist_ok=True)
    trial = Path(tempfile.mkdtemp(prefix="trial-", dir=CACHE))
    trial.chmod(0o755)
    try:
        base = base_image()
        print("Dockerfile")
        image = build(ROOT / "Dockerfile", ROOT, {"*": base}, trial)
        print("What came out")
        try_server(image.on_top(trial / "server"))
        print("docs/examples/deploy/site.Dockerfile, after startproject")
        make_project(image.on_top(trial / "startproject"), trial / "context")
        site = build(DEPLOY / "site.Dockerfile", trial / "context", {"daphne-like": image}, trial)
        print("What came out")
        try_site(site.on_top(trial / "site"))
    except (Failed, WrongFile) as error:
        print(f"scripts/container: {error}", file=sys.stderr)
        return 1
    finally:
        if keep:
            print(f"Left in {trial.relative_to(ROOT)}")
        else:
            for root in trial.glob("*/root"):
                subprocess.run(["umount", "--lazy", str(root)], check=True)
            shutil.rmtree(trial)
    print(
        f"All as it should be, in {time.monotonic() - began:.0f} s. Not tried: networks and limits of an engine."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
