"""Decides which of the found passages answers a question, and whether any does.

NOTE: features. A logistic regression judges every candidate by four numbers, of which only the first needs a model:
  cosine   of the question with the passage and with the nearest sentence of it, both under their headings: the mean of the
           two; e5's lie between 0.75 and 0.97, hence the large weights
  covered  share of the question's words in the best sentence of the passage, and by half in its headings. A word weighs more
           the fewer of the candidates have it: what all of them share is the topic, what none has is what is asked for
  kind     1 if the question asks for a number or a key and the passage has one that the question does not have, -1 if not
  missing  share of the question's numbers, names and quoted terms that the passage does not have, as a negative; -1 if a
           formula of the question is not in it
A writer that has weights in `WRITERS` is then asked about the best candidate, twice: "Does the passage state the answer?", as
the log-odds of yes; and "Write a question that this passage answers", as the log-likelihood that a token of the question gains.
Where question and passage have different languages, `cosine` and `missing` alone count. The weights are fitted by
`deepwell bench citations --fit` on the development questions, which lie on other pages than those that are measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
from deepwell.knowledge.answer.wording import WORDING
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Embedder, Writer

__all__ = [
    "CALIBRATIONS",
    "HOPELESS",
    "JUDGED",
    "LEXICAL",
    "WRITERS",
    "Calibration",
    "Features",
    "Relevance",
    "WriterCalibration",
    "asked_of",
    "calibration_of",
    "confirm",
    "features_from",
    "features_of",
    "judge",
    "prefers_quotation",
    "relevant",
]

Case = Literal["en", "zh", "cross"]
"""Language that question and passage share, or "cross" if they do not share one."""

JUDGED: Final = 6
"""Candidates that are judged. The others only tell which words are common."""

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
    r"|多少|几[个次种位列行年天页]|哪一?年|哪个数|多长|多大|多久|多高"
)
_LITERAL: Final = re.compile(r'=[^\s，。？?]+\)|"([^"]+)"|「([^」]+)」|“([^”]+)”')


@dataclass(frozen=True, slots=True)
class Features:
    """The four numbers of a question and a candidate; see the note of this module."""

    cosine: float
    covered: float
    kind: float
    missing: float
    case: Case

    @property
    def row(self) -> tuple[float, float, float, float]:
        """The numbers, in the order of the weights."""
        return (self.cosine, self.covered, self.kind, self.missing)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted weights for the vectors of one embedder.

    Attributes:
        weights: of each feature, for each case.
        intercepts: the constant term.
        least: the least score (log-odds) of a passage that is taken as an answer.
    """

    weights: dict[Case, tuple[float, float, float, float]]
    intercepts: dict[Case, float]
    least: dict[Case, float]

    def score(self, features: Features) -> float:
        """Returns how far the log-odds of a candidate lie above the least that counts; below 0 it is no answer."""
        case = features.case
        inner = sum(w * x for w, x in zip(self.weights[case], features.row, strict=True))
        return inner + self.intercepts[case] - self.least[case]


@dataclass(frozen=True, slots=True)
class Relevance:
    """A candidate with its score; from 0 on it is taken as an answer."""

    passage: Passage
    score: float
    features: Features


@dataclass(frozen=True, slots=True)
class WriterCalibration:
    """Measurements of one writer.

    Attributes:
        weights: for each case, fitted weights of the score, the log-odds of yes, the gain of a token, and the constant. The
            result is on the same scale as the score: from 0 on the passage is taken as an answer. In cases that are not
            there, the writer is not asked.
        quotes: true if a quotation of the best passage answered more questions than what the writer wrote.
    """

    weights: dict[Case, tuple[float, float, float, float]]
    quotes: bool = False


HOPELESS: Final = -2.0
"""A best candidate below this score is declined without asking a writer."""

E5_SMALL: Final = Calibration(
    weights={
        "en": (44.017, 5.376, 1.003, 5.283),
        "zh": (46.705, 7.992, 1.032, 5.922),
        "cross": (52.215, 0.0, 0.0, 2.983),
    },
    intercepts={"en": -43.253, "zh": -48.271, "cross": -46.265},
    least={"en": -2.15, "zh": -2.99, "cross": -4.4},
)
LEXICAL: Final = Calibration(
    weights={
        "en": (0.0, 8.097, 0.797, 4.072),
        "zh": (0.0, 9.879, 1.224, 5.472),
        "cross": (0.0, 0.0, 0.0, 0.0),
    },
    intercepts={"en": -6.208, "zh": -6.03, "cross": -9.0},
    least={"en": -2.54, "zh": -2.96, "cross": 0.0},
)
"""Weights without the cosine, for embedders that nobody calibrated. They decline across languages, where words say nothing."""

CALIBRATIONS: Final = {"e5-small-q4": E5_SMALL, "e5-small": E5_SMALL}
"""Weights by the embedder's name."""


