"""The loop of PPO and GRPO: rollouts, scores, advantages, updates. The maths is in `maths`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.align.ppo.experience import (
    Estimation,
    Experience,
    Piece,
    describe,
    estimate,
    estimate_groups,
    pieces_of,
)
from deepwell.tuning.align.ppo.judging import Judged, Rewards
from deepwell.tuning.align.ppo.maths import k3, kl_coefficient_step, lagrange_step, policy_loss, value_loss
from deepwell.tuning.align.ppo.measure import shown
from deepwell.tuning.align.ppo.policy import Policy
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rollouts import Rollout, Sampler, seed_of
from deepwell.tuning.train.checkpoints import Progress
from deepwell.tuning.train.journal import Journal

__all__ = ["Loop", "Updated", "prompt_order"]

_SHOWN = 2


@dataclass(slots=True)
class Updated:
    """Figures of the updates of an iteration; the first two are of its first minibatch.

    Attributes:
        first_ratio: distance of the mean ratio from 1.
        first_clipped: share of clipped ratios.
        clipped, kl: means over all minibatches.
        steps: optimiser steps that were made.
        stopped: whether the divergence within the iteration ended them.
    """

    first_ratio: float = 0.0
    first_clipped: float = 0.0
    clipped: list[float] = field(default_factory=list[float])
    kl: list[float] = field(default_factory=list[float])
    value_loss: list[float] = field(default_factory=list[float])
    norms: list[float] = field(default_factory=list[float])
    steps: int = 0
    stopped: bool = False


class Loop:
    """One run.

    Args:
        prompts: prompts with their tokens.
        progress: the place to continue at; it is kept up to date. Its numbers are the weight of the divergence and the
            multiplier of the cost.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        rewards: Rewards,
        config: PPOConfig,
        prompts: Sequence[tuple[Prompt, Sequence[int]]],
        optimizer: torch.optim.Optimizer,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._policy = policy
        self._sampler = sampler
        self._rewards = rewards
        self._config = config
        self._prompts = prompts
        self._optimizer = optimizer
        self._journal = journal
        self._progress = progress
        self._seconds: list[float] = []
        progress.numbers.setdefault("kl_coefficient", config.train.kl_coefficient)
        progress.numbers.setdefault("kl", 0.0)
        progress.numbers.setdefault("multiplier", 0.0)

    def run(
        self,
        *,
        save: Callable[[], None],
        keep: Callable[[], None],
        evaluate: Callable[[], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Runs to the end and returns True, or to a request to stop and returns False after a checkpoint.

        Args:
            save: writes a checkpoint.
            keep: keeps the weights, whose divergence is within the budget.
            evaluate: measures the policy on held-out prompts.
            stop: polled after each iteration.
        """
        settings, progress = self._config.train, self._progress
        while progress.step < settings.iterations:
            self._iterate(keep)
            last = progress.step == settings.iterations
            if settings.evaluate_every and progress.step % settings.evaluate_every == 0:
                evaluate()
            if stop() and not last:
                save()
                return False
            if last or progress.step % settings.save_every == 0:
                save()
        return True

    def _iterate(self, keep: Callable[[], None]) -> None:
        began = time.perf_counter()
        settings, progress, numbers = self._config.train, self._progress, self._progress.numbers
        number = progress.step
        chosen = [
            self._prompts[one]
            for one in prompt_order(len(self._prompts), settings.prompts, number, settings.seed)
        ]
        self._sampler.swap(self._policy.write_adapter)
        rollouts = self._sampler.sample(
            [tokens for _, tokens in chosen],
            seeds=[seed_of(settings.seed, number, place) for place in range(len(chosen))],
            max_tokens=settings.new_tokens,
            temperature=settings.temperature,
            samples=settings.samples,
        )
        sampled = time.perf_counter() - began
        prompts = [one for one, _ in chosen for _ in range(settings.samples)]
        judged = self._rewards.of(prompts, rollouts)
        planned = pieces_of(rollouts, settings.minibatches, settings.micro_tokens)
        minibatches = [[describe(self._policy, rollouts, rows) for rows in rows_of] for rows_of in planned]
        pieces = [piece for minibatch in minibatches for piece in minibatch]
        kl = _mean_of([k3(piece.old, piece.reference) for piece in pieces])
        if kl <= settings.kl_budget:
            keep()
        coefficient = kl_coefficient_step(numbers["kl_coefficient"], kl, numbers["kl"], settings.kl_budget)
        numbers["kl_coefficient"], numbers["kl"] = coefficient, kl
        multiplier = numbers["multiplier"]
        experience = self._estimate(pieces, judged, multiplier)
        updated = self._update(experience, minibatches, coefficient)
        if judged.cost:
            numbers["multiplier"] = lagrange_step(
                multiplier, float(np.mean(judged.cost)), settings.cost_limit, rate=settings.cost_rate
            )
        progress.step += 1
        progress.tokens += sum(len(one.tokens) for one in rollouts)
        self._seconds.append(time.perf_counter() - began)
        self._tell(
            judged, rollouts, prompts, updated, (kl, coefficient, multiplier, sampled, _entropy(pieces))
        )

    def _estimate(self, pieces: Sequence[Piece], judged: Judged, multiplier: float) -> Experience:
        settings = self._config.train
        trained = torch.tensor(judged.trained, dtype=torch.float32)
        if self._config.algorithm == "grpo":
            return estimate_groups(pieces, trained, settings.samples)
        columns = [trained]
        if judged.cost:
            columns.append(torch.tensor(judged.cost, dtype=torch.float32))
        estimation = Estimation(settings.gamma, settings.lam, multiplier)
        return estimate(pieces, torch.stack(columns, 1), self._policy, estimation)

    def _update(
        self, experience: Experience, minibatches: Sequence[Sequence[Piece]], coefficient: float
    ) -> Updated:
        settings = self._config.train
        updated = Updated()
        starts = np.cumsum([0, *(len(one) for one in minibatches)])
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, self._progress.step, epoch]).permutation(
                len(minibatches)
            )
            for minibatch in order:
                places = range(int(starts[minibatch]), int(starts[minibatch + 1]))
                kl = self._backward(experience, places, coefficient, updated)
                if kl > settings.update_kl:
                    self._optimizer.zero_grad(set_to_none=True)
                    updated.stopped = True
                    return updated
                self._step(updated)
        return updated

    def _backward(
        self, experience: Experience, places: Sequence[int], coefficient: float, updated: Updated
    ) -> float:
        """Adds the gradients of a minibatch and returns its divergence from the sampling policy."""
        settings = self._config.train
        count = sum(len(experience.pieces[place].old) for place in places)
        sums = np.zeros(4)  # clipped, ratio, kl, value loss
        for place in places:
            piece = experience.pieces[place]
            share = len(piece.old) / count
            every = torch.ones_like(piece.old, dtype=torch.bool)
            logprobs = self._policy.logprobs(piece.batch)
            found = policy_loss(logprobs, piece.old, experience.advantages[place], every, clip=settings.clip)
            loss = found.loss + coefficient * k3(logprobs, piece.reference).mean()
            value = torch.zeros((), device=loss.device)
            if experience.values:
                values, old, returns = (
                    self._policy.values(piece.hidden),
                    experience.values[place],
                    experience.returns[place],
                )
                value = value_loss(
                    values, old, returns, every[:, None].expand_as(values), clip=settings.value_clip
                )
            ((loss + value) * share).backward()
            sums += share * np.array([found.clipped, found.ratio, found.kl, float(value.detach())])
        if not updated.clipped:
            updated.first_ratio, updated.first_clipped = abs(float(sums[1]) - 1), float(sums[0])
        updated.clipped.append(float(sums[0]))
        updated.kl.append(float(sums[2]))
        updated.value_loss.append(float(sums[3]))
        return float(sums[2])

    def _step(self, updated: Updated) -> None:
        settings = self._config.train
        adapter = list(self._policy.adapter.values())
        updated.norms.append(float(torch.nn.utils.clip_grad_norm_(adapter, settings.max_norm)))
        torch.nn.utils.clip_grad_norm_(self._policy.values.parameters(), settings.max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        updated.steps += 1

    def _tell(
        self,
        judged: Judged,
        rollouts: Sequence[Rollout],
        prompts: Sequence[Prompt],
        updated: Updated,
        numbers: tuple[float, float, float, float, float],
    ) -> None:
        progress = self._progress
        kl, coefficient, multiplier, sampled, entropy = numbers
        recent = self._seconds[-20:]
        tokens = sum(len(one.tokens) for one in rollouts)
        values = {
            "reward": float(np.mean(judged.reward)),
            "trained_reward": float(np.mean(judged.trained)),
            "kl": kl,
            "kl_coefficient": coefficient,
            "entropy": entropy,
            "ended": float(np.mean([one.ended for one in rollouts])),
            "answer_tokens": tokens / len(rollouts),
            "first_ratio": updated.first_ratio,
            "first_clipped": updated.first_clipped,
            "clipped": float(np.mean(updated.clipped)),
            "update_kl": updated.kl[-1],
            "value_loss": float(np.mean(updated.value_loss)),
            "gradient_norm": float(np.mean(updated.norms)) if updated.norms else 0.0,
        }
        if judged.cost:
            values |= {"cost": float(np.mean(judged.cost)), "multiplier": multiplier}
        if judged.judge:
            values["judge"] = float(np.mean(judged.judge))
        left = (self._config.train.iterations - progress.step) * sum(recent) / len(recent)
        self._journal.event(
            "step",
            step=progress.step,
            steps=self._config.train.iterations,
            **{name: round(one, 6) for name, one in values.items()},
            optimizer_steps=updated.steps,
            stopped=updated.stopped,
            samples=shown(rollouts, prompts, judged, _SHOWN),
            rollout_tokens_per_second=round(tokens / max(sampled, 1e-9), 1),
            seconds_left=round(left, 1),
        )


def prompt_order(count: int, wanted: int, iteration: int, seed: int) -> list[int]:
    """Returns the numbers of the prompts of an iteration: all prompts in a shuffled order, again and again.

    It depends on nothing but its arguments, so that a resumed run goes on as if it had not stopped.
    """
    found: list[int] = []
    shuffled: dict[int, list[int]] = {}
    for place in range(iteration * wanted, (iteration + 1) * wanted):
        epoch, index = divmod(place, count)
        if epoch not in shuffled:
            shuffled[epoch] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
        found.append(shuffled[epoch][index])
    return found


def _mean_of(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


def _entropy(pieces: Sequence[Piece]) -> float:
    """Returns the entropy of the sampling policy, estimated from its samples: the mean of -log p."""
    return -_mean_of([piece.old for piece in pieces])
