"""`near_duplicates`: texts that differ from an earlier one in little, by Jaccard similarity of their four-character pieces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from deepwell.safety.readings.fold import fold
from deepwell.safety.readings.view import View, positions

__all__ = ["MIN_JACCARD", "near_duplicates"]

MIN_JACCARD: Final = 0.8
_PIECE: Final = 4


def near_duplicates(
    texts: Sequence[str], progress: Callable[[int, int], None] = lambda _done, _all: None
) -> dict[int, int]:
    """Returns the places of texts that repeat an earlier one, with the place of that one.

    Candidates are found by the rarest pieces alone: two texts of this similarity share one of their first
    `n - ceil(0.8 n) + 1` pieces in any common order (prefix filter, Bayardo et al. 2007), so that none is missed.
    """
    pieces = [_pieces(text) for text in texts]
    frequency = Counter(piece for one in pieces for piece in one)
    index: defaultdict[str, list[int]] = defaultdict(list)
    repeats: dict[int, int] = {}
    for place, mine in enumerate(pieces):
        if place % 200 == 0:
            progress(place, len(texts))
        prefix = sorted(mine, key=lambda piece: (frequency[piece], piece))
        prefix = prefix[: len(mine) - _least(len(mine)) + 1]
        seen: set[int] = set()
        for piece in prefix:
            for other in index[piece]:
                if other not in seen:
                    seen.add(other)
                    if _is_near(mine, pieces[other]):
                        repeats[place] = other
                        break
            if place in repeats:
                break
        if place not in repeats:
            for piece in prefix:
                index[piece].append(place)
    progress(len(texts), len(texts))
    return repeats


def _least(count: int) -> int:
    """Returns the fewest pieces that a near text shares with one of this many."""
    return -(-count * 8 // 10)


def _is_near(one: frozenset[str], other: frozenset[str]) -> bool:
    common = len(one & other)
    return common >= MIN_JACCARD * (len(one) + len(other) - common)


def _pieces(text: str) -> frozenset[str]:
    folded = fold(View("", text, positions(len(text) + 1))).view.text
    letters = "".join(character for character in folded if character.isalnum()) or folded
    return frozenset(letters[at : at + _PIECE] for at in range(max(1, len(letters) - _PIECE + 1)))
