"""
As much of a container engine as this repository's Dockerfiles need: their instructions, performed in folders.

A stage is an overlay on the base, or on a stage that is named, which nobody changes from then on. RUN is chroot
in mount and PID namespaces of its own. What it does not know, it refuses; caches, networks and limits it does
not have.

The caller is in a mount namespace of its own (`unshare --mount`): overlays are mounted there, and gone with it.

    image = build(Dockerfile, context, {"python:3.13-slim": base}, into)
    with image.run(["mysite.asgi:application"], environment) as process: ...
"""

import contextlib
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Image", "WrongFile", "build"]

RUN_TIMEOUT = 1200.0

# Shell before chroot: what an engine mounts for each container.
MOUNTS = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
for file in resolv.conf hosts; do
    touch "$ROOT/etc/$file"
    mount --bind "/etc/$file" "$ROOT/etc/$file"
done
"""
READ_ONLY = """
mount -t tmpfs tmpfs "$ROOT/var/tmp" -o mode=1777
mount -o remount,bind,ro "$ROOT"
"""


class WrongFile(Exception):
    """A Dockerfile that cannot be performed."""


@dataclass
class Image:
    """
    Attributes:
        root: the folder.
        layers: what it is made of, the topmost first.
        environment, user, directory, entrypoint, command, healthcheck: as the instructions left them.
    """

    root: Path
    layers: list[Path]
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    directory: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def on_top(self, place: Path) -> "Image":
        """An image that begins as this one; its folders are made in *place*."""
        upper, work, root = (place / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir(parents=True)
        options = f"lowerdir={':'.join(map(str, self.layers))},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
        lists = list(self.entrypoint), list(self.command), list(self.healthcheck)
        return Image(root, [upper, *self.layers], dict(self.environment), self.user, self.directory, *lists)

    def ids(self) -> tuple[int, int]:
        """User and group of the process."""
        if self.user.isdigit():
            return int(self.user), int(self.user)
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == self.user:
                return int(uid), int(gid)
        raise WrongFile(f"no user {self.user} in the image")

    def words(self, command: list[str], *, read_only: bool) -> list[str]:
        """What to start for *command*: it becomes process 1 of a PID namespace, in this root, as the user."""
        uid, gid = self.ids()
        script = MOUNTS + (READ_ONLY if read_only else "")
        chroot = ["chroot", f"--userspec={uid}:{gid}", "--groups=", str(self.root)]
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.directory, *command]
        script += f"exec {shlex.join([*chroot, *inside])}\n"
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script]

    def environ(self, more: Mapping[str, str]) -> dict[str, str]:
        """For words(): nothing of ours but what packages are fetched with."""
        ours = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy")}
        path = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOT": str(self.root),
        }
        return {**path, **ours, **self.environment, **more}

    def perform(self, command: str) -> None:
        """RUN."""
        done = subprocess.run(
            self.words(["/bin/sh", "-c", command], read_only=False),
            env=self.environ({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        if done.returncode != 0:
            raise WrongFile(f"RUN {command}: exit {done.returncode}\n{done.stdout[-3000:]}")

    @contextlib.contextmanager
    def run(self, words: list[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
        """`docker run --read-only --tmpfs /var/tmp IMAGE words`; ended when the block is left."""
        process = subprocess.Popen(
            self.words([*self.entrypoint, *(words or self.command)], read_only=True),
            env=self.environ(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            # Process 1 of the namespace takes all others with it. It has to be killed itself: the signal that
            # --kill-child asks for is forgotten when chroot changes the user.
            if process.poll() is None:
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                process.kill()
            process.communicate()

    def is_healthy(self, environment: Mapping[str, str]) -> bool:
        """HEALTHCHECK, once."""
        done = subprocess.run(
            self.words(self.healthcheck, read_only=True),
            env=self.environ(environment),
            capture_output=True,
            timeout=30,
        )
        return done.returncode == 0


def instructions(file: Path) -> Iterator[tuple[str, str]]:
    """(instruction, the rest of its line)."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.M)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def build(file: Path, context: Path, bases: Mapping[str, Image], into: Path) -> Image:
    """
    Perform *file*.

    Args:
        bases: what a FROM may name; "*" for any other.
        into: a folder for the stages.

    Raises:
        WrongFile
    """
    arguments: dict[str, str] = {}
    stages: dict[str, Image] = {}
    image: Image | None = None
    for word, rest in instructions(file):
        print(f"  {word} {rest[:100]}", flush=True)
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
            continue
        if word == "FROM":
            base, _, name = _expanded(rest, arguments).partition(" AS ")
            found = stages.get(base) or bases.get(base) or bases.get("*")
            if found is None:
                raise WrongFile(f"FROM {base}: no such image")
            image = found.on_top(into / f"{file.stem}-{len(stages)}")
            stages[name or str(len(stages))] = image
            continue
        if image is None:
            raise WrongFile(f"{word} before FROM")
        _perform(image, word, rest, context, stages)
    if image is None:
        raise WrongFile(f"{file} has no FROM")
    return image


