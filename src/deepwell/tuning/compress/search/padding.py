"""Layers that differ as layers of one shape: parts that went come back as zeros, which compute the same and cost their time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout import expected_tensors

__all__ = ["padded"]


def padded(
    config: ModelConfig, weights: Mapping[str, NDArray[np.float32]]
) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """Returns a configuration without differing layers, and weights of it that compute the same function exactly."""
    plain = replace(config, blocks=())
    found: dict[str, NDArray[np.float32]] = {}
    for name, shape in expected_tensors(plain):
        values = weights.get(name)
        if values is None or values.shape != shape:
            # The norm in front of a part that went may be anything; 1 keeps its input finite.
            made = np.full(shape, float(name.endswith("norm.weight")), np.float32)
            if values is not None:
                made[tuple(slice(0, size) for size in values.shape)] = values
            values = made
        found[name] = values
    return plain, found
