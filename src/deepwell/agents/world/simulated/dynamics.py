"""`SimulatorDynamics`: the true simulator as the dynamics of the same planner that looks ahead in the learned model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Environment, Float, Integers
from deepwell.agents.world.planner import Draws, Moved, PlanOptions, rollouts

__all__ = ["SimulatorDynamics", "SimulatorPlanPolicy"]

States = NDArray[np.float64]


class SimulatorDynamics:
    """The simulator as dynamics.

    Args:
        environment: the simulator.
        base: the base policy: actions [N] of states [N, S] and uniform draws [N]; None chooses at random.
    """

    def __init__(
        self, environment: Environment, base: Callable[[States, Any], Integers] | None = None
    ) -> None:
        spec = environment.spec
        self._environment, self._base = environment, base
        self.actions, self.discount = len(spec.actions), spec.discount
        self.draws = spec.step_draws + 1

    def spread(self, states: States, copies: int) -> States:
        """Returns each state `copies` times."""
        return states.repeat(copies, 0)

    def move(self, states: States, actions: Integers, draws: Draws) -> Moved[States]:
        """Returns what the simulator does."""
        stepped = self._environment.step(states, actions, draws[:, :-1])
        return Moved(stepped.states, stepped.rewards, 1.0 - stepped.ended)

    def choose(self, states: States, draws: Draws) -> Integers:
        """Returns the base policy's actions."""
        if self._base is None:
            return (draws[:, -1] * self.actions).astype(np.int64)
        return self._base(states, draws[:, -1])

    def value(self, states: States) -> NDArray[np.float64]:
        """Returns 0: the simulator knows of no value, its horizon is long instead."""
        return np.zeros(len(states))


class SimulatorPlanPolicy:
    """Plans with the simulator, from the true state."""

    def __init__(self, dynamics: SimulatorDynamics, seed: int, options: PlanOptions) -> None:
        self._dynamics, self._options = dynamics, options
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Float, states: States) -> Integers:
        """Returns the actions with the best simulated returns."""
        outlook = rollouts(self._dynamics, states, len(states), self._rng, self._options)
        return outlook.returns().argmax(-1)
