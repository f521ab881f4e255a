"""Filters over the attributes of files, with OpenAI's operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from deepwell.errors import InvalidRequest

__all__ = ["check_filter", "matches"]

_MOST_DEPTH = 8
_MOST_PARTS = 256

_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
_LISTED = ("in", "nin")
_COMPARISONS = ("eq", "ne", *_ORDERED, *_LISTED)


def check_filter(given: Any, param: str = "filters") -> None:
    """Checks that a filter is one that `matches` understands.

    Raises:
        InvalidRequest: it is not. The message names the part.
    """
    left = [_MOST_PARTS]
    _check(given, param, 1, left)


def matches(given: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Returns whether attributes satisfy a checked filter.

    A comparison with an attribute that is not there, or is of another type, is false; `ne` and `nin` are then true.
    """
    kind = given["type"]
    if kind == "and":
        return all(matches(one, attributes) for one in given["filters"])
    if kind == "or":
        return any(matches(one, attributes) for one in given["filters"])
    value, wanted = attributes.get(given["key"]), given["value"]
    if kind == "eq":
        return _same(value, wanted)
    if kind == "ne":
        return not _same(value, wanted)
    if kind == "in":
        return any(_same(value, one) for one in wanted)
    if kind == "nin":
        return not any(_same(value, one) for one in wanted)
    return _comparable(value, wanted) and _ORDERED[kind](value, wanted)


def _check(given: Any, param: str, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth > _MOST_DEPTH or left[0] < 0:
        raise InvalidRequest(
            f"a filter has at most {_MOST_PARTS} parts, nested {_MOST_DEPTH} deep",
            fix="send a smaller one",
            param=param,
        )
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind in ("and", "or"):
        parts = given.get("filters")
        if not isinstance(parts, list | tuple) or not parts:
            raise InvalidRequest(
                f"{kind!r} needs a list of filters", fix="send at least one", param=f"{param}.filters"
            )
        _only(given, {"type", "filters"}, param)
        for index, one in enumerate(parts):
            _check(one, f"{param}.filters[{index}]", depth + 1, left)
        return
    if kind not in _COMPARISONS:
        raise InvalidRequest(
            f"unknown type of filter {str(kind)[:64]!r}",
            fix=f"use one of {', '.join((*_COMPARISONS, 'and', 'or'))}",
            param=f"{param}.type",
        )
    _only(given, {"type", "key", "value"}, param)
    if not isinstance(given.get("key"), str) or not 0 < len(given["key"]) <= 64 or not _plain(given["key"]):
        raise InvalidRequest("a comparison needs the key of an attribute", fix="", param=f"{param}.key")
    _check_value(kind, given.get("value"), f"{param}.value")


def _check_value(kind: str, value: Any, param: str) -> None:
    if kind in _LISTED:
        if not isinstance(value, list | tuple) or not all(_plain(one) for one in value):
            raise InvalidRequest(
                f"{kind!r} compares with a list of strings and numbers", fix="send a list", param=param
            )
        if len(value) > _MOST_PARTS:
            raise InvalidRequest(f"at most {_MOST_PARTS} values", fix="send fewer", param=param)
        return
    if not _plain(value) or (kind in _ORDERED and isinstance(value, bool)):
        raise InvalidRequest(
            f"{kind!r} cannot compare with this {type(value).__name__}",
            fix="send a string, a finite number" + ("" if kind in _ORDERED else " or a boolean"),
            param=param,
        )


def _only(given: Mapping[str, Any], names: set[str], param: str) -> None:
    if unknown := given.keys() - names:
        name = str(min(unknown, key=str))[:64]
        raise InvalidRequest(f"unknown parameter {name!r}", fix="leave it out", param=f"{param}.{name}")


def _plain(value: Any) -> bool:
    """Returns whether a value can be kept and sent as JSON: half a surrogate pair, NaN and infinities cannot."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _same(value: Any, wanted: Any) -> bool:
    # True == 1 in Python, but an attribute that is a number is no boolean
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _comparable(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return False
    numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
    return numbers or (isinstance(value, str) and isinstance(wanted, str))
