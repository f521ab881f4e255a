"""Finds what a licence text says: patterns of terms, each with the passage that it was found in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import re2

__all__ = ["RULES", "Said", "says"]

RULES: Final = Path(__file__).parent / "rules"
"""Folder of the patterns and the rule set."""

_AROUND = 60  # characters of a passage on both sides of what was found
_MOST = 240  # characters of a passage


@dataclass(frozen=True, slots=True)
class Said:
    """A term that a text has.

    Attributes:
        name: name of the term in `patterns.toml`.
        passage: the words that were found and those around them, in lower case with single spaces.
    """

    name: str
    passage: str


@lru_cache(maxsize=1024)
def says(text: str) -> Mapping[str, Said]:
    """Returns the terms of a text by their names."""
    flat = re.sub(r"\s+", " ", text).lower()
    found: dict[str, Said] = {}
    for name, patterns in _patterns().items():
        for pattern in patterns:
            if match := pattern.search(flat):
                start, end = max(0, match.start() - _AROUND), min(len(flat), match.end() + _AROUND)
                found[name] = Said(name, _whole_words(flat, start, min(end, start + _MOST)))
                break
    return found


@cache
def _patterns() -> Mapping[str, tuple[Any, ...]]:
    table = tomllib.loads((RULES / "patterns.toml").read_text(encoding="utf-8"))["patterns"]
    return {name: tuple(re2.compile(f"(?s){one}") for one in patterns) for name, patterns in table.items()}


def _whole_words(text: str, start: int, end: int) -> str:
    """Returns a part of a text without the words that its ends would cut."""
    first = text.find(" ", start, start + _AROUND) if start else -1
    last = text.rfind(" ", end - _AROUND, end) if end < len(text) else -1
    return text[first + 1 if first >= 0 else start : last if last >= 0 else end].strip()
