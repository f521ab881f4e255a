"""The shape of the house: which way imports point, how full a folder is, how long a function, how wide a constructor."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOTS = (TESTS.parent / "src", TESTS.parent / "bench" / "src")
ROOMS = ("deepwell", "deepwell_bench")
MOST_FILES, MOST_PARAMETERS, MOST_LINES = 20, 8, 80

# Wider than eight parameters, each with the reason. Frozen dataclasses are specs, options and rows, and not counted.
WIDE = {
    "deepwell.server.observe.record.Record": "a row of the access log, filled in on a request's way",
    "deepwell.fleet.improve.state.Round": "a row of the state file, filled in from stage to stage",
}

# Longer than 80 lines, each with the reason.
LONG: dict[str, str] = {}


def sources() -> list[tuple[Path, Path]]:
    """Returns the roots of both distributions with their files."""
    return [(root, path) for root in ROOTS for path in root.rglob("*.py")]


def module_of(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Syntax trees of all modules. Not at import: every worker of a run would parse them."""
    return {module_of(*one): ast.parse(one[1].read_text(encoding="utf-8")) for one in sources()}


@pytest.fixture(autouse=True, scope="module")
def _trees_are_freed() -> Iterator[None]:
    """Garbage collections within later tests would visit them each time."""
    yield
    modules.cache_clear()


def in_rooms(module: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in ROOMS)


def imports_of(module: str) -> set[str]:
    """Modules of the package that a module names anywhere: for types alone and inside of functions too."""
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in inner}
    return (found & modules().keys()) - {module}


def circles() -> list[list[str]]:
    """Groups of modules of the rooms that import each other (Tarjan 1972: strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(filter(in_rooms, imports_of(module))):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(filter(in_rooms, modules())):
        if module not in order:
            visit(module)
    return found


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in filter(in_rooms, modules()):
        for node in ast.walk(modules()[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


def is_init_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and "init=False" not in ast.unparse(node)


def constructors() -> Iterator[tuple[str, int]]:
    """Classes with the number of parameters that making one takes; bodies and requests of the API have the API's."""
    for module in filter(in_rooms, modules()):
        for node in ast.walk(modules()[module]):
            if not isinstance(node, ast.ClassDef):
                continue
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            if "dataclass" in decorators and "frozen=True" not in decorators:
                yield f"{module}.{node.name}", sum(map(is_init_field, node.body))
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    arguments = one.args
                    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    yield f"{module}.{node.name}", len(named) - 1


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_the_text_side_knows_no_server() -> None:
    above = {
        (module, other)
        for module in modules()
        if module.startswith("deepwell.dialogue")
        for other in imports_of(module)
        if not other.startswith(("deepwell.dialogue", "deepwell.engine", "deepwell.models"))
    }
    assert {other for _, other in above} <= {"deepwell.errors", "deepwell.settings", "deepwell.version"}


def test_no_folder_is_crowded() -> None:
    files = Counter(path.parent for root, path in sources() if in_rooms(module_of(root, path)))
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def test_no_function_is_long() -> None:
    long = {name: node.end_lineno - node.lineno + 1 for name, node in functions() if node.end_lineno}
    excused = tuple(LONG)
    assert {name: n for name, n in long.items() if n > MOST_LINES and not name.startswith(excused)} == {}


def test_no_constructor_is_wide() -> None:
    wide = {name for name, parameters in constructors() if parameters > MOST_PARAMETERS}
    assert wide == WIDE.keys()


@functools.cache
def openings() -> dict[str, list[str]]:
    """Modules by the first word of each of their docstrings."""
    found: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault((ast.get_docstring(node) or "").split(" ", 1)[0], []).append(module)
    return found


@pytest.mark.parametrize("opening", ["Of", "What", "Who", "Whose", "Whether", "Where", "How"])
def test_docstrings_open_with_what_is_done(opening: str) -> None:
    clipped = openings().get(opening, [])
    assert clipped == []


def test_every_skip_names_the_command_that_ends_it() -> None:
    own = re.compile(r"pytest\.(?:skip|importorskip)\b|\bskipif\b|shutil\.which|allow_module_level")
    tests = Path(__file__).parent
    found = [path for path in tests.rglob("*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert {path.name for path in found} == {"needs.py", "test_needs.py", Path(__file__).name}, (
        "tests/needs.py skips tests"
    )


def test_tests_wait_in_one_place() -> None:
    """A test that sleeps for a time is slow where less would do, and fails where more is needed: `tests.waiting`."""
    found: list[str] = []
    for path in [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    ast.Attribute(ast.Name("time" | "asyncio"), "sleep"), [ast.Constant(pause)]
                ) if pause:
                    found.append(f"{path.relative_to(TESTS)}:{node.lineno}")
    assert found == []
