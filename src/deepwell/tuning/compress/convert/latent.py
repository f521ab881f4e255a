"""Grouped queries as latent attention: a rotated key that all heads share, and a latent of the keys' rest and the values.

Rotary embeddings multiply a pair of dimensions, read as one complex number, by exp(i w n). That commutes with any complex
mixing of the key heads at one frequency w, so the key heads of a frequency may be turned until most of their part in the scores
lies in one component (RoRoPE of TransMLA, arXiv:2502.07864, here with complex instead of real turns, weighted by the queries).
The components with the largest part stay rotated and are shared by all heads. The rest of each key is multiplied with the mean
turn that attention sees, and joins the values in one latent: the best of its rank is a truncated SVD of the joint projection,
weighted on the right by the inputs' second moments and on the left by what keys and values do to scores and outputs.

DeepSeek's score of head i is (q_nope k_nope + q_rope k_rope) / sqrt(nope + rope); queries carry the ratio to the donor's scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SMALLEST_NOPE",
    "Attention",
    "Compressed",
    "Compression",
    "LayerStatistics",
    "Rotation",
    "Weighting",
    "chosen_pairs",
    "compressed",
    "exact",
    "folded",
    "latent_size",
    "rotation_of",
    "tensors_of",
    "weights_of",
]

Matrix = NDArray[np.float64]
Array = NDArray[np.floating]
Complex = NDArray[np.complex128]
_RIDGE: Final = 1e-4
SMALLEST_NOPE: Final = 16
"""Dimensions of a query that meet the latent in an exact conversion, whose latent holds values alone."""
_LATENT_RMS: Final = 2e-6
_INPUT_SCALE: Final = 2.0**14
_SELF: Final = "self_attn."
_NORM: Final = "input_layernorm.weight"
_QUERY: Final = f"{_SELF}q_proj.weight"
_DOWN: Final = f"{_SELF}kv_a_proj_with_mqa.weight"


@dataclass(frozen=True, slots=True)
class Attention:
    """Weights of a donor's layer, float64, with the names of Llama.

    Attributes:
        norm: [hidden], weight of the norm in front.
        q: [heads * head_dim, hidden].
        k: [kv_heads * head_dim, hidden].
        v: [kv_heads * head_dim, hidden].
        o: [hidden, heads * head_dim].
        frequencies: [head_dim / 2], angle of a pair (i, i + head_dim / 2) per position.
    """

    norm: Matrix
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    frequencies: Matrix

    @property
    def head_dim(self) -> int:
        """Dimensions of a head."""
        return 2 * len(self.frequencies)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return len(self.q) // self.head_dim

    @property
    def kv_heads(self) -> int:
        """Number of key heads."""
        return len(self.k) // self.head_dim

    def pairs(self, weight: Matrix) -> Complex:
        """Returns the rows of a projection as complex numbers, [heads, head_dim / 2, hidden]."""
        parts = weight.reshape(-1, 2, self.head_dim // 2, weight.shape[1])
        return parts[:, 0] + 1j * parts[:, 1]


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Means over calibration text of a layer's attention.

    Attributes:
        moments: [hidden, hidden], second moments of its inputs, which are normalised.
        turns: complex [heads, head_dim / 2], mean of exp(i w (key position - query position)) by attention.
    """

    moments: Matrix
    turns: Complex


@dataclass(frozen=True, slots=True)
class Compression:
    """Choices in how the latent is computed.

    Attributes:
        rank: numbers of the latent.
        balance: weight of errors of the values beside those of the keys.
        joint: whether keys and values share the latent; else each gets a part of it by its share of the energy.
    """

    rank: int
    balance: float = 1.0
    joint: bool = True


@dataclass(frozen=True, slots=True)
class Rotation:
    """Key heads turned into components at every frequency.

    Attributes:
        into: complex [head_dim / 2, kv_heads, kv_heads], components from key heads; the strongest is first.
        back: complex [head_dim / 2, kv_heads, kv_heads], key heads from components.
        energy: [head_dim / 2, kv_heads], mean square of a component's part in the scores.
        lost: [head_dim / 2, kv_heads], the part of it that goes when the component is not rotated.
    """

    into: Complex
    back: Complex
    energy: Matrix
    lost: Matrix


