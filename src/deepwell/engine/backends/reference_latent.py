"""Multi-head latent attention of the numpy backend (arXiv:2405.04434, section 2.1), and V3.2's sparse form of it.

The cache holds one latent and one rotated key part a token. A query meets them in one of two ways that are equal but
for rounding: *expanded*, where k_up and v_up turn latents into keys and values, or *absorbed*, where k_absorb takes the
query to the latents' space and v_up takes what it attended to out of it. The token's role decides, prompt or generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.reference_memory import Memory, behind
from deepwell.engine.backends.reference_ops import (
    Adapters,
    Float32,
    Matrix,
    Stored,
    apply_rope,
    matmul,
    own,
    quantize_heads,
    rms_norm,
    widen,
)
from deepwell.engine.backends.specs import Indexer, LatentAttentionSpec, MemorySpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights.quantize import round_bf16

__all__ = ["LatentAttention", "LatentCache", "latent_attention", "latent_cache", "select"]

INDEX_NORM_EPS = 1e-6  # of the indexer's LayerNorm, a constant of the architecture


class LatentCache:
    """Paged [layers, blocks, 16 tokens, ...]: latents (int8 with a scale), rotated key parts, the indexer's keys."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        kv_lora_rank: int,
        qk_rope_head_dim: int,
        dtype: KVDtype,
        index_head_dim: int = 0,
    ) -> None:
        slots = (num_layers, num_blocks, BLOCK_TOKENS)
        self.num_blocks = num_blocks
        self.dtype: KVDtype = dtype
        narrow = np.float32 if dtype == "fp32" else np.uint16
        self.latents: Stored = np.zeros((*slots, kv_lora_rank), np.int8 if dtype == "int8" else narrow)
        self.scales = np.zeros(slots if dtype == "int8" else (0,), np.float32)
        self.rotated: Stored = np.zeros((*slots, qk_rope_head_dim), narrow)
        self.index_keys: Stored = np.zeros((*slots, index_head_dim), narrow)
        self.nbytes = sum(a.nbytes for a in (self.latents, self.scales, self.rotated, self.index_keys))

    def write(
        self,
        layer: int,
        blocks: NDArray[np.int32],
        slots: NDArray[np.int32],
        latents: Float32,
        rotated: Float32,
        index_keys: Float32 | None,
    ) -> None:
        """Store rows [tokens, ...] at (block, slot) of each token."""
        at = (layer, blocks, slots)
        narrow = np.asarray if self.dtype == "fp32" else round_bf16
        if self.dtype == "int8":
            self.latents[at], self.scales[at] = quantize_heads(latents)
        else:
            self.latents[at] = narrow(latents)
        self.rotated[at] = narrow(rotated)
        if index_keys is not None:
            self.index_keys[at] = narrow(index_keys)

    def read(self, layer: int, blocks: NDArray[np.int32], length: int) -> tuple[Float32, Float32, Float32]:
        """The first `length` latents, rotated key parts and indexer's keys of a sequence, each [length, ...]."""

        def pages(stored: Any) -> Any:
            page = stored[layer, blocks]
            return page.reshape(len(blocks) * BLOCK_TOKENS, *page.shape[2:])[:length]

        latents = widen(pages(self.latents))
        if self.dtype == "int8":
            latents = latents * pages(self.scales)[:, None]
        return latents, widen(pages(self.rotated)), widen(pages(self.index_keys))

    def tokens(self, blocks: Sequence[int]) -> tuple[Float32, Float32]:
        """Returns rotated parts and latents of whole blocks, each [layers, 1, tokens, ...]."""
        pages = [
            self.read(layer, np.asarray(blocks, np.int32), len(blocks) * BLOCK_TOKENS)
            for layer in range(len(self.latents))
        ]
        return np.stack([rotated for _, rotated, _ in pages])[:, None], np.stack(
            [one for one, _, _ in pages]
        )[:, None]

    def memory(self, spec: MemorySpec, cos: Float32, sin: Float32) -> Memory:
        """Makes an empty memory for one sequence.

        Raises:
            ValueError: there is an indexer, whose keys are not kept, or a rank is none.
        """
        if self.index_keys.shape[-1]:
            raise ValueError("memory: the keys of an indexer are not kept as factors")
        rope, rank = self.rotated.shape[-1], self.latents.shape[-1]
        narrow = replace(spec, key_rank=min(spec.key_rank, -(-rope // 16) * 16))
        return Memory(rope, rank, narrow, cos, sin)

    def shift(self, sources: Sequence[int], targets: Sequence[int], cos: Float32, sin: Float32) -> None:
        """Copies blocks with their rotated parts turned by `cos` and `sin`, [rope / 2]; see `Model.shift_blocks`."""
        of, to = np.asarray(sources, np.intp), np.asarray(targets, np.intp)
        narrow = np.asarray if self.dtype == "fp32" else round_bf16
        self.latents[:, to] = self.latents[:, of]
        if self.dtype == "int8":
            self.scales[:, to] = self.scales[:, of]
        rope = self.rotated.shape[-1]
        for stored in (self.rotated, self.index_keys):
            stored[:, to] = stored[:, of]
            if stored.shape[-1]:
                parts = widen(stored[:, of][..., :rope])
                turned = apply_rope(parts.reshape(-1, 1, rope), cos[None], sin[None]).reshape(parts.shape)
                stored[:, to, :, :rope] = narrow(turned)


def _causal(positions: NDArray[np.int32], length: int) -> NDArray[np.bool_]:
    return np.less_equal(np.arange(length)[None, :], positions[:, None])


def select(scores: Float32, positions: NDArray[np.int32], top_k: int) -> NDArray[np.bool_]:
    """Which tokens each query sees, [tokens, length]: the `top_k` best of those at or before it.

    On equal scores the earlier token is taken.
    """
    visible = _causal(positions, scores.shape[1])
    order = np.argsort(-np.where(visible, scores, -np.inf), axis=1, kind="stable")[:, :top_k]
    chosen = np.zeros(visible.shape, np.bool_)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & visible


class LatentAttention:
    """x += o(attend(q, latents)); see `backend.Backend.latent_attention` for the matrices."""

    def __init__(self, spec: LatentAttentionSpec) -> None:
        self.spec = spec
        self.a = own(spec.a)
        self.q_b = None if spec.q_b is None else own(spec.q_b)
        self.k_up = own(spec.k_up)
        self.k_absorb = own(spec.k_absorb)
        self.v_up = own(spec.v_up)
        self.o = own(spec.o)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Matrices that adapters may change."""
        return ("a", "o") if self.q_b is None else ("a", "q_b", "o")

    @cached_property
    def _heads(self) -> list[tuple[Matrix, Matrix]]:
        """k_absorb and v_up, a head at a time."""
        absorb, value = self.k_absorb.rows // self.spec.num_heads, self.v_up.rows // self.spec.num_heads
        return [
            (self.k_absorb.part(h * absorb, absorb), self.v_up.part(h * value, value))
            for h in range(self.spec.num_heads)
        ]

    def forward(
        self,
        x: Float32,
        batch: Batch,
        cache: LatentCache,
        layer: int,
        cos: Float32,
        sin: Float32,
        adapters: Adapters,
    ) -> Float32:
        """The residual stream after this layer; `cos` and `sin` are [tokens, qk_rope_head_dim / 2]."""
        h = rms_norm(x, self.spec.norm, self.spec.eps)
        first = self.a.rows - self.spec.kv_lora_rank - self.spec.qk_rope_head_dim
        q, latents, k_pe = np.split(
            adapters.matmul(h, self.a, "a"), [first, first + self.spec.kv_lora_rank], 1
        )
        compressed = q
        if self.q_b is not None and self.spec.q_norm is not None:
            compressed = rms_norm(q, self.spec.q_norm, self.spec.eps)
            q = adapters.matmul(compressed, self.q_b, "q_b")
        q = q.reshape(len(x), self.spec.num_heads, -1)
        q_nope, q_pe = q[..., : self.spec.qk_nope_head_dim], q[..., self.spec.qk_nope_head_dim :]
        q_pe = apply_rope(q_pe, cos, sin)
        k_pe = apply_rope(k_pe[:, None], cos, sin)[:, 0]
        index_q = index_keys = weights = None
        if self.spec.indexer is not None:
            index_q, index_keys, weights = self._index(self.spec.indexer, h, compressed, cos, sin)

        starts, positions = batch.seq_starts, batch.positions
        tables = np.repeat(batch.block_tables, np.diff(starts), axis=0)  # [tokens, max_blocks]
        blocks = tables[np.arange(len(x)), positions // BLOCK_TOKENS]
        latents = rms_norm(latents, self.spec.kv_norm, self.spec.eps)
        cache.write(layer, blocks, positions % BLOCK_TOKENS, latents, k_pe, index_keys)

        attended = np.empty((len(x), self.spec.num_heads, self.spec.v_head_dim), np.float32)
        for s, table in enumerate(batch.block_tables):
            rows = np.arange(int(starts[s]), int(starts[s + 1]))
            length = int(positions[rows].max(initial=-1)) + 1
            stored, rotated, keys = cache.read(layer, table[: -(-length // BLOCK_TOKENS)], length)
            known, past, latent = behind(batch, s, layer, rotated[None], stored[None])
            rotated, stored = past[0], latent[0]
            visible = _causal(positions[rows] + known, length + known)
            if self.spec.indexer is not None and index_q is not None and weights is not None:
                scores = _index_scores(self.spec.indexer, index_q[rows], keys, weights[rows])
                visible = select(scores, positions[rows], self.spec.indexer.top_k)
            prompt = np.ones(len(rows), bool)
            if batch.prompt_lengths is not None:
                prompt = positions[rows] < batch.prompt_lengths[s]
            for role, attend in ((prompt, self._expanded), (~prompt, self._absorbed)):
                if role.any():
                    own_rows = rows[role]
                    attended[own_rows] = attend(
                        q_nope[own_rows], q_pe[own_rows], stored, rotated, visible[role]
                    )
        return x + adapters.matmul(attended.reshape(len(x), -1), self.o, "o")

    def _expanded(
        self, q_nope: Float32, q_pe: Float32, latents: Float32, k_pe: Float32, visible: NDArray[np.bool_]
    ) -> Float32:
        """Queries [tokens, heads, ...] over keys and values expanded from latents [length, kv_lora_rank]."""
        keys = matmul(latents, self.k_up).reshape(len(latents), self.spec.num_heads, -1)
        values = matmul(latents, self.v_up).reshape(len(latents), self.spec.num_heads, -1)
        scores = np.einsum("thd,lhd->htl", q_nope, keys[..., : self.spec.qk_nope_head_dim], dtype=np.float64)
        weights = self._softmax(scores, q_pe, k_pe, visible)
        out = np.einsum("htl,lhd->thd", weights, values[..., : self.spec.v_head_dim], dtype=np.float64)
        return out.astype(np.float32)

    def _absorbed(
        self, q_nope: Float32, q_pe: Float32, latents: Float32, k_pe: Float32, visible: NDArray[np.bool_]
    ) -> Float32:
        """The same with queries taken to the latents' space."""
        absorbed = np.stack(
            [
                matmul(np.ascontiguousarray(q_nope[:, h]), absorb)[:, : self.spec.kv_lora_rank]
                for h, (absorb, _) in enumerate(self._heads)
            ]
        )  # [heads, tokens, kv_lora_rank]
        scores = absorbed.astype(np.float64) @ latents.T.astype(np.float64)
        weights = self._softmax(scores, q_pe, k_pe, visible)
        out = (weights @ latents.astype(np.float64)).astype(np.float32)  # [heads, tokens, kv_lora_rank]
        return np.stack(
            [matmul(out[h], value)[:, : self.spec.v_head_dim] for h, (_, value) in enumerate(self._heads)],
            axis=1,
        )

    def _softmax(
        self, scores: NDArray[np.float64], q_pe: Float32, k_pe: Float32, visible: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Attention weights [heads, tokens, length] from scores without their rotated part."""
        scores = scores + np.einsum("thd,ld->htl", q_pe, k_pe, dtype=np.float64)
        scores = np.where(visible[None], scores * self.spec.scale, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def _index(
        self, indexer: Indexer, h: Float32, compressed: Float32, cos: Float32, sin: Float32
    ) -> tuple[Float32, Float32, Float32]:
        """Queries [tokens, heads, dim], keys [tokens, dim] and weights [tokens, heads] of the indexer."""
        rope = self.spec.qk_rope_head_dim
        queries = matmul(compressed, indexer.q_b).reshape(len(h), indexer.num_heads, indexer.head_dim)
        keys = _layer_norm(matmul(h, indexer.k), indexer.k_norm, indexer.k_shift)
        queries[..., :rope] = apply_rope(queries[..., :rope], cos, sin)
        keys[:, :rope] = apply_rope(keys[:, None, :rope], cos, sin)[:, 0]
        weights = h.astype(np.float64) @ indexer.weights.T.astype(np.float64)
        return queries, keys, weights.astype(np.float32)


def _layer_norm(x: Float32, weight: Float32, shift: Float32) -> Float32:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return (centred / np.sqrt(variance + INDEX_NORM_EPS) * weight + shift).astype(np.float32)


def _index_scores(indexer: Indexer, queries: Float32, keys: Float32, weights: Float32) -> Float32:
    """The index scores [tokens, length], in float64 up to the last rounding."""
    products = np.einsum("thd,ld->thl", queries, keys, dtype=np.float64) * indexer.head_dim**-0.5
    weighted = weights.astype(np.float64) * indexer.num_heads**-0.5
    return np.einsum("th,thl->tl", weighted, np.maximum(products, 0.0)).astype(np.float32)


def latent_attention(spec: LatentAttentionSpec) -> LatentAttention:
    """Makes the layer of a spec."""
    return LatentAttention(spec)


def latent_cache(
    num_layers: int,
    num_blocks: int,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    dtype: KVDtype,
    index_head_dim: int = 0,
) -> LatentCache:
    """An empty paged cache of latents."""
    return LatentCache(num_layers, num_blocks, kv_lora_rank, qk_rope_head_dim, dtype, index_head_dim)
