"""Policies: they choose the actions of episodes side by side, from observations or, knowing the simulator, from states."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Environment, Float, Integers
from deepwell.agents.world.model import Latent, WorldModel
from deepwell.agents.world.planner import LearnedDynamics, PlanOptions, rollouts

__all__ = ["ActorPolicy", "GreedyPolicy", "PlanPolicy", "Policy", "RandomPolicy"]


class Policy(Protocol):
    """A policy. An instance serves one run of episodes."""

    def act(self, observations: Float, states: NDArray[np.float64]) -> Integers:
        """Returns actions [N] for observations [N, O]; the states [N, S] are for policies that know the simulator."""
        ...


class RandomPolicy:
    """Chooses each action with equal probability."""

    def __init__(self, environment: Environment, seed: int) -> None:
        self._count = len(environment.spec.actions)
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Float, states: NDArray[np.float64]) -> Integers:
        """Returns random actions."""
        return self._rng.integers(self._count, size=len(observations))


class _Filtering:
    """Follows episodes with a model: carries on its memory with every observation."""

    def __init__(self, model: WorldModel, seed: int) -> None:
        self._model = model
        self._rng = np.random.default_rng(seed)
        self._latent: Latent | None = None
        self._actions: Integers | None = None

    def act(self, observations: Float, states: NDArray[np.float64]) -> Integers:
        """Returns the actions that the model speaks for."""
        model, count = self._model, len(observations)
        latent = model.start(count) if self._latent is None else self._latent
        before = np.full(count, -1) if self._actions is None else self._actions
        draws = self._rng.random((count, model.config.groups), np.float32)
        self._latent = model.posterior(model.advance(latent, before), observations, draws)
        self._actions = self._chosen(self._latent)
        return self._actions

    def _chosen(self, latent: Latent) -> Integers:
        raise NotImplementedError


class ActorPolicy(_Filtering):
    """Takes the actor's most probable action, without looking ahead."""

    def _chosen(self, latent: Latent) -> Integers:
        return self._model.policy(latent).argmax(-1)


class GreedyPolicy(_Filtering):
    """Takes the action whose next reward is the highest, by the model; equal ones by chance."""

    def _chosen(self, latent: Latent) -> Integers:
        count, actions = len(latent.memory), self._model.config.actions
        draws = self._rng.random((count, 8, self._model.config.groups))
        rewards = np.empty((count, actions))
        world = LearnedDynamics(self._model)
        for action in range(actions):
            rows = world.spread(latent, 8)
            moved = world.move(rows, np.full(count * 8, action), draws.reshape(count * 8, -1))
            rewards[:, action] = (moved.rewards).reshape(count, 8).mean(1)
        return (rewards + 1e-6 * self._rng.random(rewards.shape)).argmax(-1)


class PlanPolicy(_Filtering):
    """Takes the action with the best imagined returns."""

    def __init__(self, model: WorldModel, seed: int, options: PlanOptions) -> None:
        super().__init__(model, seed)
        self._options = options
        self._dynamics = LearnedDynamics(model)

    def _chosen(self, latent: Latent) -> Integers:
        outlook = rollouts(self._dynamics, latent, len(latent.memory), self._rng, self._options)
        return outlook.best(self._model.policy(latent).argmax(-1), self._options.margin)
