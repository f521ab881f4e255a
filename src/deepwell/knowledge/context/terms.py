"""The words by which texts are compared, how rare they are among the texts themselves, and the parts of a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.answer.text import content_words
from deepwell.knowledge.index.lexical import normalised
from deepwell.knowledge.sentences import sentence_spans

__all__ = ["MOST_PARTS", "coverage", "facets_of", "terms_of"]

MOST_PARTS: Final = 12
"""Parts of a question that are looked for one by one. The rest counts with the whole alone."""

_K1, _B = 1.2, 0.5  # BM25's
_TOGETHER, _SHARE = 1.2, 0.9  # least gain of two neighbours, and the share of their coverage that each takes
_FOLLOWS: Final = 0.5
_ECHO: Final = 2  # words of a question that is known again
_CELLS: Final = 1 << 20  # counts that are held at once: a long text has a row for each of its sentences
_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_IS_HAN: Final = re.compile(f"[{_HAN}]")
# Letters that neither English nor Chinese has, and so `content_words` leaves out.
_OTHER_LETTER: Final = re.compile(rf"[^\W\d_a-zA-Z{_HAN}]")
_JOINTS: Final = re.compile(
    r"[,;:](?=\s)|\?\s|\b(?:and|or|as well as|plus|also)\b|[，、；：？]|以及|还有|和|与|跟|及|或",
    re.IGNORECASE,
)
_COMMA: Final = re.compile(r",(?=\s)|，")
_ASKS: Final = re.compile(
    r"\b(?:who|whose|whom|what|when|where|which|how|why)\b|谁|什么|哪|几|多少|多[大长久高远深重快]|何|吗|怎",
    re.IGNORECASE,
)


def terms_of(text: str) -> Counter[str]:
    """Returns the words of a text with their counts: English ones stemmed and without stop words, Chinese ones as pairs.

    Words of other scripts are taken as the lexical index has them.
    """
    words = content_words(text)
    if _OTHER_LETTER.search(text):
        words += [one for one in normalised(text).split() if not one.isascii() and not _IS_HAN.search(one)]
    return Counter(words)


def coverage(queries: Sequence[Mapping[str, int]], texts: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
    """Returns how much of each query the words of each text cover, 0 to 1: float64 [queries, texts].

    It is BM25 over its ceiling, with the frequencies of the texts themselves. A word that no text has counts in the ceiling:
    where the texts use other words than the query, this arm has little say. Texts are neighbours in their order. Two that cover
    a query together better than either alone ("The Rotterdam depot was refitted. Its new safe has the number 48213.") both
    take a share of what they cover together. A text takes half of what the one before it covers: it may go on about it.

    A text that has the words of a query and no others, two or more, covers nothing: it is the question, asked before. What
    stands behind it still takes its half.
    """
    wanted = {word: index for index, word in enumerate(sorted({word for query in queries for word in query}))}
    lengths = np.fromiter((sum(text.values()) for text in texts), np.float64, len(texts))
    held = [
        (row, wanted[word], text[word])
        for row, text in enumerate(texts)
        for word in text.keys() & wanted.keys()
    ]
    places = np.array(held, np.int64).reshape(-1, 3)  # [pairs, 3], rows ascending: text, word, count
    frequency = np.bincount(places[:, 1], minlength=len(wanted))
    idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
    # A short text counts for more. A long one may have the fact behind another sentence, and is no worse than the mean.
    lengths = np.minimum(lengths / max(float(lengths.mean()), 1.0), 1.0) if len(texts) else lengths
    columns = [sorted(wanted[word] for word in query) for query in queries]
    found = np.empty((len(queries), len(texts)))
    step = max(_CELLS // max(len(wanted), 1), 1)
    for begin in range(0, len(texts), step):
        end = min(begin + step, len(texts))
        first, last = max(begin - 1, 0), min(end + 1, len(texts))  # with a neighbour on either side
        counts = np.zeros((last - first, len(wanted)))
        at = slice(*np.searchsorted(places[:, 0], (first, last)))
        counts[places[at, 0] - first, places[at, 1]] = places[at, 2]
        some = _with_neighbours(counts, lengths[first:last], idf, columns)
        found[:, begin:end] = some[:, begin - first : end - first]
    asked = [query.keys() for query in queries if len(query) >= _ECHO]
    found[:, [index for index, text in enumerate(texts) if text.keys() in asked]] = 0.0
    return found


def _with_neighbours(
    counts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    idf: NDArray[np.float64],
    columns: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Returns coverage, [queries, texts], as `_covered`, with what texts take from their neighbours."""
    alone = _covered(counts, lengths, idf, columns)
    if len(counts) < 2:
        return alone
    together = _covered(counts[:-1] + counts[1:], (lengths[:-1] + lengths[1:]) / 2, idf, columns)
    gain = together >= _TOGETHER * np.maximum(alone[:, :-1], alone[:, 1:])
    shared = np.where(gain, _SHARE * together, 0.0)
    found = alone.copy()
    found[:, :-1] = np.maximum(found[:, :-1], shared)
    found[:, 1:] = np.maximum.reduce([found[:, 1:], shared, _FOLLOWS * alone[:, :-1]])
    return found


def _covered(
    counts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    idf: NDArray[np.float64],
    columns: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Returns BM25 over its ceiling, [queries, texts], of counts [texts, words] and lengths in units of the mean."""
    norm = _K1 * (1 - _B + _B * lengths)
    gains = (idf * counts / (counts + norm[:, None])).T  # [words, texts]
    found = np.zeros((len(columns), len(counts)))
    for row, used in enumerate(columns):
        if ceiling := math.fsum(idf[used].tolist()):
            found[row] = np.add.reduce(gains[used], axis=0) / ceiling
    return found


def facets_of(query: str) -> tuple[str, ...]:
    """Returns a question, then its parts if it asks for several things: between commas, "and", "以及" and the like.

    A part without a word of meaning is none. What a sentence is about and what it asks are one ("In the Rotterdam depot, what
    number has the safe?", "湖州面包房买的烤箱，序列号是什么？").
    """
    parts: list[str] = []
    for start, end in sentence_spans(query):
        if not _has_topic(query[start:end]):
            parts += [part.strip(" .?!。？！") for part in _JOINTS.split(query[start:end])]
        else:
            parts.append(query[start:end].strip(" .?!。？！"))
    parts = list(dict.fromkeys(part for part in parts if part and content_words(part)))
    return (query, *parts[:MOST_PARTS]) if len(parts) > 1 else (query,)


def _has_topic(sentence: str) -> bool:
    """Returns whether a sentence has two parts, a comma between them, of which the second alone asks."""
    parts = _COMMA.split(sentence)
    return (
        len(parts) == 2
        and len([one for one in _JOINTS.split(sentence) if one.strip(" .?!。？！")]) == 2
        and _ASKS.search(parts[0]) is None
        and _ASKS.search(parts[1]) is not None
    )
