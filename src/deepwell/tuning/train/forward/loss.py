"""`outcome`: the forward pass of training and its loss, with the head at the labelled positions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepwell.tuning.train.batches import PADDING, Batch

__all__ = ["Outcome", "loss", "outcome"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a forward pass.

    Attributes:
        loss: summed cross entropy over the labelled tokens; it has the gradient.
        labelled: number of labelled tokens.
        correct: how many of them were a likeliest token.
    """

    loss: Tensor
    labelled: int
    correct: int


def loss(model: Any, batch: Batch, *, checkpointing: bool = False) -> tuple[Tensor, int]:
    """Returns the summed cross entropy over the labelled tokens, and their number."""
    found = outcome(model, batch, checkpointing=checkpointing)
    return found.loss, found.labelled


def outcome(model: Any, batch: Batch, *, checkpointing: bool = False) -> Outcome:
    """Runs a causal model of transformers on a batch; `checkpointing` is its own switch here."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    seen = batch.segments[:, :, None] == batch.segments[:, None, :]
    # Padding attends to itself: a row of the mask without a key would give NaN.
    seen &= torch.ones_like(seen[0]).tril() & (batch.segments != PADDING)[:, None, :] | torch.eye(
        seen.shape[1], dtype=torch.bool, device=seen.device
    )
    states = base.model(
        input_ids=batch.token_ids, attention_mask=seen[:, None], position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    targets = batch.token_ids[batch.loss_mask]
    logits = base.lm_head(states[:, :-1][batch.loss_mask[:, 1:]]).float()
    total = functional.cross_entropy(logits, targets, reduction="sum")
    return Outcome(total, len(targets), int((logits.argmax(-1) == targets).sum()))
