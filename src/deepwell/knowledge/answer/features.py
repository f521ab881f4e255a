"""Features of a question and a candidate passage: the numbers by which `decline` judges.

NOTE: features. All but the first need no model:
  cosine   of the question with the passage and with the nearest sentence of it, both under their headings: the mean of the
           two; e5's lie between 0.75 and 0.97, hence the large weights
  covered  share of the question's words in the best two neighbouring sentences of the passage (what a quotation may hold),
           and by half in its headings. A word weighs more the fewer of the candidates have it: what all of them share is the
           topic, what none has is what is asked for
  kind     1 if the question asks for a number or a key and the passage has one that the question does not have, -1 if not
  missing  share of the question's numbers, names and quoted terms that the passage does not have, as a negative; -1 if a
           formula of the question is not in it
  order    share of the question's pairs of neighbouring words that are neighbours in the same two sentences, or in a heading:
           "the first control of a form" is not "the control of the first form"
  place    1 for the first passage of the search, 1/2 for the second, and so on: a question in other words than the passage's
           shares few words with it, and the search, which weighs the words of the whole passage, then errs least
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from deepwell.knowledge.answer.text import (
    AnswerLanguage,
    content_words,
    digits,
    language_of,
    names,
    numbers,
    plain,
    sentences,
)
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Embedder

__all__ = ["Case", "Features", "features_from", "features_of"]

Case = Literal["en", "zh", "cross"]
"""Language that question and passage share, or "cross" if they do not share one."""

_IN_HEADING: Final = 0.5  # of a word that the headings have and the sentence has not

_COMPARED: Final = 4  # sentences of a passage whose vectors are compared with the question

_CHINESE: Final = 4  # characters that make a text Chinese for a Chinese question, whatever else it holds

_KEY_NAMES: Final = (
    r"ctrl|shift|alt|tab|enter|esc|command|option|f\d{1,2}|page ?(?:up|down)|home|end|delete|insert|backspace"
    r"|space"
)
_KEYS: Final = {
    "en": re.compile(rf"\b(?:{_KEY_NAMES})\b"),
    "zh": re.compile(rf"(?<![a-z])(?:{_KEY_NAMES})(?![a-z])|空格键|方向键|回车|箭头键"),
}
_ASKS_KEY: Final = re.compile(
    r"\b(?:which|what) (?:keys?|shortcuts?|key combinations?|combination of keys)\b|\bshortcut"
    r"|哪个键|什么键|哪些键|组合键|快捷键"
)
_ASKS_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|far|tall|old|often|large|big)\b"
    r"|\b(?:which(?: [\w-]+){0,2}|what(?: [\w-]+){0,4}) (?:percentage|number|value|angle|version|year|date|integer|range)s?\b"
    r"|\b(?:which|what) (?:[\w-]+ ){0,2}(?:length|width|height|size|distance|angle|amount)s?\b"
    r"|多少|几[个次种位列行年天页]|哪一?年|哪个数|哪两个数|多长|多宽|多大|多久|多高"
)
_LITERAL: Final = re.compile(r'=[^\s，。？?]+\)|"([^"]+)"|「([^」]+)」|“([^”]+)”')


@dataclass(frozen=True, slots=True)
class Features:
    """The six numbers of a question and a candidate; see the note of this module."""

    cosine: float
    covered: float
    kind: float
    missing: float
    order: float
    place: float
    case: Case

    @property
    def row(self) -> tuple[float, float, float, float, float, float]:
        """The numbers, in the order of the weights."""
        return (self.cosine, self.covered, self.kind, self.missing, self.order, self.place)


async def features_of(
    question: str, passages: Sequence[Passage], embedder: Embedder, count: int, *, ranked: bool = True
) -> list[Features]:
    """Returns the features of the first `count` passages.

    Args:
        passages: found passages, best first.
        ranked: false if the order of the passages says nothing; `place` is then 1 for all.
    """
    if not passages:
        return []
    judged = passages[:count]
    query = (await embedder.embed([question], "query"))[0]
    parts = [_likely(question, one) for one in judged]
    texts = [_titled(one) for one in judged] + [text for own in parts for text in own]
    distinct = list(dict.fromkeys(texts))
    made = (await embedder.embed(distinct, "passage")) @ query
    cosines = dict(zip(distinct, made.tolist(), strict=True))
    return features_from(
        question,
        passages,
        [
            (cosines[text] + max(cosines[part] for part in own)) / 2
            for text, own in zip(texts[: len(judged)], parts, strict=True)
        ],
        ranked=ranked,
    )


def features_from(
    question: str, passages: Sequence[Passage], cosines: Sequence[float], *, ranked: bool = True
) -> list[Features]:
    """Returns the features of as many passages as there are cosines; the arguments are those of `features_of`."""
    words = content_words(question)
    asked = frozenset(words)
    held = [frozenset(content_words(_titled(one))) for one in passages]
    weight = {
        word: math.log(1 + (len(held) + 0.5) / (sum(word in one for one in held) + 0.5)) for word in asked
    }
    language = language_of(question)
    found: list[Features] = []
    for at, (passage, cosine) in enumerate(zip(passages, cosines, strict=False), 1):
        case: Case = language if _shares_language(question, _titled(passage)) else "cross"
        text = plain(_titled(passage))
        title = content_words("\n".join(passage.place.headings))
        quotable = _quotable(passage)
        found.append(
            Features(
                cosine,
                max(_covered(weight, frozenset(title), frozenset(own)) for own in quotable),
                _kind(question, plain(passage.text), language),
                _missing(question, text),
                max(_order(words, title, own) for own in quotable),
                1 / at if ranked else 1.0,
                case,
            )
        )
    return found


def _likely(question: str, passage: Passage) -> list[str]:
    """Returns the sentences of a passage that share most words with the question, each under the passage's headings."""
    asked = frozenset(content_words(question))
    texts = [one.text for one in sentences(passage.text)] or [passage.text]
    shared = {text: len(asked & frozenset(content_words(text))) for text in texts}
    chosen = sorted(shared, key=lambda text: -shared[text])[:_COMPARED]
    return ["\n".join((*passage.place.headings, text)) for text in chosen]


