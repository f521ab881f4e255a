"""Filters of rewritten texts: language, length, echo, duplicates, and whether the label still fits."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.active.features import HashedFeatures, tokens_of
from deepwell.tuning.data.active.learner import Fitted, SoftmaxRegression

__all__ = [
    "REASONS",
    "Filters",
    "Judged",
    "LabelCheck",
    "Reason",
    "chinese_share",
    "distinctness",
    "normalised",
    "similarity",
]

Reason = Literal["empty", "language", "length", "echo", "duplicate", "label"]
REASONS: Final[tuple[Reason, ...]] = ("empty", "language", "length", "echo", "duplicate", "label")
_FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class Filters:
    """Bounds of what a rewritten text may be.

    Attributes:
        min_ratio, max_ratio: of its characters to those of its source. A rewriting that lost or grew a half has another
            content.
        max_similarity: of its words to those of its source; above it is an echo, which teaches nothing.
    """

    min_ratio: float = 0.5
    max_ratio: float = 2.0
    max_similarity: float = 0.95

    def problem(self, source: str, text: str) -> Reason | None:
        """Returns why a rewriting cannot be used, from itself and its source alone; None: it can."""
        if not text.strip():
            return "empty"
        if _other_script(source, text):
            return "language"
        if not self.min_ratio <= len(text.strip()) / max(1, len(source.strip())) <= self.max_ratio:
            return "length"
        if similarity(source, text) > self.max_similarity:
            return "echo"
        return None


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts of the label check on some rewritings: whether each lost its label, and whether the classifier gives it that
    label; None where there is no classifier."""

    lost: Sequence[bool]
    same: Sequence[bool | None]


class LabelCheck:
    """Tells whether rewriting a text changed what it says of its class.

    A classifier is fitted on the labelled texts in five folds, so that none judges a text that it was fitted on. A label
    counts as lost where the classifier gives the source its label, and the rewriting another: one that is wrong about the
    source already cannot testify.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Fits the classifiers.

        Args:
            labels: the class of each text.
        """
        self._places = {name: at for at, name in enumerate(sorted(set(labels)))}
        self._features = HashedFeatures(texts)
        self._labels = np.array([self._places[one] for one in labels], np.int64)
        self._fold = np.empty(len(texts), np.int64)
        self._fold[np.random.default_rng(0).permutation(len(texts))] = np.arange(len(texts)) % _FOLDS
        self._models = [self._fitted(fold) for fold in range(_FOLDS)]
        self._right = self._predicted(self._features, np.arange(len(texts))) == self._labels

    @property
    def accuracy(self) -> float | None:
        """Share of the sources to which their classifier gives their label; None: there is too little to fit one."""
        return float(self._right.mean()) if all(model is not None for model in self._models) else None

    def judge(self, rows: Sequence[int], texts: Sequence[str]) -> Judged:
        """Judges rewritings of the texts `rows`."""
        chosen = np.asarray(rows, np.int64)
        same = self._predicted(self._features.transform(texts), chosen) == self._labels[chosen]
        if self.accuracy is None:
            return Judged([False] * len(rows), [None] * len(rows))
        return Judged((self._right[chosen] & ~same).tolist(), same.tolist())

    def _fitted(self, fold: int) -> Fitted | None:
        rows = np.flatnonzero(self._fold != fold)
        if len(set(self._labels[rows].tolist())) < 2:
            return None
        return SoftmaxRegression(len(self._places)).fit(
            self._features, rows.tolist(), self._labels[rows].tolist()
        )

    def _predicted(self, features: HashedFeatures, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the class of each text by the classifier that did not see its source, `rows`; -1 where there is none."""
        found = np.full(len(rows), -1, np.int64)
        for fold, model in enumerate(self._models):
            mine = self._fold[rows] == fold
            if model is not None and mine.any():
                found[mine] = model.probabilities(features)[mine].argmax(axis=1)
        return found


def _other_script(source: str, text: str) -> bool:
    """Returns whether a rewriting has Chinese signs that its source has not, or lost most of those that it has."""
    before, after = chinese_share(source), chinese_share(text)
    return after > 0 if before == 0 else after < before / 2


def chinese_share(text: str) -> float:
    """Returns the share of the letters of a text that are Chinese signs; 0 for none."""
    letters = sum(map(str.isalpha, text))
    return sum("\u3400" <= sign <= "\u9fff" for sign in text) / letters if letters else 0.0


def similarity(one: str, other: str) -> float:
    """Returns how alike the words of two texts are in their order, from 0 to 1: twice the matches by both lengths."""
    matcher = difflib.SequenceMatcher(None, list(tokens_of(one)), list(tokens_of(other)), autojunk=False)
    return matcher.ratio()


def distinctness(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the mean share of words in which rewritings differ from their sources, from 0 to 1; 0 for none."""
    return sum(1 - similarity(*pair) for pair in pairs) / len(pairs) if pairs else 0.0


def normalised(text: str) -> str:
    """Returns a text by which duplicates are found: its words in lower case."""
    return " ".join(tokens_of(text))
