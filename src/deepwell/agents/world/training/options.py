"""The choices of a training, and those that each environment is trained with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from deepwell.agents.world.training.losses import LossOptions

__all__ = ["TrainOptions", "usual_options"]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Choices of a training.

    Attributes:
        seed: seed of weights, of episodes and of what is drawn.
        steps: steps of interaction; never more are made.
        streams: episodes side by side.
        random_steps: first steps, whose actions are random.
        steps_an_update: steps of interaction for each update.
        batch: sequences an update.
        length: observations of a sequence.
        horizon: imagined steps.
        starts: states of the batch that imagination starts from.
        rate: learning rate of the model.
        actor_rate: learning rate of the actor and the critic.
        entropy: weight of the actor's entropy.
        mix: lambda of the returns.
        average: decay of the critic that returns are computed with, per update.
        averaged: decay of the average over updates that the returned weights are.
        events: share of the sequences that are drawn around ends of episodes and rare rewards.
        carried: share of the sequences that begin with the memory as it was when they were lived through; the others begin
            with an empty one.
        settling: share of the steps, at the end, over which the learning rates fall to a tenth.
        rehearsals: updates of actor and critic alone after the last step, in the model as it then is; their learning rate falls
            to a tenth over these, and not before.
        rehearsed: rows of a rehearsal: states, of all that were lived through, times actions, times futures.
        futures: imagined futures of each action in a rehearsal.
        trials: whether the actor that collects is kept for whole episodes, and the training returns the best of these. Without,
            it returns what it has learned at the end.
        loss: weights of the model's errors.
    """

    seed: int = 1
    steps: int = 20_000
    streams: int = 8
    random_steps: int = 1_000
    steps_an_update: int = 12
    batch: int = 32
    length: int = 8
    horizon: int = 12
    starts: int = 128
    rate: float = 1e-3
    actor_rate: float = 5e-4
    entropy: float = 3e-3
    mix: float = 0.95
    average: float = 0.98
    averaged: float = 0.995
    events: float = 0.25
    carried: float = 0.5
    settling: float = 0.4
    rehearsals: int = 0
    rehearsed: int = 256
    futures: int = 2
    trials: bool = False
    loss: LossOptions = field(default_factory=LossOptions)


_USUAL: Final = TrainOptions()


def usual_options(environment: str) -> TrainOptions:
    """Returns the options that an environment is trained with."""
    if environment == "cart-pole":
        # The cart drifts for a hundred steps before it is at the edge: an exact model, and a longer look ahead.
        loss = replace(_USUAL.loss, precision=20.0, foretold=1.0)
        return replace(
            _USUAL,
            steps_an_update=6,
            batch=24,
            length=12,
            horizon=15,
            entropy=1e-3,
            trials=True,
            loss=loss,
        )
    if environment == "grid":
        # Rewards are rare, so the actor keeps trying for longer. Things out of sight still matter: longer sequences.
        return replace(
            _USUAL,
            random_steps=2_000,
            steps_an_update=7,
            batch=16,
            length=16,
            entropy=5e-3,
            rehearsals=600,
            loss=replace(_USUAL.loss, precision=1.0),
        )
    return _USUAL
