"""`imagine_beside`: an episode as it was, and as the model imagines it from its first steps on, with the same actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepwell.agents.world.environments import Environment, Float, Integers
from deepwell.agents.world.model import Latent, WorldModel

__all__ = ["Beside", "imagine_beside"]


@dataclass(frozen=True, slots=True)
class Beside:
    """Imagination beside reality.

    Attributes:
        environment: name of the environment.
        seen: observations that the model was shown; the rest it imagined.
        actions: action [T - 1] after each observation.
        real: observations [T, O].
        imagined: imagined observations [futures, T - seen, O].
        real_rewards: rewards [T - 1].
        imagined_rewards: imagined rewards [futures, T - seen].
    """

    environment: str
    seen: int
    actions: Integers
    real: Float
    imagined: Float
    real_rewards: Float
    imagined_rewards: Float

    def error(self) -> float:
        """Returns the root of the mean squared error of the mean imagined observations."""
        return _root(self.imagined.mean(0) - self.real[self.seen :])

    def still_error(self) -> float:
        """Returns the same of a forecast that the last observation shown stays as it is."""
        return _root(self.real[self.seen - 1] - self.real[self.seen :])


def imagine_beside(
    model: WorldModel, environment: Environment, seed: int, seen: int, steps: int, futures: int = 32
) -> Beside:
    """Returns `steps` imagined steps beside an episode in which the actor's choices were taken.

    Args:
        model: the model.
        environment: the environment.
        seed: seed of the episode and of the futures.
        seen: observations that the model is shown first.
        steps: most steps after these; fewer if the episode ends.
        futures: imagined futures.
    """
    spec, rng = environment.spec, np.random.default_rng(seed)
    states = environment.start(rng.random((1, spec.start_draws)))
    real, actions, rewards = [environment.observe(states)[0]], list[int](), list[float]()
    latent = _shown(model, model.start(1), -1, real[0], rng)
    begin: Latent = latent
    for step in range(seen + steps - 1):
        action = int(model.policy(latent).argmax(-1)[0])
        stepped = environment.step(states, np.array([action]), rng.random((1, max(1, spec.step_draws))))
        states = stepped.states
        real.append(environment.observe(states)[0])
        actions.append(action)
        rewards.append(float(stepped.rewards[0]))
        latent = _shown(model, latent, action, real[-1], rng)
        if step + 2 == seen:
            begin = latent
        if stepped.ended[0]:
            break
    imagined, imagined_rewards = [], []
    rows = Latent(begin.memory.repeat(futures, 0), begin.chance.repeat(futures, 0))
    for action in actions[seen - 1 :]:
        draws = rng.random((futures, model.config.groups), np.float32)
        rows = model.prior(model.advance(rows, np.full(futures, action)), draws)
        imagined.append(model.observation(rows))
        imagined_rewards.append(model.reward(rows))
    return Beside(
        spec.name,
        seen,
        np.array(actions),
        np.stack(real),
        np.stack(imagined, 1) if imagined else np.zeros((futures, 0, len(spec.observation)), np.float32),
        np.array(rewards, np.float32),
        np.stack(imagined_rewards, 1) if imagined_rewards else np.zeros((futures, 0), np.float32),
    )


def _shown(
    model: WorldModel, latent: Latent, action: int, observation: Float, rng: np.random.Generator
) -> Latent:
    draws = rng.random((1, model.config.groups), np.float32)
    return model.posterior(model.advance(latent, np.array([action])), observation[None], draws)


def _root(errors: Float) -> float:
    return float(np.sqrt(np.square(errors).mean())) if errors.size else 0.0
