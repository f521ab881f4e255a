"""Fits a linear router that predicts which experts of a divided MLP a token needs, and stores it as DeepSeek-V3's gate.

DeepSeek-V3 multiplies experts by sigmoid scores, normalised over those chosen. A divided MLP needs a factor of 1 for each. So
the scores are made so small that all sigmoids are nearly 1/2: their order, which alone chooses, stays, and the factors are 1
within `GATE_SPREAD`. The intercepts go into the correction bias, which takes part in the choice and not in the factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GATE_SPREAD", "Router", "active_experts", "fit_router", "gate_tensors", "load_entropy"]

Array = NDArray[np.float32]

GATE_SPREAD: Final = 2e-6
"""Standard deviation of the factors of experts around 1. A float32 sigmoid tells some twenty levels of it apart: experts whose
scores are closer change places, which costs nothing that was seen; a larger spread costs exactness."""
_RIDGE: Final = 0.3  # of the mean second moment
_FLOOR: Final = 1e-6  # of the mean square, below which an expert's part of a token counts as nothing


@dataclass(frozen=True, slots=True)
class Router:
    """Scores of experts, weight @ input + bias: their mean over experts is 0, and weight @ input has a standard deviation of 1.

    Attributes:
        weight: [routed, inputs].
        bias: [routed].
    """

    weight: Array
    bias: Array

    def scores(self, inputs: Array) -> Array:
        """Returns the scores of tokens, [tokens, routed], from the normalised inputs of the MLP, [tokens, inputs]."""
        return inputs @ self.weight.T + self.bias


def fit_router(inputs: Array, squares: Array, ridge: float = _RIDGE) -> Router:
    """Fits the router to the logarithms of what experts add, by ridge regression.

    The weights are orthogonal to the mean input, so what an expert has on average is in its intercept alone: in the weights it
    would move the factors of the experts away from 1 for every token.

    Args:
        inputs: normalised inputs of the MLP on calibration text, [tokens, inputs].
        squares: squared lengths of what experts add, [tokens, routed]; see `expert_squares`.
        ridge: in units of the mean second moment of the inputs.
    """
    targets = np.log(squares + max(_FLOOR * float(squares.mean()), 1e-30))
    targets -= targets.mean(1, keepdims=True)
    mean, level = inputs.mean(0), targets.mean(0)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    moved = inputs - np.outer(inputs @ mean, mean)
    moments = (moved.T @ moved).astype(np.float64)
    moments.flat[:: len(moments) + 1] += ridge * max(float(np.trace(moments)) / len(moments), 1e-12)
    weight = np.linalg.solve(moments, (moved.T @ (targets - level)).astype(np.float64)).T
    weight -= np.outer(weight @ mean, mean)
    spread = max(float((inputs @ weight.T.astype(np.float32)).std()), 1e-12)
    return Router((weight / spread).astype(np.float32), (level / spread).astype(np.float32))


def active_experts(router: Router, inputs: Array, count: int) -> NDArray[np.bool_]:
    """Returns which experts tokens compute, [tokens, routed]: the `count` of the highest scores."""
    scores = router.scores(inputs)
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, np.argpartition(-scores, count - 1, axis=1)[:, :count], True, axis=1)
    return found


def gate_tensors(router: Router, spread: float = GATE_SPREAD) -> dict[str, Array]:
    """Returns the tensors of DeepSeek-V3's gate, `weight` and `e_score_correction_bias`.

    A factor is sigmoid(z) over the mean of those chosen, about 1 + z / 2; the choice is by sigmoid(z) + correction, so an
    intercept counts a quarter there.
    """
    scale = 2 * spread
    return {
        "weight": (router.weight * scale).astype(np.float32),
        "e_score_correction_bias": (router.bias * (scale / 4)).astype(np.float32),
    }


def load_entropy(active: NDArray[np.bool_]) -> float:
    """Returns the entropy of the experts' loads over tokens, 1 where all have the same."""
    loads = active.sum(0) / max(1, int(active.sum()))
    if len(loads) < 2:
        return 1.0
    seen = loads[loads > 0]
    return float(-(seen * np.log(seen)).sum() / np.log(len(loads)))
