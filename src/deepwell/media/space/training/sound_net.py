"""The head of sounds in torch: the same computation as `media.space.sound`, for batches."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from deepwell.media.space.features import SOUND_FEATURES
from deepwell.media.space.heads import DIMENSIONS
from deepwell.media.space.sound import HEADS

__all__ = ["FrameNet", "UnitNet"]

_FRAME_SIZE: Final = 192
_QUERIES: Final = 8


def _gelu(values: torch.Tensor) -> torch.Tensor:
    return nn.functional.gelu(values, approximate="tanh")


def _along(convolution: nn.Conv1d, values: torch.Tensor) -> torch.Tensor:
    return convolution(values.transpose(1, 2)).transpose(1, 2)


class FrameNet(nn.Module):
    """From frames [b, n, 512] to scores of units [b, n, 1 + units]; the first is the blank of CTC."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.first = nn.Linear(SOUND_FEATURES, _FRAME_SIZE)
        self.local = nn.Conv1d(_FRAME_SIZE, _FRAME_SIZE, 5, padding=2, groups=_FRAME_SIZE)
        self.last = nn.Linear(_FRAME_SIZE, 1 + units)
        self.dropout = nn.Dropout(0.2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        values = _gelu(self.first(frames))
        values = values + _gelu(_along(self.local, values))
        return self.last(self.dropout(values))


class _Block(nn.Module):
    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.local_norm, self.norm, self.wide_norm = (nn.LayerNorm(size) for _ in range(3))
        self.local = nn.Conv1d(size, size, 7, padding=3, groups=size)
        self.attention_in, self.attention_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.wide_in, self.wide_out = nn.Linear(size, 3 * size), nn.Linear(3 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: torch.Tensor, bias: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        count, length, size = values.shape
        values = values + _gelu(_along(self.local, self.local_norm(values) * there))
        joined = self.attention_in(self.norm(values)).view(count, length, 3, HEADS, size // HEADS)
        queries, keys, given = joined.permute(2, 0, 3, 1, 4)
        mask = bias[:, None, None, :].expand(count, HEADS, length, length)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, given, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(count, length, size)
        values = values + self.dropout(self.attention_out(mixed))
        return values + self.dropout(self.wide_out(_gelu(self.wide_in(self.wide_norm(values)))))


class UnitNet(nn.Module):
    """From units [b, n, units], whose rows sum to the weights [b, n], to unit vectors [b, 384]. Weight 0 is padding."""

    def __init__(self, units: int, size: int = 128, blocks: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.symbols = nn.Parameter(torch.randn(units, size) * 0.5)
        self.mix = nn.Conv1d(size, size, 5, padding=2)
        self.blocks = nn.ModuleList([_Block(size, dropout) for _ in range(blocks)])
        self.norm = nn.LayerNorm(size)
        self.pool = nn.Linear(size, _QUERIES)
        self.first = nn.Linear(_QUERIES * size, 512)
        self.second = nn.Linear(512, DIMENSIONS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, units: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.second(self.dropout(self.hidden(units, weights))), dim=-1)

    def hidden(self, units: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Returns the values before the last layer: [b, 512]."""
        there = (weights > 0).float()[..., None]
        bias = torch.where(weights > 0, weights.clamp_min(1e-3).log(), -30.0)
        values = units @ self.symbols
        values = values + _gelu(_along(self.mix, values)) * there
        for block in self.blocks:
            values = block(values, bias, there)
        values = self.norm(values)
        shares = (self.pool(values) + bias[..., None]).softmax(1)
        pooled = torch.einsum("bnd,bnq->bqd", values, shares).flatten(1)
        return _gelu(self.first(pooled))
