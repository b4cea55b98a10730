"""
A tutorial, performed: its files are written and its commands run as the page has them, in an empty folder.

    with Tutorial("django.md", folder) as tutorial:
        tutorial.perform("Begin")             # all blocks of that section, one after the other
        ... tutorial.server, tutorial.url

What stands before a block says what is to be done with it, in the words of a reader:

    "`seats/views.py`:"                         the block is that file; it names the last file of its paragraph
    "At the end of `mysite/settings.py`, ..."   the block is added to it
    (the block's last line is `# ... what was there before`)
                                                the lines between its first and that one are put after the first
    a block of sh                               commands; see below
    a block without a language                  lines that the log of what is being served has, but for the facts

Commands are run by a shell. `python`, `django-admin` and `daphne-like` are those of the environment that the
tests run in: no virtual environment is made, and of `pip install` it is only seen that what it wants is there.
What serves goes on; it gets a port of the test's, the same each time. `pkill` reaches only our own server, and
must find it by its pattern.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from packaging.requirements import Requirement

from tests.end_to_end.processes import LISTENING, ROOT, START_WITHIN, ServerProcess, free_port

__all__ = ["Tutorial"]

COMMAND_TIMEOUT = 60.0

HEADING = re.compile(r"^## (.+)$", re.M)
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
CHANGE = re.compile(r"Change `(?P<old>[^`]+)` into `(?P<new>[^`]+)`")
FILE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|html))`")
BEFORE = "# ... what was there before"
LOG_LINE = re.compile(r'\S+ \S+ [A-Z]+ +(?P<sentence>.+?)(?: \w+=(?:"[^"]*"|\S+))*')

# What a program's file in a virtual environment does.
PROGRAMS = {
    "django-admin": "from django.core.management import execute_from_command_line as main",
    "daphne-like": "from daphne_like.cli import main",
}


class Tutorial:
    """
    Args:
        page: its name in docs/tutorial.
        folder: where a reader would be; it is empty.

    Attributes:
        server: what is being served with.
        url: of the site.
        left: titles of the sections whose blocks have not been performed; "" is what stands before the first.
    """

    def __init__(self, page: str, folder: Path) -> None:
        self.text = (ROOT / "docs" / "tutorial" / page).read_text(encoding="utf-8")
        self.folder = folder / "reader"
        self.folder.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._programs = folder / "bin"
        self._server: ServerProcess | None = None
        self._once_served: Callable[[], object] | None = None
        titles = ["", *HEADING.split(self.text)]
        self._sections = dict(zip(titles[::2], titles[1::2], strict=True))
        self.left = [title for title, text in self._sections.items() if BLOCK.search(text)]
        self._install_programs()

    def __enter__(self) -> "Tutorial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._server is not None:
            # Killed, `runserver` would leave the site behind that it has started.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.stop()
            if error is not None:
                print(
                    f"--- stdout ---\n{self._server.stdout.text}\n--- stderr ---\n{self._server.stderr.text}"
                )
            self._server.close()

    @property
    def server(self) -> ServerProcess:
        assert self._server is not None, "nothing has been started"
        return self._server

    def says(self, sentence: str) -> str:
        """*sentence*, which the page has to have; line breaks do not count."""
        assert " ".join(sentence.split()) in " ".join(self.text.split()), f"the page has no {sentence!r}"
        return sentence

    def stop(self) -> None:
        """Ctrl-C."""
        server, self._server = self.server, None
        server.signal(signal.SIGINT)
        try:
            assert server.wait() == 0
        finally:
            server.close()

    def change(self, title: str, name: str) -> None:
        """Do in a file what the section says: "Change `old` into `new`"."""
        found = CHANGE.search(self._sections[title])
        assert found is not None, f"{title}: nothing to change"
        text = (self.folder / name).read_text()
        assert text.count(found["old"]) == 1, f"{name} has {found['old']!r} {text.count(found['old'])} times"
        (self.folder / name).write_text(text.replace(found["old"], found["new"]))

    def perform(self, title: str, once_served: Callable[[], object] | None = None, **words: object) -> None:
        """
        Do what the blocks of a section say.

        Args:
            once_served: what is to be done when something has begun to serve.
            words: what stands for the page's own, such as NUMBER.
        """
        self._once_served = once_served
        section = self._sections[title]
        self.left.remove(title)
        end = 0
        for block in BLOCK.finditer(section):
            paragraph = section[end : block.start()].strip().rpartition("\n\n")[2]
            end = block.end()
            match block["language"]:
                case "sh":
                    text = re.sub(r"\b[A-Z]+\b", lambda m: str(words.get(m[0], m[0])), block["text"])
                    for command in text.replace("\\\n", "").splitlines():
                        self._run(command)
                case "":
                    for line in block["text"].splitlines():
                        self._wait_for_line(line)
                case _:
                    self._write(FILE.findall(paragraph)[-1], block["text"], paragraph)

    # -- files -----------------------------------------------------------------------------------

    def _write(self, name: str, text: str, paragraph: str) -> None:
        path = self.folder / name
        if paragraph.startswith("At the end of"):
            text = path.read_text() + "\n" + text
        elif BEFORE in text:
            first, rest = text.split("\n", 1)
            before = path.read_text()
            assert before.count(first) == 1, f"{name} has {first!r} {before.count(first)} times"
            added = rest[: rest.index(BEFORE)].rstrip(" ")
            text = before.replace(first + "\n", f"{first}\n{added}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    # -- commands --------------------------------------------------------------------------------

    def _install_programs(self) -> None:
        self._programs.mkdir()
        texts = {
            name: f"#!{sys.executable}\nimport sys\n{imports}\nsys.exit(main())\n"
            for name, imports in PROGRAMS.items()
        }
        # Not a link: by its path an interpreter finds the environment that it is of.
        texts["python"] = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
        for name, text in texts.items():
            program = self._programs / name
            program.write_text(text)
            program.chmod(0o755)

    @property
    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "DAPHNE_LIKE_"))}
        environment["PATH"] = f"{self._programs}{os.pathsep}{environment['PATH']}"
        environment["PYTHONPATH"] = str(ROOT)
        return environment

    def _run(self, command: str) -> None:
        match shlex.split(command):
            case ["python3", "-m", "venv", *_] | [".", _]:
                pass
            case ["mkdir", _, "&&", "cd", _]:
                pass  # that is what `folder` is
            case ["pip", "install", *requirements]:
                check_installed(requirements)
            case ["python", "manage.py", "runserver"]:
                self._serve(sys.executable, "manage.py", "runserver", str(self.port))
            case ["daphne-like", *words] if "worker" not in words:
                self._serve(str(self._programs / "daphne-like"), *words, "-p", str(self.port))
                self.server.stderr.wait_for(LISTENING.pattern, timeout=START_WITHIN)
                if self._once_served is not None:
                    self._once_served()
            case ["pkill", "-HUP", "-o", "-f", pattern]:
                command_line = Path(f"/proc/{self.server.process.pid}/cmdline").read_bytes()
                assert re.search(pattern, command_line.replace(b"\0", b" ").decode())
                self.server.signal(signal.SIGHUP)
            case _:
                done = subprocess.run(
                    ["sh", "-ec", command],
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=COMMAND_TIMEOUT,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def _serve(self, program: str, *words: str) -> None:
        assert self._server is None, "something is being served already"
        self._server = ServerProcess(
            words, program=[program], environment=self._environment, directory=self.folder
        )

    def _wait_for_line(self, line: str) -> None:
        found = LOG_LINE.fullmatch(line)
        assert found is not None, f"not a line of the log: {line}"
        self.server.stderr.wait_for(re.escape(found["sentence"]))


def check_installed(requirements: list[str]) -> None:
    """See that everything that pip would install is there."""
    for each in map(Requirement, requirements):
        if each.name != "daphne-like":
            assert each.specifier.contains(version(each.name)), f"{each} is not {version(each.name)}"
