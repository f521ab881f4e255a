"""`Layout`: the real tokens of a batch in one line, cut into tiles of queries with the keys that they may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from deepwell.tuning.train.batches import PADDING, Batch

__all__ = ["TILE", "Layout", "Tile", "lay_out", "unit_of"]

TILE: Final = 128
"""Queries of a tile: of 64, 128 and 256 the fastest on conversations of 60 tokens; longer tiles compute more masked scores."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries `start:end` see keys of `first_key:end`.

    Attributes:
        lead: number of keys, the first ones, that no query sees. They make the number of keys one of few: the library of matrix
            products keeps code and memory for every shape, 12 MB for the tiles of a row of conversations.
        clear: number of keys behind them that all queries see.
        mask: added to the scores of the other keys, [end - start, end - first_key - lead - clear].
    """

    first_key: int
    start: int
    end: int
    lead: int
    clear: int
    mask: Tensor

    @property
    def area(self) -> int:
        """Number of scores of one head."""
        return (self.end - self.start) * (self.end - self.first_key)


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch without its padding, but for a last segment of filling where that was asked for.

    Attributes:
        token_ids: int64 [tokens].
        positions: int64 [tokens].
        tiles: they cover all tokens in order.
        predictors: int64 [labelled], the tokens in front of the labelled ones.
        targets: int64 [labelled], the labelled tokens' ids.
    """

    token_ids: Tensor
    positions: Tensor
    tiles: tuple[Tile, ...]
    predictors: Tensor
    targets: Tensor

    @property
    def mean_reach(self) -> float:
        """Scores computed for each query and head."""
        return sum(tile.area for tile in self.tiles) / max(1, len(self.token_ids))


def lay_out(batch: Batch, dtype: torch.dtype, tile: int = TILE, *, fill: bool = False) -> Layout:
    """Lays out a batch for a forward pass in `dtype`.

    Nothing of the size tokens x tokens is made: a tile's keys begin at the segment of its first query.

    Args:
        fill: whether tokens that nothing depends on make the length one of few. The tensors of one step then fit where those of
            the last one were; of lengths that all differ, the heap of a process grew from 1.7 to 2.9 GB within ten steps.
    """
    batch, count = _filled(batch) if fill else (batch, 0)
    real = batch.segments != PADDING
    if count:
        real[-1, -count:] = True
    rows = torch.arange(len(batch.token_ids), device=real.device)[:, None].expand_as(batch.segments)
    segments = batch.segments[real]
    rows = rows[real]
    device = segments.device
    changed = torch.ones_like(segments, dtype=torch.bool)
    changed[1:] = (segments[1:] != segments[:-1]) | (rows[1:] != rows[:-1])
    number = changed.cumsum(0)
    index = torch.arange(len(segments), device=device)
    begins = torch.where(changed, index, 0).cummax(0).values  # of every token's segment
    tiles: list[Tile] = []
    starts = begins[::tile].tolist()
    for start, first_key in zip(range(0, len(segments), tile), starts, strict=True):
        end = min(start + tile, len(segments))
        clear = start - first_key if begins[end - 1] == first_key else 0
        keys = slice(first_key + clear, end)
        seen = number[start:end, None] == number[None, keys]
        seen &= index[start:end, None] >= index[None, keys]
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
        lead = first_key % max(1, tile // 2)
        tiles.append(Tile(first_key - lead, start, end, lead, clear, mask))
    token_ids = batch.token_ids[real]
    labelled = batch.loss_mask[real].nonzero().squeeze(1)
    return Layout(token_ids, batch.positions[real], tuple(tiles), labelled - 1, token_ids[labelled])


def unit_of(count: int) -> int:
    """Returns the power of two that lengths like `count` are made a multiple of: an eighth of it, or less."""
    return 1 << max(0, count.bit_length() - 4)


def _filled(batch: Batch) -> tuple[Batch, int]:
    """Returns a batch with a row of filling in its own segment, and its tokens: up to the next multiple of an eighth."""
    tokens = batch.tokens
    count = -tokens % unit_of(tokens)
    if not count:
        return batch, 0
    width = batch.token_ids.shape[1]
    wide = max(width, count)

    def grown(part: Tensor, value: int) -> Tensor:
        return F.pad(part, (0, wide - width, 0, 1), value=value)

    filled = Batch(
        grown(batch.token_ids, 0),
        grown(batch.positions, 0),
        grown(batch.segments, PADDING),
        grown(batch.loss_mask, False),
    )
    return filled, count
