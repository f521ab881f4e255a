"""The planner: tries each action in imagination, many times, and takes the one with the best mean return.

After the first action a base policy goes on, and a value stands for what comes after the last step. This is the rollout
algorithm (Tesauro and Galperin, "On-line policy improvement using Monte-Carlo search", 1996; Bertsekas, "Rollout, policy
iteration and distributed reinforcement learning", 2020): its choices are at least as good as the base policy's, as far
as the dynamics are right. The dynamics may be a learned model or the simulator itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Float, Integers
from deepwell.agents.world.model import Latent, WorldModel

__all__ = ["Dynamics", "LearnedDynamics", "Moved", "Outlook", "PlanOptions", "rollouts"]

Draws = NDArray[np.float64]
S = TypeVar("S")


class Moved(NamedTuple, Generic[S]):
    """Results of an imagined step: states, rewards [N], and probabilities [N] that the episode goes on."""

    states: S
    rewards: NDArray[np.floating]
    goes_on: NDArray[np.floating]


class Dynamics(Protocol[S]):
    """Answers that a planner asks of the world, with states S of N episodes.

    Attributes:
        actions: number of actions.
        discount: weight of the next step's reward.
        draws: random numbers that a step takes, those of the base policy's choice among them.
    """

    actions: int
    discount: float
    draws: int

    def spread(self, states: S, copies: int) -> S:
        """Returns each state `copies` times, one after the other."""
        ...

    def move(self, states: S, actions: Integers, draws: Draws) -> Moved[S]:
        """Returns what actions do to states, for uniform draws [N, draws]."""
        ...

    def choose(self, states: S, draws: Draws) -> Integers:
        """Returns the base policy's actions, for uniform draws [N, draws]."""
        ...

    def value(self, states: S) -> NDArray[np.floating]:
        """Returns what the last states [N] of an imagination are worth."""
        ...


class LearnedDynamics:
    """The learned model as dynamics: its actor is the base policy, its critic the value."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self.actions = model.config.actions
        self.discount = model.config.discount
        self.draws = model.config.groups

    def spread(self, states: Latent, copies: int) -> Latent:
        """Returns each state `copies` times."""
        return Latent(states.memory.repeat(copies, 0), states.chance.repeat(copies, 0))

    def move(self, states: Latent, actions: Integers, draws: Draws) -> Moved[Latent]:
        """Returns what the model expects of actions."""
        memory = self.model.advance(states, actions)
        after = self.model.prior(memory, draws.astype(np.float32))
        return Moved(after, self.model.reward(after), self.model.goes_on(after))

    def choose(self, states: Latent, draws: Draws) -> Integers:
        """Returns the actor's most probable actions."""
        return self.model.policy(states).argmax(-1)

    def value(self, states: Latent) -> Float:
        """Returns the critic's estimates."""
        return self.model.value(states)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The budget of a plan.

    Attributes:
        futures: imagined futures of each first action. All actions meet the same random numbers, so that they differ by
            what they do, not by luck.
        horizon: steps of each.
        margin: standard errors by which another action must be better than the base policy's to be taken instead.
    """

    futures: int = 16
    horizon: int = 12
    margin: float = 3.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """Imagined returns.

    Attributes:
        futures: discounted returns [N, actions, futures]; a future has the same random numbers for every action.
    """

    futures: NDArray[np.float64]

    def returns(self) -> NDArray[np.float64]:
        """Returns the mean return [N, actions] of each action."""
        return self.futures.mean(-1)

    def errors(self) -> NDArray[np.float64]:
        """Returns the standard errors [N, actions] of these means."""
        return self.futures.std(-1) / np.sqrt(self.futures.shape[-1])

    def best(self, usual: Integers, margin: float) -> Integers:
        """Returns the best action [N], or the usual one unless the best is better by `margin` standard errors.

        The error is that of the differences future by future, which the shared random numbers keep small.
        """
        best = self.returns().argmax(-1)
        rows = np.arange(len(best))
        gains = self.futures[rows, best] - self.futures[rows, usual]
        error = gains.std(-1) / np.sqrt(gains.shape[-1])
        return np.where(gains.mean(-1) > margin * error, best, usual)


def rollouts(
    dynamics: Dynamics[S], states: S, count: int, rng: np.random.Generator, options: PlanOptions
) -> Outlook:
    """Returns the outlook of every action in N = `count` states.

    Args:
        dynamics: the world, learned or true.
        states: states of the episodes.
        count: number of these.
        rng: source of the random numbers.
        options: the budget.
    """
    actions, futures = dynamics.actions, options.futures
    rows = dynamics.spread(states, actions * futures)  # [count, actions, futures]
    chosen = np.broadcast_to(np.arange(actions)[:, None], (count, actions, futures)).reshape(-1)
    returns = np.zeros(count * actions * futures)
    weights = np.ones_like(returns)
    for step in range(options.horizon):
        draws = rng.random((count, 1, futures, dynamics.draws))
        draws = np.broadcast_to(draws, (count, actions, futures, dynamics.draws)).reshape(-1, dynamics.draws)
        if step:
            chosen = dynamics.choose(rows, draws)
        rows, rewards, goes_on = dynamics.move(rows, chosen, draws)
        returns += weights * rewards
        weights *= dynamics.discount * goes_on
    returns += weights * dynamics.value(rows)
    return Outlook(returns.reshape(count, actions, futures))
