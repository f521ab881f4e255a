"""The maths of PPO and GRPO as pure functions of tensors.

Shapes are [samples, tokens] where nothing else is said: one row for each sampled answer, padded on the right. Masks are bool
and true for the tokens of the answer, the one that ends it included. They are always given, because token ids say nothing about
padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "PolicyLoss",
    "constrained_advantages",
    "gae",
    "group_advantages",
    "k3",
    "kl_coefficient_step",
    "lagrange_step",
    "last_token_rewards",
    "masked_mean",
    "policy_loss",
    "value_loss",
    "whiten",
]

_EPSILON: Final = 1e-8
_AIM: Final = 0.7
_MOST_LOG_RATIO: Final = 20.0
"""Log ratios are cut there before they are exponentiated: e^20 is finite in float32, and its gradient is clipped anyway."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the marked values; 0 where none is marked."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def last_token_rewards(scores: Tensor, mask: Tensor) -> Tensor:
    """Returns rewards that are zero but for the score of each answer, [samples], on its last token.

    Raises:
        ValueError: an answer has no token.
    """
    lengths = mask.sum(1)
    if bool((lengths == 0).any()):
        raise ValueError("an answer without a token has no place for its score")
    rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    return rewards.scatter_(1, lengths[:, None] - 1, scores[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Returns advantages and returns by generalised advantage estimation (arXiv 1506.02438, equation 16).

    An answer ends for good at its last marked token: the value behind it is zero. Both are zero where nothing is marked.
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(running)  # value of the next token
    for token in range(rewards.shape[1] - 1, -1, -1):
        here = mask[:, token]
        delta = rewards[:, token] + gamma * following - values[:, token]
        running = torch.where(here, delta + gamma * lam * running, 0.0)
        following = torch.where(here, values[:, token], 0.0)
        advantages[:, token] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Returns values of mean 0 and variance 1 over the marked ones, and 0 elsewhere. Equal ones become 0."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + _EPSILON), 0.0)


def group_advantages(scores: Tensor) -> Tensor:
    """Returns each score's distance from the mean of its group in standard deviations (GRPO, arXiv 2402.03300, section 4.1.2).

    A group whose scores are equal teaches nothing: its advantages are 0.

    Args:
        scores: [prompts, answers to each].
    """
    if scores.shape[1] < 2:
        raise ValueError("a group needs two answers or more to compare")
    centred = scores - scores.mean(1, keepdim=True)
    deviation = centred.pow(2).mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 1e-6, centred / (deviation + 1e-6), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyLoss:
    """The clipped surrogate of a batch.

    Attributes:
        loss: mean over the tokens; it has the gradient.
        clipped: share of the tokens whose ratio was clipped.
        ratio: mean ratio of new to old probability.
        kl: estimated divergence of the new policy from the one that sampled, by `k3`.
    """

    loss: Tensor
    clipped: float
    ratio: float
    kl: float


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, clip: float
) -> PolicyLoss:
    """Returns PPO's clipped objective as a loss (arXiv 1707.06347, equation 7)."""
    log_ratio = torch.where(mask, logprobs - old, 0.0).clamp(-_MOST_LOG_RATIO, _MOST_LOG_RATIO)
    ratio = log_ratio.exp()
    limited = ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.maximum(-advantages * ratio, -advantages * limited), mask)
    with torch.no_grad():
        clipped = masked_mean((limited != ratio).float(), mask)
        kl = masked_mean(k3(logprobs, old), mask)
        mean = masked_mean(ratio, mask)
    return PolicyLoss(loss, float(clipped), float(mean), float(kl))


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, *, clip: float) -> Tensor:
    """Returns half of the mean squared error of values, which gain nothing by leaving the old ones by more than `clip`."""
    limited = old + (values - old).clamp(-clip, clip)
    worse = torch.maximum((values - returns) ** 2, (limited - returns) ** 2)
    return 0.5 * masked_mean(worse, mask)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Returns Schulman's estimate of KL(policy || reference) from the policy's own samples, for each token.

    With d = reference - policy it is e^d - d - 1: without bias, never negative, and of low variance where both are close.
    """
    d = (reference - logprobs).clamp(-_MOST_LOG_RATIO, _MOST_LOG_RATIO)
    return (torch.expm1(d) - d).clamp(min=0)  # rounding may leave -1e-12


def kl_coefficient_step(coefficient: float, kl: float, before: float, budget: float) -> float:
    """Returns the weight of the divergence that holds it near 70 % of its budget.

    The weight follows the logarithm of the divergence: by its distance from the aim, and by its change since the iteration
    before. Without the second part the weight grows only when the budget is spent, and is then so large that it takes back
    what was learnt: the divergence answers an iteration late.

    Args:
        kl, before: divergence from the base now and in the iteration before, in nats a token; 0 before the first update.
    """
    if kl <= 0:
        return coefficient
    away = max(-1.0, min(1.0, math.log(kl / (_AIM * budget))))
    change = max(-0.7, min(0.7, math.log(kl / before))) if before > 0 else 0.0
    step = max(-0.7, min(0.7, 0.2 * away + change))
    return min(10.0, max(1e-3, coefficient * math.exp(step)))


def lagrange_step(multiplier: float, cost: float, limit: float, *, rate: float) -> float:
    """Returns the multiplier of a constraint `cost <= limit` after one step of dual ascent; it is never negative."""
    return max(0.0, multiplier + rate * (cost - limit))


def constrained_advantages(reward: Tensor, cost: Tensor, multiplier: float) -> Tensor:
    """Returns the advantages of reward less cost, scaled so that they do not grow with the multiplier (arXiv 2310.12773)."""
    return (reward - multiplier * cost) / (1 + multiplier)
