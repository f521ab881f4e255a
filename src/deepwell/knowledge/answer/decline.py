"""Decides which of the found passages answer a question, and whether any does.

NOTE: judging. A logistic regression judges every candidate by the numbers of `features`. A model that reads several passages
gets those that may answer; where a passage is quoted, `quoting` decides which, and whether it is sure enough.
Where question and passage have different languages, `cosine`, `missing` and `place` alone count. The weights are fitted by
`deepwell bench citations --fit` on the development questions, which lie on other pages than those that are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.knowledge.answer.features import Case, Features, features_of
from deepwell.knowledge.answer.quoting import LEXICAL as UNCALIBRATED
from deepwell.knowledge.answer.quoting import QUOTING, READ, WRITERS, Quoting, choose, gains_of
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Embedder, Writer

__all__ = [
    "CALIBRATIONS",
    "JUDGED",
    "LEXICAL",
    "Calibration",
    "Relevance",
    "calibration_of",
    "judge",
    "prefers_quotation",
    "quotable",
    "relevant",
]

JUDGED: Final = 6
"""Candidates that are judged. The others only tell which words are common."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted weights for the vectors of one embedder.

    Attributes:
        weights: of each feature, for each case.
        intercepts: the constant term.
        least: the least score (log-odds) of a passage that is taken as an answer.
    """

    weights: dict[Case, tuple[float, float, float, float, float, float]]
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


E5_SMALL: Final = Calibration(
    weights={
        "en": (35.53, 2.356, 1.214, 1.195, 1.548, 2.172),
        "zh": (44.307, 3.787, 0.718, 4.932, 0.819, 2.882),
        "cross": (41.253, 0.0, 0.0, 2.681, 0.0, 0.0),
    },
    intercepts={"en": -35.71, "zh": -45.461, "cross": -36.87},
    least={"en": -2.34, "zh": -2.16, "cross": -3.43},
)
"""They decline 4 % of the covered development questions, 32 and 31 % of those whose gold passages are not there, and 98 and
100 % of the far ones, in English and Chinese: what a writer that reads the passages gets. Across languages they were fitted on
the questions that repeat their passage's words."""

LEXICAL: Final = Calibration(
    weights={
        "en": (0.0, 3.487, 1.032, 1.204, 2.429, 2.717),
        "zh": (0.0, 5.055, 0.429, 4.666, 1.783, 3.201),
        "cross": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    },
    intercepts={"en": -5.605, "zh": -5.76, "cross": -9.0},
    least={"en": -1.88, "zh": -2.13, "cross": 0.0},
)
"""Weights without the cosine, for embedders that nobody calibrated. They decline across languages, where words say nothing."""

CALIBRATIONS: Final = {"e5-small-q4": E5_SMALL, "e5-small": E5_SMALL}
"""Weights by the embedder's name."""


def calibration_of(embedder: Embedder) -> Calibration:
    """Returns the weights for an embedder: its own, or those that leave cosines aside."""
    return CALIBRATIONS.get(embedder.name, LEXICAL)


async def judge(
    question: str,
    passages: Sequence[Passage],
    embedder: Embedder,
    calibration: Calibration | None = None,
    count: int = JUDGED,
    *,
    ranked: bool = True,
) -> list[Relevance]:
    """Returns the best candidates with their scores, best first. Equal ones keep the order of the search.

    Args:
        passages: found passages, best first; more of them tell better which words are common.
        calibration: weights; None: those for the embedder.
        count: number of candidates to judge.
        ranked: false if the order of the passages says nothing.
    """
    weights = calibration or calibration_of(embedder)
    found = [
        Relevance(passage, weights.score(features), features)
        for passage, features in zip(
            passages, await features_of(question, passages, embedder, count, ranked=ranked), strict=False
        )
    ]
    return sorted(found, key=lambda one: -one.score)


def prefers_quotation(writer: Writer) -> bool:
    """Returns whether a writer was measured to answer fewer questions than a quotation of the best passage does."""
    measured = WRITERS.get(getattr(writer, "name", ""))
    return measured is not None and measured.quotes


async def relevant(
    question: str, found: Sequence[Passage], writer: Writer, embedder: Embedder
) -> list[Passage]:
    """Returns the found passages that may answer a question, for a writer that reads them, best first."""
    judged = await judge(question, found, embedder)
    return [one.passage for one in judged if one.score >= 0]


async def quotable(
    question: str, found: Sequence[Passage], writer: Writer, embedder: Embedder, lenience: float = 0.0
) -> list[Passage]:
    """Returns the passage to quote, and behind it the others that may answer; none if it is not sure enough.

    It is if its log-odds lie at most `lenience` below the least that counts.

    Where question and passage have different languages, the score alone decides, as for `relevant`. A writer that was measured
    at it is asked how likely the question is after the passages, unless none of them is relevant.
    """
    judged = await judge(question, found, embedder)
    if not judged:
        return []
    quoting, case = QUOTING.get(embedder.name, UNCALIBRATED), judged[0].features.case
    if case not in quoting.order:
        return [one.passage for one in judged if one.score >= 0]
    candidates = [one for one in judged if one.features.case == case]
    measured = WRITERS.get(getattr(writer, "name", ""))
    reading = measured.quoting if measured and embedder.name in QUOTING else None
    if reading is not None and case in reading.order:
        if judged[0].score < 0:
            return []
        read = candidates[:READ]
        gains = await gains_of(question, [one.passage for one in read], writer)
        if gains is not None:
            return _quoted(judged, read, gains, reading, lenience)
    return _quoted(judged, candidates, [0.0] * len(candidates), quoting, lenience)


def _quoted(
    judged: Sequence[Relevance],
    candidates: Sequence[Relevance],
    gains: Sequence[float],
    quoting: Quoting,
    lenience: float,
) -> list[Passage]:
    chosen = choose([one.passage for one in candidates], [one.features for one in candidates], gains, quoting)
    if chosen.sure < -lenience:
        return []
    best = candidates[chosen.at]
    return [best.passage, *(one.passage for one in judged if one is not best and one.score >= 0)]
