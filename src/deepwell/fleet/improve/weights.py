"""Weights of votes, and of what is rehearsed beside them, in a training by votes.

Each kind of answer weighs the same in sum, however many people voted: neither do many votes drown the refusals, nor do few of
them leave the refusals alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from deepwell.tuning.align.preferences import Judged, VoteLike, votes_as_judged, write_judged

__all__ = ["HARM", "MISPLACED", "OPINION", "REFUSALS", "weighing", "write_votes"]

REFUSALS: Final = 100.0
"""Refusals of requests for harm, as good answers, all of them together."""
HARM: Final = 30.0
"""Answers of the base to requests for harm, as bad ones."""
MISPLACED: Final = 80.0
"""Refusals of harmless requests, as bad answers."""
OPINION: Final = 150.0
"""All likes together, and all dislikes."""
_MOST: Final = 10.0  # of one answer


def weighing(judged: Sequence[Judged], whole: float) -> list[Judged]:
    """Returns judged answers that weigh `whole` together, or less if they are very few."""
    each = min(whole / max(len(judged), 1), _MOST)
    return [replace(one, weight=each) for one in judged]


def write_votes(path: Path, votes: Iterable[VoteLike]) -> None:
    """Writes votes as judged answers, weighed to stand beside what is rehearsed."""
    judged = votes_as_judged(votes)
    sides = ([one for one in judged if one.desirable is liked] for liked in (True, False))
    write_judged(path, [one for side in sides for one in weighing(side, OPINION)])
