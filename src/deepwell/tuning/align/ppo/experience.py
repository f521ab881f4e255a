"""`Experience`: the rollouts of an iteration with all that an update needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepwell.tuning.align.ppo.maths import (
    constrained_advantages,
    gae,
    group_advantages,
    last_token_rewards,
    whiten,
)
from deepwell.tuning.align.ppo.policy import Policy
from deepwell.tuning.align.ppo.rollouts import Rollout
from deepwell.tuning.train.batches import Batch, collate
from deepwell.tuning.train.examples import Example

__all__ = [
    "Estimation",
    "Experience",
    "Piece",
    "batch_of",
    "describe",
    "estimate",
    "estimate_groups",
    "pieces_of",
]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rollouts that are computed together.

    Updates use the pieces that the old probabilities were computed in: the same rows give the same bits, so the ratio of a
    policy that has not changed is exactly 1 in any precision.

    Attributes:
        rows: numbers of the rollouts.
        mask: bool [rows, tokens] of the answers.
        old, reference: log probabilities of the sampling policy and of the base, [labelled].
        hidden: states of the sampling policy, [labelled, width].
    """

    rows: tuple[int, ...]
    batch: Batch
    mask: Tensor
    old: Tensor
    reference: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """Pieces with the estimates for their tokens.

    Attributes:
        advantages: [labelled] for each piece.
        returns, values: [labelled, columns] for each piece; empty for GRPO, which has no values.
    """

    pieces: tuple[Piece, ...]
    advantages: tuple[Tensor, ...]
    returns: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimation:
    """Numbers of the estimation of advantages."""

    gamma: float
    lam: float
    multiplier: float = 0.0


def pieces_of(rollouts: Sequence[Rollout], minibatches: int, micro_tokens: int) -> list[list[list[int]]]:
    """Returns the numbers of rollouts by minibatch and piece; a piece has at most `micro_tokens`, or one rollout."""
    count = min(minibatches, len(rollouts))
    found: list[list[list[int]]] = []
    for number in range(count):
        pieces: list[list[int]] = []
        tokens = 0
        for row in range(number, len(rollouts), count):
            length = len(rollouts[row].prompt) + len(rollouts[row].tokens)
            if not pieces or tokens + length > micro_tokens:
                pieces.append([])
                tokens = 0
            pieces[-1].append(row)
            tokens += length
        found.append(pieces)
    return found


def batch_of(rollouts: Sequence[Rollout], rows: Sequence[int]) -> Batch:
    """Returns rollouts as a batch in which the tokens of the answers are labelled, one rollout a row."""
    examples = [
        Example(
            [*rollouts[row].prompt, *rollouts[row].tokens],
            [False] * len(rollouts[row].prompt) + [True] * len(rollouts[row].tokens),
        )
        for row in rows
    ]
    return collate([[one] for one in examples])


def describe(policy: Policy, rollouts: Sequence[Rollout], rows: Sequence[int]) -> Piece:
    """Computes rollouts by the training forward pass. The engine's own probabilities are not used: its weights are rounded."""
    batch = batch_of(rollouts, rows).to(policy.device)
    lengths = torch.tensor([len(rollouts[row].tokens) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    hidden, old = policy.describe(batch)
    return Piece(tuple(rows), batch, mask.to(policy.device), old, policy.reference(batch), hidden)


def estimate(
    pieces: Sequence[Piece],
    scores: Tensor,
    policy: Policy,
    estimation: Estimation,
) -> Experience:
    """Returns the experience of PPO: advantages whitened over all tokens, and returns for the value head.

    Args:
        scores: of all rollouts, [rollouts, columns]; the second column is the cost.
    """
    width = max(piece.mask.shape[1] for piece in pieces)
    columns = scores.shape[1]
    mask = torch.cat([_padded(piece.mask, width) for piece in pieces])
    order = [row for piece in pieces for row in piece.rows]
    with torch.no_grad():
        flat = [policy.values(piece.hidden) for piece in pieces]
    advantages: list[Tensor] = []
    values = torch.zeros((*mask.shape, columns), device=mask.device)
    values[mask] = torch.cat(flat)
    returns = torch.zeros_like(values)
    for column in range(columns):
        rewards = last_token_rewards(scores[order, column].to(mask.device), mask)
        found, returns[..., column] = gae(
            rewards, values[..., column], mask, gamma=estimation.gamma, lam=estimation.lam
        )
        advantages.append(whiten(found, mask))
    mixed = advantages[0]
    if columns == 2:
        mixed = constrained_advantages(advantages[0], advantages[1], estimation.multiplier)
    sizes = [len(piece.old) for piece in pieces]
    return Experience(tuple(pieces), mixed[mask].split(sizes), returns[mask].split(sizes), tuple(flat))


def estimate_groups(pieces: Sequence[Piece], scores: Tensor, samples: int) -> Experience:
    """Returns the experience of GRPO: every token of an answer has the advantage of the answer in its group.

    Args:
        scores: of all rollouts, [rollouts]; the answers to a prompt stand together.
    """
    each = group_advantages(scores.view(-1, samples)).flatten()
    return Experience(
        tuple(pieces),
        tuple(
            each[list(piece.rows)].to(piece.mask.device)[:, None].expand(piece.mask.shape)[piece.mask]
            for piece in pieces
        ),
    )


def _padded(mask: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, width - mask.shape[1]))
