"""Text and data from models and tools, made safe to keep: any of it may be of any length and hold anything."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator
from typing import Any, Final

import msgspec

__all__ = ["bounded", "canonical", "clean", "is_json", "numbers_in", "read_json", "told"]

_DEEPEST = 64
_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_.])[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?![A-Za-z0-9_])")
_MOST_READ: Final = 200_000
_MOST_DIGITS: Final = 30
_DIGITS: Final = str.maketrans("０１２３４５６７８９", "0123456789")


def clean(text: str) -> str:
    """Returns a text that UTF-8 and databases can hold: lone surrogates and NUL become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")


def bounded(text: str, most: int) -> tuple[str, int]:
    """Returns a text of about `most` characters, which says what was cut, and the length it had if anything was; else 0."""
    if len(text) <= most:
        return text, 0
    head = text[:most]
    return (
        f"{head}\n[cut: these are the first {most} of {len(text)} characters; ask for a smaller part]",
        len(text),
    )


def told(error: BaseException) -> str:
    """Returns a traceback that every log can hold."""
    return clean("".join(traceback.format_exception(error)))


def read_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: it is none, or one that is nested too deeply to keep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _depth(value, _DEEPEST) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if not is_json(value):
        raise ValueError("it holds characters that are no Unicode, or numbers that are too large")
    return value


def is_json(value: Any) -> bool:
    """Returns whether a value can be kept as JSON."""
    try:
        if msgspec.json.decode(msgspec.json.encode(value)) != value:
            return False
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False
    return _depth(value, _DEEPEST) <= _DEEPEST


def numbers_in(text: str) -> Iterator[tuple[str, float, int]]:
    """Yields numbers as they are written, their values and their decimals. A sign may be a dash, so it is not counted."""
    for found in _NUMBER.finditer(text.translate(_DIGITS)[:_MOST_READ]):
        plain = found[0].lstrip("+-").replace(",", "")
        if len(plain) <= _MOST_DIGITS:
            yield found[0], float(plain), len(plain.partition(".")[2])


def canonical(value: Any) -> str:
    """Returns a JSON value as the one text that equal values have."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _finite(text: str) -> float:
    if (value := float(text)) in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any, most: int) -> int:
    """Returns how deeply a value is nested, not looking further than one level below `most`."""
    level, here = 0, [value]
    while here and level <= most:
        level += 1
        here = [
            child
            for one in here
            if isinstance(one, dict | list | tuple)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return level
