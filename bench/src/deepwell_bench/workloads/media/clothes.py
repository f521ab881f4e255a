"""A classifier of Fashion-MNIST that knows nothing of the network that draws: filters from patches, and a linear layer.

Source: Coates, Ng and Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (2011).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClothesClassifier"]

_PATCH: Final = 7
_FILTERS: Final = 256
_POOL: Final = 4
_REGULARISATION: Final = 30.0
_BATCH: Final = 500


class ClothesClassifier:
    """Tells the class of pictures of 28 x 28 pixels.

    Args:
        images: uint8 [N, 28, 28], light on dark.
        labels: class numbers, [N].
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        generator = np.random.default_rng(0)
        sample = _patches(images[generator.choice(len(images), 500, replace=False)]).reshape(
            -1, _PATCH * _PATCH
        )
        sample = _flat(sample[generator.choice(len(sample), 20_000, replace=False)])
        self._mean = sample.mean(0)
        values, vectors = np.linalg.eigh(np.cov(sample - self._mean, rowvar=False))
        self._whiten = (vectors / np.sqrt(values + 0.1)) @ vectors.T
        filters = (sample[: 4 * _FILTERS] - self._mean) @ self._whiten
        lengths = np.linalg.norm(filters, axis=1)
        filters = filters[np.argsort(-lengths)[:_FILTERS]]
        self._filters = (filters / np.linalg.norm(filters, axis=1, keepdims=True)).astype(np.float32)
        features = self._features(images)
        self._centre, self._spread = features.mean(0), features.std(0) + 1e-3
        scaled = (features - self._centre) / self._spread
        wanted = np.eye(10, dtype=np.float32)[labels] - 0.1
        gram = scaled.T @ scaled + _REGULARISATION * np.eye(scaled.shape[1], dtype=np.float32)
        self._weights: NDArray[Any] = np.linalg.solve(gram, scaled.T @ wanted)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns the class of each picture, [N]."""
        return ((self._features(images) - self._centre) / self._spread @ self._weights).argmax(1)

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        side = 28 - _PATCH + 1
        edges = np.linspace(0, side, _POOL + 1).astype(int)[:-1]
        made: list[NDArray[Any]] = []
        for begin in range(0, len(images), _BATCH):
            patches = _patches(images[begin : begin + _BATCH])
            white = (_flat(patches.reshape(-1, _PATCH * _PATCH)) - self._mean) @ self._whiten
            answers = np.maximum(white.astype(np.float32) @ self._filters.T - 0.5, 0)
            grid = answers.reshape(len(patches), side, side, _FILTERS)
            pooled = np.add.reduceat(np.add.reduceat(grid, edges, axis=1), edges, axis=2)
            made.append(pooled.reshape(len(patches), -1))
        return np.concatenate(made, dtype=np.float32)


def _patches(images: NDArray[np.uint8]) -> NDArray[Any]:
    """Returns every square of 7 x 7 pixels: [N, 28, 28] -> [N, 22 * 22, 49]."""
    scaled = images.astype(np.float32) / 255
    views = np.lib.stride_tricks.sliding_window_view(scaled, (_PATCH, _PATCH), axis=(1, 2))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return views.reshape(len(images), -1, _PATCH * _PATCH)


def _flat(patches: NDArray[np.float32]) -> NDArray[Any]:
    """Returns patches of equal brightness and contrast."""
    centred = patches - patches.mean(1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + 0.01)