def _shares_language(question: str, text: str) -> bool:
    """Returns whether the words of two texts can be compared. Chinese text may be mostly formulas and names."""
    if language_of(question) == "en":
        return language_of(text) == "en"
    return sum("\u4e00" <= one <= "\u9fff" for one in text) >= _CHINESE


def _titled(passage: Passage) -> str:
    return "\n".join((*passage.place.headings, passage.text))


def _quotable(passage: Passage) -> list[list[str]]:
    """Returns the content words of each sentence of a passage together with the next one; one list at least."""
    words = [content_words(one.text) for one in sentences(passage.text)]
    return [[*one, *other] for one, other in pairwise(words)] or words or [content_words(passage.text)]


def _covered(weight: dict[str, float], title: frozenset[str], own: frozenset[str]) -> float:
    whole = sum(weight.values())
    if not whole:
        return 0.0
    shared = sum(
        weight[word] * (1.0 if word in own else _IN_HEADING)
        for word in weight
        if word in own or word in title
    )
    return shared / whole


def _order(asked: Sequence[str], title: Sequence[str], own: Sequence[str]) -> float:
    pairs = frozenset(pairwise(asked))
    if not pairs:
        return 0.0
    return len(pairs & (frozenset(pairwise(own)) | frozenset(pairwise(title)))) / len(pairs)


def _kind(question: str, text: str, language: AnswerLanguage) -> float:
    asked = plain(question)
    if _ASKS_KEY.search(asked):
        return 1.0 if _KEYS[language].search(text) else -1.0
    if _ASKS_NUMBER.search(asked):
        return 1.0 if numbers(text) - numbers(question) else -1.0
    return 0.0


def _missing(question: str, text: str) -> float:
    quoted = {
        plain(next(part for part in (*match.groups(), match.group()) if part))
        for match in _LITERAL.finditer(question)
    }
    if any(one.startswith("=") and one not in text for one in quoted):
        return -1.0  # a formula with other arguments is another formula
    held = numbers(text)
    literals = quoted | digits(question) | names(question)
    if not literals:
        return 0.0
    absent = [one for one in literals if one not in held and one not in text and one.rstrip("s") not in text]
    return -len(absent) / len(literals)
