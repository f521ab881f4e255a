"""The losses of DPO and KTO as pure functions of log-ratios, and the log-ratios of answers from those of their tokens.

A log-ratio is log p(answer | prompt) of the model in training minus that of the reference, which is the same model without its
adapter. `beta` times a log-ratio is the reward that the answer implicitly has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deepwell.tuning.train.batches import Batch

__all__ = ["answer_sums", "class_weights", "dpo_loss", "kto_loss", "kto_shift", "replay_loss"]

MOST_WEIGHT = 10.0
"""Largest weight that `class_weights` gives to the rarer kind of answers: one vote never counts as much as a hundred."""


def answer_sums(batch: Batch, values: Tensor) -> Tensor:
    """Returns the sum over the labelled tokens of every example, [examples], in the order of rows and of segments in them.

    Args:
        values: one for each labelled token, in the order of `batch.loss_mask`, as `logprobs` returns them.
    """
    counts = batch.segments.amax(1) + 1  # examples of each row
    first = counts.cumsum(0) - counts
    numbers = (batch.segments + first[:, None])[batch.loss_mask]
    return values.new_zeros(int(counts.sum())).index_add(0, numbers, values)


def dpo_loss(preferred: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Returns the loss of every pair, [pairs]: -log sigmoid of the difference of the rewards (arXiv 2305.18290, equation 7).

    Args:
        preferred, rejected: log-ratios of both answers, [pairs].
        label_smoothing: share of the pairs that are thought to be the wrong way round (conservative DPO).
    """
    margin = beta * (preferred - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def kto_shift(mismatched: Tensor) -> Tensor:
    """Returns the reference point of KTO, a scalar without gradient: an estimate of KL(model || reference), at least 0.

    Args:
        mismatched: log-ratios of answers to other prompts, [examples].
    """
    return mismatched.detach().mean().clamp(min=0)


def kto_loss(
    log_ratios: Tensor,
    desirable: Tensor,
    shift: Tensor,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Returns the loss of every answer, [answers] (arXiv 2402.01306, equations 7 and 8).

    Args:
        log_ratios: of the answers, [answers].
        desirable: bool, [answers].
        shift: reference point; see `kto_shift`.
        weights: of desirable and of undesirable answers.
    """
    gain = beta * (log_ratios - shift)
    loss = 1 - torch.sigmoid(torch.where(desirable, gain, -gain))
    return loss * torch.where(desirable, weights[0], weights[1])


def class_weights(desirable: float, undesirable: float) -> tuple[float, float]:
    """Returns the weights of desirable and undesirable answers, of so many each, with which both kinds weigh the same in sum.

    Equation 8 of arXiv 2402.01306 allows ratios of 1 to 4/3; this is 1. The rarer kind gets `MOST_WEIGHT` at most.
    """
    fewer = max(1, min(desirable, undesirable))
    weight = min(MOST_WEIGHT, max(desirable, undesirable) / fewer)
    return (weight, 1.0) if desirable < undesirable else (1.0, weight)


def replay_loss(differences: Tensor) -> Tensor:
    """Returns how far the model is from what the reference thought of each token, [tokens]: 0 where it is not, else more.

    In text that the reference wrote, its mean estimates KL(reference || model) with little variance.

    Args:
        differences: log p(token) of the model minus that of the reference, [tokens].
    """
    return torch.expm1(differences) - differences
