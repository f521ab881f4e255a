"""A softmax head over the words and pairs of words of a text, weighted by how rare they are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.contracts.heads import softmax_of, softmax_weights

__all__ = ["WordHead"]

Array = NDArray[np.float64]
_MOST_WORDS: Final = 20_000
_LEAST_TEXTS: Final = 3  # that have a word or pair; a rarer one is a name
_MOST_SHARE: Final = 0.95
_FLOOR: Final = 0.3  # added to the weight of a word that nearly every text has
_BIAS: Final = 0.3


@dataclass(frozen=True, slots=True)
class WordHead:
    """A head over words.

    Attributes:
        places: column of each word or pair.
        rarity: weight of each column.
        weights: [columns, labels].
        bias: [labels].
    """

    places: Mapping[str, int]
    rarity: Array
    weights: Array
    bias: Array

    @classmethod
    def fit(cls, texts: Sequence[str], truth: Array, decay: float) -> WordHead:
        """Learns the head. `truth` is [texts, labels] with one 1 in each row."""
        counts = [_grams(one) for one in texts]
        holders = Counter(gram for one in counts for gram in one)
        common = [
            gram
            for gram, held in holders.most_common(_MOST_WORDS)
            if _LEAST_TEXTS <= held < _MOST_SHARE * len(texts)
        ]
        places = {gram: number for number, gram in enumerate(common)}
        rarity = np.array([np.log(len(texts) / holders[gram]) + _FLOOR for gram in common])
        rows = np.array([_row(one, places, rarity) for one in counts])
        # Fewer texts than words: the head is learned in the space that the texts span.
        values, vectors = np.linalg.eigh(rows @ rows.T)
        kept = values > 1e-6
        basis = vectors[:, kept] / np.sqrt(values[kept])  # [texts, rank]
        known = np.hstack([rows @ rows.T @ basis, np.full((len(rows), 1), _BIAS)])
        learned = softmax_weights(known, truth, decay)
        return cls(places, rarity, rows.T @ basis @ learned[:-1], learned[-1] * _BIAS)

    def scores(self, text: str) -> Array:
        """Returns probabilities that sum to 1: [labels]."""
        row = _row(_grams(text), self.places, self.rarity)
        return softmax_of((row @ self.weights + self.bias)[None])[0]


def _grams(text: str) -> Counter[str]:
    words = re.findall(r"[a-z]{2,}|\[name\]", text.lower())
    return Counter(words) + Counter(f"{one} {two}" for one, two in itertools.pairwise(words))


def _row(counts: Mapping[str, int], places: Mapping[str, int], rarity: Array) -> Array:
    row = np.zeros(len(places))
    for gram, count in counts.items():
        if gram in places:
            row[places[gram]] = (1 + np.log(count)) * rarity[places[gram]]
    return row / (np.linalg.norm(row) or 1.0)
