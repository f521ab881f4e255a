"""`OutputBuffer`: the last characters of a stream, of which some have left, some wait, and some are replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["OutputBuffer"]

# Characters that are kept for a term which began long ago, and for a finding which goes on, such as a key of many lines.
_KEPT: Final = 4096
_KEPT_OPEN: Final = 5 * _KEPT


@dataclass(slots=True)
class _Cut:
    """Characters of the stream that are replaced."""

    start: int
    end: int
    replacement: str


class OutputBuffer:
    """The last characters of a stream. Positions are those of the whole stream.

    Attributes:
        text: the characters that are kept.
        base: position of the first of them.
        released: position behind the last that has left.
    """

    __slots__ = ("_cuts", "base", "released", "text")

    def __init__(self) -> None:
        self.text = ""
        self.base = self.released = 0
        self._cuts: list[_Cut] = []

    @property
    def end(self) -> int:
        """Position behind the last character that came in."""
        return self.base + len(self.text)

    def append(self, text: str) -> None:
        """Takes the next characters."""
        self.text += text

    def between(self, start: int, end: int) -> str:
        """Returns the characters between two positions."""
        return self.text[start - self.base : end - self.base]

    def cut(self, start: int, end: int, replacement: str) -> None:
        """Notes that characters are replaced. Without a replacement, they join those that are cut just before them."""
        start = max(start, self.released)
        waiting = next((cut for cut in self._cuts if cut.start <= start <= cut.end), None)
        if waiting is not None and not replacement:
            waiting.end = max(waiting.end, end)
        elif end > start:
            self._cuts.append(_Cut(start, end, replacement))

    def release(self, until: int) -> str:
        """Returns the characters before a position that have not left, redacted."""
        pieces: list[str] = []
        at = self.released
        if self._cuts:
            self._cuts.sort(key=lambda cut: (cut.start, -cut.end))
            rest: list[_Cut] = []
            for cut in self._cuts:
                if cut.start >= until and cut.start >= at:
                    rest.append(cut)
                    continue
                if cut.start >= at:
                    pieces += (self.between(at, cut.start), cut.replacement)
                at = max(at, cut.end)
            self._cuts = rest
        if until > at:
            pieces.append(self.between(at, until))
            at = until
        self.released = at
        return "".join(pieces)

    def forget(self, needed: int | None) -> bool:
        """Forgets what is too long ago, and returns True if it did.

        Args:
            needed: position from which on characters are kept, though no more than 20,480 of them.
        """
        count = len(self.text)
        if count <= 2 * _KEPT:
            return False
        gone = count - _KEPT
        if needed is not None:
            gone = max(count - _KEPT_OPEN, min(gone, needed - self.base), 0)
        self.base += gone
        self.text = self.text[gone:]
        return True
