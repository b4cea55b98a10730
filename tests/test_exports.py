"""The public names: what `from daphne_like import ...` promises."""

import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import daphne_like

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ["daphne_like"] + [
    found.name for found in pkgutil.walk_packages(daphne_like.__path__, "daphne_like.") if found.ispkg
]


def test_server_is_exported():
    assert {"Server", "__version__"} <= set(daphne_like.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_exist(package):
    """`__all__` is sorted, without repetition, and every name in it can be had."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


def test_star_import_gives_exactly_all():
    namespace: dict[str, object] = {}
    exec("from daphne_like import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(daphne_like.__all__)


def test_version_is_in_one_place():
    """The installed metadata comes from the literal in daphne_like/__init__.py, and nothing repeats it."""
    version = daphne_like.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version)
    assert importlib.metadata.version("daphne-like") == version
    literal = re.compile(rf"""["']{re.escape(version)}["']""")
    places = [
        p for p in (ROOT / "daphne_like").rglob("*.py") if literal.search(p.read_text(encoding="utf-8"))
    ]
    assert [p.relative_to(ROOT).as_posix() for p in places] == ["daphne_like/__init__.py"]


def test_typed():
    """PEP 561: without the marker the annotations count for nothing in other projects."""
    assert (Path(daphne_like.__file__).parent / "py.typed").exists()


def test_console_script_and_module_are_the_same_program():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="daphne-like")
    assert script.value == "daphne_like.cli:main"
    by_module, by_script = (
        subprocess.run(command, capture_output=True, text=True, timeout=60)
        for command in (
            [sys.executable, "-m", "daphne_like", "--help"],
            [sys.executable, "-c", "from daphne_like.cli import main; main(['--help'])"],
        )
    )
    assert by_module.returncode == by_script.returncode == 0, by_module.stderr + by_script.stderr
    assert by_module.stdout == by_script.stdout != ""
