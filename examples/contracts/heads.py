"""Linear heads on vectors of an encoder: logistic for labels that stand alone, softmax for one of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Head", "fit_labels", "fit_one_of", "labels_of", "one_of", "softmax_of", "softmax_weights"]

Array = NDArray[np.float64]
_STEPS = 300


@dataclass(frozen=True, slots=True)
class Head:
    """Weights of a head, and what standardises its features.

    Attributes:
        weights: [features + 1, labels]; the last row is the bias.
        mean, scale: [features].
    """

    weights: Array
    mean: Array
    scale: Array


def fit_labels(features: Array, truth: Array, decay: float) -> Head:
    """Returns logistic heads. `truth` is [items, labels] of 0 and 1; `decay` is the weight of the squared weights."""
    return _fit(features, truth, decay, _sigmoid)


def fit_one_of(features: Array, truth: Array, decay: float) -> Head:
    """Returns a softmax head. `truth` is [items, labels] with one 1 in each row."""
    return _fit(features, truth, decay, softmax_of)


def labels_of(head: Head, features: Array) -> Array:
    """Returns the probability of each label: [items, labels]."""
    return _sigmoid(_logits(head, features))


def one_of(head: Head, features: Array) -> Array:
    """Returns probabilities that sum to 1 in each row: [items, labels]."""
    return softmax_of(_logits(head, features))


def softmax_weights(known: Array, truth: Array, decay: float) -> Array:
    """Returns the weights of a softmax over features that have their scale and bias already: [features, labels]."""
    return _minimised(known, truth, np.full((known.shape[1], 1), decay), softmax_of)


def softmax_of(logits: Array) -> Array:
    """Returns probabilities that sum to 1 in each row."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _fit(features: Array, truth: Array, decay: float, link: Callable[[Array], Array]) -> Head:
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    known = _with_bias((features - mean) / scale)
    penalty = np.full((known.shape[1], 1), decay)
    penalty[-1] = 0.0
    return Head(_minimised(known, truth, penalty, link), mean, scale)


def _minimised(known: Array, truth: Array, penalty: Array, link: Callable[[Array], Array]) -> Array:
    """Minimises the cross entropy with Nesterov's method, whose step is safe for the largest curvature."""
    weights = np.zeros((known.shape[1], truth.shape[1]))
    ahead, momentum = weights.copy(), 1.0
    step = 1.0 / (np.linalg.norm(known, 2) ** 2 / (2 * len(known)) + penalty.max())
    for _ in range(_STEPS):
        slope = known.T @ (link(known @ ahead) - truth) / len(known) + penalty * ahead
        new = ahead - step * slope
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        weights, momentum = new, following
    return weights


def _logits(head: Head, features: Array) -> Array:
    return _with_bias((features - head.mean) / head.scale) @ head.weights


def _with_bias(features: Array) -> Array:
    return np.hstack([features, np.ones((len(features), 1))])


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(logits, -40, 40)))
