"""When two questions ask the same in other words: the lexical gate of the semantic cache.

A question is brought to a *normal form*: politeness goes, and turns of phrase that ask the same become one of them.
What is left is compared whole and in order, so that a word of negation, a number, a name, a direction or another
question word that differs is a difference, known to a list or not. Nothing is ever guessed from a vector: "enable" and
"disable" lie closer together than most paraphrases do. What the rules cannot read (long texts, several lines, other
languages) has no normal form, and is like nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from deepwell.server.caches.wording.chinese import chinese_form
from deepwell.server.caches.wording.english import NAMES, english_form

__all__ = ["MAX_CHARACTERS", "NormalForm", "asks_the_same", "normal_form"]

MAX_CHARACTERS = 300
_HAN = re.compile(r"[\u3400-\u9fff]")
# Letters that neither set of rules knows. Accents of borrowed words pass: they are compared as they are.
_FOREIGN = re.compile(r"[^\x00-\x7f\u00c0-\u024f\u3400-\u9fff]")
_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN = {
    **_WIDTH,
    **str.maketrans(
        {"\u3000": " ", "‘": "'", "’": "'", "“": '"', "”": '"', "—": "-", "–": "-", "…": ".", "\xa0": " "}
    ),
    **str.maketrans(
        {"。": ".", "、": ",", "「": '"', "」": '"', "《": '"', "》": '"', "°": "°", "€": "€", "£": "£"}
    ),
}
_SYMBOLS = "°€£¥·"


@dataclass(frozen=True, slots=True)
class NormalForm:
    """`folded` finds likely matches; `exact` tells apart what only capitals do; `cased`: the text has any."""

    folded: str
    exact: str
    cased: bool


def normal_form(text: str) -> NormalForm | None:
    """The normal form of a question; None where the rules cannot read it."""
    # Before anything else: no rule is linear, and what is remembered below has to be small.
    return _form(text) if len(text) <= MAX_CHARACTERS else None


@lru_cache(maxsize=4096)
def _form(text: str) -> NormalForm | None:
    text = text.strip()
    if not text or "\n" in text or "\r" in text:
        return None
    plain = text.translate(_PLAIN)
    if _FOREIGN.search(plain.translate(dict.fromkeys(map(ord, _SYMBOLS)))):
        return None
    exact = chinese_form(plain) if _HAN.search(plain) else english_form(plain)
    if not exact:
        return None
    return NormalForm(exact.casefold(), exact, any(map(str.isupper, plain)))


def asks_the_same(one: NormalForm, other: NormalForm) -> bool:
    """Whether two questions differ in nothing but turns of phrase."""
    if one.folded != other.folded:
        return False
    if one.exact == other.exact:
        return True
    # A text without any capital says nothing of case. Which words it may mean all the same is a list of names that are nothing
    # else: "france" is France, but "shell" and "turkey" may be neither a company nor a country.
    if one.cased and other.cased:
        return False
    ours, theirs = one.exact.split(), other.exact.split()
    if len(ours) != len(theirs):  # a small letter that grows when it is folded
        return False
    return all(a == b or a.casefold().removesuffix("'s") in NAMES for a, b in zip(ours, theirs, strict=True))
