"""
The documentation tells the truth, as far as a program can see it.

Links resolve, anchors included; every page can be reached from docs/index.md; the settings page is what
the settings generate; commands and Python that a reader would copy exist and parse.
"""

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from daphne_like.cli import main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
README = ROOT / "README.md"

PAGES = sorted([README, *(p for p in DOCS.rglob("*.md") if "node_modules" not in p.parts)])

FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$", re.M | re.S
)
CODE_SPAN = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
REFERENCE_LINK = re.compile(r"^\[[^\]]+\]:\s+(?P<target>\S+)", re.M)
COMMANDS = [["settings"], ["worker"], ["layer", "stats"]]
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.M)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """The page without its code, which may look like links or headings."""
    return FENCE.sub("", read(path))


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor or "") of every link to something in this repository."""
    text = CODE_SPAN.sub("", prose(path))
    for pattern in (LINK, REFERENCE_LINK):
        for match in pattern.finditer(text):
            target, _, anchor = match["target"].partition("#")
            if not re.match(r"[a-z][a-z0-9+.-]*:", target):
                yield (path.parent / target).resolve() if target else path, anchor


@functools.cache
def anchors(path: Path) -> set[str]:
    """The anchors of headings: lower case, punctuation dropped, spaces to dashes, repetitions numbered."""
    found: set[str] = set()
    for match in HEADING.finditer(prose(path)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["text"]).replace("`", "")
        slug = base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = 0
        while slug in found:
            count += 1
            slug = f"{base}-{count}"
        found.add(slug)
    return found


def code_blocks(path: Path, *languages: str) -> Iterator[str]:
    for match in FENCE.finditer(read(path)):
        if match["language"] in languages:
            yield match["text"]


def commands(path: Path) -> Iterator[list[str]]:
    """Each command of the page's shell blocks, in words; `$ ` prompts and continued lines understood."""
    for block in code_blocks(path, "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line and not line.startswith("#"):
                yield shlex.split(line, comments=True)


def test_pages_are_found():
    assert {README, INDEX, DOCS / "changelog.md", DOCS / "reference" / "settings.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    broken = []
    for target, anchor in links(page):
        if not target.exists():
            broken.append(f"{os.path.relpath(target, ROOT)} is not there")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            broken.append(f"{name_of(target)} has no heading #{anchor}")
    assert broken == []


def test_every_page_is_reachable_from_the_index():
    reached, waiting = {INDEX}, [INDEX]
    while waiting:
        for target, _ in links(waiting.pop()):
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert [name_of(page) for page in PAGES if page != README and page not in reached] == []


def test_readme_leads_to_the_documentation():
    assert INDEX in [target for target, _ in links(README)]


def test_settings_page_is_generated():
    """`python -m daphne_like settings --markdown > docs/reference/settings.md` mends a difference."""
    done = subprocess.run(
        [sys.executable, "-m", "daphne_like", "settings", "--markdown"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == read(DOCS / "reference" / "settings.md")


def test_readme_names_its_two_commands_on_the_first_screen():
    first_screen = read(README).splitlines()[:40]
    assert {"scripts/run", "scripts/test"} <= {word for line in first_screen for word in line.split()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scripts_exist(page):
    """Everything called scripts/... is an executable file."""
    named = set(re.findall(r"(?<![\w/.-])scripts/[a-z][\w/.-]*\w", read(page)))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    called = {words[0] for words in commands(page) if words[0].startswith(("scripts/", ".ci/"))}
    assert [name for name in sorted(called) if not os.access(ROOT / name, os.X_OK)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_understood(page, capsys):
    """Every `daphne-like ...` that a page shows has options that exist, with values that they take."""
    for words in commands(page):
        if words[0] == "daphne-like":
            command = next((c for c in COMMANDS if words[1 : 1 + len(c)] == c), [])
            options = words[1 + len(command) :]
            assert main(["settings", *options]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_parses(page):
    """Every block is a piece of a program, from inside a class perhaps, or some lines from inside a dict."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    for block in map(textwrap.dedent, code_blocks(page, "python", "py")):
        try:
            compile(block, name_of(page), "exec", flags=flags)
        except SyntaxError:
            compile("{" + block + "}", name_of(page), "eval", flags=flags)


def test_changelog_is_kept():
    """Keep a Changelog 1.1: Unreleased first, then versions, newest first; known kinds of change."""
    text = prose(DOCS / "changelog.md")
    versions = re.findall(r"^## \[?([^\]\n]+?)\]?(?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert versions[0] == ("Unreleased", "")
    dates = [date for _, date in versions[1:]]
    assert all(dates)
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
