"""
The floors of the house: imports go down only.

The table below is the rule and the only place where a module gets a floor; a module that it does not name
fails here, so that adding one is a decision. A module imports from floors strictly below its own, or from its
own package. The modules directly under `daphne_like` on floors 0, 4 and 5 are one package in that sense. No
import cycle, anywhere. Imports inside functions and under TYPE_CHECKING count like any other. What stands
under `if __name__ == "__main__"` does not: it is a command line, not a part of what others import.

Third parties are imported at their doorsteps only, so that each can be replaced, or its errors translated, in
one place.
"""

import ast
import graphlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "daphne_like"

# First name under daphne_like (a longer prefix wins) -> floor.
FLOORS = {
    "__main__": 5,
    "child": 4,
    "cli": 5,
    "django.management": 5,
    "__init__": 4,
    "django": 4,
    "layer_command": 4,
    "reactor": 4,
    "relayed": 4,
    "reload": 4,
    "run": 4,
    "runner_watch": 4,
    "server": 4,
    "supervisor": 4,
    "thread_jobs": 4,
    "thread_pools": 4,
    "threads": 4,
    "testing": 4,
    "worker_link": 4,
    "worker_process": 4,
    "wsgi": 4,
    "net": 3,
    "relay": 3,
    "asgi": 2,
    "layers": 2,
    "http": 1,
    "websocket": 1,
    "configuration": 0,
    "elsewhere": 0,
    "errors": 0,
    "importing": 0,
    "reporting": 0,
    "logs": 0,
    "options": 0,
    "serving": 0,
    "settings": 0,
    "settings_clients": 0,
    "settings_processes": 0,
    "typing": 0,
}
ONE_PACKAGE = {0, 4, 5}

# Third party -> where it may be imported (prefixes under daphne_like).
DOORSTEPS = {
    "asgiref": {"asgi", "django", "importing", "server", "typing"},
    "autobahn": {"websocket"},
    "channels": {"django", "layers.base", "layers.foreign"},
    "cryptography": {"layers.encryption"},
    "django": {"django"},
    "h2": {"http"},
    "hiredis": {"layers.redis"},
    "httptools": {"http"},
    "hyperlink": {"net"},
    "msgpack": {"layers.codec"},
    "pytest": {"django.fixtures"},
    "redis": {"layers.redis"},
    "twisted": {"net", "reactor", "supervisor", "testing"},
    "txaio": {"websocket"},
    "uvloop": {"net", "reactor"},
    "zope": {"net", "testing"},
}

# Floor 1 is sans-I/O; the time is an argument there.
FORBIDDEN_IN_FLOOR_1 = {
    "asyncio",
    "concurrent",
    "datetime",
    "multiprocessing",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}

MAX_LINES = 500

TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "daphne_like",
    "docs",
    "pyproject.toml",
    "scripts",
    "setup.cfg",
    "tests",
}


