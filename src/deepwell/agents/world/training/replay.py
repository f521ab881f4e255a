"""`Replay`: what was lived through, one stream a parallel episode, and the sequences that training draws from it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from deepwell.agents.world.environments.protocol import Float, Integers
from deepwell.agents.world.model import WorldConfig
from deepwell.agents.world.training.network import State, WorldNetwork

__all__ = ["Replay"]

_RARE: Final = 0.1
"""Greatest share of the steps that rewards far from the mean may have to count as events."""


class Replay:
    """Streams of steps.

    Args:
        streams: parallel episodes.
        length: steps that a stream holds; more are an error of the caller.
        config: the shape of the model.
    """

    def __init__(self, streams: int, length: int, config: WorldConfig) -> None:
        self._config = config
        self._observations = np.zeros((streams, length, config.observation), np.float32)
        self._chosen = np.full((streams, length), -1, np.int64)
        self._rewards = np.zeros((streams, length), np.float32)
        self._continues = np.ones((streams, length), np.float32)
        self._first = np.zeros((streams, length), np.float32)
        self._memory = np.zeros((streams, length, config.memory), np.float32)
        self._classes = np.zeros((streams, length, config.groups), np.int16)
        self._changes = np.zeros(
            (2, config.observation)
        )  # squares of the changes of a step, and their number
        self.steps = 0

    def add(
        self,
        observations: Float,
        actions: Integers,
        rewards: Float,
        ended: np.ndarray[Any, Any],
        first: np.ndarray[Any, Any],
        latent: State,
    ) -> None:
        """Adds one observation a stream.

        Args:
            observations: what was seen.
            actions: the action before it, -1 at a start.
            rewards: the reward of that action.
            ended: whether it is an end.
            first: whether it is a start.
            latent: the state that it led the model of that time to.
        """
        at, config = self.steps, self._config
        self._observations[:, at] = observations
        if at:
            going = ~np.asarray(first, bool)
            changes = (self._observations[going, at] - self._observations[going, at - 1]).astype(np.float64)
            self._changes += [np.square(changes).sum(0), np.full(changes.shape[1], len(changes))]
        self._chosen[:, at] = actions
        self._rewards[:, at] = rewards
        self._continues[:, at] = 1 - ended
        self._first[:, at] = first
        self._memory[:, at] = latent.memory.numpy()
        self._classes[:, at] = latent.chance.unflatten(-1, (config.groups, config.classes)).argmax(-1).numpy()
        self.steps += 1

    def draw(
        self, rng: np.random.Generator, batch: int, length: int, events: float, carried: float
    ) -> dict[str, Tensor]:
        """Returns sequences as tensors [batch, length, ...], the states [batch, ...] that they begin from, and the precision.

        Args:
            rng: source of the choice.
            batch: number of sequences.
            length: observations of each.
            events: share of the sequences that hold an event.
            carried: share of the sequences that begin with the memory as it was when they were lived through.
        """
        streams, begins = self._places(rng, batch, length, events)
        at = begins[:, None] + np.arange(length)
        rows = streams[:, None]
        chosen = np.eye(self._config.actions + 1, dtype=np.float32)[self._chosen[rows, at]][..., :-1]
        first = self._first[rows, at]
        empty = (rng.random(batch) >= carried) | (begins == 0)
        first[empty, 0] = 1
        before = np.maximum(begins - 1, 0)
        chance = np.eye(self._config.classes, dtype=np.float32)[self._classes[streams, before]]
        return {
            "observations": torch.from_numpy(self._observations[rows, at]),
            "actions": torch.from_numpy(chosen),
            "rewards": torch.from_numpy(self._rewards[rows, at]),
            "continues": torch.from_numpy(self._continues[rows, at]),
            "first": torch.from_numpy(first),
            "memory": torch.from_numpy(self._memory[streams, before]),
            "chance": torch.from_numpy(chance.reshape(batch, -1)),
            "precision": self.precision(),
        }

    @torch.no_grad()
    def relived(self, network: WorldNetwork) -> tuple[State, Tensor]:
        """Returns the states [steps, ...] that all streams pass through with a network, and 0 for each that is an end."""
        state, states = network.start(len(self._chosen)), list[State]()
        one_hot = np.eye(self._config.actions + 1, dtype=np.float32)[:, :-1]
        for at in range(self.steps):
            kept = torch.from_numpy(1 - self._first[:, at, None])
            before = State(state.memory * kept, state.chance * kept)
            memory = network.advance(before, torch.from_numpy(one_hot[self._chosen[:, at]]))
            state = network.observed(memory, torch.from_numpy(self._observations[:, at]))
            states.append(state)
        whole = State(torch.cat([one.memory for one in states]), torch.cat([one.chance for one in states]))
        return whole, torch.from_numpy(self._continues[:, : self.steps].T.reshape(-1).copy())

    def precision(self) -> Tensor:
        """Returns the weight [observation] of each number's error: the less it changes in a step, the more it matters.

        It is inverse to the typical change, and 1 for the number in the middle. Without it, what moves slowly, as a cart,
        stands still in imagination: its steps are smaller than the errors that the others have.
        """
        squares, number = self._changes
        typical = np.sqrt(squares / np.maximum(number, 1))
        if not typical.any():
            return torch.ones(len(typical))
        typical = np.maximum(typical, 1e-3 * typical.max())
        return torch.from_numpy(np.median(typical) / typical).float()

    def events(self) -> np.ndarray[Any, Any]:
        """Returns where [streams, steps] episodes end or rewards are rare: farther from the mean than one deviation."""
        first = self._first[:, : self.steps] == 1
        rewards = self._rewards[:, : self.steps]
        lived = rewards[~first]
        if not len(lived):
            return first & ~first
        far = (np.abs(rewards - lived.mean()) > lived.std() + 1e-6) & ~first
        ends = self._continues[:, : self.steps] == 0
        return ends | far if far.mean() < _RARE else ends

    def _places(
        self, rng: np.random.Generator, batch: int, length: int, share: float
    ) -> tuple[Integers, Integers]:
        """Returns the streams and the first steps of sequences."""
        latest = self.steps - length
        streams = rng.integers(len(self._chosen), size=batch)
        begins = rng.integers(latest + 1, size=batch)
        where = np.argwhere(self.events())
        if len(where):
            chosen = where[rng.integers(len(where), size=batch)]
            around = np.clip(chosen[:, 1] - rng.integers(length, size=batch), 0, latest)
            taken = rng.random(batch) < share
            streams = np.where(taken, chosen[:, 0], streams)
            begins = np.where(taken, around, begins)
        return streams, begins

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"steps": self.steps, **{name: torch.from_numpy(getattr(self, name)) for name in _KEPT}}

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.steps = state["steps"]
        for name in _KEPT:
            setattr(self, name, state[name].numpy())


_KEPT: Final = (
    "_observations",
    "_chosen",
    "_rewards",
    "_continues",
    "_first",
    "_memory",
    "_classes",
    "_changes",
)
