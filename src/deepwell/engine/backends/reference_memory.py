"""Low-rank memory on numpy: keys and values that have left a window, or latents, as factors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.reference_ops import SMALLEST_PEAK, Float32, apply_rope, widen
from deepwell.engine.backends.specs import MemorySpec
from deepwell.engine.batch import Batch
from deepwell.engine.weights.quantize import round_bf16

__all__ = ["Factors", "Memory", "behind", "factored"]

PIECE_TOKENS: Final = 256  # seen at one place


@dataclass(frozen=True, eq=False)
class Factors:
    """Rows of `layers` and `heads` as codes and a basis: x ~ codes @ basis + mean."""

    codes: NDArray[np.uint8]  # [layers, heads, tokens, rank], 0 to 15
    basis: Float32  # [layers, heads, rank, dim], of bf16 values, with the scales of the codes
    mean: Float32  # [layers, heads, dim], less 7.5 of each row of the basis, as codes stand for -7.5 to 7.5

    def rows(self, layer: int) -> Float32:
        """Returns the rows of a layer, [heads, tokens, dim]."""
        return self.codes[layer].astype(np.float32) @ self.basis[layer] + self.mean[layer][:, None]


class Memory:
    """The segments of one sequence, oldest first.

    A cache of latents has one head a layer: its keys are the rotated parts, its values the latents.
    """

    def __init__(self, key_dim: int, value_dim: int, spec: MemorySpec, cos: Float32, sin: Float32) -> None:
        for rank, dim in ((spec.key_rank, key_dim), (spec.value_rank, value_dim)):
            if rank <= 0 or rank % 16 or rank > -(-dim // 16) * 16:
                raise ValueError("memory: a rank must be a multiple of 16, up to head_dim or kv_lora_rank")
        self.spec = spec
        self._cos, self._sin = cos / cos[0], sin / cos[0]  # yarn's factor is in every key already
        self.segments: deque[tuple[Factors, Factors]] = deque(maxlen=spec.most)

    @property
    def tokens(self) -> int:
        """Number of tokens that are kept."""
        return len(self.segments) * self.spec.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of codes (two a byte), bases (two a number) and means."""
        return sum(
            one.codes.nbytes // 2 + one.basis.nbytes // 2 + one.mean.nbytes
            for segment in self.segments
            for one in segment
        )

    def remember(self, keys: Float32, values: Float32) -> None:
        """Adds a segment of rotated keys and values, [layers, heads, tokens, dim]."""
        at = self.spec.first + np.arange(self.spec.tokens)
        plain = _turned(keys, self._cos[at], -self._sin[at])
        self.segments.append((factored(plain, self.spec.key_rank), factored(values, self.spec.value_rank)))

    def moved(self, rows: Float32, positions: int) -> Float32:
        """Returns rotated keys [layers, heads, tokens, dim] as they are that many places further up, or down if negative."""
        at = np.full(rows.shape[2], abs(positions))
        return _turned(rows, self._cos[at], (1 if positions >= 0 else -1) * self._sin[at])

    def read(self, layer: int) -> tuple[Float32, Float32]:
        """Returns keys, rotated to the places where they are seen, and values: each [heads, tokens, dim]."""
        spec = self.spec
        inside = np.arange(spec.tokens) // PIECE_TOKENS * PIECE_TOKENS
        middle = inside + np.minimum(PIECE_TOKENS, spec.tokens - inside) // 2
        keys: list[Float32] = []
        values: list[Float32] = []
        for age, (key, value) in zip(range(len(self.segments), 0, -1), self.segments, strict=True):
            place = np.maximum(spec.first + middle - age * spec.tokens, spec.floor)
            back = np.where(place < 0, -1, 1).astype(np.float32)[:, None]
            away = np.abs(place)
            keys.append(_turned(key.rows(layer), self._cos[away], back * self._sin[away]))
            values.append(value.rows(layer))
        return np.concatenate(keys, axis=1), np.concatenate(values, axis=1)


def factored(rows: Float32, rank: int) -> Factors:
    """Returns the factors of smallest squared error of [layers, heads, tokens, dim], each head for itself."""
    mean = rows.mean(axis=2, dtype=np.float64)
    centred = rows - mean[:, :, None]
    _, vectors = np.linalg.eigh(centred.swapaxes(-1, -2) @ centred)
    basis = vectors[..., ::-1][..., :rank].swapaxes(-1, -2)  # [layers, heads, rank or dim, dim]
    columns = centred @ basis.swapaxes(-1, -2)
    peak = np.abs(columns).max(axis=2, keepdims=True)
    factor = np.divide(7.5, peak, out=np.zeros_like(peak), where=peak > SMALLEST_PEAK)
    codes = np.rint(columns * factor + 7.5).astype(np.uint8)
    scaled = widen(round_bf16((basis * (peak / 7.5).swapaxes(-1, -2)).astype(np.float32)))
    return Factors(codes, scaled, (mean - 7.5 * scaled.sum(axis=2)).astype(np.float32))


def _turned(rows: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotates [..., tokens, dim] by the angles of each token, [tokens, dim / 2]."""
    flat = rows.reshape(-1, *rows.shape[-2:]).swapaxes(0, 1)  # [tokens, heads, dim]
    return apply_rope(np.ascontiguousarray(flat), cos, sin).swapaxes(0, 1).reshape(rows.shape)


def behind(batch: Batch, s: int, layer: int, keys: Float32, values: Float32) -> tuple[int, Float32, Float32]:
    """Puts the tokens of a sequence's memory in front of those of its pages, and returns their number too.

    Args:
        keys: [heads, length, dim], as the pages of the sequence have them; `values` alike.
    """
    memory = batch.memories[s] if batch.memories else None
    if memory is None or not memory.tokens:
        return 0, keys, values
    if not isinstance(memory, Memory):
        raise TypeError(f"the reference backend needs its own Memory, got {type(memory).__name__}")
    before = memory.read(layer)
    return (
        memory.tokens,
        np.concatenate([before[0], keys], axis=1),
        np.concatenate([before[1], values], axis=1),
    )
