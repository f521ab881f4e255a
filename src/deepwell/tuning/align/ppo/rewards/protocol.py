"""`Reward`: the interface of anything that scores answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.align.ppo.config import RewardConfig
from deepwell.tuning.align.ppo.prompts import Prompt

__all__ = ["Reward", "RewardMaker", "RewardMakers", "Vectors"]

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Hidden states of texts, [texts, size]."""


class Reward(Protocol):
    """Scores answers; higher is better, of a cost worse. The same answer always has the same score."""

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns a finite score for each answer to its prompt."""
        ...


RewardMaker = Callable[[RewardConfig, Vectors], Reward]
"""Makes a reward of its configuration; the vectors are those of the model that is trained, as it was before."""

RewardMakers = Mapping[str, RewardMaker]
"""Further kinds of rewards by name, from packages that tuning does not import."""
