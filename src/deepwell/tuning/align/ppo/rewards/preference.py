"""`PreferenceReward`: a Bradley-Terry head on the engine's hidden states, fitted to pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rewards.protocol import Vectors

__all__ = ["Pair", "PreferenceReward", "fit_bradley_terry"]

Floats = NDArray[np.floating[Any]]
_STEPS: Final = 50
_SETTLED: Final = 1e-7


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which one was preferred."""

    prompt: Prompt
    preferred: str
    other: str


def fit_bradley_terry(differences: Floats, *, penalty: float) -> NDArray[np.float64]:
    """Returns weights w that minimise the mean of -log sigmoid(d w) + penalty |w|^2 / 2, by Newton's method.

    Args:
        differences: features of the preferred answers less those of the others, [pairs, size].
    """
    d = np.asarray(differences, np.float64)
    w = np.zeros(d.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(np.clip(d @ w, -30, 30)))  # probability of the other answer
        gradient = penalty * w - d.T @ p / len(d)
        curvature = (d.T * (p * (1 - p))) @ d / len(d)
        curvature[np.diag_indices_from(curvature)] += penalty
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if float(np.abs(step).max()) < _SETTLED:
            break
    return w


class PreferenceReward:
    """Scores whose difference is the log odds that the one answer is preferred to the other (Bradley and Terry, 1952).

    Args:
        vectors: hidden states of texts; a prompt and its answer are one text.
        penalty: weight of the squared norm; it decides alone where there are fewer pairs than features.

    Raises:
        InvalidRequest: there is no pair.
    """

    def __init__(self, pairs: Sequence[Pair], vectors: Vectors, *, penalty: float = 1e-3) -> None:
        if not pairs:
            raise InvalidRequest(
                "a preference reward needs pairs of answers", fix="give preferences", param="data"
            )
        self._vectors = vectors
        preferred = vectors([_text(one.prompt, one.preferred) for one in pairs])
        others = vectors([_text(one.prompt, one.other) for one in pairs])
        self._mean = (preferred.mean(0) + others.mean(0)) / 2
        # Hidden states of one model point much the same way: without a scale the penalty would outweigh their differences
        self._scale = 1 / max(float(np.sqrt(((preferred - others) ** 2).sum(1).mean())), 1e-6)
        self._weights = fit_bradley_terry((preferred - others) * self._scale, penalty=penalty)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns log odds against the mean answer of the pairs."""
        states = self._vectors([_text(one, answer) for one, answer in zip(prompts, answers, strict=True)])
        return [float(one) for one in ((states - self._mean) * self._scale) @ self._weights]


def _text(prompt: Prompt, answer: str) -> str:
    return f"{prompt.shown}\n{answer}" if prompt.messages else prompt.text + answer
