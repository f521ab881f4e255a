"""Checks whether passages support sentences: by numbers and names, by content words, and by the cosine of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepwell.knowledge.answer.text import (
    Sentence,
    content_words,
    digits,
    is_negated,
    language_of,
    names,
    numbers,
    plain,
    sentences,
)
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Source", "Support", "SupportThresholds", "Supporter"]

_COMPARED: Final = 3  # sentences of a passage whose vectors are compared with a sentence


@dataclass(frozen=True, slots=True)
class SupportThresholds:
    """Least values of a supported sentence, for one embedder.

    Attributes:
        min_contained: share of its content words that the passage must hold, where both have the same language.
        min_cosine: cosine with the nearest sentence of the passage.
        min_cross_cosine: the same where sentence and passage have different languages, so that words cannot be compared.
    """

    min_contained: float
    min_cosine: float
    min_cross_cosine: float


@dataclass(frozen=True, slots=True)
class Support:
    """The comparison of a sentence with a passage.

    Attributes:
        contained: share of its content words that the passage, or its headings, hold.
        cosine: cosine with the nearest sentence of the passage.
        missing: numbers and names of the sentence that neither the passage nor the question has.
        denies: true if one of sentence and nearest sentence denies and the other does not.
        crosses: true if they have different languages.
        quote: the nearest sentence of the passage, with its offsets in the passage's text.
    """

    contained: float
    cosine: float
    missing: tuple[str, ...]
    denies: bool
    crosses: bool
    quote: Sentence

    def fault(self, thresholds: SupportThresholds) -> str:
        """Returns the reason why the passage does not support the sentence; empty if it does."""
        if self.missing:
            return f"not in the passage: {', '.join(self.missing)}"
        if self.crosses:
            low = self.cosine < thresholds.min_cross_cosine
            return f"cosine {self.cosine:.2f} across languages" if low else ""
        if self.contained < thresholds.min_contained:
            return f"{self.contained:.0%} of the words are in the passage"
        if self.cosine < thresholds.min_cosine:
            return f"cosine {self.cosine:.2f}"
        return "it denies what the passage states, or states what it denies" if self.denies else ""


class Source:
    """A passage prepared for comparison: its sentences, and what its text and headings hold."""

    def __init__(self, passage: Passage) -> None:
        headings = " ".join(passage.place.headings)
        self.passage = passage
        self.language = language_of(passage.text)
        self.sentences = sentences(passage.text) or [Sentence(passage.text, 0, len(passage.text))]
        self.words = frozenset(content_words(f"{headings}\n{passage.text}"))
        self.numbers = numbers(f"{headings}\n{passage.text}")
        self.whole = plain(f"{headings}\n{passage.text}")
        self.by_sentence = [frozenset(content_words(one.text)) for one in self.sentences]

    def nearest(self, words: frozenset[str], count: int) -> list[int]:
        """Returns the indexes of the sentences that share most words, best first."""

        def shared(index: int) -> float:
            own = self.by_sentence[index]
            return len(words & own) / (1 + 0.1 * len(own))

        return sorted(range(len(self.sentences)), key=lambda index: (-shared(index), index))[:count]


class Supporter:
    """Compares sentences of an answer with the passages that it may rest on.

    Args:
        question: its words, names and numbers need no support.
    """

    def __init__(self, question: str, passages: Sequence[Passage], embedder: Embedder) -> None:
        self.sources = [Source(passage) for passage in passages]
        self._embedder = embedder
        self._asked = frozenset(content_words(question))
        self._asked_plain = plain(question)
        self._asked_numbers = numbers(question)
        self._vectors: dict[str, NDArray[np.float32]] = {}

    async def compare(self, sentence: Sentence) -> list[Support]:
        """Returns the comparison of a sentence with every passage, in their order."""
        words = frozenset(content_words(sentence.text))
        chosen = [source.nearest(words, _COMPARED) for source in self.sources]
        texts = [
            source.sentences[index].text
            for source, indexes in zip(self.sources, chosen, strict=True)
            for index in indexes
        ]
        vectors = await self._embed([sentence.text, *texts])
        own = vectors[0]
        found: list[Support] = []
        at = 1
        for source, indexes in zip(self.sources, chosen, strict=True):
            cosines = vectors[at : at + len(indexes)] @ own
            at += len(indexes)
            best = int(cosines.argmax())
            found.append(self._support(sentence, words, source, indexes[best], float(cosines[best])))
        return found

    def _support(
        self, sentence: Sentence, words: frozenset[str], source: Source, index: int, cosine: float
    ) -> Support:
        crosses = language_of(sentence.text) != source.language
        missing = [
            one for one in sorted(digits(sentence.text)) if one not in source.numbers | self._asked_numbers
        ]
        missing += [one for one in sorted(names(sentence.text)) if not self._has(source, one)]
        new = words - self._asked
        if new:
            contained = len(new & source.words) / len(new)
        else:  # it repeats the question
            contained = len(words & source.words) / len(words) if words else 0.0
        quote = source.sentences[index]
        denies = not crosses and is_negated(sentence.text) != is_negated(quote.text)
        return Support(contained, cosine, tuple(missing), denies, crosses, quote)

    def _has(self, source: Source, name: str) -> bool:
        return name in source.whole or name in self._asked_plain or name.rstrip("s") in source.whole

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            made = await self._embedder.embed(new, "passage")
            self._vectors |= dict(zip(new, made, strict=True))
        return np.stack([self._vectors[text] for text in texts])
