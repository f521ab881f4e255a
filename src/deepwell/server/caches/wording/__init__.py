"""The lexical gate of the semantic cache, which decides when two questions ask the same in other words.

A question is rewritten to a *normal form*: polite phrases are dropped, and phrases that ask the same become one of them.
The rest is compared whole and in order. So a different negation, number, name, direction or question word is a
difference, listed or not. Nothing is ever guessed from a vector: "enable" and "disable" lie closer together than most
paraphrases do. A text that the rules cannot read (long, of several lines, in another language) has no normal form, and
matches nothing.
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
# Letters that neither set of rules knows. Accents of borrowed words pass, and are compared as they are.
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
    """The normal form of a question: `folded` finds likely matches, `exact` tells case apart, `cased`: it has capitals."""

    folded: str
    exact: str
    cased: bool


def normal_form(text: str, tenant: str = "") -> NormalForm | None:
    """Returns the normal form of a question, or None if the rules cannot read it. Forms are remembered by tenant."""
    # This comes first, because no rule is linear, and because the texts that `_form` caches have to be small.
    return _form(text, tenant) if len(text) <= MAX_CHARACTERS else None


@lru_cache(maxsize=4096)
def _form(text: str, _tenant: str) -> NormalForm | None:
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
    """Returns whether two questions differ in nothing but turns of phrase."""
    if one.folded != other.folded:
        return False
    if one.exact == other.exact:
        return True
    # A text without capitals says nothing about case. Words that it may mean all the same are listed: names that mean nothing
    # else. "france" is France, but "shell" and "turkey" may be neither a company nor a country.
    if one.cased and other.cased:
        return False
    ours, theirs = one.exact.split(), other.exact.split()
    if len(ours) != len(theirs):  # a letter that case folding expands
        return False
    return all(a == b or a.casefold().removesuffix("'s") in NAMES for a, b in zip(ours, theirs, strict=True))
