"""`leet`: digits and signs that stand for letters read as these (`1gn0r3 4ll`)."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.readings.english import pair_scores
from deepwell.safety.readings.view import Codes, View, codes_of, text_of

__all__ = ["leet"]

_ASCII: Final = 128
_LETTERS: Final = dict(zip("013456789@$!|+", "oieasgtbgasilt", strict=True))
_BRACKETS: Final = dict.fromkeys("([{<", "c")
_ANY: Final = frozenset("0134579@$!|")
# These read as i or as l.
_ONE, _CALL, _BAR = (ord(sign) for sign in "1!|")


@cache
def _tables() -> tuple[Codes, NDArray[np.bool_], NDArray[np.bool_]]:
    reads = np.arange(_ASCII + 1, dtype=np.uint32)
    sign = np.zeros(_ASCII + 1, np.bool_)
    letter = np.zeros(_ASCII + 1, np.bool_)
    for character, reading in (_LETTERS | _BRACKETS).items():
        reads[ord(character)] = ord(reading)
        sign[ord(character)] = True
    letter[ord("a") : ord("z") + 1] = True
    return reads, sign, letter


def leet(name: str, view: View) -> View | None:
    """Returns the reading with letters for digits and signs; None where no word mixes them.

    A word is changed if it has a sign between letters, or a letter between signs: numbers, `p50` and `utf8` stay.
    """
    text = view.text
    if _ANY.isdisjoint(text):
        return None
    codes = codes_of(text)
    reads, sign, letter = _tables()
    small = np.minimum(codes, _ASCII)
    is_sign, is_letter = sign[small], letter[small]
    if len(codes) > 2:
        mixed = is_sign[1:-1] & is_letter[:-2] & is_letter[2:]
        mixed |= is_letter[1:-1] & is_sign[:-2] & is_sign[2:]
        if not mixed.any():
            return None
    else:
        return None
    if text.count("(") == text.count(")"):
        is_sign &= (codes != ord("(")) & (codes != ord("["))
    in_word = is_sign | is_letter
    before, after = np.roll(in_word, 1), np.roll(in_word, -1)
    before[0] = after[-1] = False
    ends_sentence = (codes == ord("!")) & ~after
    change = is_sign & (before | after) & ~ends_sentence
    change &= _with_letters(in_word, is_letter)
    out = np.where(change, reads[small], codes)
    doubtful = np.flatnonzero(change & ((codes == _ONE) | (codes == _CALL) | (codes == _BAR)))
    if len(doubtful):
        out[doubtful] = _i_or_l(out, doubtful)
    return View(name, text_of(out), view.starts, view.ends)


def _with_letters(in_word: NDArray[np.bool_], is_letter: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which characters stand in a word that has a letter."""
    begins = in_word.copy()
    begins[1:] &= ~in_word[:-1]
    number = np.cumsum(begins)
    has = np.zeros(int(number[-1]) + 1, np.bool_)
    has[number[is_letter]] = True
    return has[number]


def _i_or_l(codes: Codes, at: NDArray[np.int64]) -> Codes:
    """Returns i or l for each place, as the letters beside it have it more often."""
    scores = pair_scores()
    padded = np.concatenate(([0], codes, [0])).astype(np.int64) - ord("a")
    total = np.zeros((2, len(at)), np.float32)
    for neighbour, first in ((padded[at], True), (padded[at + 2], False)):
        known = (neighbour >= 0) & (neighbour < 26)
        for row, letter in enumerate((8, 11)):
            total[row, known] += (
                scores[neighbour[known], letter] if first else scores[letter, neighbour[known]]
            )
    return np.where(total[1] > total[0], ord("l"), ord("i")).astype(np.uint32)
