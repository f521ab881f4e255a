"""`Limits`: the limits of one step. They are known before a model is loaded, and import nothing that runs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PASS_ROWS", "Limits", "RowCost"]

PASS_ROWS: Final = (
    128  # rows of a prompt that the prediction layer reads at a time, which limits its workspace
)


@dataclass(frozen=True, slots=True)
class RowCost:
    """The cost of additional rows of a step, in steps of one row.

    Arithmetic on a second row overlaps with reading the weights. With more rows it dominates the step. Measured on AVX2
    with SmolLM2: 2, 4, 8 rows cost 1.05-1.3, 2.3, 4.1 steps on one core, 16 rows 6.1 on two.
    """

    second: float = 0.2
    further: float = 0.45
    predict: float = 0.0  # one pass of the multi-token prediction layer

    def of(self, rows: int) -> float:
        """Returns the cost of row number `rows`."""
        return 1.0 if rows == 1 else self.second if rows == 2 else self.further


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one step.

    While sequences decode, short steps keep the time between tokens even. Otherwise long steps use the matrix kernels fully.
    """

    max_sequences: int = 64
    prefill_tokens: int = 512  # prompt rows of a step without decoding sequences
    mixed_prefill_tokens: int = 128  # prompt rows of a step with decoding sequences
    logits_rows: int = 64  # prompt rows of a step that need logits; 64 x 151k floats are 39 MB
    prefix_cache: bool = True
    # Whether blocks with generated tokens serve later prompts. It is False if cached values depend on a token's role: latent
    # attention computes generated tokens by absorption, and the same tokens in a prompt by expansion.
    share_generated: bool = True
    draft_depth: int = 8  # tokens drafted for one sequence in a step; 0: no speculation
    draft_rows: int = 16  # tokens drafted for all sequences in a step
    # Number of drafts that the model's multi-token prediction layer may make; 0: it has none. Set by `open_engine`.
    predict_depth: int = 0
    row_cost: RowCost | None = None  # None: `open_engine` estimates it from the model
