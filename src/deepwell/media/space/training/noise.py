"""Noise for sounds and blur for images, so that the fusion learns to see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["blurred", "noised"]


def noised(
    sound: NDArray[np.int16], others: Sequence[NDArray[np.int16]], decibels: float, draw: np.random.Generator
) -> NDArray[np.int16]:
    """Returns a sound in noise, half of its power white and half the voices of others, `decibels` below it."""
    own = sound.astype(np.float64)
    white = draw.standard_normal(len(own))
    babble = np.zeros(len(own))
    for other in others:
        babble += np.resize(other.astype(np.float64), len(own))
    noise = sum(
        (one / max(float(np.sqrt((one**2).mean())), 1e-9) for one in (white, babble)), np.zeros(len(own))
    )
    wanted = np.sqrt((own**2).mean()) / 10 ** (decibels / 20)
    noise *= wanted / max(float(np.sqrt((noise**2).mean())), 1e-9)
    mixed = own + noise
    return (mixed * min(1.0, 32767.0 / max(float(np.abs(mixed).max()), 1.0))).astype(np.int16)


def blurred(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Returns an image [h, w, 3] behind a Gaussian blur of `sigma` pixels; its borders are continued."""
    reach = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    values = image.astype(np.float64)
    for axis in (0, 1):
        size = values.shape[axis]
        matrix = np.zeros((size, size))
        for offset, tap in zip(range(-reach, reach + 1), taps, strict=True):
            np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), tap)
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return np.rint(values).astype(np.uint8)
