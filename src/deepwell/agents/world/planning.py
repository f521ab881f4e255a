"""`make_plan`: from a situation to the action to take, with what the model imagines of each action and after the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepwell.agents.world.environments import Environment, Float
from deepwell.agents.world.model import Latent, WorldModel
from deepwell.agents.world.planner import LearnedDynamics, Outlook, PlanOptions, rollouts
from deepwell.agents.world.situations import observation_of, step_before

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
    rng, futures = np.random.default_rng(seed), options.futures
    latent = _situated(model, observation, step_before(environment, situation), futures, rng)
    # A row is one future of one reading of the situation, so that doubt about the situation counts too.
    found = rollouts(LearnedDynamics(model), latent, futures, rng, replace(options, futures=1))
    outlook = Outlook(found.futures[:, :, 0].T[None])
    returns, errors = outlook.returns()[0], outlook.errors()[0]
    chosen = int(outlook.best(model.policy(latent).mean(0, keepdims=True).argmax(-1), options.margin)[0])
    order = np.argsort(-returns, kind="stable")
    names = environment.spec.actions
    return Plan(
        names[chosen],
        tuple(Option(names[at], float(returns[at]), float(errors[at])) for at in order),
        environment.spec.observation,
        imagined_course(model, latent, chosen, rng, options.horizon),
    )


def _situated(
    model: WorldModel,
    observation: Float,
    before: tuple[Float, int] | None,
    futures: int,
    rng: np.random.Generator,
) -> Latent:
    """Returns readings [futures] of a situation, as a start of an episode.

    A model fills its memory in the course of an episode. It is therefore shown a guess of the step before, where there is one:
    plans for the inventory then lose 0.09 instead of 0.14 to the best ones.
    """
    latent = model.start(futures)
    steps = [(observation, -1)] if before is None else [(before[0], -1), (observation, before[1])]
    for shown, action in steps:
        draws = rng.random((futures, model.config.groups), np.float32)
        memory = model.advance(latent, np.full(futures, action))
        latent = model.posterior(memory, np.broadcast_to(shown, (futures, len(shown))), draws)
    return latent


def imagined_course(
    model: WorldModel, latent: Latent, action: int, rng: np.random.Generator, horizon: int
) -> Course:
    """Returns a future of each state [futures] after an action, in which the actor goes on."""
    dynamics, rows = LearnedDynamics(model), latent
    futures = len(latent.memory)
    chosen = np.full(futures, action)
    observations, rewards, goes_on = [], [], []
    alive = np.ones(futures, np.float32)
    for step in range(horizon):
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
