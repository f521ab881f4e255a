"""Word errors: the words of two texts, alike but for spelling, and the edits from one to the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

__all__ = ["word_errors", "words_of"]

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS: Final = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
_SIGNS: Final = {"*": " star ", "#": " pound ", "%": " percent ", "&": " and ", "$": " dollar ", "@": " at "}


def words_of(text: str) -> list[str]:
    """Returns the words of an English text in lower case, with numbers below 1,000 spelt out and signs by their names."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    for sign, name in _SIGNS.items():
        text = text.replace(sign, name)
    found: list[str] = []
    for word in _WORD.findall(text):
        found += _spelt(word) if word.isdecimal() else [word]
    return found


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Returns the least number of words to replace, leave out and add that turns one text into the other (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(heard, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def _spelt(digits: str) -> list[str]:
    if len(digits) > 3 or (digits.startswith("0") and len(digits) > 1):
        return [_ONES[int(digit)] for digit in digits]
    number = int(digits)
    found = [_ONES[number // 100], "hundred"] if number >= 100 else []
    rest = number % 100
    if rest >= 20:
        found.append(_TENS[rest // 10])
        rest %= 10
        return [*found, _ONES[rest]] if rest else found
    return [*found, _ONES[rest]] if rest or not found else found