@dataclass(frozen=True, slots=True)
class Weighting:
    """Weights that errors of keys and values have.

    Attributes:
        queries: [heads, dim, hidden], what meets the keys of the latent: queries with the mean turn.
        right: [hidden, hidden], root of the inputs' second moments, and `back` its inverse.
        keys: [kv_heads, dim, dim], root of the second moments of the queries of a key head.
        values: [kv_heads, dim, dim], root of what a head's values do to the outputs.
    """

    queries: Matrix
    right: Matrix
    back: Matrix
    keys: Matrix
    values: Matrix


@dataclass(frozen=True, slots=True)
class Compressed:
    """A layer's latent attention before the norm of latents is taken into account; names follow DeepSeek.

    Attributes:
        q: [heads, nope + rope, hidden].
        rope: [rope, hidden], the rotated key, halves in the order of the pairs.
        down: [rank, hidden], the latent.
        up: [heads, nope + value, rank].
        o: [hidden, heads * value].
    """

    q: Matrix
    rope: Matrix
    down: Matrix
    up: Matrix
    o: Matrix
    nope: int


def rotation_of(layer: Attention, seen: LayerStatistics) -> Rotation:
    """Returns the turns of key heads that put most of each frequency's scores into the first component."""
    q, k = layer.pairs(layer.q), layer.pairs(layer.k)
    groups = layer.heads // layer.kv_heads
    pairs = layer.head_dim // 2
    queries = _energy(q, seen.moments).reshape(layer.kv_heads, groups, pairs).sum(1)
    spread = np.sqrt(np.maximum(queries, 1e-12))  # [kv_heads, pairs]
    into = np.empty((pairs, layer.kv_heads, layer.kv_heads), np.complex128)
    back, energy = np.empty_like(into), np.empty((pairs, layer.kv_heads))
    for pair in range(pairs):
        rows = k[:, pair] * spread[:, pair, None]
        found, vectors = np.linalg.eigh(rows @ seen.moments @ rows.conj().T)
        order = np.argsort(found)[::-1]
        vectors = vectors[:, order]
        energy[pair] = np.maximum(found[order], 0)
        into[pair] = vectors.conj().T * spread[:, pair]
        back[pair] = vectors / spread[:, pair, None]
    kept = np.mean(np.abs(seen.turns) ** 2, 0)
    return Rotation(into, back, energy, energy * (1 - kept[:, None]))


