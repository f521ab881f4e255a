"""`make_plan`: from a situation to the action to take, with what the model imagines of each action and after the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepwell.agents.world.environments import Environment, Float
from deepwell.agents.world.model import Latent, WorldModel
from deepwell.agents.world.planner import LearnedDynamics, PlanOptions, rollouts
from deepwell.agents.world.situations import observation_of

__all__ = ["Course", "Option", "Plan", "imagined_course", "make_plan"]


@dataclass(frozen=True, slots=True)
class Option:
    """An action and its prospects: mean imagined return, discounted, with its standard error over the futures."""

    action: str
    mean_return: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Course:
    """Imagined futures of an action, step by step.

    Attributes:
        observations: observations [futures, horizon, O].
        rewards: rewards [futures, horizon].
        goes_on: probability [horizon] that the episode has not ended.
    """

    observations: Float
    rewards: Float
    goes_on: Float


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan.

    Attributes:
        action: the recommended action: the actor's, unless another is clearly better in imagination.
        options: all actions, the one with the best mean return first.
        observation: names of the numbers of an observation.
        course: imagined futures of the recommended action.
    """

    action: str
    options: tuple[Option, ...]
    observation: tuple[str, ...]
    course: Course

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as JSON, with the means of the imagined futures."""
        means = self.course.observations.mean(0)
        return {
            "action": self.action,
            "options": [
                {
                    "action": one.action,
                    "mean_return": round(one.mean_return, 4),
                    "standard_error": round(one.standard_error, 4),
                }
                for one in self.options
            ],
            "imagined": [
                {
                    "step": step + 1,
                    "reward": round(float(self.course.rewards[:, step].mean()), 4),
                    "goes_on": round(float(self.course.goes_on[step]), 4),
                    "observation": {
                        name: round(float(value), 3)
                        for name, value in zip(self.observation, means[step], strict=True)
                    },
                }
                for step in range(len(means))
            ],
        }


def make_plan(
    model: WorldModel,
    environment: Environment,
    situation: Mapping[str, Any],
    options: PlanOptions,
    seed: int = 1,
) -> Plan:
    """Returns the plan for a situation. The same seed gives the same plan.

    Raises:
        InvalidRequest: the situation is not one of the environment.
    """
    observation = observation_of(environment, situation)
    rng = np.random.default_rng(seed)
    draws = rng.random((1, model.config.groups), np.float32)
    start = model.start(1)
    latent = model.posterior(model.advance(start, np.array([-1])), observation[None], draws)
    outlook = rollouts(LearnedDynamics(model), latent, 1, rng, options)
    returns, errors = outlook.returns()[0], outlook.errors()[0]
    chosen = int(outlook.best(model.policy(latent).argmax(-1), options.margin)[0])
    order = np.argsort(-returns, kind="stable")
    names = environment.spec.actions
    return Plan(
        names[chosen],
        tuple(Option(names[at], float(returns[at]), float(errors[at])) for at in order),
        environment.spec.observation,
        imagined_course(model, latent, chosen, rng, options),
    )


def imagined_course(
    model: WorldModel, latent: Latent, action: int, rng: np.random.Generator, options: PlanOptions
) -> Course:
    """Returns futures of one state after an action, in which the actor goes on."""
    dynamics, futures = LearnedDynamics(model), options.futures
    rows = dynamics.spread(latent, futures)
    chosen = np.full(futures, action)
    observations, rewards, goes_on = [], [], []
    alive = np.ones(futures, np.float32)
    for step in range(options.horizon):
        draws = rng.random((futures, dynamics.draws))
        if step:
            chosen = dynamics.choose(rows, draws)
        moved = dynamics.move(rows, chosen, draws)
        rows = moved.states
        observations.append(model.observation(rows))
        rewards.append(moved.rewards)
        alive = alive * moved.goes_on
        goes_on.append(alive.mean())
    return Course(np.stack(observations, 1), np.stack(rewards, 1), np.array(goes_on, np.float32))
