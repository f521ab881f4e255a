"""Frequencies of English letters, by which a cipher and a reversed text are recognised."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LETTERS", "pair_scores", "single_scores"]

LETTERS: Final = 26

# Letters of English in a thousand, as of any count over a few books: E. S. Lee, Essays about Computer Security, 1999.
_PER_MILLE: Final = (
    82, 15, 28, 43, 127, 22, 20, 61, 70, 1.5, 7.7, 40, 24, 67, 75, 19, 0.95, 60, 63, 91, 28, 9.8, 24, 1.5, 20, 0.74,
)  # fmt: skip


@cache
def single_scores() -> NDArray[np.float64]:
    """Returns the natural logarithm of the frequency of each letter, [26]."""
    share = np.array(_PER_MILLE)
    return np.log(share / share.sum())


@cache
def pair_scores() -> NDArray[np.float32]:
    """Returns the natural logarithm of the frequency of a letter behind another, [26, 26]; first the one in front."""
    rows = [
        line
        for line in files("deepwell.safety")
        .joinpath("data", "letter_pairs.txt")
        .read_text(encoding="utf-8")
        .splitlines()
        if not line.startswith("#")
    ]
    levels = np.array([[ord(character) - ord("0") for character in row] for row in rows], np.float32)
    return (-levels / 4).astype(np.float32)
