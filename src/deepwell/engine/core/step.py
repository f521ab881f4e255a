"""`ScheduledStep`: the work of one step."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepwell.engine.batch import Memory
from deepwell.engine.core.sequence import Sequence

__all__ = ["Move", "ScheduledStep"]


@dataclass(frozen=True, slots=True)
class Move:
    """Blocks of a window that slides: `targets` get the contents of `sources`, with keys turned back by `positions`.

    Before that, the `forgotten` blocks go into the memory of the sequence, if it has one.
    """

    sources: list[int]
    targets: list[int]
    positions: int
    forgotten: list[int] = field(default_factory=list[int])
    memory: Memory | None = None


@dataclass(slots=True)
class ScheduledStep:
    """The work of one step: `counts[i]` tokens of `sequences[i]`, starting at `sequences[i].computed`."""

    sequences: list[Sequence]
    counts: list[int]
    decoding: int = 0  # leading sequences that compute their last drawn token, and drafts after it
    drafted: int = 0  # draft rows, in steps where all sequences decode
    moves: list[Move] = field(default_factory=list[Move])  # made in their order before anything is computed
    waiting: int = 0  # running sequences that are left out because their mask is not ready
    # Position of a sequence -> number of drafts that the prediction layer makes for it when the step is executed. Their rows
    # are reserved but hold no tokens yet. 0 means one prediction that is only compared with the drawn token.
    predicted: dict[int, int] = field(default_factory=dict[int, int])