WRITERS: Final = {"qwen2.5-coder-0.5b": WriterCalibration({}, quotes=True)}
"""Measured writers by name. Writers that are not here are not asked to judge, and write their answers.

Of the covered development questions, qwen2.5-coder-0.5b answered 91 % in English and 72 % in Chinese, and 88 % of its
citations were right; quotations answered 94 % and 91 %, and 98 % of their citations were right.
The judgement of qwen2.5-coder-0.5b told nothing that the score had not told: with it, the chance that a right passage stands
above a wrong one went from 0.83 to 0.85 in English, and from 0.90 to 0.89 in Chinese, over 64 and 57 development passages.
"""


def calibration_of(embedder: Embedder) -> Calibration:
    """Returns the weights for an embedder: its own, or those that leave cosines aside."""
    return CALIBRATIONS.get(embedder.name, LEXICAL)


async def judge(
    question: str,
    passages: Sequence[Passage],
    embedder: Embedder,
    calibration: Calibration | None = None,
    count: int = JUDGED,
) -> list[Relevance]:
    """Returns the best candidates with their scores, best first. Equal ones keep the order of the search.

    Args:
        passages: found passages, best first; more of them tell better which words are common.
        calibration: weights; None: those for the embedder.
        count: number of candidates to judge.
    """
    weights = calibration or calibration_of(embedder)
    found = [
        Relevance(passage, weights.score(features), features)
        for passage, features in zip(
            passages, await features_of(question, passages, embedder, count), strict=False
        )
    ]
    return sorted(found, key=lambda one: -one.score)


async def features_of(
    question: str, passages: Sequence[Passage], embedder: Embedder, count: int = JUDGED
) -> list[Features]:
    """Returns the features of the first `count` passages."""
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
    )


def features_from(question: str, passages: Sequence[Passage], cosines: Sequence[float]) -> list[Features]:
    """Returns the features of as many passages as there are cosines."""
    asked = frozenset(content_words(question))
    held = [frozenset(content_words(_titled(one))) for one in passages]
    weight = {
        word: math.log(1 + (len(held) + 0.5) / (sum(word in one for one in held) + 0.5)) for word in asked
    }
    language = language_of(question)
    found: list[Features] = []
    for passage, cosine in zip(passages, cosines, strict=False):
        case: Case = language if _shares_language(question, _titled(passage)) else "cross"
        text = plain(_titled(passage))
        found.append(
            Features(
                cosine,
                _covered(weight, passage),
                _kind(question, plain(passage.text), language),
                _missing(question, text),
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


def _covered(weight: dict[str, float], passage: Passage) -> float:
    whole = sum(weight.values())
    if not whole:
        return 0.0
    titles = frozenset(content_words("\n".join(passage.place.headings)))
    return (
        max(
            (
                sum(
                    weight[word] * (1.0 if word in own else _IN_HEADING)
                    for word in weight
                    if word in titles or word in own
                )
                for own in (frozenset(content_words(one.text)) for one in sentences(passage.text))
            ),
            default=0.0,
        )
        / whole
    )


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


def prefers_quotation(writer: Writer) -> bool:
    """Returns whether a writer was measured to answer fewer questions than a quotation of the best passage does."""
    measured = WRITERS.get(getattr(writer, "name", ""))
    return measured is not None and measured.quotes


async def relevant(
    question: str, found: Sequence[Passage], writer: Writer, embedder: Embedder
) -> list[Passage]:
    """Returns the found passages that answer a question, best first; none if the best one is not confirmed."""
    judged = await judge(question, found, embedder)
    if not judged or judged[0].score < HOPELESS:
        return []
    best = await confirm(question, judged[0], writer)
    if best.score < 0:
        return []
    return [best.passage, *(one.passage for one in judged[1:] if one.score >= 0)]


async def confirm(question: str, best: Relevance, writer: Writer) -> Relevance:
    """Returns the best candidate with a score that counts the writer's judgement; unchanged for unmeasured writers."""
    calibration = WRITERS.get(getattr(writer, "name", ""))
    weights = calibration.weights.get(best.features.case) if calibration else None
    if weights is None:
        return best
    odds, gain = await asked_of(question, best.passage, writer)
    score = weights[0] * best.score + weights[1] * odds + weights[2] * gain + weights[3]
    return Relevance(best.passage, score, best.features)


async def asked_of(question: str, passage: Passage, writer: Writer) -> tuple[float, float]:
    """Returns the log-odds that a passage states the answer, and the log-likelihood that it adds to a token of the question."""
    wording = WORDING[language_of(question)]
    title = " - ".join(dict.fromkeys(part for part in passage.place.headings if part))
    shown = f"{title}: {passage.text}" if title else passage.text

    async def likelihood(prompt: str, *choices: str) -> list[float]:
        return await writer.choose([{"role": "user", "content": prompt}], choices)

    yes, no = await likelihood(
        wording.states.format(passage=shown, question=question), wording.yes, wording.no
    )
    (given,) = await likelihood(wording.asks.format(passage=shown), question)
    (alone,) = await likelihood(wording.asks_any, question)
    return yes - no, (given - alone) / max(writer.count(question), 1)
