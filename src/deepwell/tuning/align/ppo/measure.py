"""Figures of a policy on prompts: rewards, perplexity under the base, variety, and divergence from the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Final

from deepwell.tuning.align.ppo.experience import batch_of, pieces_of
from deepwell.tuning.align.ppo.judging import Judged, Rewards
from deepwell.tuning.align.ppo.maths import k3
from deepwell.tuning.align.ppo.policy import Policy
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rollouts import Rollout, Sampler, seed_of
from deepwell.tuning.evaluate.generation import distinct

__all__ = ["Figures", "measure", "shown"]

_HELD_OUT: Final = -1  # number in the place of an iteration, for seeds that training never draws


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one policy.

    Attributes:
        reward, cost, judge: mean scores; None: the run has no such reward.
        ended: share of the answers that the model ended itself.
        tokens: mean length of an answer.
        perplexity: of the answers under the base.
        distinct_2: share of different pairs of words among all of all answers.
        kl: divergence from the base in nats a token (k3).
    """

    reward: float
    cost: float | None
    judge: float | None
    ended: float
    tokens: float
    perplexity: float
    distinct_2: float
    kl: float

    def to_json(self) -> dict[str, float | None]:
        """Returns plain values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: None if one is None else round(one, 5) for name, one in values.items()}


def measure(
    policy: Policy,
    sampler: Sampler,
    rewards: Rewards,
    prompts: Sequence[tuple[Prompt, Sequence[int]]],
    *,
    seed: int,
    new_tokens: int,
    temperature: float,
    micro_tokens: int,
    samples: int = 1,
    base: bool = False,
) -> tuple[Figures, list[Rollout], Judged]:
    """Samples answers to each prompt and returns the figures with what they come from.

    Base and policy draw with the same seeds, so that their differences are paired.

    Args:
        samples: answers to each prompt.
        base: whether the model without its adapter is measured.
    """
    rollouts = sampler.sample(
        [tokens for _, tokens in prompts],
        seeds=[seed_of(seed, _HELD_OUT, number) for number in range(len(prompts))],
        max_tokens=new_tokens,
        temperature=temperature,
        samples=samples,
        base=base,
    )
    judged = rewards.of([one for one, _ in prompts for _ in range(samples)], rollouts)
    loss = kl = 0.0
    count = 0
    for pieces in pieces_of(rollouts, 1, micro_tokens):
        for rows in pieces:
            batch = batch_of(rollouts, rows).to(policy.device)
            reference = policy.reference(batch)
            loss -= float(reference.sum())
            if not base:
                kl += float(k3(policy.describe(batch)[1], reference).sum())
            count += len(reference)
    figures = Figures(
        reward=_mean(judged.reward),
        cost=_mean(judged.cost) if judged.cost else None,
        judge=_mean(judged.judge) if judged.judge else None,
        ended=_mean([float(one.ended) for one in rollouts]),
        tokens=_mean([float(len(one.tokens)) for one in rollouts]),
        perplexity=exp(loss / max(1, count)),
        distinct_2=distinct("\n".join(one.text for one in rollouts), 2),
        kl=kl / max(1, count),
    )
    return figures, rollouts, judged


def shown(
    rollouts: Sequence[Rollout], prompts: Sequence[Prompt], judged: Judged, count: int
) -> list[dict[str, Any]]:
    """Returns the first few answers with their prompts and scores."""
    return [
        {"prompt": prompt.shown[-200:], "answer": one.text[:500], "reward": round(score, 4)}
        for prompt, one, score in list(zip(prompts, rollouts, judged.reward, strict=True))[:count]
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
