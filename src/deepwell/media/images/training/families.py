"""Finds families of near-duplicates and of one concept, and splits a set of pictures by family."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.media.images.training.pictures import Picture, Split

__all__ = ["families", "split"]

_PERSON: Final = re.compile(
    r"\b(?:man|men|woman|women|person|people|boy|girl|child|baby|mr|mrs|male|female|light|medium|dark|skin|tone|hair)\b"
)
_SERIES: Final = re.compile(
    r"o.clock|thirty|\bmoon\b|\bkeycap\b|\bsuit\b|\barrow\b|\bsquare\b|\bcircle\b|\bheart\b"
)
_ALIKE: Final = 0.985
"""Cosine of two pictures' thumbnails, mean subtracted, above which they are one family."""

_THUMB: Final = 16
_LARGEST_APART: Final = 12
"""Families of more pictures are for training alone: they say too little about concepts that nobody has seen."""


def families(rows: Sequence[Picture], images: NDArray[np.uint8]) -> list[str]:
    """Returns the name of each picture's family: pictures with one key, or that look alike, belong together."""
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row.family:
            continue
        first = seen.setdefault(_key(row), index)
        parent[root(index)] = root(first)
    free = [index for index, row in enumerate(rows) if not row.family]
    for left, right in _alike(images[free]):
        parent[root(free[left])] = root(free[right])
    return [row.family or _key(rows[root(index)]) for index, row in enumerate(rows)]


def _key(row: Picture) -> str:
    """Returns the concept of a picture: its title without digits, words of sex, age and skin, and without a series' number."""
    title = row.title.lower().replace("’", "'")
    if row.source == "emoji" and (series := _SERIES.search(title)):
        return f"series {series[0]}"
    words = sorted(
        set(re.findall(r"[a-z]+", _PERSON.sub(" ", title))) - {"a", "an", "the", "of", "with", "flag"}
    )
    return " ".join(words) or title


def _alike(images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Returns the pairs of pictures whose thumbnails agree."""
    step = images.shape[1] // _THUMB
    thumbs = images.reshape(len(images), _THUMB, step, _THUMB, step, 3).mean((2, 4), dtype=np.float32)
    flat = thumbs.reshape(len(images), -1)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    pairs: list[tuple[int, int]] = []
    for begin in range(0, len(flat), 1024):
        left, right = np.nonzero(flat[begin : begin + 1024] @ flat.T > _ALIKE)
        pairs += [(int(a) + begin, int(b)) for a, b in zip(left, right, strict=True) if a + begin < b]
    return pairs


def split(rows: Sequence[Picture], held_out: dict[str, int], development: dict[str, int]) -> list[Picture]:
    """Returns the rows with their splits, by a hash of the family's name.

    One picture of a family that is apart stands for it, and the others are unused, so that no two of the 500 have one concept.

    Args:
        rows: rows with families.
        held_out: number of held-out pictures a source.
        development: number of development pictures a source.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[row.family].append(index)
    splits: list[Split] = ["train"] * len(rows)
    wanted: list[tuple[Split, dict[str, int]]] = [
        ("held-out", dict(held_out)),
        ("development", dict(development)),
    ]
    for family in sorted(members, key=lambda name: sha256(name.encode()).digest()):
        indices = members[family]
        if len(indices) > _LARGEST_APART:
            continue
        for name, left in wanted:
            chosen = next((index for index in indices if left.get(rows[index].source, 0) > 0), None)
            if chosen is not None:
                left[rows[chosen].source] -= 1
                for index in indices:
                    splits[index] = "unused"
                splits[chosen] = name
                break
    return [msgspec.structs.replace(row, split=splits[index]) for index, row in enumerate(rows)]
