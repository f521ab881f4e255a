"""Reads constants out of the source of Python modules without running them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

__all__ = ["constants", "evaluate"]


def constants(source: str) -> dict[str, Any]:
    """Returns the strings, sequences and mappings that a module, its classes and their methods assign to names.

    A name in a class, and an attribute of `self` in its methods, is written `Class.name`. Values may be built from
    literals, f-strings of known names, additions and repetitions; anything else is left out.
    """
    found: dict[str, Any] = {}
    _read(ast.parse(source).body, "", found)
    return found


def _read(body: list[ast.stmt], prefix: str, found: dict[str, Any]) -> None:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            _read(statement.body, f"{statement.name}.", found)
            continue
        if isinstance(statement, ast.FunctionDef):
            _read(statement.body, prefix, found)
            continue
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        match target:
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
                pass
            case _:
                continue
        try:
            found[prefix + name] = evaluate(value, found)
        except (ValueError, KeyError, TypeError):
            continue


def evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """Returns the value of an expression of literals and known names.

    Raises:
        ValueError: it needs something else.
        KeyError: it uses an unknown name.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return known[name]
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return known[f"{owner}.{name}"]
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [evaluate(one, known) for one in items]
        case ast.Dict(keys=keys, values=values):
            return {evaluate(k, known): evaluate(v, known) for k, v in zip(keys, values, strict=True) if k}
        case ast.JoinedStr(values=parts):
            return "".join(str(evaluate(one, known)) for one in parts)
        case ast.FormattedValue(value=value):
            return evaluate(value, known)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return evaluate(left, known) + evaluate(right, known)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _repeated(evaluate(left, known), evaluate(right, known))
        case ast.Call(
            func=ast.Name(id="tuple"), args=[ast.Call(func=ast.Attribute(attr="values", value=inner))]
        ):
            return list(evaluate(inner, known).values())
        case _:
            raise ValueError(f"{type(node).__name__} is no literal")


def _repeated(one: Any, other: Any) -> Any:
    """Returns a string repeated as `*` does, up to 100 times."""
    text, times = (one, other) if isinstance(one, str) else (other, one)
    if not isinstance(text, str) or not isinstance(times, int) or times > 100:
        raise ValueError("a repetition that is not of a short text")
    return text * times
