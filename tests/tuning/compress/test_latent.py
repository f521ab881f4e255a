"""Latent attention computes what grouped queries do where it may, and loses less when keys and values share it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.tuning.compress.convert.latent import (
    Attention,
    Compressed,
    Compression,
    LayerStatistics,
    chosen_pairs,
    compressed,
    exact,
    folded,
    latent_size,
    rotation_of,
    tensors_of,
    weights_of,
)

HIDDEN, HEADS, KV_HEADS, DIM, TOKENS = 48, 6, 2, 8, 24
Matrix = NDArray[np.float64]


@pytest.fixture(scope="module")
def layer() -> Attention:
    rng = np.random.default_rng(0)

    def weight(rows: int, columns: int) -> Matrix:
        return rng.standard_normal((rows, columns)) / np.sqrt(columns)

    frequencies = 100.0 ** -(np.arange(DIM // 2) / (DIM // 2))
    kv = KV_HEADS * DIM
    return Attention(
        np.ones(HIDDEN),
        weight(HEADS * DIM, HIDDEN),
        weight(kv, HIDDEN),
        weight(kv, HIDDEN),
        weight(HIDDEN, HEADS * DIM),
        frequencies,
    )


@pytest.fixture(scope="module")
def inputs() -> Matrix:
    rng = np.random.default_rng(1)
    return rng.standard_normal((TOKENS, HIDDEN)) * np.geomspace(3, 0.1, HIDDEN)


@pytest.fixture(scope="module")
def seen(inputs: Matrix) -> LayerStatistics:
    turns = np.full((HEADS, DIM // 2), np.exp(0.2j)) * np.linspace(0.1, 0.999, DIM // 2)
    return LayerStatistics(inputs.T @ inputs / len(inputs), turns)


def _turned(pairs: NDArray[np.complex128], frequencies: Matrix) -> NDArray[np.complex128]:
    """Rotates [tokens, ..., pairs] by the positions of the tokens."""
    angles = np.exp(1j * np.arange(len(pairs))[:, None] * frequencies)
    return pairs * angles.reshape(len(pairs), *[1] * (pairs.ndim - 2), -1)


def _complex(values: Matrix) -> NDArray[np.complex128]:
    first, second = np.split(values, 2, -1)
    return first + 1j * second


def _output(scores: Matrix, values: Matrix, out: Matrix) -> Matrix:
    """Returns the output of causal attention from scores [heads, queries, keys] and values [keys, heads, dim]."""
    scores = np.where(np.tri(scores.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, values).reshape(len(values), -1) @ out.T


def _grouped(layer: Attention, inputs: Matrix) -> Matrix:
    def heads(weight: Matrix) -> Matrix:
        return (inputs @ weight.T).reshape(len(inputs), -1, DIM)

    q, k = (_turned(_complex(heads(one)), layer.frequencies) for one in (layer.q, layer.k))
    k = np.repeat(k, HEADS // KV_HEADS, 1)
    scores = np.einsum("qhp,khp->hqk", q.conj(), k).real / np.sqrt(DIM)
    return _output(scores, np.repeat(heads(layer.v), HEADS // KV_HEADS, 1), layer.o)


def _latent(made: Compressed, frequencies: Matrix, inputs: Matrix) -> Matrix:
    q = np.einsum("hdx,tx->thd", made.q, inputs)
    up = np.einsum("hdr,tr->thd", made.up, inputs @ made.down.T)
    key, value = up[..., : made.nope], up[..., made.nope :]
    turned_q = _turned(_complex(q[..., made.nope :]), frequencies)
    turned_k = _turned(_complex(inputs @ made.rope.T), frequencies)
    scores = np.einsum("qhp,kp->hqk", turned_q.conj(), turned_k).real
    scores += np.einsum("qhd,khd->hqk", q[..., : made.nope], key)
    return _output(scores / np.sqrt(made.q.shape[1]), value, made.o)


def _compressed(
    layer: Attention, seen: LayerStatistics, rope: int, how: Compression, *, aware: bool = True
) -> tuple[Compressed, Matrix]:
    rotation = rotation_of(layer, seen)
    counts = chosen_pairs([rotation], rope)
    made = compressed(layer, weights_of(layer, seen, aware=aware), rotation, counts, how)
    return made, np.repeat(layer.frequencies, counts)


def test_all_keys_rotated_and_a_latent_of_the_values_compute_the_same(
    layer: Attention, inputs: Matrix
) -> None:
    made = exact(layer)
    assert made.down.shape == (KV_HEADS * DIM, HIDDEN) and made.rope.shape == (KV_HEADS * DIM, HIDDEN)
    found = _latent(made, np.tile(layer.frequencies, KV_HEADS), inputs)
    np.testing.assert_allclose(found, _grouped(layer, inputs), atol=1e-10)


def test_turned_heads_with_every_component_compute_the_same(
    layer: Attention, inputs: Matrix, seen: LayerStatistics
) -> None:
    made, frequencies = _compressed(layer, seen, KV_HEADS * DIM, Compression(KV_HEADS * DIM))
    np.testing.assert_allclose(_latent(made, frequencies, inputs), _grouped(layer, inputs), atol=1e-8)


def test_components_are_kept_where_positions_matter(layer: Attention, seen: LayerStatistics) -> None:
    rotation = rotation_of(layer, seen)
    assert (np.diff(rotation.energy, axis=1) <= 0).all()
    # the last frequency hardly turns, so its keys need no position
    assert chosen_pairs([rotation], 2, "lost")[-1] == 0
    for rope in (2, 8, 16):
        assert chosen_pairs([rotation, rotation], rope).sum() == rope // 2


def test_a_joint_latent_and_weights_of_the_text_lose_less(
    layer: Attention, inputs: Matrix, seen: LayerStatistics
) -> None:
    wanted = _grouped(layer, inputs)

    def error(how: Compression, *, aware: bool = True) -> float:
        made, frequencies = _compressed(layer, seen, 8, how, aware=aware)
        assert len(made.down) == how.rank
        return float(np.square(_latent(made, frequencies, inputs) - wanted).sum())

    joint = error(Compression(8))
    assert joint < error(Compression(8, joint=False)) and joint < error(Compression(8), aware=False)
    assert error(Compression(16)) < joint


def test_the_norm_of_latents_passes_folded_ones_on_as_they_are(
    layer: Attention, inputs: Matrix, seen: LayerStatistics
) -> None:
    made = exact(layer)
    plain = tensors_of(made, layer)
    tensors = folded(plain, latent_size(made.down, seen.moments), 1e-6)
    rank, down = len(made.down), "self_attn.kv_a_proj_with_mqa.weight"
    smaller = inputs * (tensors["input_layernorm.weight"] / layer.norm)
    latent = smaller @ tensors[down][:rank].T
    latent = latent / np.sqrt(np.square(latent).mean(1, keepdims=True) + 1e-6)
    latent = latent * tensors["self_attn.kv_a_layernorm.weight"]
    np.testing.assert_allclose(latent, inputs @ plain[down][:rank].T, rtol=1e-4, atol=1e-4)
    for name in ("self_attn.q_proj.weight", down):
        rows = tensors[name] if name != down else tensors[name][rank:]
        whole = plain[name] if name != down else plain[name][rank:]
        np.testing.assert_allclose(smaller @ rows.T, inputs @ whole.T, atol=1e-9)
        # a scale of int8 blocks, a 127th of the largest weight, stays a number of float16
        largest = np.abs(tensors[name]).max(1)
        assert largest[largest > 0].min() / 127 > 6e-8 and largest.max() < 65504
