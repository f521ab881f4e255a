"""`PatternSet`: many regular expressions over one text in linear time, with the characters that each of them matched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.findings import Finding

if TYPE_CHECKING:
    from re2 import _Regexp

__all__ = ["Match", "PatternSet", "merged"]

_MEMORY_BYTES: Final = 64 << 20
"""Room for the automaton of a set. Too little, and RE2 falls back to a slower one."""


_SIGNS: Final = (b" ", b"-", b".")
"""Signs between the groups of a number."""


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

    def matches(self, text: str, accepts: Callable[[int, str], bool] | None = None) -> Iterator[Match]:
        """Yields all matches of every pattern, without overlaps of a pattern with itself.

        Args:
            accepts: tells of the number of a pattern and the text that it matched whether that counts. A match that does not
                hides no other: a shorter one at its place may count, or one that begins within it.
        """
        data = text.encode("utf-8", "replace")
        hits = self._set.Match(data)
        if not hits:
            return
        places = None if len(data) == len(text) else _places(data)
        for number in sorted(hits):
            single = self._singles[number]
            if accepts is None:
                spans = (found.span() for found in single.finditer(data))
            else:
                spans = _accepted(single, data, partial(accepts, number))
            for start, end in spans:
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


def _accepted(single: _Regexp, data: bytes, accepts: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yields the matches that count."""
    at = 0
    while (found := single.search(data, at)) is not None:
        start, end = found.span()
        until = next(
            (one for one in _ends(single, data, start, end) if accepts(data[start:one].decode())), None
        )
        if until is not None:
            yield start, until
        at = max(start + 1, until or 0)
        while at < len(data) and data[at] & 0xC0 == 0x80:  # within a character
            at += 1


def _ends(single: _Regexp, data: bytes, start: int, end: int) -> Iterator[int]:
    """Yields the ends of the matches at one place, the longest first: that of the search, and each before a sign."""
    yield end
    for at in range(end - 1, start, -1):
        if data[at : at + 1] in _SIGNS and single.fullmatch(data, start, at) is not None:
            yield at


def _places(data: bytes) -> NDArray[np.int64]:
    """Returns the number of characters in front of each byte, [bytes + 1]."""
    first = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    places = np.zeros(len(data) + 1, np.int64)
    np.cumsum(first, out=places[1:])
    return places
