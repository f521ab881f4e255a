"""`SoundHead`: from the frames of a sound to a unit vector of the space. numpy alone.

A frame becomes a distribution over units of pronunciation, and the distributions stay soft: they are mixed into vectors, and
attention makes one vector of them. No unit is ever chosen, and nothing is transcribed: there is no text on this way.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from deepwell.media.space.heads import Array, Parameters, gelu, linear, normed, softmax, unit

__all__ = ["HEADS", "SoundHead"]

HEADS: Final = 4
"""Heads of attention in a block."""

_LEAST: Final = 0.1
"""Weight of a pair of frames below which it is left out: it holds silence, or the border of two units."""


class SoundHead:
    """The head of sounds.

    Args:
        parameters: by the names of `training.sounds`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._blocks = 1 + max(int(name.split(".")[1]) for name in parameters if name.startswith("blocks."))

    def __call__(self, features: Array) -> Array:
        """Returns the vector of a sound: [frames, 512] -> [384]."""
        return self.sensed(features)[0]

    def sensed(self, features: Array) -> tuple[Array, Array]:
        """Returns the vector and its signs: [frames, 512] -> [384] and [4].

        The signs are how sure the units are, how much of the sound holds units, how far the features lie from their mean,
        and the length before it was made 1.
        """
        own = self._parameters
        units, weights = self.units(features)
        vector = self.vector(units, weights)
        sure = float((units.max(1) / np.maximum(weights, 1e-6)).mean())
        distance = float(np.abs((features - own["mean"]) / own["scale"]).mean())
        share = float(weights.sum()) * 2 / max(len(features), 1)
        length = float(np.linalg.norm(vector))
        return unit(vector), np.array([sure, share, distance, length], np.float32)

    def units(self, features: Array) -> tuple[Array, Array]:
        """Returns the units of pairs of frames, and their weights: [n, units], whose rows sum to the weights, and [n]."""
        own = self._parameters
        values = gelu(linear((features - own["mean"]) / own["scale"], own, "frames.first"))
        values = values + gelu(_depthwise(values, own, "frames.local"))
        shares = softmax(linear(values, own, "frames.last"))
        if len(shares) > 1:
            shares = shares[: len(shares) // 2 * 2].reshape(-1, 2, shares.shape[1]).mean(1)
        weights = 1.0 - shares[:, 0]
        kept = weights > _LEAST
        if not kept.any():
            kept[int(weights.argmax())] = True
        return shares[kept, 1:], weights[kept]

    def vector(self, units: Array, weights: Array) -> Array:
        """Returns the vector of units, before it is made a unit vector."""
        own = self._parameters
        return linear(gelu(linear(self.pooled(units, weights), own, "first")), own, "second")

    def pooled(self, units: Array, weights: Array) -> Array:
        """Returns what the queries of the pooling gather of units, one behind another: [8 * size]."""
        own = self._parameters
        bias = np.log(np.maximum(weights, np.float32(1e-3)))
        values = units @ own["symbols"]
        values = values + gelu(_convolved(values, own, "mix"))
        for number in range(self._blocks):
            values = self._block(values, bias, f"blocks.{number}.")
        values = normed(values, own, "norm")
        shares = softmax((linear(values, own, "pool") + bias[:, None]).T)  # [queries, n]
        return (shares @ values).reshape(-1)

    def _block(self, values: Array, bias: Array, at: str) -> Array:
        own = self._parameters
        values = values + gelu(_depthwise(normed(values, own, f"{at}local_norm"), own, f"{at}local"))
        count, size = values.shape
        joined = linear(normed(values, own, f"{at}norm"), own, f"{at}attention_in")
        queries, keys, given = joined.reshape(count, 3, HEADS, size // HEADS).transpose(1, 2, 0, 3)
        scores = queries @ keys.transpose(0, 2, 1) / np.float32((size // HEADS) ** 0.5) + bias
        mixed = (softmax(scores) @ given).transpose(1, 0, 2).reshape(count, size)
        values = values + linear(mixed, own, f"{at}attention_out")
        wide = gelu(linear(normed(values, own, f"{at}wide_norm"), own, f"{at}wide_in"))
        return values + linear(wide, own, f"{at}wide_out")


def _windows(values: Array, width: int) -> Array:
    """Returns the neighbours of each row, with zeros beyond the ends: [n, size] -> [n, size, width]."""
    padded = np.pad(values, ((width // 2, width // 2), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)


def _depthwise(values: Array, parameters: Parameters, name: str) -> Array:
    weight = parameters[f"{name}.weight"][:, 0]  # [size, width]
    return (_windows(values, weight.shape[1]) * weight).sum(-1) + parameters[f"{name}.bias"]


def _convolved(values: Array, parameters: Parameters, name: str) -> Array:
    weight = parameters[f"{name}.weight"]  # [out, in, width]
    flat = _windows(values, weight.shape[2]).reshape(len(values), -1)
    return flat @ weight.reshape(len(weight), -1).T + parameters[f"{name}.bias"]
