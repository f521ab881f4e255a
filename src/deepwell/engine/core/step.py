"""`ScheduledStep`: the work of one step, and `Limits`: how much of it there may be."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.speculation import RowCost

__all__ = ["Limits", "ScheduledStep"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one step may hold.

    A short step while somebody decodes keeps the time between tokens even; a long one otherwise fills the
    matrix kernels.
    """

    max_sequences: int = 64
    prefill_tokens: int = 512  # prompt rows of a step when nobody decodes
    mixed_prefill_tokens: int = 128  # the same while somebody does
    logits_rows: int = 64  # prompt rows of a step that want logits: 64 x 151k floats are 39 MB
    prefix_cache: bool = True
    # Whether blocks with generated tokens serve later prompts. Not where what is cached depends on a token's role: latent
    # attention computes a generated token by absorption, and as part of a prompt by expansion.
    share_generated: bool = True
    draft_depth: int = 8  # tokens drafted for one sequence in a step; 0: no speculation
    draft_rows: int = 16  # for all of them
    # Of the drafts, how many the model's multi-token prediction layer may make; 0: it has none. `open_engine` sets it.
    predict_depth: int = 0
    row_cost: RowCost | None = None  # None: what `open_engine` expects of the model


@dataclass(slots=True)
class ScheduledStep:
    """The work of one step: `counts[i]` tokens of `sequences[i]`, from `sequences[i].computed` on."""

    sequences: list[Sequence]
    counts: list[int]
    decoding: int = 0  # leading sequences that compute the token drawn last, and drafts behind it
    drafted: int = 0  # rows of drafts, in steps where all decode
    # Sequences, by position, whose drafts the prediction layer makes when the step is executed: their rows are reserved
    # and hold no tokens yet. How many it makes; 0: one that is only held against what is drawn.
    predicted: dict[int, int] = field(default_factory=dict[int, int])
