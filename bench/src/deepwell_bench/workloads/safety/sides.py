"""Decides which side of the split a source, a cluster or a page is on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, Literal

__all__ = ["Side", "families_by_side", "side_of"]

Side = Literal["train", "development", "test"]

_SALT: Final = "deepwell-safety-1"


def side_of(unit: str) -> Side:
    """Returns the side of a cluster, page, law or file by the hash of its name: half train, 15 % develop, the rest test."""
    share = _share(unit)
    return "train" if share < 0.5 else "development" if share < 0.65 else "test"


def families_by_side(families: Iterable[str]) -> dict[str, Side]:
    """Returns a side for each whole family: in the order of their hashes, every second one is tested."""
    ordered = sorted(set(families), key=_share)
    return {family: "train" if place % 2 else "test" for place, family in enumerate(ordered)}


def _share(unit: str) -> float:
    return int.from_bytes(sha256(f"{_SALT}:{unit}".encode()).digest()[:8], "big") / (1 << 64)
