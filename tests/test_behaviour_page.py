"""Each promise of docs/reference/behaviour.md names tests that exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "reference" / "behaviour.md").read_text(encoding="utf-8")

SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
ROW = re.compile(r"^\| (?P<promise>.+?) \| (?P<tests>`.+`) \|$", re.M)


@functools.cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


def test_page_has_promises():
    assert sum(len(ROW.findall(text)) for _, text in SECTIONS) > 70


@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_promises_are_tested(title, text):
    """A test without a file is in the file that the section names first."""
    common = re.search(r"^In `(tests/\S+\.py)`", text, re.M)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    unknown = []
    for row in rows:
        match = ROW.fullmatch(row)
        assert match is not None, row
        for name in re.findall(r"`([^`]+)`", match["tests"]):
            path, _, test = name.rpartition("::")
            if not path:
                assert common is not None, f"{title}: {name} has no file"
                path = common[1]
            if test not in names_in(path):
                unknown.append(f"{path}::{test}")
    assert unknown == []
