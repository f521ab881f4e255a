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

_K1, _B = 1.2, 0.5  # BM25's; texts are sentences and chunks, of much the same length
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_JOINTS: Final = re.compile(
    r"[,;:](?=\s)|\?\s|\b(?:and|or|as well as|plus|also)\b|[，、；：？]|以及|还有|和|与|跟|及|或",
    re.IGNORECASE,
)


def terms_of(text: str) -> Counter[str]:
    """Returns the words of a text with their counts: English ones stemmed and without stop words, Chinese ones as pairs.

    Words of other scripts are taken as the lexical index has them.
    """
    words = content_words(text)
    if not text.isascii():
        words += [one for one in normalised(text).split() if not one.isascii() and not _HAN.search(one)]
    return Counter(words)


def coverage(queries: Sequence[Mapping[str, int]], texts: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
    """Returns how much of each query the words of each text cover, 0 to 1: float64 [queries, texts].

    It is BM25 over its ceiling, with the frequencies of the texts themselves. A word that no text has counts in the ceiling:
    where the texts use other words than the query, this arm has little say.
    """
    wanted = sorted({word for query in queries for word in query})
    column = {word: index for index, word in enumerate(wanted)}
    counts = np.zeros((len(texts), len(wanted)))
    lengths = np.zeros(len(texts))
    for row, text in enumerate(texts):
        lengths[row] = sum(text.values())
        for word in text.keys() & column.keys():
            counts[row, column[word]] = text[word]
    frequency = np.count_nonzero(counts, axis=0)
    idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
    mean = max(float(lengths.mean()), 1.0) if len(texts) else 1.0
    norm = _K1 * (1 - _B + _B * lengths / mean)
    gains = idf * counts * (_K1 + 1) / (counts + norm[:, None] + 1e-12)  # [texts, words]
    found = np.zeros((len(queries), len(texts)))
    for row, query in enumerate(queries):
        used = [column[word] for word in query]
        ceiling = math.fsum(float(idf[one]) * (_K1 + 1) for one in used)
        if ceiling:
            # Summed in a fixed order, whatever the shapes are.
            found[row] = np.add.reduce(gains[:, sorted(used)].T, axis=0) / ceiling
    return found


def facets_of(query: str) -> tuple[str, ...]:
    """Returns a question, then its parts if it asks for several things: between commas, "and", "以及" and the like.

    A part without a word of meaning is none.
    """
    parts: list[str] = []
    for start, end in sentence_spans(query):
        parts += [part.strip(" .?!。？！") for part in _JOINTS.split(query[start:end])]
    parts = list(dict.fromkeys(part for part in parts if part and content_words(part)))
    return (query, *parts[:MOST_PARTS]) if len(parts) > 1 else (query,)
