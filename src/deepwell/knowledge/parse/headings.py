"""`HeadingPath`: the titles of the sections around a place."""

from __future__ import annotations

from typing import Final

from deepwell.knowledge.parse.builder import clean

__all__ = ["HeadingPath", "one_line"]

_MOST_DEPTH: Final = 9
_MOST_TITLE: Final = 300  # characters; what is longer is a paragraph that was marked as a heading


def one_line(text: str) -> str:
    """Returns a title as one line, cut at 300 characters: it stands in every place of its section."""
    return " ".join(clean(text).split())[:_MOST_TITLE].rstrip()


class HeadingPath:
    """Titles of the open sections, the outermost first."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> tuple[str, ...]:
        """Opens a section, which ends those of its level and deeper, and returns the path."""
        title = one_line(title)
        while self._open and (self._open[-1][0] >= level or len(self._open) >= _MOST_DEPTH):
            self._open.pop()
        if title:
            self._open.append((level, title))
        return self.titles

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._open)
