"""`PatternSet`: many regular expressions over one text in linear time, with the characters that each of them matched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.findings import Finding

if TYPE_CHECKING:
    from re2 import _Regexp

__all__ = ["Match", "PatternSet", "merged"]

_MEMORY_BYTES: Final = 64 << 20
"""Room for the automaton of a set. Too little, and RE2 falls back to a slower one."""


class Match(NamedTuple):
    """A match: the number of the pattern, the first character and the one behind the last."""

    pattern: int
    start: int
    end: int


class PatternSet:
    """Regular expressions of RE2's syntax that are searched for together. `\\b` and `\\w` know ASCII alone."""

    def __init__(self, patterns: Sequence[str]) -> None:
        import re2

        options = re2.Options()
        options.max_mem = _MEMORY_BYTES
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        self._singles: list[_Regexp] = []
        for pattern in patterns:
            self._set.Add(pattern)
            self._singles.append(re2.compile(pattern.encode(), options))
        self._set.Compile()

    def matches(self, text: str) -> Iterator[Match]:
        """Yields all matches of every pattern, without overlaps of a pattern with itself."""
        data = text.encode("utf-8", "replace")
        hits = self._set.Match(data)
        if not hits:
            return
        places = None if len(data) == len(text) else _places(data)
        for number in sorted(hits):
            for found in self._singles[number].finditer(data):
                start, end = found.span()
                if places is None:
                    yield Match(number, start, end)
                else:
                    yield Match(number, int(places[start]), int(places[end]))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Returns findings in the order of the text; of several of one rule at one place, the first of the highest score."""
    best: dict[tuple[str, int, int], Finding] = {}
    for one in findings:
        key = (one.rule, one.start, one.end)
        known = best.get(key)
        if known is None or one.score > known.score:
            best[key] = one
    return sorted(best.values(), key=lambda one: (one.start, one.end, one.rule))


def _places(data: bytes) -> NDArray[np.int64]:
    """Returns the number of characters in front of each byte, [bytes + 1]."""
    first = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    places = np.zeros(len(data) + 1, np.int64)
    np.cumsum(first, out=places[1:])
    return places
