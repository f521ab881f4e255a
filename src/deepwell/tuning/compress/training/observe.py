"""Runs a donor over calibration text, and returns the means of its attention that a conversion needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from deepwell.tuning.compress.convert.latent import LayerStatistics
from deepwell.tuning.compress.training.layers import first_states, next_states

__all__ = ["frequencies_of", "observe"]


def frequencies_of(model: Any) -> Any:
    """Returns the angle per position of each pair of a donor's dimensions, float64 [head_dim / 2], its scaling included."""
    return model.model.rotary_emb.inv_freq.double().numpy()


def observe(
    model: Any, windows: Tensor, *, batch: int = 4, progress: Callable[[int], None] = lambda tokens: None
) -> list[LayerStatistics]:
    """Returns the statistics of every layer of a Llama on windows, int64 [windows, tokens]."""
    width, layers = windows.shape[1], model.model.layers
    config = model.config
    heads, hidden = config.num_attention_heads, config.hidden_size
    moments = [np.zeros((hidden, hidden)) for _ in layers]
    attended = torch.zeros(len(layers), heads, width, dtype=torch.float64)
    positions = torch.arange(width)
    distances = (positions[:, None] - positions).clamp(min=0).reshape(-1)
    with torch.inference_mode():
        for part in windows.split(batch):
            states, rotary = first_states(model, part)
            for number, layer in enumerate(layers):
                inputs = layer.input_layernorm(states)
                flat = inputs.reshape(-1, hidden).float()
                moments[number] += (flat.T @ flat).double().numpy()
                seen = _attention(layer.self_attn, inputs, rotary).sum(0).reshape(heads, -1)
                attended[number].index_add_(1, distances, seen.double())
                states = next_states(layer, states, rotary)
            progress(part.numel())
    angles = -np.arange(width)[:, None] * frequencies_of(model)
    shares = (attended / attended.sum(2, keepdim=True)).numpy()
    turns = shares @ np.exp(1j * angles)  # [layers, heads, pairs]
    return [LayerStatistics(one / windows.numel(), turn) for one, turn in zip(moments, turns, strict=True)]


def _attention(attention: Any, inputs: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the weights that queries give to keys, float32 [windows, heads, queries, keys]."""
    shape = (*inputs.shape[:2], -1, attention.head_dim)
    q = attention.q_proj(inputs).view(shape).transpose(1, 2)
    k = attention.k_proj(inputs).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = (q @ k.transpose(2, 3)).float() * attention.scaling
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return F.softmax(scores.masked_fill(later, float("-inf")), -1)
