"""`docs/explanation/core.md` names the files and names of the engine's core as they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src/deepwell/engine/core"
PAGE = (ROOT / "docs/explanation/core.md").read_text(encoding="utf-8")
MOST_LINES = 3000
ELSEWHERE = {
    "Batch",
    "Delta",
    "Limits",
    "check_params",
    "forward",
    "tests/test_core_page.py",
}  # of the protocol, the options, the backends, the input of a pass


def names_of_core() -> set[str]:
    """Functions, classes, methods and attributes that `self` gets, as `name` and `Class.name`."""
    found: set[str] = set()
    for path in CORE.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(f"{node.name}.{inner.name}")
                    elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        found.add(f"{node.name}.{inner.attr}")
    return found


def test_the_page_names_every_file_and_no_other() -> None:
    named = set(re.findall(r"`(\w+\.py)`", PAGE))
    assert named == {path.name for path in CORE.glob("*.py")} - {"__init__.py"}


def test_every_name_of_the_page_is_there() -> None:
    quoted = {name for name in re.findall(r"`([\w./]+)`", PAGE) if not name.endswith((".py", "/"))}
    assert quoted - ELSEWHERE <= names_of_core()


def test_the_core_reads_in_one_sitting() -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in CORE.glob("*.py"))
    assert lines <= MOST_LINES
