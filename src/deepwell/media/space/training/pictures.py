"""Features of pictures, computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.space.features import ImageEncoder, prepared_image

__all__ = ["features_of_pictures"]

Array = NDArray[np.float32]
_BATCH: Final = 16


def features_of_pictures(
    pictures: PictureSet,
    indices: Sequence[int],
    encoder: ImageEncoder,
    stored: Path,
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> Array:
    """Returns the features of pictures [n, 2048]; they are computed once, and kept in a file with the pictures' numbers."""
    wanted = np.asarray(indices, np.int64)
    if stored.is_file():
        with np.load(stored) as found:
            if np.array_equal(found["indices"], wanted):
                return found["features"].astype(np.float32)
    parts: list[Array] = []
    for begin in range(0, len(wanted), _BATCH):
        progress(begin, len(wanted))
        some = wanted[begin : begin + _BATCH]
        parts.append(encoder.encode(np.stack([prepared_image(pictures.images[index]) for index in some])))
    features = np.concatenate(parts)
    partial = stored.with_suffix(".partial.npz")
    np.savez(partial, indices=wanted, features=features.astype(np.float16))
    partial.replace(stored)
    return features