def _perform(image: Image, word: str, rest: str, context: Path, stages: Mapping[str, Image]) -> None:
    if word == "RUN":
        image.perform(rest)
    elif word == "COPY":
        _copy(image, rest, context, stages)
    elif word == "ENV":
        for setting in shlex.split(rest):
            name, _, value = setting.partition("=")
            image.environment[name] = _expanded(
                value, {"PATH": image.environ({})["PATH"], **image.environment}
            )
    elif word == "WORKDIR":
        image.directory = os.path.join(image.directory, rest)
        (image.root / image.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        image.user = rest
    elif word == "ENTRYPOINT":
        image.entrypoint, image.command = json.loads(rest), []
    elif word == "CMD":
        image.command = json.loads(rest)
    elif word == "HEALTHCHECK":
        image.healthcheck = json.loads(rest.partition(" CMD ")[2])
    elif word != "EXPOSE":
        raise WrongFile(f"{word}: not an instruction that is known here")


def _expanded(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], ""), text)


def _copy(image: Image, rest: str, context: Path, stages: Mapping[str, Image]) -> None:
    options, words = [], []
    for each in shlex.split(rest):
        (options if each.startswith("--") else words).append(each)
    *sources, target = words
    origin, ignored = context, _ignored(context)
    for option in options:
        name, _, value = option.partition("=")
        if name != "--from" or value not in stages:
            raise WrongFile(f"COPY {option}: not known here")
        origin, ignored = stages[value].root, []
    place = image.root / os.path.join(image.directory, target).lstrip("/")
    for source in sources:
        path = origin / source.lstrip("/")
        if not path.exists():
            raise WrongFile(f"COPY {source}: not in {origin}")
        if path.is_file():
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place / path.name)
        elif origin is context:
            _copy_context(context, path, place, ignored)
        else:
            shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)


def _ignored(context: Path) -> list[str]:
    file = context / ".dockerignore"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _copy_context(context: Path, source: Path, place: Path, ignored: list[str]) -> None:
    kept = [pattern[1:] for pattern in ignored if pattern.startswith("!")]
    for folder, folders, files in os.walk(source):
        here = Path(folder).relative_to(context)
        # Into an ignored folder only where something below it is kept.
        folders[:] = [
            name
            for name in sorted(folders)
            if not _is_ignored((here / name).as_posix(), ignored)
            or any(pattern.startswith(f"{(here / name).as_posix()}/") for pattern in kept)
        ]
        for name in files:
            if not _is_ignored((here / name).as_posix(), ignored):
                to = place / Path(folder).relative_to(source) / name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(folder) / name, to)


def _is_ignored(name: str, patterns: list[str]) -> bool:
    """The last pattern that fits the file, or a folder around it, counts."""
    parts = name.split("/")
    around = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    verdict = False
    for pattern in patterns:
        wanted = pattern.removeprefix("!").rstrip("/")
        fits = any(
            fnmatch.fnmatchcase(each, wanted)
            or (wanted.startswith("**/") and each.split("/")[-1] == wanted[3:])
            for each in around
        )
        if fits:
            verdict = not pattern.startswith("!")
    return verdict
