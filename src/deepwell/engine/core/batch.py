"""`Batch`: everything one forward pass needs, as flat arrays. An argument, never a global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_TOKENS", "Adapter", "Batch"]

BLOCK_TOKENS = 16  # one block of the KV cache holds this many tokens


class Adapter(Protocol):
    """Low-rank additions to the matrices of one model, ready to be named in a `Batch`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one step: each sequence contributes one contiguous run of rows.

    Row t of sequence s is written to block `block_tables[s, positions[t] // 16]`, slot `positions[t] % 16`,
    and attends to positions 0..positions[t] of its own sequence.
    """

    tokens: NDArray[np.int32]  # [rows]
    positions: NDArray[np.int32]  # [rows]
    seq_starts: NDArray[np.int32]  # [sequences + 1], row offsets
    block_tables: NDArray[np.int32]  # [sequences, max_blocks], C-contiguous, padded with 0
    output_rows: NDArray[np.int32]  # [outputs], ascending: rows whose logits (or hidden state) are wanted
    adapters: tuple[Adapter | None, ...] | None = None  # [sequences]; None: no sequence has one
    # [sequences]; None: all rows belong to prompts. Latent attention alone reads it: rows at positions below attend by
    # expanded keys and values, rows from there on by absorption, however the prompt was cut into steps.
    prompt_lengths: NDArray[np.int32] | None = None