def find_modules() -> dict[str, Path]:
    """Dotted name (packages without `.__init__`) -> file."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()
TREES = {name: ast.parse(path.read_bytes(), path) for name, path in MODULES.items()}


def below_package(module: str) -> str:
    """`daphne_like.http.h1` -> `http.h1`; the package itself -> `__init__`."""
    return module.removeprefix(PACKAGE).lstrip(".") or "__init__"


def has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def find_unit(module: str) -> str | None:
    """The entry of FLOORS that covers *module*."""
    covering = [entry for entry in FLOORS if has_prefix(below_package(module), entry)]
    return max(covering, key=len, default=None)


def is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


def imported_names(module: str) -> Iterator[tuple[str, int]]:
    """Every absolute name that *module* imports, `from a import b` as `a.b`, with its line."""
    is_package = MODULES[module].name == "__init__.py"
    body = [statement for statement in TREES[module].body if not is_main_guard(statement)]
    for node in itertools.chain.from_iterable(map(ast.walk, body)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # One dot is the package that the module is in; a package is in itself.
                here = module.split(".")
                kept = here[: len(here) - node.level + is_package]
                base = ".".join([*kept, base]) if base else ".".join(kept)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def own_imports(module: str) -> Iterator[tuple[str, int]]:
    """The modules of ours that *module* imports."""
    for name, line in imported_names(module):
        if has_prefix(name, PACKAGE):
            while name not in MODULES and name != PACKAGE:
                name = name.rpartition(".")[0]
            yield name, line


def foreign_imports(module: str) -> Iterator[tuple[str, int]]:
    for name, line in imported_names(module):
        if not has_prefix(name, PACKAGE):
            yield name, line


def where(module: str, line: int) -> str:
    return f"{MODULES[module].relative_to(ROOT)}:{line}"


def test_the_package_is_found():
    """The other tests of this file would pass over an empty tree."""
    assert {PACKAGE, f"{PACKAGE}.__main__", f"{PACKAGE}.cli", f"{PACKAGE}.server"} <= set(MODULES)


def test_every_module_has_a_floor():
    assert [name for name in MODULES if find_unit(name) is None] == []


def test_imports_go_down():
    wrong = []
    for module in MODULES:
        unit = find_unit(module)
        for imported, line in own_imports(module):
            other = find_unit(imported)
            if unit is None or other is None or unit == other:
                continue
            floor, other_floor = FLOORS[unit], FLOORS[other]
            same_package = floor == other_floor and floor in ONE_PACKAGE
            if not (other_floor < floor or same_package):
                wrong.append(
                    f"{where(module, line)}: floor {floor} imports {imported} of floor {other_floor}"
                )
    assert wrong == []


def test_no_import_cycle():
    graph = {
        module: {imported for imported, _ in own_imports(module) if imported != module} for module in MODULES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_third_parties_come_in_at_their_doorsteps():
    wrong = []
    for module in MODULES:
        for name, line in foreign_imports(module):
            party = name.partition(".")[0]
            if party in sys.stdlib_module_names:
                continue
            doorsteps = DOORSTEPS.get(party, set())
            if not any(has_prefix(below_package(module), doorstep) for doorstep in doorsteps):
                wrong.append(f"{where(module, line)}: imports {name}; allowed in {sorted(doorsteps)}")
    assert wrong == []


def test_floor_1_does_no_io():
    wrong = []
    for module in MODULES:
        if FLOORS.get(find_unit(module) or "") != 1:
            continue
        for name, line in foreign_imports(module):
            if name.partition(".")[0] in FORBIDDEN_IN_FLOOR_1 or has_prefix(name, "twisted.internet"):
                wrong.append(f"{where(module, line)}: imports {name}")
    assert wrong == []


def test_only_the_reactor_module_knows_the_global_reactor():
    """Everywhere else the reactor is an argument."""
    wrong = []
    for module in MODULES:
        for name, line in foreign_imports(module):
            is_reactor = has_prefix(name, "twisted.internet.reactor")
            installs = any(
                has_prefix(name, f"twisted.internet.{m}") for m in ("asyncioreactor", "epollreactor")
            )
            if (is_reactor or installs) and below_package(module) != "reactor":
                wrong.append(f"{where(module, line)}: imports {name}")
    assert wrong == []


# Prints one line for each effect that the import of a module had.
IMPORT_EVERYTHING = """
import asyncio, importlib, logging, os, signal, sys, threading

def effects():
    yield "the reactor", "twisted.internet.reactor" in sys.modules
    yield "the event loop policy", asyncio.events._event_loop_policy
    yield "threads", threading.active_count()
    yield "logging handlers", list(logging.getLogger().handlers)
    yield "signal handlers", [signal.getsignal(s) for s in sorted(signal.valid_signals())]
    yield "the environment", dict(os.environ)
    yield "the working directory", os.getcwd()
    yield "sys.path", list(sys.path)
    yield "stdout", sys.stdout
    yield "the exception hook", sys.excepthook

before = dict(effects())
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = dict(effects())
    for what in before:
        if before[what] != after[what]:
            print(f"importing {name} changed {what}")
    before = after
"""


def test_importing_has_no_effect():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_EVERYTHING, *sorted(MODULES)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_a_file_fits_its_caption(module):
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: its caption was two captions"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_begins_with_its_theory(module):
    empty = not TREES[module].body
    assert empty or ast.get_docstring(TREES[module]), f"{where(module, 1)} has no docstring"


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_no_folder_without_init(package):
    """A folder without __init__.py would be missing from the wheel."""
    folder = MODULES[package].parent
    stray = [
        p.name
        for p in folder.iterdir()
        if p.is_dir() and any(p.glob("*.py")) and not (p / "__init__.py").exists()
    ]
    assert stray == []


def test_nothing_else_at_the_top():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    entries = {os.fsdecode(path).split("/")[0] for path in listed.stdout.split(b"\0") if path}
    assert entries - TOP_LEVEL == set()
