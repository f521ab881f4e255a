"""Tiny heads with random weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepwell.media.space.features import IMAGE_FEATURES, SOUND_FEATURES
from deepwell.media.space.fusion import MODALITIES, SIGNS
from deepwell.media.space.heads import DIMENSIONS

Parameters = dict[str, NDArray[np.float32]]


class Drawn:
    """Draws parameters, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.found: Parameters = {}

    def tensor(self, name: str, *shape: int) -> None:
        size = max(1, int(np.prod(shape[1:])))
        self.found[name] = (self._random.standard_normal(shape) / size**0.5).astype(np.float32)

    def layer(self, name: str, inputs: int, outputs: int) -> None:
        self.tensor(f"{name}.weight", outputs, inputs)
        self.tensor(f"{name}.bias", outputs)

    def norm(self, name: str, size: int) -> None:
        self.found |= {
            f"{name}.weight": np.ones(size, np.float32),
            f"{name}.bias": np.zeros(size, np.float32),
        }

    def standard(self, size: int) -> None:
        self.found |= {"mean": np.zeros(size, np.float32), "scale": np.ones(size, np.float32)}


def image_parameters(hidden: int = 8) -> Parameters:
    drawn = Drawn()
    drawn.standard(IMAGE_FEATURES)
    drawn.layer("first", IMAGE_FEATURES, hidden)
    drawn.layer("second", hidden, DIMENSIONS)
    return drawn.found


def sound_parameters(units: int = 6, size: int = 8, queries: int = 2) -> Parameters:
    drawn = Drawn()
    drawn.standard(SOUND_FEATURES)
    drawn.layer("frames.first", SOUND_FEATURES, size)
    drawn.tensor("frames.local.weight", size, 1, 5)
    drawn.tensor("frames.local.bias", size)
    drawn.layer("frames.last", size, 1 + units)
    drawn.tensor("symbols", units, size)
    drawn.tensor("mix.weight", size, size, 5)
    drawn.tensor("mix.bias", size)
    for name in ("local_norm", "norm", "wide_norm"):
        drawn.norm(f"blocks.0.{name}", size)
    drawn.tensor("blocks.0.local.weight", size, 1, 7)
    drawn.tensor("blocks.0.local.bias", size)
    drawn.layer("blocks.0.attention_in", size, 3 * size)
    drawn.layer("blocks.0.attention_out", size, size)
    drawn.layer("blocks.0.wide_in", size, 3 * size)
    drawn.layer("blocks.0.wide_out", 3 * size, size)
    drawn.norm("norm", size)
    drawn.layer("pool", size, queries)
    drawn.layer("first", queries * size, size)
    drawn.layer("second", size, DIMENSIONS)
    return drawn.found


def fusion_parameters(size: int = 8) -> Parameters:
    drawn = Drawn()
    drawn.found["signs_mean"] = np.zeros((len(MODALITIES), SIGNS), np.float32)
    drawn.found["signs_scale"] = np.ones((len(MODALITIES), SIGNS), np.float32)
    drawn.layer("signs", SIGNS, size)
    drawn.tensor("kinds", len(MODALITIES), size)
    drawn.norm("norm", size)
    drawn.norm("wide_norm", size)
    drawn.layer("attention_in", size, 3 * size)
    drawn.layer("attention_out", size, size)
    drawn.layer("wide", size, size)
    drawn.layer("gate", size, 1)
    return drawn.found
