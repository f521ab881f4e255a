"""Fits the linear model of moderation to what people said of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.moderation.features import BUCKETS, MEASURES, Reading
from deepwell.safety.moderation.weights import MOST, Weights

__all__ = ["Example", "fit", "outputs"]

MIN_TEXTS: Final = 4
"""A bucket counts if so many texts have it."""
GRAM_SHARE: Final = 3.0
RIDGE: Final = 3.0
_FEW: Final = 1e-6
_STEPS: Final = 50


class Example:
    """A text, read once, with the share of harm that people saw in it, from 0 to 1.

    Texts of a weight below 1 are no answers: they bend the model, and its figures are not standardised by them.
    """

    __slots__ = ("buckets", "measures", "score", "weight")

    def __init__(self, text: str, score: float, weight: float = 1.0) -> None:
        reading = Reading.of(text)
        self.measures = reading.measured()
        self.buckets = reading.grams()
        self.score = score
        self.weight = weight


def fit(examples: Sequence[Example], calibration: tuple[NDArray[np.float64], NDArray[np.bool_]]) -> Weights:
    """Returns a model by ridge regression, its figures and its n-grams as two kernels.

    Args:
        calibration: outputs for texts that had no part in fitting, and which of these were harmful. The slope and the offset
            of the logistic function that makes a probability of an output are fitted to them.
    """
    answers = [one for one in examples if one.weight >= 1]
    mean, scale = _standards(answers)
    measures = (np.stack([one.measures for one in examples]) - mean) / scale
    measures = np.clip(measures, -MOST, MOST)
    idf = _idf(answers)
    grams = np.stack([_vector(one.buckets, idf) for one in examples])
    scores = np.array([one.score for one in examples])
    centre = float(np.mean([one.score for one in answers]))
    weights = np.array([one.weight for one in examples])
    kernel = measures @ measures.T / len(MEASURES) + GRAM_SHARE * (grams @ grams.T)
    dual = np.linalg.solve(kernel + np.diag(RIDGE / weights), scores - centre)
    slope, offset = _logistic(*calibration)
    return Weights(
        measures=(measures.T @ dual / len(MEASURES)).astype(np.float32),
        centres=mean.astype(np.float32),
        scales=scale.astype(np.float32),
        grams=(GRAM_SHARE * (grams.T @ dual)).astype(np.float32),
        idf=idf.astype(np.float32),
        line=np.array([centre, slope, offset], np.float32),
    )


def outputs(weights: Weights, examples: Sequence[Example]) -> NDArray[np.float64]:
    """Returns the outputs of a model, before the logistic function."""
    return np.array([weights.output(one.measures, one.buckets) for one in examples])


def _standards(examples: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    measures = np.stack([one.measures for one in examples])
    return measures.mean(axis=0), measures.std(axis=0) + _FEW


def _idf(examples: Sequence[Example]) -> NDArray[np.float64]:
    texts = np.zeros(BUCKETS)
    for one in examples:
        texts[one.buckets] += 1
    return np.where(texts >= MIN_TEXTS, np.log(len(examples) / np.maximum(texts, 1)), 0.0)


def _vector(buckets: NDArray[np.int64], idf: NDArray[np.float64]) -> NDArray[np.float64]:
    vector = np.zeros(BUCKETS)
    vector[buckets] = idf[buckets]
    return vector / (np.linalg.norm(vector) or 1.0)


def _logistic(values: NDArray[np.float64], harmful: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns slope and offset of the most likely logistic function, by Newton's method."""
    columns = np.stack([values, np.ones(len(values))], axis=1)
    found = np.zeros(2)
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-columns @ found))
        gradient = columns.T @ (likely - harmful) + _FEW * found
        curvature = (columns * (likely * (1 - likely))[:, None]).T @ columns + _FEW * np.eye(2)
        found -= np.linalg.solve(curvature, gradient)
    return float(found[0]), float(found[1])
