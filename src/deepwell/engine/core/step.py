"""`ScheduledStep`: the work of one step, and `Limits`: its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.speculation import RowCost

__all__ = ["Limits", "ScheduledStep"]


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


@dataclass(slots=True)
class ScheduledStep:
    """The work of one step: `counts[i]` tokens of `sequences[i]`, starting at `sequences[i].computed`."""

    sequences: list[Sequence]
    counts: list[int]
    decoding: int = 0  # leading sequences that compute their last drawn token, and drafts after it
    drafted: int = 0  # draft rows, in steps where all sequences decode
    waiting: int = 0  # running sequences that are left out because their mask is not ready
    # Position of a sequence -> number of drafts that the prediction layer makes for it when the step is executed. Their rows
    # are reserved but hold no tokens yet. 0 means one prediction that is only compared with the drawn token.
    predicted: dict[int, int] = field(default_factory=dict[int, int])