def chosen_pairs(
    rotations: Sequence[Rotation], rope: int, by: Literal["lost", "energy"] = "lost"
) -> NDArray[np.intp]:
    """Returns how many components of each frequency stay rotated, in all layers alike, [head_dim / 2], `rope` / 2 in all."""
    parts = np.stack([one.lost if by == "lost" else one.energy for one in rotations])
    total: Matrix = parts.sum(0)
    order = np.argsort(total, axis=None)[::-1][: rope // 2]
    chosen = np.zeros(total.shape, bool)
    chosen.reshape(-1)[order] = True
    return chosen.sum(1)


def weights_of(layer: Attention, seen: LayerStatistics, *, aware: bool = True) -> Weighting:
    """Returns how errors of a layer's keys and values count; not aware: all weights alike."""
    groups, dim, hidden = layer.heads // layer.kv_heads, layer.head_dim, layer.q.shape[1]
    turned = layer.pairs(layer.q) * seen.turns.conj()[:, :, None]
    queries = np.concatenate([turned.real, turned.imag], 1)  # [heads, dim, hidden]
    if not aware:
        alike = np.broadcast_to(np.eye(dim), (layer.kv_heads, dim, dim))
        return Weighting(queries, np.eye(hidden), np.eye(hidden), alike, alike)
    right, back = _roots(seen.moments)
    asked = (queries @ seen.moments) @ queries.swapaxes(1, 2)
    out = layer.o.reshape(hidden, layer.heads, dim).transpose(1, 2, 0)
    told = out @ out.swapaxes(1, 2)
    keys, values = (
        np.stack([_roots(one)[0] for one in found.reshape(-1, groups, dim, dim).sum(1)])
        for found in (asked, told)
    )
    return Weighting(queries, right, back, keys, values)


def compressed(
    layer: Attention, weights: Weighting, rotation: Rotation, counts: NDArray[np.intp], how: Compression
) -> Compressed:
    """Returns the latent attention that stands for a layer.

    Args:
        counts: components of each frequency that stay rotated; see `chosen_pairs`.
    """
    groups, dim = layer.heads // layer.kv_heads, layer.head_dim
    q, k = layer.pairs(layer.q), layer.pairs(layer.k)
    shared: list[Complex] = []
    asking: list[Complex] = []
    rest = k.copy()
    for pair in np.flatnonzero(counts):
        for component in range(counts[pair]):
            key, column = rotation.into[pair, component] @ k[:, pair], rotation.back[pair, :, component]
            shared.append(key)
            # A query meets its key head's share of the component.
            asking.append(q[:, pair] * np.repeat(column.conj(), groups)[:, None])
            rest[:, pair] -= column[:, None] * key
    rope, query = np.stack(shared), np.stack(asking, 1)  # [pairs, hidden], [heads, pairs, hidden]
    keys = np.concatenate([rest.real, rest.imag], 1)  # [kv_heads, dim, hidden]
    down, up = _latent(weights, keys, layer.v.reshape(layer.kv_heads, dim, -1), how)
    scale = np.sqrt((dim + len(shared) * 2) / dim)
    return Compressed(
        scale * np.concatenate([weights.queries, query.real, query.imag], 1),
        np.concatenate([rope.real, rope.imag]),
        down,
        np.repeat(up, groups, 0),
        layer.o,
        dim,
    )


def exact(layer: Attention) -> Compressed:
    """Returns latent attention that computes what the layer does: all keys stay rotated, and the latent is the values.

    A query is zero in the keys of other heads. The cache holds as many numbers as the donor's.
    """
    groups, dim, half = layer.heads // layer.kv_heads, layer.head_dim, layer.head_dim // 2
    q, k = layer.pairs(layer.q), layer.pairs(layer.k)
    hidden, pairs, nope = layer.q.shape[1], layer.kv_heads * half, SMALLEST_NOPE
    query = np.zeros((layer.heads, pairs, hidden), np.complex128)
    up = np.zeros((layer.heads, nope + dim, layer.kv_heads * dim))
    for head in range(layer.heads):
        group = head // groups
        query[head, group * half : (group + 1) * half] = q[head]
        up[head, nope:, group * dim : (group + 1) * dim] = np.eye(dim)
    empty = np.zeros((layer.heads, nope, hidden))
    scale = np.sqrt((nope + 2 * pairs) / dim)
    rope = k.reshape(pairs, hidden)
    return Compressed(
        scale * np.concatenate([empty, query.real, query.imag], 1),
        np.concatenate([rope.real, rope.imag]),
        layer.v,
        up,
        layer.o,
        nope,
    )


def tensors_of(made: Compressed, layer: Attention) -> dict[str, Matrix]:
    """Returns the tensors of `self_attn` and the norm in front, by their names in DeepSeek-V3, without the norm of latents."""
    return {
        _NORM: layer.norm,
        _QUERY: made.q.reshape(-1, made.q.shape[2]),
        _DOWN: np.concatenate([made.down, made.rope]),
        f"{_SELF}kv_b_proj.weight": made.up.reshape(-1, len(made.down)),
        f"{_SELF}o_proj.weight": made.o,
    }


def latent_size(down: Array, moments: Matrix) -> float:
    """Returns the root mean square of a latent [rank, hidden] over calibration text."""
    return float(np.sqrt(max(((down @ moments) * down).sum() / len(down), 1e-30)))


def folded(tensors: Mapping[str, Array], size: float, eps: float) -> dict[str, Array]:
    """Returns the tensors of a layer whose latent passes no norm as those of one whose latent does, computing the same.

    The norm of latents divides by sqrt(mean square + eps). Latents far smaller than sqrt(eps) are divided by a constant, so the
    norm passes them on as they are, and its weight brings them back to their size. The inputs of attention are made smaller
    by a power of two for that, and queries and the rotated key larger, so that no weight leaves the range of float16.

    Args:
        tensors: `input_layernorm.weight` and `self_attn.*`, without the norm of latents.
        size: root mean square of the latent on calibration text.
    """
    found = dict(tensors)
    rank = tensors[f"{_SELF}kv_b_proj.weight"].shape[1]
    small = _LATENT_RMS / size
    down = tensors[_DOWN] * _INPUT_SCALE
    down[:rank] *= small
    found[_DOWN] = down
    found[_NORM] = tensors[_NORM] / _INPUT_SCALE
    found[_QUERY] = tensors[_QUERY] * _INPUT_SCALE
    found[f"{_SELF}kv_a_layernorm.weight"] = np.full(rank, np.sqrt(eps + _LATENT_RMS**2) / small, down.dtype)
    return found


def _latent(weights: Weighting, keys: Matrix, values: Matrix, how: Compression) -> tuple[Matrix, Matrix]:
    """Returns the projection to the latent [rank, hidden], and keys beside values from it [kv_heads, 2 dim, rank]."""
    heads, dim, hidden = keys.shape
    weighted_k = (weights.keys @ keys).reshape(-1, hidden) @ weights.right
    weighted_v = (weights.values @ values).reshape(-1, hidden) @ weights.right
    # Both are brought to the same energy first, so that the balance does not depend on the layer.
    size_k, size_v = float(np.linalg.norm(weighted_k)), float(np.linalg.norm(weighted_v)) / how.balance
    # Where every component is rotated, what is left of the keys is rounding.
    size_k = max(size_k, 1e-9 * size_v)
    flat_k, flat_v = weighted_k / size_k, weighted_v / size_v
    if how.joint:
        up, down = _truncated(np.concatenate([flat_k, flat_v]), how.rank)
        up_k, up_v = np.split(up, 2)
    else:
        part = _split(flat_k, flat_v, how.rank)
        (up_k, down_k), (up_v, down_v) = _truncated(flat_k, part), _truncated(flat_v, how.rank - part)
        down = np.concatenate([down_k, down_v])
        up_k = np.pad(up_k, ((0, 0), (0, how.rank - part)))
        up_v = np.pad(up_v, ((0, 0), (part, 0)))
    back_k = np.linalg.solve(weights.keys, size_k * up_k.reshape(heads, dim, -1))
    back_v = np.linalg.solve(weights.values, size_v * up_v.reshape(heads, dim, -1))
    return down @ weights.back, np.asarray(np.concatenate([back_k, back_v], 1), np.float64)


def _truncated(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Returns factors of the best approximation of a rank, each with the roots of the singular values.

    Latents then spread evenly over their dimensions in proportion to the roots, which loses least in a cache of int8.
    """
    squares, vectors = np.linalg.eigh(np.asarray(matrix @ matrix.T, np.float64))
    u = vectors[:, ::-1][:, :rank]
    root = np.maximum(squares[::-1][:rank], 1e-24) ** 0.25
    return u * root, np.asarray((u / root).T @ matrix, np.float64)


def _split(keys: Matrix, values: Matrix, rank: int) -> int:
    """Returns the part of a rank for keys, where each of both keeps its own directions of most energy."""
    both = np.concatenate([np.linalg.eigvalsh(one @ one.T) for one in (keys, values)])
    largest = np.argsort(both)[::-1][:rank]
    return int(np.clip((largest < len(keys)).sum(), 1, rank - 1))


def _roots(moments: Matrix) -> tuple[Matrix, Matrix]:
    """Returns the symmetric root of second moments, with a small ridge, and its inverse."""
    found, vectors = np.linalg.eigh(moments)
    root = np.sqrt(np.maximum(found, 0) + _RIDGE * max(float(found.mean()), 1e-30))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _energy(rows: Complex, moments: Matrix) -> Matrix:
    """Returns the mean square of complex products with inputs, of rows [..., hidden]."""
    return ((rows @ moments) * rows.conj()).sum(-1).real
