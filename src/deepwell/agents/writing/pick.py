"""`pick`: the sentences of several drafts that together make one text of a wanted length with all its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Sentence", "pick"]

_BEAM = 64  # texts that are kept for each set of terms
_MOST_SENTENCES = 12


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that may stand in the text.

    Attributes:
        text: the sentence with its end.
        length: its length, in the unit of the text.
        terms: numbers of the required terms that it has.
        place: position in its draft, 0 the first to 1 the last; sentences are put in this order.
        naturalness: mean log probability of a token, as a model reads it.
    """

    text: str
    length: int
    terms: frozenset[int]
    place: float
    naturalness: float


class _Text(NamedTuple):
    value: float
    length: int
    terms: frozenset[int]
    sentences: tuple[int, ...]


def pick(sentences: Sequence[Sentence], terms: int, least: int, most: int, span: int) -> Sequence[Sentence]:
    """Returns the most natural text, as its sentences in order; an empty one if no choice of them fits.

    A text has each of the `terms` required terms, and a length between `least` and `most`. No two of its sentences share `span`
    characters in a row, or more than one term. The search is a beam over the sentences in order of their places.

    Args:
        sentences: candidates of all drafts.
        terms: number of required terms.
        least, most: bounds of the length.
        span: characters in a row that make two sentences alike.
    """
    ordered = sorted(sentences, key=lambda one: one.place)
    grams = [_grams(one.text, span) for one in ordered]
    alike = [
        frozenset(m for m in range(n) if grams[n] & grams[m] or len(ordered[n].terms & ordered[m].terms) > 1)
        for n in range(len(ordered))
    ]
    texts = [_Text(0.0, 0, frozenset(), ())]
    for number, sentence in enumerate(ordered):
        longer = list[_Text]()
        for text in texts:
            length = text.length + sentence.length
            if (
                length > most
                or len(text.sentences) == _MOST_SENTENCES
                or alike[number].intersection(text.sentences)
            ):
                continue
            value = text.value + sentence.naturalness * sentence.length
            longer.append(_Text(value, length, text.terms | sentence.terms, (*text.sentences, number)))
        texts = _kept(texts + longer)
    whole = frozenset(range(terms))
    fitting = [text for text in texts if text.terms == whole and text.length >= least]
    if not fitting:
        return ()
    best = max(fitting, key=lambda text: text.value / text.length)
    return [ordered[number] for number in best.sentences]


def _kept(texts: Sequence[_Text]) -> list[_Text]:
    """Returns the best texts of each set of terms and each range of lengths."""
    groups: dict[tuple[frozenset[int], int], list[_Text]] = {}
    for text in texts:
        groups.setdefault((text.terms, text.length // 8), []).append(text)
    return [
        one
        for group in groups.values()
        for one in sorted(group, key=lambda text: text.value / max(text.length, 1), reverse=True)[
            : _BEAM // 8
        ]
    ]


def _grams(text: str, span: int) -> frozenset[str]:
    flat = "".join(text.casefold().split())
    return frozenset(flat[at : at + span] for at in range(max(len(flat) - span + 1, 1)))
