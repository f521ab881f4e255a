"""Shortening of the texts of a conversation together, by a question or by their age, into one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.context.compress import ELLIPSIS, compress
from deepwell.knowledge.context.fitting.draft import Draft, Range
from deepwell.knowledge.context.fitting.notes import focused
from deepwell.knowledge.context.scores import EMBEDDED, FusedScorer, LexicalScorer, SentenceScorer
from deepwell.knowledge.context.select import CHOICE, Choice
from deepwell.knowledge.context.tokens import Tokens
from deepwell.knowledge.protocols import Embedder

__all__ = ["Part", "nearest", "newest", "shorten"]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a message's text that may be shortened. What stands around it in the text stays."""

    index: int
    text: str
    start: int
    end: int

    @property
    def shown(self) -> str:
        """The stretch."""
        return self.text[self.start : self.end]

    @property
    def around(self) -> tuple[Range, Range]:
        """The ranges around it, which stay."""
        return Range(0, self.start, "kept"), Range(self.end, len(self.text), "kept")


@dataclass(frozen=True, slots=True)
class Chooser:
    """The way in which sentences are chosen."""

    scorer: SentenceScorer
    choice: Choice = CHOICE


class _Newest:
    """A scorer by which the last sentence is the best."""

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        row = np.arange(1, len(texts) + 1, dtype=np.float64) / max(len(texts), 1)
        return np.tile(row, (len(facets), 1))


def newest() -> Chooser:
    """Returns a chooser that drops the oldest sentences, and looks at no question."""
    return Chooser(_Newest(), Choice(parts=0.0, size=0.0))


def nearest(embedder: Embedder | None) -> Chooser:
    """Returns a chooser of the sentences that a question needs; without an embedder by their words alone."""
    return Chooser(LexicalScorer() if embedder is None else FusedScorer(embedder, most=EMBEDDED))


async def shorten(
    draft: Draft,
    parts: Sequence[Part],
    query: str,
    budget: int,
    *,
    tokens: Tokens,
    chooser: Chooser,
    focus: int | None = None,
) -> set[int]:
    """Shortens parts into a budget of tokens, and returns the messages of which nothing is left.

    The text of such a message is an ellipsis. Where sentences stand out for the question (see `compress`), the text says that
    it is excerpts, and what the question is: small models then answer it and do not continue the text.
    """
    least = tokens.count(ELLIPSIS)
    found = await compress(
        [one.shown for one in parts],
        query,
        max(budget, least),
        tokens=tokens,
        scorer=chooser.scorer,
        choice=chooser.choice,
        focus=focus,
    )
    head, label = focused(query)
    empty: set[int] = set()
    for number, part in enumerate(parts):
        mine = [one for one in found.stretches if one.source == number]
        if all(one.kept for one in mine):
            continue
        kept = [Range(part.start + one.start, part.start + one.end, "compressed") for one in mine if one.kept]
        if not kept:
            empty.add(part.index)
        before, behind = part.text[: part.start], part.text[part.end :]
        shown = found.texts[number] or ELLIPSIS
        if found.focused and kept and behind.strip():  # the document of a question
            shown, behind = f"{head}\n{shown.strip()}", f"\n\n{label}{behind.strip()}"
            before = f"{before.rstrip()}\n\n" if before.strip() else ""
        draft.replace(part.index, before + shown + behind, [*kept, *part.around])
    return empty
