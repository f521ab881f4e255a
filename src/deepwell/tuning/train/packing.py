"""Packs examples of different lengths into rows of one length, so that few computed tokens are padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

__all__ = ["first_fit_decreasing", "one_to_a_row", "padding_share"]


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of indices whose lengths sum up to at most `capacity` each.

    The longest remaining example goes to the row with the least room that still holds it (best fit, which needs no scan of
    all rows and is never worse in its bound: 11/9 of the optimum and one more, Johnson 1974). Equal lengths keep their order,
    so the result depends on the lengths alone.

    Raises:
        ValueError: a length is below 1 or above the capacity.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for index in order:
        length = lengths[index]
        if not 1 <= length <= capacity:
            raise ValueError(f"example {index} has {length} tokens, and a row holds 1 to {capacity}")
        place = bisect_left(room, (length, 0))
        if place == len(room):
            rows.append([index])
            left, row = capacity - length, len(rows) - 1
        else:
            left, row = room.pop(place)
            rows[row].append(index)
            left -= length
        if left:
            insort(room, (left, row))
    return rows


def one_to_a_row(lengths: Sequence[int]) -> list[list[int]]:
    """Returns a row for each example, the longest first, so that rows of like length can be computed together."""
    return [[index] for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))]


def padding_share(rows: Sequence[Sequence[int]], lengths: Sequence[int], capacity: int) -> float:
    """Returns the share of the rows' capacity that holds no token."""
    used = sum(lengths[index] for row in rows for index in row)
    return 1 - used / (len(rows) * capacity) if rows else 0.0
