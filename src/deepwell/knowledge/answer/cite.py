"""Citations that were checked: each sentence of an answer is bound to the passage that supports it, or leaves the answer.

NOTE: thresholds. They were chosen on the development questions, from sentences of gold passages with a quarter of their words
left out: with those of `THRESHOLDS` 98 % of the English and 97 % of the Chinese ones passed against their own passage, and 12 %
and 7 % against the other passages of the search, some of which state the same. `deepwell bench citations --fit` prints the
distributions. Sentences in a model's own words were not measured so, nor was `min_cross_cosine`: it was set by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from deepwell.knowledge.answer.ledger import Ledger
from deepwell.knowledge.answer.support import Support, Supporter, SupportThresholds
from deepwell.knowledge.answer.text import AnswerLanguage, Sentence, sentences
from deepwell.knowledge.documents import Passage, Place
from deepwell.knowledge.protocols import Embedder

__all__ = [
    "THRESHOLDS",
    "AnswerText",
    "Checked",
    "Citation",
    "CitationChecker",
    "Dropped",
    "GroundedAnswer",
    "SentenceStream",
    "Unsupported",
    "citation_of",
    "thresholds_of",
]

Unsupported = Literal["drop", "mark"]
"""Treatment of a sentence that no passage supports: it leaves the answer, or stays with a mark."""

THRESHOLDS: Final = SupportThresholds(min_contained=0.5, min_cosine=0.88, min_cross_cosine=0.86)
"""For e5-small and e5-small-q4. The cosines of other embedders are lower, so that `LENIENT` leaves them aside."""

LENIENT: Final = SupportThresholds(min_contained=0.6, min_cosine=-1.0, min_cross_cosine=2.0)
"""For embedders that nobody measured: words, numbers and names decide, and nothing is supported across languages."""

_END: Final = re.compile(r"[.!?。！？；…]+[\"'”’」』）)]*$")
_BEGUN: Final = re.compile(
    r"\s*[\[【][\d\s,，、]*$|\n[ \t]*[`~]{1,2}$"
)  # a mark or a fence that a stream has not finished
_UNVERIFIED: Final = {"en": " [unverified]", "zh": "[未核实]"}


def thresholds_of(embedder: Embedder) -> SupportThresholds:
    """Returns the least values of a supported sentence that hold for an embedder."""
    return THRESHOLDS if embedder.name.startswith("e5-small") else LENIENT


@dataclass(frozen=True, slots=True)
class Citation:
    """One mark of an answer.

    Attributes:
        number: number of the passage, as in the mark.
        file_id, filename, place: the file and the place in its original.
        start, end: offsets of the quoted sentence in the text of the document.
        quote: the sentence of the passage that supports the answer's best.
        index: offset of the mark in the answer's text, as OpenAI's `file_citation` has it.
        answer_start, answer_end: offsets of the sentence that carries the mark.
        key: key of the passage's chunk.
    """

    number: int
    file_id: str
    filename: str
    place: Place
    start: int
    end: int
    quote: str
    index: int
    answer_start: int
    answer_end: int
    key: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sentence that did not pass its check, or a mark that was moved.

    Attributes:
        text: the sentence, as the model wrote it.
        reason: why.
        action: "dropped", "marked" as unverified, or "rebound" to another passage.
    """

    text: str
    reason: str
    action: Literal["dropped", "marked", "rebound"]


