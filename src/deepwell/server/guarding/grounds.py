"""`Grounds`: the passages that an answer is to rest on, and what the answer claims without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepwell.safety.findings import Finding
from deepwell.safety.grounding import Groundedness, claims_of

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage
    from deepwell.knowledge.protocols import Embedder

__all__ = ["Grounds"]

_MOST_UNSUPPORTED: Final = 0.49
"""Support of a claim with a fault: below what `Groundedness` asks for, however many of its words a passage has."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """The passages of one answer.

    Attributes:
        question: what was asked; its words, numbers and names need no support.
        passages: what the model was shown. Without any there is nothing to check.
        embedder: that of the store; it knows its thresholds.
    """

    question: str = ""
    passages: Sequence[Passage] = ()
    embedder: Embedder | None = None

    async def ungrounded(self, answer: str) -> list[Finding]:
        """Returns the claims of an answer that no passage supports, as findings of the category `ungrounded`."""
        if not self.passages or self.embedder is None:
            return []
        claims = dict.fromkeys(answer[start:end].strip() for start, end in claims_of(answer))
        supports = {claim: await self._support(claim, self.embedder) for claim in claims}
        texts = [one.text for one in self.passages]

        def support(claim: str, passages: Sequence[str]) -> float:
            return supports[claim]

        return Groundedness(texts, support).findings(answer)

    async def _support(self, claim: str, embedder: Embedder) -> float:
        """Returns how well the best passage supports a claim, as the citations of an answer are checked."""
        from deepwell.knowledge.answer.cite import thresholds_of
        from deepwell.knowledge.answer.support import Supporter
        from deepwell.knowledge.answer.text import sentences

        thresholds = thresholds_of(embedder)
        supporter = Supporter(self.question, self.passages, embedder)
        worst = 1.0
        for sentence in sentences(claim):
            compared = await supporter.compare(sentence)
            if all(one.fault(thresholds) for one in compared):
                contained = max(one.contained for one in compared)
                worst = min(worst, contained, _MOST_UNSUPPORTED)
        return worst
