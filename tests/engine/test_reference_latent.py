"""Latent attention of the numpy backend: both of its paths against direct formulas, in every dtype of the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.engine.backends import reference
from deepwell.engine.backends.reference_latent import select
from deepwell.engine.backends.specs import Indexer, LatentAttentionSpec
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights import quantize

HIDDEN, HEADS, NOPE, ROPE, VALUE, RANK, Q_RANK, EPS = 48, 3, 12, 8, 20, 40, 24, 1e-6
SCALE = 0.2


def random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) / np.float32(6)


W_A = random(Q_RANK + RANK + ROPE, HIDDEN, seed=1)
W_Q = random(HEADS * (NOPE + ROPE), Q_RANK, seed=2)
W_K, W_V = random(HEADS, NOPE, RANK, seed=3), random(HEADS, VALUE, RANK, seed=4)
W_O = random(HIDDEN, HEADS * VALUE, seed=5)
NORM, Q_NORM, KV_NORM = (1 + random(n, seed=6 + n) for n in (HIDDEN, Q_RANK, RANK))
ANGLES = np.arange(64)[:, None] * 0.7 ** np.arange(ROPE // 2)
COS, SIN = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)


def packed(weights: np.ndarray) -> reference.Matrix:
    return reference.matrix(quantize.pack(weights, "fp32"), *weights.shape, "fp32")


def padded(heads: np.ndarray) -> reference.Matrix:
    """[heads, rows, cols] as one matrix whose heads begin at panels."""
    rows = -(-heads.shape[1] // 32) * 32
    return packed(np.pad(heads, ((0, 0), (0, rows - heads.shape[1]), (0, 0))).reshape(-1, heads.shape[2]))


def layer(indexer: Indexer | None = None, *, low_rank: bool = True) -> reference.LatentAttention:
    a = W_A if low_rank else np.concatenate([W_Q @ random(Q_RANK, HIDDEN, seed=9), W_A[Q_RANK:]])
    return reference.latent_attention(
        LatentAttentionSpec(
            NORM,
            packed(a),
            Q_NORM if low_rank else None,
            packed(W_Q) if low_rank else None,
            KV_NORM,
            padded(W_K),
            padded(W_K.swapaxes(1, 2)),
            padded(W_V),
            packed(W_O),
            num_heads=HEADS,
            qk_nope_head_dim=NOPE,
            qk_rope_head_dim=ROPE,
            v_head_dim=VALUE,
            kv_lora_rank=RANK,
            scale=SCALE,
            eps=EPS,
            indexer=indexer,
        )
    )


INDEX_HEADS, INDEX_DIM = 4, 16


def indexer(top_k: int) -> Indexer:
    return Indexer(
        q_b=packed(random(INDEX_HEADS * INDEX_DIM, Q_RANK, seed=20)),
        k=packed(random(INDEX_DIM, HIDDEN, seed=21)),
        k_norm=1 + random(INDEX_DIM, seed=22),
        k_shift=random(INDEX_DIM, seed=23),
        weights=random(INDEX_HEADS, HIDDEN, seed=24),
        num_heads=INDEX_HEADS,
        head_dim=INDEX_DIM,
        top_k=top_k,
    )


def batch(first: int, count: int, prompt: int | None = None) -> Batch:
    """Rows of one sequence whose blocks lie in descending order."""
    lengths = None if prompt is None else np.array([prompt], np.int32)
    return Batch(
        np.zeros(count, np.int32),
        np.arange(first, first + count, dtype=np.int32),
        np.array([0, count], np.int32),
        np.array([[3, 2, 1]], np.int32),
        np.zeros(0, np.int32),
        prompt_lengths=lengths,
    )


def run(
    attention: reference.LatentAttention,
    x: np.ndarray,
    *,
    chunk: int | None = None,
    prompt: int | None = None,
    dtype: KVDtype = "fp32",
) -> np.ndarray:
    """The residual stream after the layer; `prompt` rows are expanded (None: all), in steps of `chunk` rows."""
    cache = reference.latent_cache(1, 4, RANK, ROPE, dtype, INDEX_DIM if attention.spec.indexer else 0)
    chunk = chunk or len(x)
    out = []
    for first in range(0, len(x), chunk):
        step = batch(first, len(x[first : first + chunk]), prompt)
        from deepwell.engine.backends.reference_ops import Adapters

        at = step.positions
        out.append(
            attention.forward(x[first : first + chunk], step, cache, 0, COS[at], SIN[at], Adapters(step))
        )
    return np.concatenate(out)


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * weight


def rotated(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    turned = (x[..., : ROPE // 2] + 1j * x[..., ROPE // 2 :]) * np.exp(1j * ANGLES[positions])
    return np.concatenate([turned.real, turned.imag], axis=-1)


def direct(x: np.ndarray) -> np.ndarray:
    """The layer by its formulas in float64, token by token and head by head."""
    x = x.astype(np.float64)
    h = rms(x, NORM)
    a = h @ W_A.T
    q = rms(a[:, :Q_RANK], Q_NORM) @ W_Q.T
    latents, k_pe = rms(a[:, Q_RANK : Q_RANK + RANK], KV_NORM), a[:, Q_RANK + RANK :]
    positions = np.arange(len(x))
    k_pe = rotated(k_pe, positions)
    out = np.zeros((len(x), HEADS, VALUE))
    for head in range(HEADS):
        mine = q.reshape(len(x), HEADS, -1)[:, head]
        q_nope, q_pe = mine[:, :NOPE], rotated(mine[:, NOPE:], positions)
        keys, values = latents @ W_K[head].T, latents @ W_V[head].T
        for t in range(len(x)):
            scores = (keys[: t + 1] @ q_nope[t] + k_pe[: t + 1] @ q_pe[t]) * SCALE
            weights = np.exp(scores - scores.max())
            out[t, head] = weights / weights.sum() @ values[: t + 1]
    return x + out.reshape(len(x), -1) @ W_O.T


X = random(37, HIDDEN, seed=100) * 6


@pytest.mark.parametrize("prompt", [None, 0, 20], ids=["expanded", "absorbed", "both"])
def test_the_layer_is_its_formula(prompt: int | None) -> None:
    assert np.abs(run(layer(), X, prompt=prompt) - direct(X)).max() < 1e-5


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_chunks_change_nothing(dtype: KVDtype, low_rank: bool) -> None:
    """A row reads what was stored, its own entry included, and so does not see how the prompt was cut."""
    attention = layer(low_rank=low_rank)
    whole = run(attention, X, prompt=20, dtype=dtype)
    for chunk in (1, 7, 16):
        assert np.abs(run(attention, X, prompt=20, dtype=dtype, chunk=chunk) - whole).max() < 1e-5


@pytest.mark.parametrize(("dtype", "max_error"), [("fp32", 1e-5), ("bf16", 1e-2), ("int8", 4e-2)])
def test_narrow_caches_err_little_and_both_paths_alike(dtype: KVDtype, max_error: float) -> None:
    expanded, absorbed = (run(layer(), X, prompt=prompt, dtype=dtype) for prompt in (None, 0))
    assert np.abs(expanded - absorbed).max() < 1e-5
    assert np.abs(expanded - direct(X)).max() < max_error
    assert np.abs(direct(X) - X).max() > 0.1


def test_sizes_of_a_latent() -> None:
    sizes = {
        dtype: reference.latent_cache(2, 5, 512, 64, dtype).nbytes / (2 * 5 * 16)
        for dtype in ("fp32", "bf16", "int8")
    }
    assert sizes == {"fp32": 576 * 4, "bf16": 576 * 2, "int8": 512 + 4 + 64 * 2}
    assert reference.latent_cache(1, 1, 512, 64, "int8", 128).nbytes == 16 * (512 + 4 + 64 * 2 + 128 * 2)


def test_an_indexer_that_takes_all_changes_nothing() -> None:
    assert np.array_equal(run(layer(indexer(64)), X), run(layer(), X))


@pytest.mark.parametrize("prompt", [None, 0])
def test_a_sparse_query_sees_its_best_tokens_alone(prompt: int | None) -> None:
    """Changing a token that was not selected leaves a row as it was; dense attention would notice."""
    sparse = layer(indexer(4))
    out = run(sparse, X, prompt=prompt)
    dense = run(layer(), X, prompt=prompt)
    assert np.abs(out[:4] - dense[:4]).max() < 1e-5, "no more tokens than the indexer takes"
    assert np.abs(out[10:] - dense[10:]).max() > 1e-3
    changed = 0
    for token in range(8):
        other = X.copy()
        other[token] *= -1
        changed += np.abs(run(sparse, other, prompt=prompt)[30:] - out[30:]).max(axis=1) > 1e-6
    assert (changed < 8).all() and (changed > 0).any()


@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=20), top_k=st.integers(1, 8))
def test_select_takes_the_best_and_the_earlier_of_equals(scores: list[int], top_k: int) -> None:
    positions = np.arange(len(scores), dtype=np.int32)
    table = np.tile(np.array(scores, np.float32), (len(scores), 1))
    chosen = select(table, positions, top_k)
    for t in range(len(scores)):
        expected = sorted(range(t + 1), key=lambda i: (-scores[i], i))[:top_k]
        assert sorted(np.flatnonzero(chosen[t])) == sorted(expected)


def test_a_cache_of_keys_and_values_is_refused() -> None:
    embed = packed(random(32, HIDDEN, seed=30))
    model = reference.model(embed, [layer()], NORM, embed, COS, SIN, eps=EPS)
    with pytest.raises(TypeError, match="LatentCache"):
        model.forward(
            replace(batch(0, 1), output_rows=np.zeros(1, np.int32)), reference.kv_cache(1, 2, 1, 8, "fp32")
        )
