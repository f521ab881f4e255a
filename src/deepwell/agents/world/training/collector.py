"""`Collector`: lives through episodes side by side with the actor's choices, and keeps them in the replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Environment
from deepwell.agents.world.model import WorldConfig
from deepwell.agents.world.training.network import State, WorldNetwork
from deepwell.agents.world.training.options import TrainOptions
from deepwell.agents.world.training.replay import Replay

__all__ = ["Collector"]


class Collector:
    """Episodes under way.

    Attributes:
        replay: everything that was lived through.
        steps: steps of interaction made.
        returns: undiscounted returns of the episodes that came to their end or were cut off, with the step of that.
        begun: [streams], whether an episode began in the last tick.
    """

    def __init__(self, environment: Environment, options: TrainOptions, config: WorldConfig) -> None:
        spec, count = environment.spec, options.streams
        self._environment, self._options = environment, options
        self._rng = np.random.default_rng(options.seed)
        # A start takes a place in a stream, but no step of interaction; the shortest episodes have about ten steps.
        length = options.steps // count * 5 // 4 + 2 * options.length
        self.replay = Replay(count, length, config)
        self.steps = 0
        self.returns: list[tuple[int, float]] = []
        self._states = np.zeros_like(environment.start(np.zeros((count, spec.start_draws))))
        self._over = np.ones(count, bool)  # begin anew at the next tick
        self._lived = np.zeros(count, np.int64)
        self._totals = np.zeros(count)
        self.begun = np.zeros(count, bool)
        self._latent: State | None = None
        self._of_acting: State | None = None
        self._actions = np.full(count, -1)

    def fits(self) -> bool:
        """Returns whether another tick keeps within the steps."""
        return self.steps + int((~self._over).sum()) <= self._options.steps

    @property
    def over(self) -> NDArray[np.bool_]:
        """[streams], whether the episode is over."""
        return self._over

    @property
    def totals(self) -> NDArray[np.float64]:
        """[streams], the undiscounted returns of the episodes under way."""
        return self._totals

    @torch.no_grad()
    def tick(self, network: WorldNetwork, acting: WorldNetwork | None = None) -> int:
        """Steps every episode, or begins it anew where the last one is over. Returns the steps of interaction.

        Args:
            network: follows the episodes for the replay.
            acting: chooses the actions; None: `network` does.
        """
        environment, spec = self._environment, self._environment.spec
        first, count = self._over.copy(), len(self._over)
        self.begun = first
        draws = self._rng.random((count, max(1, spec.step_draws)))
        stepped = environment.step(self._states, np.maximum(self._actions, 0), draws)
        begun = environment.start(self._rng.random((count, spec.start_draws)))
        self._states = np.where(first[:, None], begun, stepped.states)
        rewards = np.where(first, 0.0, stepped.rewards)
        ended = stepped.ended & ~first
        actions = np.where(first, -1, self._actions)
        self._lived = np.where(first, 0, self._lived + 1)
        self._totals = np.where(first, 0.0, self._totals + rewards)
        observations = environment.observe(self._states)
        self._over = ended | (self._lived >= spec.steps)
        made = int((~first).sum())
        self.steps += made
        self.returns += [(self.steps, float(total)) for total in self._totals[self._over]]
        latent = self._choose(network, acting, observations, actions, first)
        self.replay.add(observations, actions, rewards.astype(np.float32), ended, first, latent)
        return made

    def _choose(
        self, network: WorldNetwork, acting: WorldNetwork | None, observations: Any, actions: Any, first: Any
    ) -> State:
        """Chooses the next actions. Returns the states that the observations lead to."""
        self._latent = latent = self._followed(network, self._latent, observations, actions, first)
        if self.steps < self._options.random_steps:
            number = len(self._environment.spec.actions)
            self._actions = self._rng.integers(number, size=len(actions))
            return latent
        policy = network.policy(latent.features())
        if acting is not None:
            self._of_acting = self._followed(acting, self._of_acting, observations, actions, first)
            policy = acting.policy(self._of_acting.features())
        self._actions = torch.multinomial(policy, 1)[:, 0].numpy()
        return latent

    def _followed(
        self, network: WorldNetwork, last: State | None, observations: Any, actions: Any, first: Any
    ) -> State:
        count, number = len(actions), len(self._environment.spec.actions)
        kept = torch.from_numpy(~first[:, None]).float()
        last = last or network.start(count)
        one_hot = torch.from_numpy(np.eye(number + 1, dtype=np.float32)[actions][:, :-1])
        memory = network.advance(State(last.memory * kept, last.chance * kept), one_hot)
        return network.observed(memory, torch.from_numpy(observations))

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {
            "replay": self.replay.state(),
            "steps": self.steps,
            "returns": list(self.returns),
            "arrays": {name: torch.from_numpy(getattr(self, name).copy()) for name in _ARRAYS},
            "latent": None if self._latent is None else tuple(self._latent),
            "of_acting": None if self._of_acting is None else tuple(self._of_acting),
            "rng": self._rng.bit_generator.state,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.replay.load(state["replay"])
        self.steps, self.returns = state["steps"], list(state["returns"])
        for name, one in state["arrays"].items():
            setattr(self, name, one.numpy())
        self._latent = None if state["latent"] is None else State(*state["latent"])
        self._of_acting = None if state["of_acting"] is None else State(*state["of_acting"])
        self._rng.bit_generator.state = state["rng"]


_ARRAYS = ("_states", "_over", "_lived", "_totals", "_actions")
