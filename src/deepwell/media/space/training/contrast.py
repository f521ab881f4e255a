"""Parts that the trainings share: the contrastive loss, the rate of learning, and means of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["Averaged", "centred", "contrastive_loss", "rate_at", "recalls"]


def centred(vectors: NDArray[np.float32], centre: NDArray[np.float32]) -> torch.Tensor:
    """Returns vectors of texts without the direction that all of them share, at unit length.

    The vectors of e5 lie in a narrow cone, with cosines from 0.75. Rankings depend on their differences alone.
    """
    return nn.functional.normalize(torch.from_numpy(vectors - centre), dim=-1)


def contrastive_loss(
    found: torch.Tensor, texts: torch.Tensor, names: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Returns InfoNCE in both directions (van den Oord et al., arXiv 1807.03748), the others of the batch being negatives.

    Args:
        found: unit vectors [n, 384].
        texts: unit vectors of their texts [n, 384].
        names: numbers of the texts [n]; equal texts are no negatives of each other.
    """
    scores = found @ texts.T / temperature
    diagonal = torch.eye(len(names), dtype=torch.bool)
    scores = scores.masked_fill((names[:, None] == names[None]) & ~diagonal, -1e4)
    wanted = torch.arange(len(names))
    return (nn.functional.cross_entropy(scores, wanted) + nn.functional.cross_entropy(scores.T, wanted)) / 2


def rate_at(step: int, steps: int, highest: float) -> float:
    """Returns the rate of learning: it rises over 50 steps, then falls as a cosine."""
    return highest * min(1.0, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


class Averaged:
    """An exponential mean of a module's weights over the steps."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.state = {name: value.clone() for name, value in module.state_dict().items()}

    def update(self, step: int) -> None:
        """Takes the module's present weights in."""
        share = 0.1 if step < 100 else 0.01
        with torch.no_grad():
            for name, value in self._module.state_dict().items():
                self.state[name].lerp_(value, share)


def recalls(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    wanted: NDArray[np.int64],
    places: tuple[int, ...] = (1, 10),
) -> Mapping[int, float]:
    """Returns the share of queries whose item is among the first 1 and 10 by cosine.

    Args:
        queries: unit vectors [q, 384].
        items: unit vectors [n, 384].
        wanted: number of the item of each query [q].
    """
    scores = queries @ items.T
    own = scores[np.arange(len(queries)), wanted]
    ranks = (scores > own[:, None]).sum(1)
    return {place: float((ranks < place).mean()) for place in places}
