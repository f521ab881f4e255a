"""`leet`: digits and signs that stand for letters read as these (`1gn0r3 4ll`)."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.compiled import extension
from deepwell.safety.readings.english import LETTERS, pair_scores
from deepwell.safety.readings.view import Codes, View, codes_of, positions, text_of

__all__ = ["leet", "numpy_leet_codes"]

_ASCII: Final = 128
_LETTERS: Final = dict(zip("0123456789@$!|+^", "oizeasgtbgasilta", strict=True))
_BRACKETS: Final = dict.fromkeys("([{<", "c")
_PAIRS: Final = ("()", "[]", "{}", "<>")
_ANY: Final = "01345679@$!|"
# Signs that read as one of two letters: the one that fits the letters beside it better.
_DOUBTFUL: Final = {"1": "il", "!": "il", "|": "il", "6": "gb"}
# Letters that are drawn with several signs.
_DRAWN: Final = re.compile(r"/-?\\|[|/!]3")
_DRAWN_SIGNS: Final = ("/\\", "-\\", "|3", "/3", "!3")


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
    if not any(sign in view.text for sign in _ANY):
        return None
    if any(sign in view.text for sign in _DRAWN_SIGNS):
        view = _undrawn(view)
    codes = codes_of(view.text)
    native = extension()
    out = numpy_leet_codes(codes) if native is None else native.leet_codes(codes, pair_scores())
    return None if out is None else View(name, text_of(out), view.starts, view.ends)


def numpy_leet_codes(codes: Codes) -> Codes | None:
    """Returns the characters read; None where no word mixes letters and signs. The extension does the same."""
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
    for opening, closing in _PAIRS:
        opens = codes == ord(opening)
        if opens.any() and np.count_nonzero(opens) == np.count_nonzero(codes == ord(closing)):
            is_sign &= ~opens
    in_word = is_sign | is_letter
    before, after = np.zeros_like(in_word), np.zeros_like(in_word)
    before[1:], after[:-1] = in_word[:-1], in_word[1:]
    ends_sentence = (codes == ord("!")) & ~after
    change = is_sign & (before | after) & ~ends_sentence
    change &= _with(in_word, is_letter | (is_sign & (small > ord("9"))))
    out = np.where(change, reads[small], codes)
    for sign, letters in _DOUBTFUL.items():
        at = np.flatnonzero(change & (codes == ord(sign)))
        if len(at):
            out[at] = _fitting(out, at, letters)
    return out


def _with(in_word: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which characters stand in a word that has a wanted one."""
    begins = in_word.copy()
    begins[1:] &= ~in_word[:-1]
    number = np.cumsum(begins)
    has = np.zeros(int(number[-1]) + 1, np.bool_)
    has[number[wanted]] = True
    return has[number]


def _fitting(codes: Codes, at: NDArray[np.intp], letters: str) -> Codes:
    """Returns for each place the one of two letters that stands beside its neighbours more often."""
    scores = pair_scores()
    padded = np.concatenate(([0], codes, [0])).astype(np.int64) - ord("a")
    total = np.zeros((2, len(at)), np.float32)
    for neighbour, is_before in ((padded[at], True), (padded[at + 2], False)):
        known = (neighbour >= 0) & (neighbour < LETTERS)
        for row, letter in enumerate(ord(one) - ord("a") for one in letters):
            beside = neighbour[known]
            total[row, known] += scores[beside, letter] if is_before else scores[letter, beside]
    return np.where(total[1] > total[0], ord(letters[1]), ord(letters[0])).astype(np.uint32)


def _undrawn(view: View) -> View:
    """Returns the reading with one letter for those that are drawn with several signs, such as a of two strokes."""
    pieces: list[str] = []
    kept: list[NDArray[np.int32]] = []
    done = 0
    every = positions(len(view.text))
    for match in _DRAWN.finditer(view.text):
        pieces += (view.text[done : match.start()], "a" if match[0].endswith("\\") else "b")
        kept.append(every[done : match.start() + 1])
        done = match.end()
    if not pieces:
        return view
    return view.taken(view.name, "".join((*pieces, view.text[done:])), np.concatenate((*kept, every[done:])))
