"""`foreign`: what others wrote in a text, without the parts that ship with Deepwell.

A guard judges words of users, documents and tools. The prompt around them is the same on every server and for everybody, so
that it can attack nobody; but a classifier takes many a system prompt for an injection, because it tells a model what to do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from deepwell.models.text.shipped import shipped_parts
from deepwell.safety.findings import Finding

__all__ = ["Foreign", "foreign"]

_GAP: Final = "\n"
"""Stands in place of a shipped part: what stands on both sides of it is read as one text, so that no attack hides around it."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """The parts of a text that do not ship with Deepwell.

    Attributes:
        text: these parts, with a line end in place of each shipped one.
        starts: for each part, its place in `text`.
        places: for each part, its place in the whole text.
    """

    text: str
    starts: tuple[int, ...] = (0,)
    places: tuple[int, ...] = (0,)

    def located(self, findings: Iterable[Finding]) -> list[Finding]:
        """Returns findings in `text` with their places in the whole text."""
        if len(self.starts) == 1 and self.starts == self.places:
            return list(findings)
        return [replace(one, start=self._place(one.start), end=self._end(one)) for one in findings]

    def _place(self, at: int) -> int:
        part = max(bisect_right(self.starts, at) - 1, 0)
        return self.places[part] + at - self.starts[part]

    def _end(self, finding: Finding) -> int:
        # The end of a part is not the start of the next one: that lies behind a shipped part.
        return self._place(finding.end - 1) + 1 if finding.end > finding.start else self._place(finding.end)


def foreign(text: str) -> Foreign:
    """Returns what others wrote in a text; the text itself if nothing in it ships with Deepwell."""
    parts = shipped_parts()
    if sha256(text.encode("utf-8", "surrogatepass")).digest() in parts:
        return Foreign("", (), ())
    spans = sorted(span for part in parts.values() for span in _spans(text, part))
    if not spans:
        return Foreign(text)
    pieces: list[str] = []
    starts: list[int] = []
    places: list[int] = []
    length = at = 0
    for start, end in (*spans, (len(text), len(text))):
        if start > at:
            starts.append(length)
            places.append(at)
            pieces.append(text[at:start])
            length += start - at + len(_GAP)
        at = max(at, end)
    return Foreign(_GAP.join(pieces), tuple(starts), tuple(places))


def _spans(text: str, part: str) -> Iterator[tuple[int, int]]:
    at = text.find(part)
    while at >= 0:
        yield at, at + len(part)
        at = text.find(part, at + len(part))
