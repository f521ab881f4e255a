"""Rotary position tables with context extension: linear, llama3, yarn and longrope, as transformers computes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepwell.models.formats.config import ModelConfig, RopeScaling

__all__ = ["rope_tables"]


def rope_tables(
    config: ModelConfig, max_positions: int, *, of_entries: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of every position, each float32 [max_positions, rotary_dim / 2].

    Yarn's attention factor (arXiv:2309.00071, section 3.4) is multiplied into both.

    Args:
        of_entries: those of DeepSeek-V4's layers with entries, see `Compression.rope_theta`.
    """
    dim, base, scaling = config.rotary_dim, config.rope_theta, config.rope_scaling
    if of_entries and config.compression is not None:
        base, scaling = config.compression.rope_theta, config.compression.rope_scaling
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # numpy's float32 power rounds otherwise with AVX512 than without: by way of float64 every machine has the same bits.
    powers = np.power(float(base), exponents, dtype=np.float64).astype(np.float32)
    frequencies = (np.float32(1.0) / powers).astype(np.float32)
    factor = 1.0
    if scaling is not None:
        if scaling.kind == "linear":
            frequencies = frequencies / np.float32(scaling.factor)
        elif scaling.kind == "llama3":
            frequencies = _llama3(frequencies, scaling)
        elif scaling.kind == "longrope":
            frequencies = np.float32(1.0) / (np.asarray(scaling.factors, np.float32) * powers)
            factor = 1.0 if scaling.attention_factor is None else scaling.attention_factor
        else:
            original = scaling.original_max_position_embeddings or config.max_position_embeddings
            frequencies = _yarn(frequencies, scaling, base, dim, original)
            factor = _yarn_attention_factor(scaling)
    angles = np.arange(max_positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return (np.cos(angles) * np.float32(factor)), (np.sin(angles) * np.float32(factor))


def _llama3(frequencies: NDArray[np.float32], scaling: RopeScaling) -> NDArray[np.float32]:
    """Divide long wavelengths by `factor`, keep short ones, blend those between."""
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    keep = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return ((1 - keep) * frequencies / scaling.factor + keep * frequencies).astype(np.float32)


def _yarn(
    frequencies: NDArray[np.float32], scaling: RopeScaling, base: float, dim: int, original: int
) -> NDArray[np.float32]:
    """Interpolate slow dimensions, keep fast ones, ramp between `beta_slow` and `beta_fast` rotations."""

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), dim - 1)
    span = high - low if high != low else 0.001
    interpolate = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / span, 0, 1)
    blended = frequencies / scaling.factor * interpolate + frequencies * (1 - interpolate)
    return blended.astype(np.float32)


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
