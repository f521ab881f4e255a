"""The heads: from features of an image or of a sound to a unit vector in the space of e5-small's texts. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMENSIONS", "ImageHead", "Parameters", "unit"]

DIMENSIONS: Final = 384
"""Size of a vector of the space: that of e5-small."""

# Features of early stages, of late ones, and of the head.
_RANGES: Final = ((0, 64), (64, 768), (768, 2048))

Array = NDArray[np.float32]
Parameters = Mapping[str, Array]


def unit(vectors: Array) -> Array:
    """Returns vectors at unit length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.float32(1e-12))


def linear(values: Array, parameters: Parameters, name: str) -> Array:
    """Returns `values @ weight.T + bias` of a layer."""
    return values @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def gelu(values: Array) -> Array:
    """Returns GELU by its hyperbolic tangent (Hendrycks and Gimpel, arXiv 1606.08415)."""
    inner = np.float32(0.7978845608) * (values + np.float32(0.044715) * values**3)
    return np.float32(0.5) * values * (np.float32(1.0) + np.tanh(inner))


def normed(values: Array, parameters: Parameters, name: str) -> Array:
    """Returns values under a layer norm."""
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5))
    return scaled * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def softmax(values: Array) -> Array:
    """Returns the softmax over the last dimension."""
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class ImageHead:
    """Two layers over the features of an image.

    Args:
        parameters: `mean` and `scale` of the features, and the layers `first` and `second`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def __call__(self, features: Array) -> Array:
        """Returns unit vectors: [n, 2048] -> [n, 384]."""
        return self.sensed(features)[0]

    def sensed(self, features: Array) -> tuple[Array, Array]:
        """Returns unit vectors and their signs: [n, 2048] -> [n, 384] and [n, 4].

        The signs are the length before it was made 1, and how far from the mean the features of three ranges of stages lie. A
        blurred image has weaker early stages.
        """
        own = self._parameters
        values = (features - own["mean"]) / own["scale"]
        vectors = linear(gelu(linear(values, own, "first")), own, "second")
        parts = [values[:, begin:end] for begin, end in _RANGES]
        signs = [np.linalg.norm(vectors, axis=1), *(np.abs(part).mean(1) for part in parts)]
        return unit(vectors), np.stack(signs, 1)
