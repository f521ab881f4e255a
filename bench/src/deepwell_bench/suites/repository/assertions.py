"""The assertions of a test suite, read from its syntax trees, and their comparison between two trees of the repository."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["RENAMED", "Difference", "Scope", "compare_scopes", "missing_tests", "scopes_of", "scopes_of_tree"]

# Names of the code under test that were changed since, old to new: both trees are read with the new one.
RENAMED: Mapping[str, str] = {"Worth": "DraftPolicy"}
"""Names of the earlier commit, and what they are called here."""
MOVED: Mapping[str, str] = {"test_sides": "test_comparison"}
"""Test modules of the earlier commit whose file has another name here."""

_MODULE = "<module>"
# In strings, such as the target of a patch: a module, and what follows it.
_ROOMS = r"(?:bench|cli|dialogue|engine|models|process|server|storage)"
_DOTTED = re.compile(rf"\bdeepwell(?:\.{_ROOMS}\b(?:\.\w+)*)")
_BARE = re.compile(rf"{_ROOMS}(?:\.[a-z_]+)+")  # a whole string that is a module below the package


@dataclass(frozen=True, slots=True)
class Scope:
    """The assertions of one function, method, class body or module body, in order, as normalised source."""

    path: str  # of the module, below the root of the repository
    name: str  # such as "test_limits", "TestStreams.test_order" or "<module>"
    assertions: tuple[str, ...]

    @property
    def is_test(self) -> bool:
        """Tells whether pytest would collect it."""
        return self.name.rpartition(".")[2].startswith("test_")

    @property
    def stem(self) -> str:
        """Returns the module's name."""
        return _stem(self.path)


@dataclass(frozen=True, slots=True)
class Difference:
    """A scope whose assertions are not the same; `after` is None where it is gone."""

    before: Scope
    after: Scope | None

    def _changes(self) -> list[str]:
        old, new = Counter(self.before.assertions), Counter(self.after.assertions if self.after else ())
        went = [f"  - {text}" for text in (old - new).elements()]
        came = [f"  + {text}" for text in (new - old).elements()]
        return went + came

    @property
    def count(self) -> int:
        """Returns how many assertions went or came; 1 where they only stand in another order, or none was there."""
        return max(len(self._changes()), 1)

    def lines(self) -> list[str]:
        """Returns one line for the scope, and one for each assertion that went (-) or came (+)."""
        place = f"{self.before.path}::{self.before.name}"
        if self.after is None:
            return [f"{place}: gone, with {len(self.before.assertions)} assertions"]
        return [place, *(self._changes() or ["  in another order"])]


def scopes_of(source: str, path: str, renamed: Mapping[str, str] = RENAMED) -> list[Scope]:
    """Reads the scopes of a module: those that hold assertions, and every test function.

    Assertions are `assert` statements, `raises(...)`, `warns(...)` and `assert_...(...)` calls, and `parametrize(...)`, which
    holds expected values. Dotted names of the package keep their last part alone; renamed names are read as the new ones.
    """
    found: dict[str, list[str]] = {}
    tree = ast.parse(source, filename=path)
    _collect(tree.body, _MODULE, found, renamed)
    return [
        Scope(path, name, tuple(texts))
        for name, texts in found.items()
        if texts or name.rpartition(".")[2].startswith("test_")
    ]


def scopes_of_tree(root: Path, renamed: Mapping[str, str] = RENAMED) -> list[Scope]:
    """Reads the scopes of every module below `tests`."""
    return [
        scope
        for path in sorted((root / "tests").rglob("*.py"))
        for scope in scopes_of(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix(), renamed)
    ]


