"""`Trials`: the actor that collects is kept for whole episodes, so that the best one is known without a step of its own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepwell.agents.world.training.network import WorldNetwork

__all__ = ["Trials"]


class Trials:
    """One trial after another: each lasts until every stream has begun and ended an episode with the same weights.

    Learning goes on meanwhile, and what is lived through is learned from. The score of a trial is the mean return of the first
    whole episode of each stream.

    Attributes:
        acting: the weights that choose now.
        scores: the scores of the trials that have ended.
    """

    def __init__(self, network: WorldNetwork, streams: int) -> None:
        self.acting = copy.deepcopy(network)
        self.scores: list[float] = []
        self._best = copy.deepcopy(network)
        self._highest = -np.inf
        self._begun = np.zeros(streams, bool)
        self._returns = np.full(streams, np.nan)

    def ticked(
        self,
        learned: WorldNetwork,
        begun: NDArray[np.bool_],
        over: NDArray[np.bool_],
        totals: NDArray[np.float64],
    ) -> None:
        """Notes a tick of all streams. After the last episode of a trial, the next one begins with what is learned by then.

        Args:
            learned: weights of the next trial.
            begun: [streams], whether an episode began in this tick.
            over: [streams], whether its episode is over.
            totals: [streams], the undiscounted returns so far.
        """
        self._begun |= begun
        whole = over & self._begun & np.isnan(self._returns)
        self._returns[whole] = totals[whole]
        if np.isnan(self._returns).any():
            return
        self.scores.append(float(self._returns.mean()))
        if self.scores[-1] >= self._highest:  # of equals the later one, which knows more of the world
            self._highest = self.scores[-1]
            self._best.load_state_dict(self.acting.state_dict())
        self.acting.load_state_dict(learned.state_dict())
        self._begun[:] = False
        self._returns[:] = np.nan

    def best(self, learned: WorldNetwork) -> WorldNetwork:
        """Returns the weights of the best trial; `learned` where none has ended."""
        return self._best if self.scores else learned

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {
            "acting": self.acting.state_dict(),
            "best": self._best.state_dict(),
            "scores": list(self.scores),
            "begun": torch.from_numpy(self._begun.copy()),
            "returns": torch.from_numpy(self._returns.copy()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.acting.load_state_dict(state["acting"])
        self._best.load_state_dict(state["best"])
        self.scores = list(state["scores"])
        self._highest = max(self.scores, default=-np.inf)
        self._begun, self._returns = state["begun"].numpy(), state["returns"].numpy()
