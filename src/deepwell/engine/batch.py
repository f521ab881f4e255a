"""`Batch`: the input of one forward pass as flat arrays. It is passed as an argument and is never global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_TOKENS", "Adapter", "Batch", "Memory"]

BLOCK_TOKENS = 16  # one block of the KV cache holds this many tokens


class Adapter(Protocol):
    """Low-rank additions to the matrices of one model, in the form that a `Batch` refers to."""


class Memory(Protocol):
    """Tokens of one sequence that have left its window, as factors of their keys and values."""

    @property
    def tokens(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one step. Each sequence has one contiguous run of rows.

    Row t of sequence s is written to block `block_tables[s, positions[t] // 16]`, slot `positions[t] % 16`,
    and attends to positions 0..positions[t] of its own sequence.
    """

    tokens: NDArray[np.int32]  # [rows]
    positions: NDArray[np.int32]  # [rows]
    seq_starts: NDArray[np.int32]  # [sequences + 1], row offsets
    block_tables: NDArray[np.int32]  # [sequences, max_blocks], C-contiguous, padded with 0
    output_rows: NDArray[np.int32]  # [outputs], ascending: rows whose logits (or hidden state) are needed
    adapters: tuple[Adapter | None, ...] | None = None  # [sequences]; None: no sequence has one
    # [sequences]; None: all rows belong to prompts. Only latent attention reads it. Rows at positions below this length attend
    # to expanded keys and values, later rows by absorption, regardless of how the prompt was split into steps.
    prompt_lengths: NDArray[np.int32] | None = None
    memories: tuple[Memory | None, ...] | None = None  # [sequences]; None: no sequence has one