def compare_scopes(before: Iterable[Scope], after: Iterable[Scope]) -> tuple[list[Difference], int]:
    """Compares the assertions of each scope with those of the same scope later; the differences, and how many scopes are new.

    The same scope is the one with its path and name; else one with its module's and its own name, for modules may move; else,
    for what is no test, one with its name, for helpers may move between modules. Of several it is one with equal assertions.
    """
    left = list(after)
    pairs: list[tuple[Scope, Scope | None]] = []
    waiting = list(before)
    for key in (_place, _stem_and_name, _helper_name):
        offered: dict[object, list[Scope]] = {}
        for scope in left:
            if (place := key(scope)) is not None:
                offered.setdefault(place, []).append(scope)
        unmatched: list[Scope] = []
        for scope in waiting:
            place = key(scope)
            candidates = offered.get(place, []) if place is not None else []
            if not candidates:
                unmatched.append(scope)
                continue
            chosen = next((one for one in candidates if one.assertions == scope.assertions), candidates[0])
            candidates.remove(chosen)
            pairs.append((scope, chosen))
        waiting = unmatched
        taken = {id(new) for _, new in pairs}
        left = [scope for scope in left if id(scope) not in taken]
    pairs += [(scope, None) for scope in waiting]
    differences = [
        Difference(old, new) for old, new in pairs if new is None or new.assertions != old.assertions
    ]
    return sorted(differences, key=lambda one: _place(one.before)), len(left)


def missing_tests(before: Sequence[str], after: Sequence[str]) -> tuple[list[str], int]:
    """Compares the ids of collected tests; those that are gone, and how many are new.

    A test is the same one with the same id, or with the same module name, function and parameters in another folder.
    """
    left = Counter(after)
    moved: list[str] = []
    for test in before:
        if left[test]:
            left[test] -= 1
        else:
            moved.append(test)
    stems = Counter(_without_folder(test) for test in left.elements())
    gone: list[str] = []
    for test in moved:
        if stems[_without_folder(test)]:
            stems[_without_folder(test)] -= 1
        else:
            gone.append(test)
    return gone, stems.total()


def _place(scope: Scope) -> tuple[str, str]:
    return scope.path, scope.name


def _stem_and_name(scope: Scope) -> tuple[str, str]:
    return scope.stem, scope.name


def _helper_name(scope: Scope) -> str | None:
    return None if scope.is_test or scope.name == _MODULE else scope.name


def _without_folder(test: str) -> str:
    path, _, rest = test.partition("::")
    return f"{_stem(path)}::{rest}"


def _collect(
    statements: Iterable[ast.stmt], name: str, found: dict[str, list[str]], renamed: Mapping[str, str]
) -> None:
    """Adds the assertions of statements to the scope `name`, those of functions and classes in it to scopes of their own."""
    texts = found.setdefault(name, [])
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = statement.name if name == _MODULE else f"{name}.{statement.name}"
            own = found.setdefault(inner, [])
            for decorator in statement.decorator_list:
                own += _texts(decorator, renamed)
            if isinstance(statement, ast.ClassDef):
                _collect(statement.body, inner, found, renamed)
            else:
                for part in statement.body:
                    own += _texts(part, renamed)
        else:
            texts += _texts(statement, renamed)


def _texts(node: ast.AST, renamed: Mapping[str, str]) -> list[str]:
    """Returns the assertions below a node in the order of the source."""
    if isinstance(node, ast.Assert):
        return [_normalised(node, renamed)]
    if isinstance(node, ast.Call) and _asserts(node.func):
        return [_normalised(node, renamed)]
    return [text for child in ast.iter_child_nodes(node) for text in _texts(child, renamed)]


def _asserts(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("raises", "warns", "parametrize") or name.startswith("assert_")


def _normalised(node: ast.Assert | ast.Call, renamed: Mapping[str, str]) -> str:
    copy = ast.parse(ast.unparse(node)).body[0]
    return ast.unparse(_Normaliser(renamed).visit(copy))


class _Normaliser(ast.NodeTransformer):
    """Reads names without the places where modules lie, and renamed ones as what they are called now."""

    def __init__(self, renamed: Mapping[str, str]) -> None:
        self._renamed = renamed

    def _name(self, name: str) -> str:
        return self._renamed.get(name, name)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._name(node.id), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        below: ast.expr = node.value
        while isinstance(below, ast.Attribute):
            below = below.value
        if isinstance(below, ast.Name) and below.id == "deepwell":
            return ast.Attribute(below, self._name(node.attr), node.ctx)
        return ast.Attribute(self.visit(node.value), self._name(node.attr), node.ctx)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return ast.keyword(None if node.arg is None else self._name(node.arg), self.visit(node.value))

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            return ast.Constant(
                "deepwell" if _BARE.fullmatch(node.value) else _DOTTED.sub("deepwell", node.value)
            )
        return node


def _stem(path: str) -> str:
    """Returns the name of a test module here."""
    stem = PurePosixPath(path).stem
    return MOVED.get(stem, stem)
