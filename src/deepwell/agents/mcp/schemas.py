"""Schemas of other servers' tools: bounded before anything reads them, and the check of arguments against them.

A schema comes from a stranger. It may be huge, deep, refer to itself, or grow without bound where references are followed
("billion laughs"), and its patterns may take exponential time. Such schemas are refused with their reason. Patterns and other
costly keywords are not checked: the server that wrote them checks its own arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, cast

from deepwell.agents.loop.metered import TooMuchToCheck, begin_check, metered

__all__ = ["SchemaRefused", "arguments_problem", "checked_schema", "is_plain"]

_MOST_BYTES: Final = 32 << 10
_MOST_DEPTH: Final = 24
_MOST_NODES: Final = 4000  # references followed
# Patterns, and what compares each element with each other or walks the schema by ways of its own.
_COSTLY: Final = (
    "pattern",
    "patternProperties",
    "format",
    "uniqueItems",
    "unevaluatedProperties",
    "unevaluatedItems",
)
_PLAIN: Final = frozenset(
    "type properties required additionalProperties items enum const title description default examples minimum maximum"
    " minLength maxLength minItems maxItems anyOf $ref $defs definitions".split()
)
_VALUES: Final = ("const", "enum", "default", "examples", "example")  # hold data, not schemas


class SchemaRefused(ValueError):
    """Raised for a schema that is not taken. The text is the reason."""


def checked_schema(schema: Any) -> dict[str, Any]:
    """Returns the schema of a tool's arguments, safe to use: without patterns.

    Raises:
        SchemaRefused: it is no schema of an object, too large, or refers to itself or elsewhere.
    """
    if not isinstance(schema, Mapping):
        raise SchemaRefused("the schema is no object")
    taken = cast("Mapping[str, Any]", schema)
    try:
        size = len(json.dumps(taken, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))
    except (RecursionError, TypeError, ValueError):
        raise SchemaRefused(f"the schema is no JSON of at most {_MOST_DEPTH} levels") from None
    if size > _MOST_BYTES:
        raise SchemaRefused(f"the schema has {size} bytes, and at most {_MOST_BYTES} are taken")
    if taken.get("type", "object") != "object":
        raise SchemaRefused("the schema is not that of an object")
    cleaned = cast("dict[str, Any]", _cleaned(taken, 0))
    _count(cleaned, cleaned, (), [0])
    _check_valid(cleaned)
    return {"type": "object", **cleaned}


def is_plain(schema: Any, *, names: bool = False) -> bool:
    """Returns whether a checked schema uses common keywords alone, so that a grammar can hold a model to it."""
    if isinstance(schema, list):
        return all(is_plain(one) for one in cast("list[Any]", schema))
    if not isinstance(schema, Mapping):
        return True
    for key, one in cast("Mapping[str, Any]", schema).items():
        if not names and key not in _PLAIN:
            return False
        inner = not names and key in ("properties", "$defs", "definitions")
        if (names or key not in _VALUES) and not is_plain(one, names=inner):
            return False
    return True


def arguments_problem(schema: Mapping[str, Any], arguments: Any) -> str | None:
    """Returns the reason why arguments do not fit a schema that was checked; None if they fit."""
    from jsonschema.exceptions import best_match

    if not isinstance(arguments, Mapping):
        return "the arguments are no object"
    begin_check()
    try:
        error = best_match(_validators()(dict(schema)).iter_errors(arguments))
    except TooMuchToCheck:
        return "the arguments take too long to check: send less at once"
    except RecursionError:
        return "the arguments are nested too deeply"
    except ArithmeticError:
        return "a number in the arguments is too large to be checked"
    if error is None:
        return None
    place = ".".join(str(step) for step in error.absolute_path) or "the arguments"
    return f"{place}: {error.message[:300]}"


@cache
def _validators() -> Any:
    from jsonschema import Draft202012Validator

    return metered(Draft202012Validator, {})


def _cleaned(value: Any, depth: int, *, names: bool = False) -> Any:
    """Returns a part of a schema without patterns. `names`: its keys are names of properties, not keywords."""
    if depth > _MOST_DEPTH:
        raise SchemaRefused(f"the schema has more than {_MOST_DEPTH} levels")
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, one in cast("Mapping[str, Any]", value).items():
            if not names and key in _COSTLY:
                continue
            if not names and key in _VALUES:
                found[key] = one
                continue
            inner = not names and key in ("properties", "$defs", "definitions", "dependentSchemas")
            found[key] = _cleaned(one, depth + 1, names=inner)
        return found
    if isinstance(value, list):
        return [_cleaned(one, depth + 1) for one in cast("list[Any]", value)]
    return value


def _count(root: Mapping[str, Any], value: Any, trail: tuple[str, ...], count: list[int]) -> None:
    """Counts the nodes of a schema with its references followed."""
    count[0] += 1
    if count[0] > _MOST_NODES:
        raise SchemaRefused(f"the schema has more than {_MOST_NODES} parts once its references are followed")
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            _count(root, one, trail, count)
        return
    if not isinstance(value, Mapping):
        return
    taken = cast("Mapping[str, Any]", value)
    for keyword in ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"):
        if isinstance(taken.get(keyword), str):
            raise SchemaRefused(f"the schema uses {keyword}")
    target = taken.get("$ref")
    if isinstance(target, str):
        if target in trail:
            raise SchemaRefused("the schema refers to itself")
        _count(root, _resolved(root, target), (*trail, target), count)
    for key, one in taken.items():
        if key not in _VALUES and key not in ("$defs", "definitions"):
            _count(root, one, trail, count)


def _resolved(root: Mapping[str, Any], target: str) -> Any:
    if not target.startswith("#/"):
        raise SchemaRefused(
            "the schema refers to itself" if target == "#" else "the schema refers to another one"
        )
    here: Any = root
    for step in target[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, Mapping) or name not in here:
            raise SchemaRefused("the schema refers to a part that it does not have")
        here = cast("Mapping[str, Any]", here)[name]
    return here


def _check_valid(schema: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except (SchemaError, RecursionError) as error:
        told = error.message[:120] if isinstance(error, SchemaError) else "nested too deeply"
        raise SchemaRefused(f"the schema is not valid: {told}") from None
