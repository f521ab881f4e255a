"""`Moderator`: scores of a text for OpenAI's thirteen categories, and `ModerationDetector`, which reports them as findings."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.findings import Detector, Finding
from deepwell.safety.moderation.features import Reading
from deepwell.safety.moderation.phrases import GORE, MINORS, UNLAWFUL
from deepwell.safety.moderation.statements import STATEMENTS
from deepwell.safety.moderation.weights import Weights, read_weights
from deepwell.safety.normalise import Normalised, normalised

__all__ = ["CATEGORIES", "THRESHOLD", "Moderation", "ModerationDetector", "Moderator", "shipped_moderator"]

CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The categories, named and ordered as OpenAI does."""

THRESHOLD: Final = 0.5
"""A category is flagged from this score on."""

_STATED: Final = 0.9
_PIECE: Final = 20_000
_OVERLAP: Final = 1_000


@dataclass(frozen=True, slots=True)
class Moderation:
    """The scores of one text.

    Attributes:
        harm: how likely people find the text harmful as an answer, from 0 to 1, whatever its subject.
        scores: for each category: `harm`, by how much the text speaks of the category; or more where it states it outright.
    """

    harm: float
    scores: Mapping[str, float]

    @property
    def flagged(self) -> bool:
        """True if a category is flagged."""
        return any(score >= THRESHOLD for score in self.scores.values())


class Moderator:
    """Scores texts with a linear model over figures and words. It may be called from any thread.

    NOTE: The model is fitted to people's scores of answers to dangerous requests. It tells refusals, advice and warnings from
    compliance, whatever the subject, and is therefore judged on subjects that it has not seen. A text on a harmless subject
    may be written in the same way: a category's score is the model's, times how much the text speaks of the category.
    """

    def __init__(self, weights: Weights, terms: Detector | None = None) -> None:
        """Makes the moderator.

        Args:
            terms: finds terms of lists, whose rules are `terms.`, a tier and a category. One of the tier `block` is a statement
                of its category; None where a guard looks for them anyway.
        """
        self._weights = weights
        self._terms = terms

    def harm(self, text: str) -> float:
        """Returns how likely people find a text harmful, from 0 to 1; of a long one, its worst piece."""
        return max(self._harm(Reading.of(piece)) for piece in _pieces(text))

    def moderate(self, text: str, until: float = math.inf) -> Moderation:
        """Returns the scores of a text; of one of more than 20,000 characters, the highest of its pieces.

        Args:
            until: time of `time.monotonic` at which the reading is given up, before the next piece.

        Raises:
            TimeoutError: the time is over.
        """
        found: list[Moderation] = []
        for piece in _pieces(text):
            if time.monotonic() > until:
                raise TimeoutError
            found.append(self._piece(piece))
        if len(found) == 1:
            return found[0]
        scores = {name: max(one.scores[name] for one in found) for name in CATEGORIES}
        return Moderation(max(one.harm for one in found), MappingProxyType(scores))

    def _piece(self, text: str) -> Moderation:
        reading = Reading.of(text)
        harm = self._harm(reading)
        scores = {name: harm * shown for name, shown in _shown(reading).items()}
        plain = _worn(reading.text).encode("utf-8", "replace")
        for name, statements in STATEMENTS.items():
            if statements.starts(plain):
                scores[name] = max(scores[name], _STATED)
        if self._terms is not None:
            for one in self._terms.scan(normalised(reading.text)):
                category = _OF_LISTS.get(one.category, one.category)
                if category in scores and one.rule.startswith("terms.block."):
                    scores[category] = max(scores[category], _STATED)
        for special, general in _GENERAL.items():
            scores[general] = max(scores[general], scores[special])
        return Moderation(harm, MappingProxyType({name: round(scores[name], 6) for name in CATEGORIES}))

    def _harm(self, reading: Reading) -> float:
        if not reading.text.strip():
            return 0.0
        return self._weights.probability(self._weights.output(reading.measured(), reading.grams()))


_OF_LISTS: Final = {"pornography": "sexual", "profanity": "harassment"}
"""Categories of lists of terms that have another name here."""

_GENERAL: Final = {
    "harassment/threatening": "harassment",
    "hate/threatening": "hate",
    "illicit/violent": "illicit",
    "self-harm/instructions": "self-harm",
    "self-harm/intent": "self-harm",
    "sexual/minors": "sexual",
    "violence/graphic": "violence",
}
"""Special categories, each with the general one that holds it too."""


def _pieces(text: str) -> list[str]:
    """Returns a text in overlapping pieces of at most 20,000 characters, so that no end of a long one goes unread."""
    return [text[at : at + _PIECE] for at in range(0, max(len(text) - _OVERLAP, 1), _PIECE - _OVERLAP)]


def _worn(text: str) -> str:
    """Returns a text with a single space for each run of white space."""
    return f"{' ' * text[:1].isspace()}{' '.join(text.split())}{' ' * text[-1:].isspace()}"


def _shown(reading: Reading) -> dict[str, float]:
    """Returns for each category how much a text speaks of it, from 0 to 1."""
    subject, tone = reading.subjects, reading.tones
    minors, gore = reading.flagged(MINORS), reading.flagged(GORE)
    hate, violence, themselves = subject["hate"], subject["violence"], subject["self"]
    unlawful = reading.flagged(UNLAWFUL)
    shown = {
        "harassment": hate * (1 - tone["they"]),
        "harassment/threatening": hate * violence * (1 - tone["they"]),
        "hate": hate * tone["they"],
        "hate/threatening": hate * violence * tone["they"],
        "illicit": unlawful,
        "illicit/violent": np.maximum(unlawful, tone["imperative"]) * violence,
        "self-harm": themselves,
        "self-harm/instructions": themselves * np.maximum(tone["imperative"], tone["should"]),
        "self-harm/intent": 0 * themselves,
        "sexual": subject["sexual"],
        "sexual/minors": subject["sexual"] * minors,
        "violence": violence,
        "violence/graphic": violence * gore,
    }
    return {name: _amount(flags) for name, flags in shown.items()}


def _amount(flags: NDArray[np.float64]) -> float:
    """Returns 0 for no sentence, and the nearer to 1 the more sentences there are, as a number and as a share."""
    count = float(flags.sum())
    if not count:
        return 0.0
    share = count / len(flags)
    return 1 - math.exp(-(0.5 * count + 2.5 * share))


class ModerationDetector:
    """Reports the categories of a text that are flagged, each as one finding that covers the text."""

    name = "moderation"
    categories = CATEGORIES

    def __init__(self, moderator: Moderator, *, min_score: float = THRESHOLD) -> None:
        self._moderator = moderator
        self._min_score = min_score

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns a finding for each category whose score is high enough."""
        if not text.text.strip():
            return []
        scores = self._moderator.moderate(text.text).scores
        return [
            Finding(f"moderation.{name}", name, 0, len(text.text), score)
            for name, score in scores.items()
            if score >= self._min_score
        ]


@cache
def shipped_moderator() -> Moderator:
    """Returns the moderator with the package's weights, read once.

    Raises:
        InvalidModelFile: they cannot be read.
    """
    return Moderator(read_weights())
