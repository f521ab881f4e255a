"""`Batch`: the tensors of one forward pass, in which examples share rows without seeing each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from deepwell.tuning.train.examples import Example

__all__ = ["PADDING", "Batch", "collate"]

PADDING: Final = -1  # segment of tokens that belong to no example


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed examples. A token attends to itself and to earlier tokens of its own segment.

    Attributes:
        token_ids: int64 [rows, tokens].
        positions: int64 [rows, tokens], from 0 in every example.
        segments: int64 [rows, tokens], number of the example in its row from 0; PADDING behind the last.
        loss_mask: bool [rows, tokens]; a marked token is predicted from the token in front of it. The first token of a segment
            is never marked.
    """

    token_ids: Tensor
    positions: Tensor
    segments: Tensor
    loss_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        parts = (self.token_ids, self.positions, self.segments, self.loss_mask)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))

    @property
    def labelled(self) -> int:
        """Number of marked tokens."""
        return int(self.loss_mask.sum())

    @property
    def tokens(self) -> int:
        """Number of tokens of examples, without padding."""
        return int((self.segments != PADDING).sum())


def collate(rows: Sequence[Sequence[Example]], width: int | None = None, pad_id: int = 0) -> Batch:
    """Lays out rows of examples.

    Args:
        width: tokens of a row; None: those of the longest.
        pad_id: token behind the last example, which nothing attends to and no loss counts.
    """
    longest = max(sum(len(example.token_ids) for example in row) for row in rows)
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"a row has {longest} tokens, and its width is {width}")
    shape = len(rows), width
    token_ids = torch.full(shape, pad_id, dtype=torch.int64)
    positions = torch.zeros(shape, dtype=torch.int64)
    segments = torch.full(shape, PADDING, dtype=torch.int64)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row):
            end = start + len(example.token_ids)
            token_ids[number, start:end] = torch.tensor(example.token_ids)
            positions[number, start:end] = torch.arange(end - start)
            segments[number, start:end] = segment
            loss_mask[number, start + 1 : end] = torch.tensor(example.loss_mask[1:], dtype=torch.bool)
            start = end
    return Batch(token_ids, positions, segments, loss_mask)
