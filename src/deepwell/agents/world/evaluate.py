"""Runs a policy through episodes with seeds of their own: every policy meets the same starts and the same chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Environment
from deepwell.agents.world.policies import Policy

__all__ = ["evaluate"]


def evaluate(
    environment: Environment,
    policy: Policy,
    seeds: Sequence[int],
    update: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Returns the undiscounted return of an episode for each seed.

    Args:
        environment: where the episodes take place.
        policy: a fresh policy.
        seeds: the starts and the chance of each episode follow from its seed alone.
        update: receives the steps done, and the most there may be.
    """
    spec, count = environment.spec, len(seeds)
    sources = [np.random.default_rng(seed) for seed in seeds]
    states = environment.start(np.stack([one.random(spec.start_draws) for one in sources]))
    draws = np.stack([one.random((spec.steps, max(1, spec.step_draws))) for one in sources], 1)
    totals, going = np.zeros(count), np.ones(count, bool)
    for step in range(spec.steps):
        actions = policy.act(environment.observe(states), states)
        stepped = environment.step(states, actions, draws[step])
        totals += going * stepped.rewards
        states = np.where(going[:, None], stepped.states, states)
        going &= ~stepped.ended
        if update:
            update(step + 1, spec.steps)
        if not going.any():
            break
    return totals
