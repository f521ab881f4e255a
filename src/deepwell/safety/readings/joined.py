"""`joined`: spaced letters and separated Han characters put together (`i g n o r e`, `法-轮-功`)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.readings.fold import Folded
from deepwell.safety.readings.tables import HAN, LETTER, OTHER, SENTENCE
from deepwell.safety.readings.view import View, text_of

__all__ = ["joined"]

_MIN_SPACED: Final = 4
_MAX_GAP: Final = 4
_MAX_HAN_GAP: Final = 6
_SPACE: Final = 0x20
_LINE_END: Final = 0x0A


def joined(name: str, source: View, folded: Folded) -> View | None:
    """Returns the reading with spaced letters and Han characters joined; None where nothing is spaced.

    `source` is the text that was folded.
    """
    classes = folded.classes
    count = len(classes)
    if count < _MIN_SPACED:
        return None
    codes = None
    drop: NDArray[np.bool_] | None = None
    word = (classes == LETTER) | (classes == OTHER)
    alone = _alone(word)
    if np.count_nonzero(alone) >= _MIN_SPACED:
        found = _spaced(folded, np.flatnonzero(alone), word)
        if found is not None:
            drop, blanks = found
            codes = folded.codes.copy()
            codes[blanks] = _SPACE
    han = classes == HAN
    if np.count_nonzero(han) > 1:
        between = _between_han(classes, han, word, folded.codes == _LINE_END)
        if between is not None:
            drop = between if drop is None else drop | between
    if drop is None:
        return None
    kept = np.flatnonzero(~drop)
    text = text_of((folded.codes if codes is None else codes)[kept])
    return source.taken(name, text, folded.kept[kept])


def _alone(word: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which characters of words have no other on either side."""
    alone = word.copy()
    alone[1:] &= ~word[:-1]
    alone[:-1] &= ~word[1:]
    return alone


def _spaced(
    folded: Folded, at: NDArray[np.intp], word: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]] | None:
    """Returns what to drop between letters that stand alone in a row, and the places that become a space.

    The gap that is most frequent in a row of letters parts letters; every other gap parts words.
    """
    gaps = np.diff(at)
    near = gaps <= _MAX_GAP
    if np.count_nonzero(near) < _MIN_SPACED - 1:
        return None
    linked = np.zeros(len(at) + 1, np.int8)
    np.logical_and(near, np.diff(np.cumsum(word)[at]) == 1, out=linked[1:-1], casting="unsafe")
    edges = np.flatnonzero(linked[1:] != linked[:-1])
    rows = edges.reshape(-1, 2)
    drop: NDArray[np.bool_] | None = None
    blanks: list[NDArray[np.intp]] = []
    for first, last in rows[rows[:, 1] - rows[:, 0] >= _MIN_SPACED - 1].tolist():
        starts, sizes = at[first:last] + 1, gaps[first:last] - 1
        keys = folded.codes[starts].astype(np.int64) * 8 + sizes
        values, counts = np.unique(keys, return_counts=True)
        if counts.max() < max(_MIN_SPACED - 1, len(keys) / 2):
            continue
        inside = keys == values[counts.argmax()]
        if drop is None:
            drop = np.zeros(len(word), np.bool_)
        for size in range(1, _MAX_GAP):
            wide = starts[sizes == size]
            for step in range(size):
                drop[wide + step] = True
        parts = starts[~inside]
        drop[parts] = False
        blanks.append(parts)
    return None if drop is None else (drop, np.concatenate(blanks))


def _between_han(
    classes: NDArray[np.uint8], han: NDArray[np.bool_], word: NDArray[np.bool_], line_end: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Returns what stands between two Han characters and parts no sentences.

    Punctuation of sentences and the end of a line part nothing beside a character that stands alone: `法，轮，功`.
    """
    at = np.flatnonzero(han)
    gaps = np.diff(at)
    wide = np.flatnonzero((gaps > 1) & (gaps <= _MAX_HAN_GAP + 1))
    if not len(wide):
        return None
    left, right = at[wide], at[wide + 1]
    words = np.cumsum(word)
    sentence = np.cumsum((classes == SENTENCE) | line_end)
    open_gap = words[right] == words[left]
    alone = _alone(han)
    loose = (sentence[right] == sentence[left]) | alone[left] | alone[right]
    good = open_gap & loose
    if not good.any():
        return None
    edges = np.zeros(len(han) + 1, np.int32)
    edges[left[good] + 1] += 1
    edges[right[good]] -= 1
    return np.cumsum(edges[:-1]) > 0
