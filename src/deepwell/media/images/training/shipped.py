"""The set that the shipped weights were trained on, made from packages and kept in a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from deepwell.media.images.training.families import families, split
from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.images.training.sources import clip_art, emoji, fashion

__all__ = ["HELD_OUT", "HELD_OUT_SHA256", "shipped_pictures"]

HELD_OUT: Final = {"emoji": 200, "clipart": 300}
"""Held-out pictures a source."""

HELD_OUT_SHA256: Final = "ae21715e946053ab6d3bb3b748ead9d6b0271ef881b4c29d74b530c6c067c4fc"
"""Fingerprint of the held-out pictures and their captions, frozen before a network was trained."""

_DEVELOPMENT: Final = {"emoji": 100, "clipart": 150}
_FASHION: Final = 6000


def shipped_pictures(
    cache: Path, progress: Callable[[int, int], None] = lambda done, all: None
) -> PictureSet:
    """Returns the set; it is made at the first call, which takes some minutes.

    Raises:
        DownloadError: a package cannot be fetched; the fix is the command that does.
    """
    folder = cache / "pictures"
    if (folder / "pictures.jsonl").is_file():
        return PictureSet.read(folder)
    packages = cache / "packages"
    drawn = [*emoji(packages), *clip_art(packages, progress), *fashion(packages, _FASHION)]
    images = np.stack([one.image for one in drawn])
    rows = [one.row for one in drawn]
    named = [
        msgspec.structs.replace(row, family=family)
        for row, family in zip(rows, families(rows, images), strict=True)
    ]
    made = PictureSet(split(named, HELD_OUT, _DEVELOPMENT), images)
    made.write(folder)
    return PictureSet.read(folder)
