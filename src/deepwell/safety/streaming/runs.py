"""`Runs`: tells, character by character, where a number, an address, a key or a code may have begun."""

from __future__ import annotations

from typing import Final

__all__ = ["Runs"]

_MEMBERS: Final = frozenset("_.@:+/=%&#;\\$~^*|`-")
_MARKS: Final = frozenset("@_=%+/\\&#$0123456789")
_SPACED: Final = frozenset(" ()")
_MOST_SPACED: Final = 2
_HYPHENS: Final = 5
"""Hyphens in a row that stand before and behind the name of a key's block."""
_UNITS: Final = frozenset("号室栋幢座弄楼层户房")
"""Characters behind the number of a house or a room."""

# Nothing that a detector looks for is shorter: a telephone number has seven digits, a machine's address seven characters.
_MIN_LENGTH: Final = 7
_MIN_DIGITS: Final = 4
_MIN_CODE: Final = 12


class Runs:
    """Follows one stream through the runs of characters without white space that hold a digit, a sign or capitals within.

    Groups of digits with spaces, hyphens or brackets between them are one run, as the numbers of cards and telephones are
    written. A word with a hyphen is one too, since keys begin so.
    """

    __slots__ = ("_at", "_digits", "_hyphens", "_lower", "_mark", "_over", "_spaced", "_started")

    def __init__(self) -> None:
        self._over = False
        self._reset()

    def _reset(self) -> None:
        self._started: int | None = None
        self._at = 0
        self._digits = 0
        self._mark = ""
        self._lower = False
        self._spaced = 0
        self._hyphens = 0

    @property
    def start(self) -> int | None:
        """Position of the first character of a run that is not over and may be something to find, or None."""
        return self._started if self._mark else None

    @property
    def length(self) -> int:
        """Characters of the run so far."""
        return 0 if self._started is None else self._at - self._started

    def over(self) -> bool:
        """Returns True if a run that may be something to find has ended since the last call."""
        over, self._over = self._over, False
        return over

    def read(self, text: str, position: int) -> None:
        """Reads the next characters of the stream, the first of which stands at `position`."""
        for at, character in enumerate(text, position):
            if character.isdigit():
                self._member(at, "0")
                self._digits += 1
                self._spaced = 0
            elif character.isascii() and character.isalpha():
                if self._spaced:
                    self._end()
                self._member(at, "A" if self._lower and character.isupper() else "")
                self._lower = character.islower()
            elif character in _MEMBERS:
                self._punctuation(at, character)
            elif character in _SPACED and self._digits and self._spaced < _MOST_SPACED:
                self._spaced += 1
                self._at = at + 1
            elif self._started is not None:
                self._over = self._over or (bool(self._digits) and character in _UNITS)
                self._end()

    def _punctuation(self, at: int, character: str) -> None:
        self._spaced = 0
        if character == "-":
            self._hyphens += 1
            # Behind a letter it may part a key; before one it is a dash.
            self._member(at, character if self._started is not None else "")
            self._over = self._over or self._hyphens >= _HYPHENS
        else:
            self._member(at, character if character in _MARKS else "")

    def _member(self, at: int, mark: str) -> None:
        if self._started is None:
            self._started = at
        self._at = at + 1
        if (mark and self._mark in ("", "A")) or mark == "@":
            self._mark = mark

    def _end(self) -> None:
        length = self.length
        if length >= _MIN_LENGTH and (
            "@" in self._mark or self._digits >= _MIN_DIGITS or (self._mark and length >= _MIN_CODE)
        ):
            self._over = True
        self._reset()
