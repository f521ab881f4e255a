"""`gram_sums`: running sums of a table of weights over the n-grams of a text, compiled or in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.classifier.features import grams
from deepwell.safety.classifier.weights import COLUMNS
from deepwell.safety.compiled import extension
from deepwell.safety.readings.view import codes_of

__all__ = ["GramSums", "gram_sums", "numpy_gram_sums"]


@dataclass(frozen=True, slots=True)
class GramSums:
    """Running sums by which the windows of a text are scored. The sum of a window is the difference of two of them.

    Attributes:
        kept: int64 [characters read]; place in the text of each character that was read.
        sums: int64 [characters read + 1, columns]; running sums of the rows of the n-grams that begin before a character.
        totals: int64 [characters read + 1]; the number of these n-grams.
        words: number of words.
    """

    kept: NDArray[np.int64]
    sums: NDArray[np.int64]
    totals: NDArray[np.int64]
    words: int


def gram_sums(text: str, table: NDArray[np.int8]) -> GramSums:
    """Returns the running sums of a text.

    Args:
        table: int8 [2**18, 4], contiguous; the row of each bucket of `grams`.
    """
    native = extension()
    if native is None:
        return numpy_gram_sums(text, table)
    return GramSums(*native.gram_sums(codes_of(text), table))


def numpy_gram_sums(text: str, table: NDArray[np.int8]) -> GramSums:
    """Returns the same as `gram_sums` without the extension, bit for bit, in six times the time."""
    read = grams(text)
    # A row is read as one word of 32 bits.
    words = table.view(np.int32).reshape(-1)
    size = len(read.kept)
    # Six values of int8 fit into int16.
    each = np.zeros((size, COLUMNS), dtype=np.int16)
    counts = np.zeros(size, dtype=np.int64)
    for buckets in read.characters:
        each[: len(buckets)] += words[buckets].view(np.int8).reshape(-1, COLUMNS)
        counts[: len(buckets)] += 1
    for buckets in read.words:
        starts = read.starts[: len(buckets)]
        each[starts] += words[buckets].view(np.int8).reshape(-1, COLUMNS)
        counts[starts] += 1
    sums = np.zeros((size + 1, COLUMNS), dtype=np.int64)
    np.cumsum(each, axis=0, out=sums[1:])
    totals = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(counts, out=totals[1:])
    return GramSums(read.kept, sums, totals, len(read.starts))
