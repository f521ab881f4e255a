"""`compress`: keeps the sentences of a text that a question needs, verbatim and in their order, within a budget of tokens.

The result is cut out of the source, character by character. A dropped stretch is marked by an ellipsis, which counts. The
account says of every token of the source whether it was kept. A sentence is kept whole or not at all, so that its names,
numbers and negations stay; only one that alone passes the budget is cut, by the rules of `pieces`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.knowledge.context.pieces import Piece, Source, cut, leans
from deepwell.knowledge.context.scores import SentenceScorer
from deepwell.knowledge.context.select import CHOICE, Choice, choose, evidence, spare, surrounded
from deepwell.knowledge.context.terms import facets_of
from deepwell.knowledge.context.tokens import Tokens, tokens_between

__all__ = ["ELLIPSIS", "Compressed", "Stretch", "compress"]

ELLIPSIS: Final = "…"
"""Stands for a dropped stretch."""

_SEAM_TOKENS: Final = 2  # that an ellipsis costs beside its piece, before the text is counted as a whole


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of a source that was kept or dropped as a whole.

    Attributes:
        source: number of the source.
        start, end: offsets in the source.
        tokens: tokens of the source that begin in it.
        kept: whether it is in the result.
    """

    source: int
    start: int
    end: int
    tokens: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Compressed:
    """Sources cut down to a budget, and the account of their tokens.

    Attributes:
        texts: the rest of each source, with an ellipsis for each dropped stretch. Of sources in a row that were dropped as
            a whole, the first is an ellipsis and the others are empty.
        stretches: in order; those of a source cover it, so that their tokens add up to the source's.
        tokens: tokens of `texts`, each counted by itself.
        seam_tokens: those of them that begin in an ellipsis or the space before it.
        focused: whether only what stands out was kept, with its surroundings.
    """

    texts: tuple[str, ...]
    stretches: tuple[Stretch, ...]
    tokens: int
    seam_tokens: int
    focused: bool = False

    @property
    def source_tokens(self) -> int:
        """Tokens of all sources."""
        return sum(one.tokens for one in self.stretches)

    @property
    def kept_tokens(self) -> int:
        """Tokens of the sources that were kept."""
        return sum(one.tokens for one in self.stretches if one.kept)

    @property
    def dropped_tokens(self) -> int:
        """Tokens of the sources that were dropped."""
        return self.source_tokens - self.kept_tokens


async def compress(
    sources: str | Sequence[str | Source],
    query: str,
    budget: int,
    *,
    tokens: Tokens,
    scorer: SentenceScorer,
    choice: Choice = CHOICE,
    focus: int | None = None,
) -> Compressed:
    """Returns what is left of texts within a budget of tokens.

    Texts that fit are returned as they are, and no model is asked.

    Args:
        sources: a text, or several in their order: turns of a conversation, passages of a search. A `Source` was read before.
        query: the question, or the task, that decides what is needed.
        budget: most tokens of the result.
        tokens: counts as the model that will read the result.
        scorer: tells how much of what the query needs each sentence has.
        choice: weights of the choice.
        focus: tokens that suffice where a few sentences stand out for every part of the question: these come first, then what
            stands around them. None, or where none stand out: the budget is filled with what is relevant.

    Raises:
        InvalidRequest: the budget does not even hold the mark of a dropped text.
    """
    given = [sources] if isinstance(sources, str) else sources
    read = [Source.read(one, tokens) if isinstance(one, str) else one for one in given]
    if sum(len(one.starts) for one in read) <= budget:
        whole = [Piece(number, 0, len(one.text), 0, number) for number, one in enumerate(read)]
        return _account(read, tokens, whole, set(range(len(read))))
    least = tokens.count(ELLIPSIS)
    if budget < least:
        raise InvalidRequest.of("context_budget_small", budget=budget, least=least)
    pieces = cut(read, max(1, budget - 2 * _SEAM_TOKENS))
    shown = [read[one.source].text[one.start : one.end].strip() for one in pieces]
    scores = await scorer.score(facets_of(query), shown)
    costs = np.array([one.tokens for one in pieces], np.int64)
    if focus is not None and (found := evidence(scores)):
        size = int(costs[found].sum())
        texts = [one.source for one in pieces]
        left = spare(scores, found, focus - size)
        near = surrounded(found, texts, costs, lambda index: leans(shown[index]), left)
        seams = 2 * _SEAM_TOKENS * (len(found) + 1)
        if int(costs[near].sum()) + seams <= budget:
            return replace(_fitted(read, tokens, pieces, near, budget), focused=True)
    order = choose(scores, costs, budget, choice, extra=_Seams(pieces))
    return _fitted(read, tokens, pieces, order, budget)


class _Seams:
    """Tokens of the ellipses that a piece adds to those chosen before it, or saves: it joins what it touches."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._last = len(pieces) - 1
        self._pieces = pieces

    def __call__(self, index: int, taken: set[int]) -> int:
        gaps = 1
        for near in (index - 1, index + 1):
            if not 0 <= near <= self._last or near in taken:
                gaps -= 1
        return _SEAM_TOKENS * (gaps if taken else max(gaps, 0) + 1)


def _fitted(
    sources: Sequence[Source], tokens: Tokens, pieces: Sequence[Piece], order: Sequence[int], budget: int
) -> Compressed:
    """Returns the most of the chosen pieces, in the order of their choice, that fits when the result is counted as a whole."""
    kept = len(order)
    while True:
        found = _account(sources, tokens, pieces, set(order[:kept]))
        over = found.tokens - budget
        if over <= 0 or not kept:
            return found
        while kept and over > 0:
            kept -= 1
            over -= max(pieces[order[kept]].tokens, 1)


def _account(
    sources: Sequence[Source], tokens: Tokens, pieces: Sequence[Piece], kept: set[int]
) -> Compressed:
    """Returns the result of keeping some pieces."""
    stretches: list[list[Stretch]] = [[] for _ in sources]
    for index, piece in enumerate(pieces):
        mine, keep, begin = stretches[piece.source], index in kept, piece.start
        if mine and mine[-1].kept == keep:
            begin = mine.pop().start
        size = tokens_between(sources[piece.source].starts, begin, piece.end)
        mine.append(Stretch(piece.source, begin, piece.end, size, keep))
    shown: list[str] = []
    total = seams = 0
    before = False
    for source, mine in zip(sources, stretches, strict=True):
        gone = bool(mine) and not any(one.kept for one in mine)
        made, marks = ("", []) if gone and before else _rendered(source.text, mine)
        before = gone or (before and not mine)  # an empty source parts nothing
        shown.append(made)
        placed = tokens.starts(made)
        total += len(placed)
        seams += sum(tokens_between(placed, a, b) for a, b in marks)
    return Compressed(tuple(shown), tuple(one for mine in stretches for one in mine), total, seams)


def _rendered(text: str, stretches: Iterable[Stretch]) -> tuple[str, list[tuple[int, int]]]:
    """Returns what is left of a source, and where its ellipses lie, with the space in front of them."""
    found = ""
    marks: list[tuple[int, int]] = []
    for one in stretches:
        if one.kept:
            found += text[one.start : one.end]
        else:
            mark = (_space_before(text, one) if found else "") + ELLIPSIS
            marks.append((len(found), len(found) + len(mark)))
            found += mark
    return found, marks


def _space_before(text: str, one: Stretch) -> str:
    """Returns the space that stands in front of an ellipsis: a line end where the dropped stretch began with one."""
    lead = text[one.start : one.end]
    lead = lead[: len(lead) - len(lead.lstrip())]
    return "\n" if "\n" in lead else " " if lead else ""
