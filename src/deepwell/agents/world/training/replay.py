"""`Replay`: what was lived through, one stream a parallel episode, and the sequences that training draws from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepwell.agents.world.environments.protocol import Float, Integers

__all__ = ["Replay"]


class Replay:
    """Streams of steps.

    Args:
        streams: parallel episodes.
        length: steps that a stream holds; more are an error of the caller.
        observation: numbers of an observation.
        actions: number of actions.
    """

    def __init__(self, streams: int, length: int, observation: int, actions: int) -> None:
        self._actions = actions
        self._observations = np.zeros((streams, length, observation), np.float32)
        self._chosen = np.full((streams, length), -1, np.int64)
        self._rewards = np.zeros((streams, length), np.float32)
        self._continues = np.ones((streams, length), np.float32)
        self._first = np.zeros((streams, length), np.float32)
        self.steps = 0

    def add(
        self,
        observations: Float,
        actions: Integers,
        rewards: Float,
        ended: np.ndarray[Any, Any],
        first: np.ndarray[Any, Any],
    ) -> None:
        """Adds one observation a stream, with the action before it (-1 at a start), its reward, and whether it is an end."""
        at = self.steps
        self._observations[:, at] = observations
        self._chosen[:, at] = actions
        self._rewards[:, at] = rewards
        self._continues[:, at] = 1 - ended
        self._first[:, at] = first
        self.steps += 1

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> dict[str, Tensor]:
        """Returns sequences of `length` observations, as tensors [batch, length, ...]."""
        streams = rng.integers(len(self._chosen), size=batch)[:, None]
        at = rng.integers(self.steps - length + 1, size=batch)[:, None] + np.arange(length)
        chosen = np.eye(self._actions + 1, dtype=np.float32)[self._chosen[streams, at]][..., :-1]
        first = self._first[streams, at]
        first[:, 0] = 1  # the memory begins anew
        return {
            "observations": torch.from_numpy(self._observations[streams, at]),
            "actions": torch.from_numpy(chosen),
            "rewards": torch.from_numpy(self._rewards[streams, at]),
            "continues": torch.from_numpy(self._continues[streams, at]),
            "first": torch.from_numpy(first),
        }

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        kept = ("_observations", "_chosen", "_rewards", "_continues", "_first")
        return {"steps": self.steps, **{name: torch.from_numpy(getattr(self, name)) for name in kept}}

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.steps = state["steps"]
        for name, one in state.items():
            if name != "steps":
                setattr(self, name, one.numpy())
