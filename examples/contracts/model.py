"""The model's side of a review: passages are found for each label's question, and heads over their vectors give scores.

Heads are learned on the development half. Terms have a logistic head each, categories share a softmax head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.contracts.data import CATEGORIES, TERMS, LicenceText
from examples.contracts.heads import Head, fit_labels, fit_one_of, labels_of, one_of, softmax_of
from examples.contracts.passages import passages
from examples.contracts.words import WordHead

__all__ = ["QUESTIONS", "Encoded", "Encoder", "LabelModel", "encoded"]

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Returns vectors of unit length, one a text."""

QUESTIONS: Final[Mapping[str, str]] = {
    "include-copyright": "The copyright notice and a copy of the license must be included with copies.",
    "document-changes": "Modified files must carry notices that state what was changed.",
    "disclose-source": "The complete source code must be made available when the work is distributed.",
    "network-use-disclose": "Users who interact with the software over a network must be able to get its source code.",
    "same-license": "Modified versions must be distributed under the same license.",
    "patent-grant": "Each contributor grants a royalty-free license under its patent claims.",
    "no-patent-grant": "No rights in patents are licensed.",
    "no-trademark-grant": "This license grants no rights to use trademarks, names or logos.",
    "no-liability": "The authors are not liable for any damages.",
    "no-warranty": "The software is provided as is, without warranty of any kind.",
    "Permissive": "Anyone may use, copy, modify, sell and distribute the work, provided that the notice is kept.",
    "Copyleft": "The whole work based on this program must be licensed to all under this license, with its source code.",
    "Copyleft Limited": "Modifications of covered files stay under this license, but larger works may use other terms.",
    "Public Domain": "The work is dedicated to the public domain, and all rights are waived.",
    "Proprietary Free": "You may use the software free of charge, but not reverse engineer, modify or redistribute it.",
    "Commercial": "The license is granted upon payment of the license fees for the purchased number of users.",
    "Free Restricted": "The work may be used freely for some purposes only, and not for commercial ones.",
    "Source-available": "The source code is available, but it may not be offered as a service or be used in competition.",
    "Patent License": "The owner promises not to assert essential patent claims against implementations of the specification.",
    "CLA": "You grant a license for the contributions that you submit to the project.",
}
"""The question of each label, as a passage that would answer it."""

_TOP = 3
_TERM_DECAY, _CATEGORY_DECAY, _WORD_DECAY = 0.1, 0.3, 0.0001
_OF_PASSAGES = 0.3  # share of the passages' head in the log probabilities of categories; the other one is that of the words


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as the model sees it.

    Attributes:
        mean: mean of the passages' vectors.
        nearest: sum of the vectors of the passages nearest to each question, [questions, dimensions].
        likeness: cosine of the nearest passage, and the mean of the nearest three, [questions, 2].
        found: the nearest passage of each question.
    """

    mean: NDArray[np.float64]
    nearest: NDArray[np.float64]
    likeness: NDArray[np.float64]
    found: tuple[str, ...]


def encoded(texts: Sequence[str], encode: Encoder) -> list[Encoded]:
    """Returns texts as the model sees them; their passages are encoded in one call, equal ones once."""
    cut = [passages(one) for one in texts]
    distinct = list(dict.fromkeys(one for found in cut for one in found))
    vectors = np.asarray(encode([*distinct, *QUESTIONS.values()]), np.float64)
    place = {one: number for number, one in enumerate(distinct)}
    asked = vectors[len(distinct) :]
    return [_encoded(found, vectors[[place[one] for one in found]], asked) for found in cut]


def _encoded(found: Sequence[str], vectors: NDArray[np.float64], asked: NDArray[np.float64]) -> Encoded:
    cosines = asked @ vectors.T  # [questions, passages]
    order = np.argsort(-cosines, axis=1)[:, :_TOP]
    top = np.take_along_axis(cosines, order, axis=1)
    nearest = vectors[order].mean(axis=1)
    likeness = np.stack([top[:, 0], top.mean(axis=1)], axis=1)
    return Encoded(vectors.mean(axis=0), nearest, likeness, tuple(found[one] for one in order[:, 0]))


@dataclass(frozen=True, slots=True)
class LabelModel:
    """Heads over encoded texts.

    Attributes:
        terms: head of each term, over the likeness of the nearest passages.
        categories: head over all categories, over vectors of passages.
        words: head over all categories, over words.
    """

    terms: Mapping[str, Head]
    categories: Head
    words: WordHead

    @classmethod
    def fit(cls, texts: Sequence[LicenceText], seen: Sequence[Encoded]) -> LabelModel:
        """Learns the heads from labelled texts."""
        pairs = list(zip(texts, seen, strict=True))
        known = [(one, view) for one, view in pairs if one.asked is TERMS]
        terms = {
            label: fit_labels(
                np.array([_term_features(view, label) for _, view in known]),
                np.array([[label in one.labels] for one, _ in known], np.float64),
                _TERM_DECAY,
            )
            for label in TERMS
        }
        known = [(one, view) for one, view in pairs if one.asked is CATEGORIES]
        truth = np.array([[label in one.labels for label in CATEGORIES] for one, _ in known], np.float64)
        features = np.array([_category_features(view) for _, view in known])
        words = WordHead.fit([one.text for one, _ in known], truth, _WORD_DECAY)
        return cls(terms, fit_one_of(features, truth, _CATEGORY_DECAY), words)

    def scores(self, text: str, view: Encoded) -> dict[str, float]:
        """Returns the score of every label for a text; those of the categories sum to 1."""
        found = {
            label: float(labels_of(head, _term_features(view, label)[None])[0, 0])
            for label, head in self.terms.items()
        }
        passages_say = np.log(one_of(self.categories, _category_features(view)[None]) + 1e-12)
        words_say = np.log(self.words.scores(text)[None] + 1e-12)
        (row,) = softmax_of(_OF_PASSAGES * passages_say + (1 - _OF_PASSAGES) * words_say)
        return found | {label: float(score) for label, score in zip(CATEGORIES, row, strict=True)}


_PLACE = {label: number for number, label in enumerate(QUESTIONS)}


def _term_features(view: Encoded, label: str) -> NDArray[np.float64]:
    return view.likeness[_PLACE[label]]


def _category_features(view: Encoded) -> NDArray[np.float64]:
    return np.concatenate([view.mean, view.likeness.ravel(), view.nearest[len(TERMS) :].mean(axis=0)])
