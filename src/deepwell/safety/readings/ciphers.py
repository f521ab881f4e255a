"""Shifted alphabets (rot13, Caesar), the mirrored one (atbash), Vigenère's and reversed text, recognised by their letters."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.readings.english import LETTERS, pair_scores, single_scores
from deepwell.safety.readings.view import Codes, View, codes_of, text_of

__all__ = ["deciphered", "reversed_text"]

_WINDOW: Final = 24
_MIN_LETTERS: Final = 16
_MARGIN: Final = 0.45
"""Least gain over the text as it stands, in nats a letter. English gains about one nat over its rot13."""

_VOTES: Final = 0.3
"""Least share of the windows that are no English which one key must explain."""

_EXPLAINED: Final = -3.2
"""Least mean score of these windows under that key. Under the key of one column of Vigenère's it is about -3.5."""

_ATBASH: Final = LETTERS
_MAX_KEY: Final = 10
_MIN_KEYED: Final = 40
_MAX_SAMPLE: Final = 320
_ROUNDS: Final = 4
_ENGLISH_PAIRS: Final = -6.15
"""Least score a letter, single and in its pair, of a text under a key. English prompts have -5.9, chance -6.8."""

_ENGLISH: Final = -3.1
_FOREIGN: Final = -3.2
_OFFSETS: Final = np.arange(1 << 13, dtype=np.int32) // _WINDOW * LETTERS


@cache
def _hypotheses() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the score of each letter under each key, [26, 27], and what it reads as, [27, 26]."""
    letters = np.arange(LETTERS)
    reads = np.stack([*((letters - key) % LETTERS for key in range(LETTERS)), LETTERS - 1 - letters])
    return single_scores()[reads].T.astype(np.float32), reads


def deciphered(view: View, prefix: str = "") -> list[View]:
    """Returns the text under the key that makes English of the most of it; nothing where it is none the better for any.

    All letters are read under that key, also those of a sentence in plain English around the cipher.
    """
    codes = codes_of(view.text)
    small = codes - np.uint32(97)
    at = np.flatnonzero(small < LETTERS)
    if len(at) < _MIN_LETTERS:
        return []
    letters = small[at].astype(np.int32)
    scores, reads = _hypotheses()
    windows = max(len(at) // _WINDOW, 1)
    whole = windows * _WINDOW
    counts = np.bincount(_offsets(min(whole, len(at))) + letters[:whole], minlength=windows * LETTERS)
    counts = counts.reshape(windows, LETTERS).astype(np.float32)
    table = counts @ scores
    size = min(_WINDOW, len(at))
    best_of = table.argmax(axis=1)
    best_score = table[np.arange(windows), best_of]
    good = (best_score - table[:, 0] > _MARGIN * size) & (best_score > _ENGLISH * size)
    foreign = table[:, 0] < _FOREIGN * size
    others = np.count_nonzero(foreign)
    found: list[View] = []
    if good.any():
        votes = np.bincount(best_of[good])
        best = int(votes.argmax())
        if votes[best] >= _VOTES * others:
            kind = "atbash" if best == _ATBASH else "rot13" if best == 13 else "caesar"
            found.append(_replaced(view, prefix + kind, codes, at, reads[best][letters]))
            if float(table[foreign, best].sum()) >= _EXPLAINED * size * others:
                return found
    if len(at) >= max(_MIN_KEYED, len(codes) // 2) and 2 * others > windows:
        plain = _vigenere(letters)
        if plain is not None:
            found.append(_replaced(view, prefix + "vigenere", codes, at, plain))
    return found


def reversed_text(view: View, prefix: str = "") -> View | None:
    """Returns the text from its end to its beginning, if its pairs of letters are then more like English."""
    small = codes_of(view.text) - np.uint32(97)
    np.minimum(small, LETTERS, out=small)
    gains = _reversal_gains()[small[:-1] * np.uint32(LETTERS + 1) + small[1:]]
    count = len(view.text)
    windows = len(gains) // _WINDOW
    if windows:
        if float(gains[: windows * _WINDOW].reshape(windows, _WINDOW).sum(axis=1).max()) < 0.5 * _WINDOW:
            return None
    elif len(gains) < _MIN_LETTERS // 2 or float(gains.sum()) < 0.5 * len(gains):
        return None
    ends = view.starts[1 : count + 1] if view.ends is None else view.ends
    starts = np.append(view.starts[:count][::-1], view.starts[count])
    return View(prefix + "reversed", view.text[::-1], starts, ends[::-1])


@cache
def _reversal_gains() -> NDArray[np.float32]:
    """Returns what a pair of letters gains by being read backwards, [27 * 27]; 0 beside what is no letter."""
    gains = np.zeros((LETTERS + 1, LETTERS + 1), np.float32)
    scores = pair_scores()
    gains[:LETTERS, :LETTERS] = scores.T - scores
    return gains.ravel()


def _offsets(count: int) -> NDArray[np.int32]:
    """Returns where the counts of each letter's window begin."""
    known = _OFFSETS
    return known[:count] if count <= len(known) else np.arange(count, dtype=np.int32) // _WINDOW * LETTERS


def _replaced(view: View, name: str, codes: Codes, at: NDArray[np.intp], letters: NDArray[np.int64]) -> View:
    out = codes.copy()
    out[at] = letters + 97
    return View(name, text_of(out), view.starts, view.ends)


def _vigenere(letters: NDArray[np.int32]) -> NDArray[np.int64] | None:
    """Returns the letters under the key of two to ten letters that makes most of English of them; None where none does.

    Each letter of a key is the best by single letters, then by pairs with what stands before and behind. A longer key must
    gain what its letters cost: the logarithm of 26 each.
    """
    sample = letters[:_MAX_SAMPLE]
    count = len(sample)
    best_score, best_keys = _ENGLISH_PAIRS * count, None
    for length in range(2, _MAX_KEY + 1):
        score, keys = _fitted(sample, length)
        if score > best_score:
            best_score, best_keys = score, keys
    if best_keys is None:
        return None
    return (letters - best_keys[np.arange(len(letters)) % len(best_keys)]) % LETTERS


def _fitted(letters: NDArray[np.int32], length: int) -> tuple[float, NDArray[np.int64]]:
    """Returns the score of the best key of a length, and the key."""
    scores, _ = _hypotheses()
    pairs = pair_scores()
    column = np.arange(len(letters)) % length
    counts = np.bincount(column * LETTERS + letters, minlength=length * LETTERS).reshape(length, LETTERS)
    table = counts @ scores[:, :LETTERS]
    keys = table.argmax(axis=1)
    plain = (letters - keys[column]) % LETTERS
    for _ in range(_ROUNDS):
        before = keys.copy()
        for place in range(length):
            at = np.arange(place or length, len(letters) - 1, length)
            reads = (letters[at] - np.arange(LETTERS)[:, None]) % LETTERS
            gains = pairs[plain[at - 1], reads] + pairs[reads, plain[at + 1]]
            keys[place] = (gains.sum(axis=1) + table[place]).argmax()
            plain[place::length] = (letters[place::length] - keys[place]) % LETTERS
        if np.array_equal(before, keys):
            break
    total = table[np.arange(length), keys].sum() + pairs[plain[:-1], plain[1:]].sum()
    return float(total) - length * math.log(LETTERS), keys
