"""The errors that training brings down, as pure functions: of the model, of the critic, and of the actor in imagination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from deepwell.agents.world.training.network import State, WorldNetwork, drawn

__all__ = [
    "Imagined",
    "LossOptions",
    "imagine",
    "kl_balanced",
    "lambda_returns",
    "model_loss",
    "tried",
    "two_hot",
]


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weights of the errors.

    Attributes:
        precision: weight of an observation's squared error, times that of each number; or of its cross entropy if it is binary.
        rewards: weight of the reward's squared error.
        foretold: weight of the error, as that of the observation, of what is foretold without a look from the first third of a
            sequence on, for worlds without chance: it makes small changes add up rightly. Where there is chance, a forecast
            has to differ from what happens, so that this error must not count.
        free_nats: divergence of prior and posterior that costs nothing.
        dynamics: weight of the divergence that moves the prior.
        representation: weight of the one that moves the posterior.
    """

    precision: float = 20.0
    rewards: float = 10.0
    foretold: float = 0.0
    free_nats: float = 1.0
    dynamics: float = 1.0
    representation: float = 0.1


def kl_balanced(posterior: Tensor, prior: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """Returns the divergence [...] of distributions [..., groups, classes], and what of it is brought down.

    Prior and posterior are moved towards each other with weights of their own (KL balancing, DreamerV2, section 2.1).
    """

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p.log() - q.log())).sum((-2, -1))

    moves_prior = divergence(posterior.detach(), prior)
    moves_posterior = divergence(posterior, prior.detach())
    free = options.free_nats
    loss = options.dynamics * moves_prior.clamp(min=free) + options.representation * moves_posterior.clamp(
        min=free
    )
    return moves_prior.detach(), loss


def model_loss(
    network: WorldNetwork, batch: dict[str, Tensor], options: LossOptions
) -> tuple[Tensor, State, dict[str, Tensor]]:
    """Returns the model's error, the states [B, T] without gradients, and the parts of the error."""
    filtered = network.filtered(batch)
    features = filtered.state.features()
    seen = _errors(network, features, batch["observations"], batch["precision"])
    rewards = (network.reward(features)[..., 0] - batch["rewards"]).square()
    # The reward before a first observation is that of no step.
    rewards = rewards * (1 - batch["first"])
    goes_on = functional.binary_cross_entropy_with_logits(
        network.continues(features)[..., 0], batch["continues"], reduction="none"
    )
    divergence, pulled = kl_balanced(filtered.posterior, filtered.prior, options)
    loss = options.precision * seen + options.rewards * rewards + goes_on + pulled
    parts = {"observation": seen, "reward": rewards, "continues": goes_on, "divergence": divergence}
    if options.foretold:
        ahead = _foretold(network, filtered.state, batch)
        loss = loss.mean() + options.foretold * options.precision * ahead
        parts["foretold"] = ahead
    state = State(filtered.state.memory.detach(), filtered.state.chance.detach())
    return loss.mean(), state, {name: one.detach().mean() for name, one in parts.items()}


def _foretold(network: WorldNetwork, states: State, batch: dict[str, Tensor]) -> Tensor:
    """Returns the error of observations that are foretold from the first third of sequences on, up to the next start."""
    at = max(1, states.memory.shape[1] // 3)
    begin = State(states.memory[:, at - 1], states.chance[:, at - 1])
    features = network.foretold(begin, batch["actions"][:, at:])
    errors = _errors(network, features, batch["observations"][:, at:], batch["precision"])
    known = (1 - batch["first"][:, at:]).cumprod(1)
    return (errors * known).mean()


def _errors(network: WorldNetwork, features: Tensor, observations: Tensor, precision: Tensor) -> Tensor:
    """Returns the errors [B, T] of the observations that features give."""
    decoded = network.decoder(features)
    if network.config.binary:
        return functional.binary_cross_entropy_with_logits(decoded, observations, reduction="none").sum(-1)
    return ((decoded - observations).square() * precision).sum(-1)


class Imagined(NamedTuple):
    """Imagined roll-outs: features [H + 1, N, F], actions [H, N], rewards and continuation [H, N] of the states reached."""

    features: Tensor
    actions: Tensor
    rewards: Tensor
    continues: Tensor


@torch.no_grad()
def imagine(network: WorldNetwork, state: State, steps: int) -> Imagined:
    """Returns what follows states [N, ...] if the actor chooses."""
    features, actions = [state.features()], []
    for _ in range(steps):
        probabilities = network.policy(features[-1])
        action = torch.multinomial(probabilities, 1)[:, 0]
        chosen = functional.one_hot(action, network.config.actions).float()
        state = network.imagined(network.advance(state, chosen))
        features.append(state.features())
        actions.append(action)
    whole = torch.stack(features)
    return Imagined(
        whole,
        torch.stack(actions),
        network.reward(whole[1:])[..., 0],
        network.continues(whole[1:])[..., 0].sigmoid(),
    )


@torch.no_grad()
def tried(network: WorldNetwork, begin: State, steps: int, futures: int) -> Imagined:
    """Returns what follows states [N, ...] if each action is tried first and then the actor chooses.

    Rows are [N, actions, futures]. The actions of a future meet the same random numbers, so that they differ by what they do,
    not by luck.
    """
    config, count = network.config, len(begin.memory)
    state = State(*(one.repeat_interleave(config.actions * futures, 0) for one in begin))
    action = torch.arange(config.actions).repeat_interleave(futures).repeat(count)
    features, actions = [state.features()], []
    for step in range(steps):
        draws = torch.rand(count, 1, futures, config.groups + 1)
        draws = draws.expand(-1, config.actions, -1, -1).flatten(0, 2)
        if step:
            action = drawn(network.policy(features[-1]), draws[:, -1]).argmax(-1)
        chosen = functional.one_hot(action, config.actions).float()
        state = network.imagined(network.advance(state, chosen), draws[:, :-1])
        features.append(state.features())
        actions.append(action)
    whole = torch.stack(features)
    rewards = network.reward(whole[1:])[..., 0]
    return Imagined(whole, torch.stack(actions), rewards, network.continues(whole[1:])[..., 0].sigmoid())


def lambda_returns(rewards: Tensor, discounts: Tensor, values: Tensor, mix: float) -> Tensor:
    """Returns the returns [H, N] that mix bootstraps of all lengths (Sutton and Barto, 2018, section 12.1).

    Args:
        rewards: rewards of the states reached, [H, N].
        discounts: weight of what follows each of them, [H, N].
        values: values of the states reached, [H, N].
        mix: lambda.
    """
    following, found = values[-1], []
    for step in reversed(range(len(rewards))):
        following = rewards[step] + discounts[step] * ((1 - mix) * values[step] + mix * following)
        found.append(following)
    return torch.stack(found[::-1])


def two_hot(values: Tensor, places: Tensor) -> Tensor:
    """Returns distributions [..., bins] over ascending places whose mean is the value, or the outermost place beyond them.

    They lie on the two places around the value, however far these are apart: a mean in symlog would come out of it too large.
    """
    x = values.clamp(places[0], places[-1])
    low = (torch.searchsorted(places, x, right=True) - 1).clamp(max=len(places) - 2)
    share = (x - places[low]) / (places[low + 1] - places[low])
    below = functional.one_hot(low, len(places)) * (1 - share)[..., None]
    return below + functional.one_hot(low + 1, len(places)) * share[..., None]