@dataclass(frozen=True, slots=True)
class GroundedAnswer:
    """An answer with its checked citations.

    Attributes:
        text: the answer, with marks such as `[1]`; if it declines, the words that say so.
        citations: every mark, in order.
        declined: true if nothing was found that answers the question.
        passages: the passages that the numbers mean; number 1 is the first.
        query: the query that was searched.
        ledger: the account of the prompt; None if the model was not asked.
        dropped: sentences that the model wrote and that are not in the answer, or are changed in it.
        quoted: true if the text is a quotation of the best passage and not the model's own words.
    """

    text: str
    citations: tuple[Citation, ...]
    declined: bool
    passages: tuple[Passage, ...] = ()
    query: str = ""
    ledger: Ledger | None = None
    dropped: tuple[Dropped, ...] = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A sentence after its check.

    Attributes:
        sentence: the sentence as written.
        supports: number and comparison of each passage that carries it; empty if there is none.
        dropped: what was found wrong, if anything.
    """

    sentence: Sentence
    supports: tuple[tuple[int, Support], ...]
    dropped: Dropped | None = None

    @property
    def stays(self) -> bool:
        """True if the sentence is part of the answer."""
        return self.dropped is None or self.dropped.action != "dropped"


class CitationChecker:
    """Checks the sentences of one answer, in order.

    Args:
        question: what was asked; its words need no support.
        passages: the passages of the prompt; number 1 is the first.
        unsupported: treatment of sentences that no passage supports.
        thresholds: None: those for the embedder.
    """

    def __init__(
        self,
        question: str,
        passages: Sequence[Passage],
        embedder: Embedder,
        *,
        unsupported: Unsupported = "drop",
        thresholds: SupportThresholds | None = None,
    ) -> None:
        self._supporter = Supporter(question, passages, embedder)
        self._unsupported: Unsupported = unsupported
        self._thresholds = thresholds or thresholds_of(embedder)
        self._seen: set[str] = set()

    async def check(self, sentence: Sentence) -> Checked:
        """Returns a sentence with the passages that support it: those it cites, or else the best one that does."""
        if sentence.text in self._seen:
            return Checked(sentence, (), Dropped(sentence.text, "it was said before", "dropped"))
        self._seen.add(sentence.text)
        if sentence.text.endswith(("?", "？")):
            return Checked(sentence, (), Dropped(sentence.text, "it asks and states nothing", "dropped"))
        compared = await self._supporter.compare(sentence)
        faults = [one.fault(self._thresholds) for one in compared]
        good = [number for number, fault in enumerate(faults, 1) if not fault]
        if cited := [number for number in sentence.cited if number in good]:
            kept = tuple((number, compared[number - 1]) for number in cited)
            return Checked(sentence, kept)
        if good:
            best = max(good, key=lambda number: (compared[number - 1].contained, compared[number - 1].cosine))
            moved = None
            if sentence.cited:
                marks = ", ".join(f"[{number}]" for number in sentence.cited)
                moved = Dropped(sentence.text, f"{marks} does not support it, [{best}] does", "rebound")
            return Checked(sentence, ((best, compared[best - 1]),), moved)
        reason = self._nearest_fault(sentence, compared, faults)
        action = "marked" if self._unsupported == "mark" else "dropped"
        return Checked(sentence, (), Dropped(sentence.text, reason, action))

    def _nearest_fault(self, sentence: Sentence, compared: list[Support], faults: list[str]) -> str:
        if not faults:
            return "there is no passage"
        inside = [number - 1 for number in sentence.cited if 0 < number <= len(faults)]
        best = max(inside or range(len(faults)), key=lambda at: (compared[at].contained, compared[at].cosine))
        return faults[best]


class AnswerText:
    """The text of an answer as it grows, with the offsets of its citations."""

    def __init__(self, passages: Sequence[Passage], language: AnswerLanguage) -> None:
        self._passages = passages
        self._language: AnswerLanguage = language
        self.text = ""
        self.citations: list[Citation] = []

    def add(self, checked: Checked, gap: str = "") -> tuple[str, list[Citation]]:
        """Adds a sentence that stays, and returns the text and the citations that it brought.

        Args:
            gap: white space of the model's text in front of the sentence; its line breaks are kept.
        """
        before = len(self.text)
        if before:
            self.text += "\n" * min(gap.count("\n"), 2) or ("" if self._language == "zh" else " ")
        start = len(self.text)
        sentence = checked.sentence
        end = None if sentence.code else _END.search(sentence.text)
        body, tail = (sentence.text[: end.start()], end.group()) if end else (sentence.text, "")
        self.text += body
        new: list[Citation] = []
        if checked.dropped is not None and checked.dropped.action == "marked":
            self.text += _UNVERIFIED[self._language]
        for number, support in checked.supports:
            self.text += "\n" if sentence.code else "" if self._language == "zh" or new else " "
            new.append(
                citation_of(
                    self._passages[number - 1], number, support.quote, len(self.text), start, len(self.text)
                )
            )
            self.text += f"[{number}]"
        self.text += tail
        new = [_ending(one, len(self.text)) for one in new]
        self.citations += new
        return self.text[before:], new


class SentenceStream:
    """Cuts the pieces of a stream into sentences. One sentence is held back, because its mark may follow it."""

    def __init__(self) -> None:
        self.text = ""
        self._given = 0
        self._end = 0

    def push(self, piece: str) -> list[tuple[Sentence, str]]:
        """Adds a piece; returns each sentence that is complete, with the white space in front of it."""
        self.text += piece
        begun = _BEGUN.search(self.text)
        return self._taken(sentences(self.text[: begun.start()] if begun else self.text)[:-1])

    def finish(self) -> list[tuple[Sentence, str]]:
        """Returns the sentences that were held back."""
        return self._taken(sentences(self.text))

    def _taken(self, ready: list[Sentence]) -> list[tuple[Sentence, str]]:
        new: list[tuple[Sentence, str]] = []
        for sentence in ready[self._given :]:
            new.append((sentence, self.text[self._end : sentence.start]))
            self._end = sentence.end
            self._given += 1
        return new


def citation_of(
    passage: Passage, number: int, quote: Sentence, index: int, answer_start: int, answer_end: int
) -> Citation:
    """Returns a citation of a sentence of a passage, with its offsets in the document.

    If the passage's text is longer than its part of the document, a table's header stands in front of it. A sentence of that
    header is cited by the offsets of the whole passage.
    """
    shift = len(passage.text) - (passage.end - passage.start) if passage.end > passage.start else 0
    start, end = passage.start + quote.start - shift, passage.start + quote.end - shift
    if start < passage.start:
        start, end = passage.start, passage.end
    return Citation(
        number,
        passage.file_id,
        passage.filename,
        passage.place,
        start,
        end,
        quote.text,
        index,
        answer_start,
        answer_end,
        passage.key,
    )


def _ending(citation: Citation, end: int) -> Citation:
    return replace(citation, answer_end=end)
