"""Seams: forbidden terms that begin in one text and end in the text that is read directly behind it.

Two messages of one role in a row are one text to a model, and so are the reasoning and the content of an answer to a reader.
A term over such a seam counts where chance does not put it there: the seam is inside of a sentence, and the term has three Han
characters or five letters and digits. White space on both sides of a seam is left out, but a space there stays a space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["REACH", "Seam", "crosses", "seams", "tail"]

REACH: Final = 64
"""Characters on each side of a seam that are read: no term has more."""

_MIN_HAN: Final = 3
_MIN_LETTERS: Final = 5
_WORD: Final = 24


@dataclass(frozen=True, slots=True)
class Seam:
    """The characters around a seam.

    Attributes:
        text: the end of what stands before it, and the beginning of what stands behind it.
        at: the place of the seam in `text`.
        places: for each character of `text`, the number of the text that it is from, and its place there.
    """

    text: str
    at: int
    places: Sequence[tuple[int, int]]

    def parts(self, start: int, end: int) -> dict[int, tuple[int, int]]:
        """Returns the characters of each text, by its number, that some characters of `text` stand for."""
        found: dict[int, tuple[int, int]] = {}
        for number, place in self.places[start:end]:
            first, _ = found.get(number, (place, place))
            found[number] = (first, place + 1)
        return found


def seams(texts: Sequence[str]) -> Iterator[Seam]:
    """Yields the seams between texts, each with what stands before it, be it of more than one text."""
    before: list[tuple[str, tuple[int, int]]] = []
    spaced = False
    for number, text in enumerate(texts):
        core = text.strip()
        if not core:
            spaced = spaced or " " in text
            continue
        begin = text.index(core[0])
        head = [(one, (number, begin + at)) for at, one in enumerate(core[:REACH])]
        if before:
            if spaced or " " in text[:begin]:
                before.append((" ", before[-1][1]))
            around = before + head
            yield Seam("".join(one for one, _ in around), len(before), [place for _, place in around])
        # Only the ends of a text are looked at: it may have millions of characters.
        rest = range(max(REACH, len(core) - REACH), len(core))
        before = [*before, *head, *((core[at], (number, begin + at)) for at in rest)][-REACH:]
        spaced = " " in text[begin + len(core) :]


def tail(text: str) -> str:
    """Returns the end of a text from a whole word on, as a stream that is read behind it wants it."""
    end = text.rstrip()
    cut = end[-REACH:]
    if len(end) > REACH:
        cut = cut[next((at for at in range(_WORD) if cut[at].isspace()), 0) :]
    return f"{cut} " if cut and " " in text[len(end) :] else cut


def crosses(text: str, start: int, end: int, at: int) -> bool:
    """Tells whether a term at some characters of a text stands over the seam at a place, and is none by chance."""
    if not start < at < end:
        return False
    before, behind = text[start:at].rstrip(" "), text[at:end].lstrip(" ")
    if not before or not behind or not before[-1].isalnum() or not behind[0].isalnum():
        return False
    letters = [one for one in text[start:end] if one.isalnum()]
    han = sum(not one.isascii() for one in letters)
    return han >= _MIN_HAN or len(letters) >= _MIN_LETTERS
