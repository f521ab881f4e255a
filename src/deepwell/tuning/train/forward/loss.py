"""The loss of a batch: cross entropy at the marked tokens, whose head alone is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from deepwell.tuning.train.batches import Batch

__all__ = ["Loss", "attention_mask", "labels", "loss"]


class Loss(NamedTuple):
    """Attributes:
    total: sum of the cross entropies in nats, float32, with its graph.
    labelled: number of tokens that it sums over.
    correct: number of them that the model thinks likeliest, int64.
    """

    total: Tensor
    labelled: int
    correct: Tensor


def loss(model: Any, batch: Batch) -> Loss:
    """Computes the summed cross entropy of a causal model of transformers, with or without adapters.

    Sums and not means, so that a step may be computed in any number of pieces.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=batch.token_ids,
        position_ids=batch.positions,
        attention_mask=attention_mask(batch, causal.dtype),
        use_cache=False,
    ).last_hidden_state  # [rows, tokens, hidden]
    before, targets = labels(batch)
    logits = causal.lm_head(hidden[:, :-1][before]).float()  # [labelled, vocab]
    total = functional.cross_entropy(logits, targets, reduction="sum")
    return Loss(total, len(targets), (logits.detach().argmax(-1) == targets).sum())


def labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns where marked tokens are predicted from, bool [rows, tokens - 1], and the tokens, int64 [labelled]."""
    marked = batch.loss_mask[:, 1:]
    return marked, batch.token_ids[:, 1:][marked]


def attention_mask(batch: Batch, dtype: torch.dtype) -> Tensor | None:
    """Returns which token attends to which, as an additive mask [rows, 1, tokens, tokens]; None: all earlier ones."""
    if bool((batch.segments == 0).all()):
        return None
    segments = batch.segments
    same = segments[:, :, None] == segments[:, None, :]
    tokens = segments.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    allowed = (same & causal)[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )
