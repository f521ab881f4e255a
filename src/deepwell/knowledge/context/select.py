"""`choose`: takes the pieces that a question needs, up to a budget, so that every part of the question gets its own.

`evidence`, `surrounded`: takes the few pieces that stand out, and what stands around them, for models that more would mislead.

NOTE: several facts. The best pieces by the whole question may all speak of one of its parts. The choice is that of xQuAD
(Santos et al. 2010, "Exploiting Query Reformulations for Web Search Result Diversification"): a piece counts for a part of the
question as far as the pieces taken so far have left it open, and for the whole question at all times.

NOTE: small models. A budget that is filled by relevance is filled with what looks like the answer: the same statement about
other places. qwen2.5-coder-0.5b answers 22 to 31 % of the development questions from 512 tokens of such sentences, 98 % from
those alone that are near the best (1.4 on average), 98 % with their surroundings up to 128 tokens, and 89 % up to 512. In texts
of 4k tokens, where what stands around is another such statement, it answers 24 of 32 with surroundings up to 128 tokens, and 29
without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHOICE", "EVIDENCE", "Choice", "Evidence", "choose", "evidence", "spare", "surrounded"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights of the choice. They were set on the development split of `bench/workloads/context`.

    Attributes:
        parts: weight of the parts of a question against its whole.
        covered: how far a piece that fits a part perfectly closes that part.
        size: power of a piece's tokens by which its worth is divided: 0 takes the best piece, 1 the best a token.
    """

    parts: float = 0.8
    covered: float = 0.5
    size: float = 0.1


CHOICE: Final = Choice()
"""The weights unless others are given."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Bounds of what stands out. They were set on the development split of `bench/workloads/context`.

    Attributes:
        near: least share of a part's best score.
        few: most pieces that stand out for one part.
        whole: weight of a piece's score for the whole question beside that for a part.
        clear: least score of the best piece for each part at which the pieces are enough by themselves: one that has most words
            of a question has its answer too, and what stands around it would only mislead.
    """

    near: float = 0.93
    few: int = 6
    whole: float = 0.5
    clear: float = 0.36


EVIDENCE: Final = Evidence()
"""The bounds unless others are given."""


def evidence(scores: NDArray[np.float64], bounds: Evidence = EVIDENCE) -> list[int]:
    """Returns the pieces that stand out for each part of a question, the best of a part first; none if for some part none does.

    Args:
        scores: float64 [facets, pieces], 0 to 1; the first facet is the whole question.
    """
    if not scores.size:
        return []
    parts = scores if len(scores) == 1 else scores[1:] + bounds.whole * scores[0]
    found: list[int] = []
    for row in parts:
        best = float(row.max())
        order = np.argsort(-row, kind="stable")[: bounds.few + 1].tolist()
        out = [index for index in order if row[index] >= bounds.near * best]
        if best <= 0 or len(out) > bounds.few:
            return []
        found += out
    return list(dict.fromkeys(found))


def spare(scores: NDArray[np.float64], found: Sequence[int], tokens: int, bounds: Evidence = EVIDENCE) -> int:
    """Returns the tokens that may stand around pieces that stand out: 0 where they are clear enough by themselves.

    Args:
        scores: as `evidence` had them.
        tokens: most tokens, otherwise.
    """
    parts = scores[1:] if len(scores) > 1 else scores
    return 0 if float(parts[:, list(found)].max(1).min()) >= bounds.clear else tokens


def surrounded(
    found: Sequence[int],
    sources: Sequence[int],
    costs: NDArray[np.int64],
    leans: Callable[[int], bool],
    budget: int,
) -> list[int]:
    """Returns pieces with those around them: first what they lean on, then the nearest on either side within a budget.

    Args:
        found: the pieces, the first of which come first.
        sources: the text that each piece belongs to; pieces of a text stand together, and nothing of another is taken.
        costs: int64 [pieces]: tokens of each.
        leans: returns whether a piece cannot be understood without the one before it ("Its number is 48213.").
        budget: most tokens of what is added. What a piece leans on comes in any case.
    """
    taken = list(found)
    seen = set(found)

    def add(index: int) -> None:
        seen.add(index)
        taken.append(index)

    def inside(index: int, of: int) -> bool:
        return 0 <= index < len(sources) and sources[index] == sources[of] and index not in seen

    for one in found:
        if inside(one - 1, one) and leans(one):
            add(one - 1)
        if inside(one + 1, one) and leans(one + 1):
            add(one + 1)
    left = budget
    edges = [(one, step) for one in sorted(found) for step in (-1, 1)]
    distance = 0
    while edges and left > 0:
        distance += 1
        going: list[tuple[int, int]] = []
        for one, step in edges:
            index = one + step * distance
            if not (0 <= index < len(sources) and sources[index] == sources[one]):
                continue
            if index not in seen:
                if costs[index] > left:
                    continue
                left -= int(costs[index])
                add(index)
            going.append((one, step))
        edges = going
    return taken


def choose(
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    budget: int,
    weights: Choice = CHOICE,
    *,
    extra: Callable[[int, set[int]], int] | None = None,
) -> list[int]:
    """Returns the pieces to keep in the order of their choice; of equal ones the first.

    Args:
        scores: float64 [facets, pieces], 0 to 1; the first facet is the whole question.
        costs: int64 [pieces]: tokens of each.
        budget: most tokens of all.
        extra: tokens that a piece costs besides, given those that were chosen before it: its seams.
    """
    # Each part's best piece counts the same, however much of that part it covers.
    scores = scores / np.maximum(scores.max(1, keepdims=True), 1e-9) if scores.size else scores
    whole, parts = scores[0], scores[1:]
    scale = np.maximum(costs, 1).astype(np.float64) ** weights.size
    open_parts = np.ones(len(parts))
    left = budget
    free = costs <= budget
    chosen: list[int] = []
    taken: set[int] = set()
    while free.any():
        worth = whole
        if len(parts):
            needed = (open_parts[:, None] * parts).sum(0) / len(parts)
            worth = (1 - weights.parts) * whole + weights.parts * needed
        worth = np.where(free, worth / scale, -1.0)
        best = int(np.argmax(worth))
        # What does not fit changes the worth of nothing, so that the next best is looked up, and not computed.
        for index in chain([best], _behind(worth, best)):
            free[index] = False
            cost = int(costs[index]) + (extra(index, taken) if extra is not None else 0)
            if cost <= left:
                break
        else:
            break
        left -= cost
        taken.add(index)
        chosen.append(index)
        open_parts *= 1 - weights.covered * parts[:, index]
        free &= costs <= left
    return chosen


def _behind(worth: NDArray[np.float64], best: int) -> Iterator[int]:
    """Yields the pieces that are free behind the best one, in the order of their worth; of equal ones the first."""
    order = np.argsort(-worth, kind="stable")
    yield from (int(index) for index in order[: int((worth >= 0).sum())] if index != best)
