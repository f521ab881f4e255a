"""`Beginnings`: tells, character by character, where a forbidden term may have begun that is not yet whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

__all__ = ["Beginnings", "Lexicon"]

# A term's node maps characters to nodes; the empty string marks the end of a term.
_Node = dict[str, Any]
_END: Final = ""

_TOGETHER, _SINGLE, _APART = range(3)
"""Spacing of the letters so far: two of them together, only one letter, and each apart from the others."""

_MAX_GAP: Final = 4
"""Most characters between two letters that are written apart, as in `t - e - r - m`."""
_MAX_HAN_GAP: Final = 6
_MAX_FOLDS: Final = 1 << 16

_LEET: Final = {
    "0": "o",
    "1": "il",
    "2": "z",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "!": "i",
    "|": "il",
    "+": "t",
    "(": "c",
    "[": "c",
    "{": "c",
    "<": "c",
}


class Lexicon:
    """The terms that may not leave, as a tree of their characters. Built once and shared by all streams."""

    __slots__ = ("_fold", "_folded", "root")

    def __init__(self, terms: Iterable[str], fold: Callable[[str], str]) -> None:
        """Makes the tree.

        Args:
            fold: returns the folded reading of a character.
        """
        self.root: _Node = {}
        self._fold = fold
        self._folded: dict[str, str] = {}
        for term in terms:
            node = self.root
            for one in "".join(self.folded(character) for character in term.strip()):
                node = node.setdefault(one, {})
            if node is not self.root:
                node[_END] = None

    def folded(self, character: str) -> str:
        """Returns the folded reading of one character; white space is a space, an invisible character is empty."""
        known = self._folded.get(character)
        if known is None:
            known = " " if character.isspace() else self._fold(character)
            if len(self._folded) >= _MAX_FOLDS:
                self._folded.clear()
            self._folded[character] = known
        return known


class _Active(NamedTuple):
    """A term that has begun.

    Attributes:
        start: position in the stream of its first character.
        node: node of the tree that has been reached.
        gap: characters skipped since.
        spacing: one of `_TOGETHER`, `_SINGLE` and `_APART`.
        han: True if the last character is a Han character, or of any other script but Latin.
    """

    start: int
    node: _Node
    gap: int
    spacing: int
    han: bool


class Beginnings:
    """Follows one stream through a lexicon.

    NOTE: All terms that may have begun are followed at once, each by its node of the tree, in the readings that can be told
    character by character: folded, with letters written apart, with separators between Han characters, and with digits for
    letters. Latin terms begin and end where a word does. The readings are wider than a detector's: a
    term that seems whole here is a reason to scan, not a finding.
    """

    __slots__ = ("_actives", "_before", "_lexicon", "_whole")

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._actives: list[_Active] = []
        self._before = " "
        self._whole: int | None = None

    @property
    def start(self) -> int | None:
        """Position of the first character that may begin an unfinished term, or one that the next character decides."""
        return min((active.start for active in self._actives), default=None)

    def whole(self) -> int | None:
        """Returns the first position at which a term begins that became whole since the last call, or None."""
        whole, self._whole = self._whole, None
        return whole

    def read(self, text: str, position: int) -> None:
        """Reads the next characters of the stream, the first of which stands at `position`."""
        folded = self._lexicon.folded
        for at, character in enumerate(text, position):
            for one in folded(character):
                if one != " " or self._before != " ":
                    self._step(one, at)
                    self._before = one

    def _step(self, one: str, at: int) -> None:
        word = one.isalnum()
        # A term begins and ends anywhere but within a word of Latin letters and digits.
        han = word and not one.isascii()
        inside = word and not han and self._before.isalnum() and self._before.isascii()
        letters = (one, *_LEET.get(one, ""))
        found: list[_Active] = []
        for active in self._actives:
            if not active.gap and not active.han and not inside and _END in active.node:
                self._note(active.start)
            _advance(active, letters, word, han, found)
        if not inside:
            root = self._lexicon.root
            spacing = _TOGETHER if han else _SINGLE
            found += [_Active(at, root[letter], 0, spacing, han) for letter in letters if letter in root]
        for active in found:
            if active.han and not active.gap and _END in active.node:
                self._note(active.start)
        self._actives = found

    def _note(self, start: int) -> None:
        self._whole = start if self._whole is None else min(self._whole, start)


def _advance(active: _Active, letters: tuple[str, ...], word: bool, han: bool, found: list[_Active]) -> None:
    """Adds to `found` the ways in which a term goes on with a character, which may be read as any of `letters`."""
    start, node, gap, spacing, was_han = active
    if gap:
        # A gap follows a Han character or a letter that stands alone, and either follows a gap.
        goes_on = was_han or spacing != _TOGETHER
        spacing_then = _TOGETHER if han else _APART
    else:
        goes_on, spacing_then = spacing != _APART or not word or han, _TOGETHER
    if goes_on:
        for letter in letters:
            following = node.get(letter)
            if following is not None:
                found.append(_Active(start, following, 0, spacing_then, han))
    if word:
        return
    if was_han or spacing != _TOGETHER:
        if gap < (_MAX_HAN_GAP if was_han else _MAX_GAP):
            found.append(_Active(start, node, gap + 1, spacing, was_han))
        following = node.get(" ") if not was_han else None
        if following is not None:
            found.append(_Active(start, following, gap + 1, _APART, False))
