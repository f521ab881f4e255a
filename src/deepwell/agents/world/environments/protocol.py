"""`Environment`: many episodes side by side, as pure functions of states, actions and random numbers.

The random numbers of a step are an argument. Two policies can so be compared on the same demand, and a planner that knows
the simulator draws numbers of its own: it never sees those of the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Environment", "Float", "Integers", "Spec", "Step"]

Float = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spec:
    """The shape of an environment.

    Attributes:
        name: name on the command line.
        observation: names of the numbers of an observation.
        binary: whether these are all 0 or 1.
        actions: names of the actions.
        steps: steps after which an episode is cut off. A cut is no end: what would follow still counts.
        start_draws: random numbers that the start of an episode takes.
        step_draws: random numbers that a step takes.
        discount: weight of the next step's reward.
    """

    name: str
    observation: tuple[str, ...]
    binary: bool
    actions: tuple[str, ...]
    steps: int
    start_draws: int
    step_draws: int
    discount: float


class Step(NamedTuple):
    """Results of a step: next states [N, S], rewards [N], and whether each episode ended (not: was cut off) [N]."""

    states: NDArray[np.float64]
    rewards: NDArray[np.float64]
    ended: NDArray[np.bool_]


class Environment(Protocol):
    """An environment with discrete actions."""

    spec: Spec

    def start(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns first states [N, S] for uniform draws [N, start_draws] in [0, 1)."""
        ...

    def observe(self, states: NDArray[np.float64]) -> Float:
        """Returns observations [N, observation] of states [N, S]."""
        ...

    def step(self, states: NDArray[np.float64], actions: Integers, draws: NDArray[np.float64]) -> Step:
        """Returns what actions [N] do to states [N, S] with uniform draws [N, step_draws]."""
        ...
