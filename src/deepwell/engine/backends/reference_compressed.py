"""DeepSeek-V4's attention of the numpy backend: a sliding window beside compressed entries, and its residual streams.

One vector a token is key and value at once. A query meets those of the last tokens, and entries that each stand for several
tokens further back: of 4, of which an indexer picks the best ones, or of 128. A sink, one number a head, takes part in the
softmax alone. The dimensions at the end of a vector are rotated in pairs (2i, 2i + 1), and since values are rotated too,
what was attended to is turned back by the query's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.reference_latent import select
from deepwell.engine.backends.reference_ops import Adapters, Float32, Stored, matmul, own, rms_norm, widen
from deepwell.engine.backends.specs import (
    CompressedAttentionSpec,
    CompressedPage,
    CompressorSpec,
    EntryIndexer,
    HyperHeadSpec,
    HyperSpec,
)
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights.quantize import round_bf16

__all__ = ["CompressedAttention", "CompressedCache", "collapsed", "expanded", "mixed"]

Float64 = NDArray[np.float64]
_MADE = ("entries", "index")  # of attention, of the indexer


class CompressedCache:
    """Entries that end in a block, [layers, blocks, ...]; vectors, and what entries are made of, [layers, slots, 16, ...].

    What entries are made of is float32 whatever the type of the pages.
    """

    def __init__(
        self,
        shapes: Sequence[CompressedPage],
        num_blocks: int,
        dtype: KVDtype,
        slots: NDArray[np.int32],
        num_slots: int,
    ) -> None:
        self.num_blocks = num_blocks
        self.dtype: KVDtype = dtype
        self._narrow = np.uint16 if dtype == "bf16" else np.float32
        if dtype == "int8":
            raise ValueError("compressed_cache: dtype must be fp32 or bf16")
        self._slots = slots
        self.vectors = [self._pages(num_slots, BLOCK_TOKENS, page.width) for page in shapes]
        self._entries: list[dict[str, Stored]] = []
        self._parts: list[dict[str, Float32]] = []
        for page in shapes:
            made = dict(zip(_MADE, page.entries, strict=False))
            self._entries.append(
                {
                    key: self._pages(num_blocks, max(1, BLOCK_TOKENS // one.rate), one.width)
                    for key, one in made.items()
                }
            )
            wide = {key: one.width * (1 + one.overlap) for key, one in made.items()}
            self._parts.append(
                {key: np.zeros((num_slots, BLOCK_TOKENS, 2, one), np.float32) for key, one in wide.items()}
            )
        stored: list[Stored | Float32] = list(self.vectors)
        for group in (*self._entries, *self._parts):
            stored += group.values()
        self.nbytes = sum(one.nbytes for one in stored)

    def _pages(self, count: int, rows: int, width: int) -> Stored:
        return np.zeros((count, rows, width), self._narrow)

    def _slot(self, blocks: NDArray[np.int32]) -> NDArray[np.int32]:
        found = self._slots[blocks]
        if (found < 0).any():
            raise ValueError("single tokens of a block are gone")
        return found

    def _stored(self, x: Float32) -> Stored:
        return round_bf16(x) if self.dtype == "bf16" else x

    def write(
        self, layer: int, blocks: NDArray[np.int32], slots: NDArray[np.int32], vectors: Float32
    ) -> None:
        """Stores vectors [tokens, head_dim] at (block, slot) of each token."""
        self.vectors[layer][self._slot(blocks), slots] = self._stored(vectors)

    def read(self, layer: int, table: NDArray[np.int32], positions: NDArray[np.intp]) -> Float32:
        """Returns the vectors of a sequence at positions, [positions, head_dim]."""
        slots = self._slot(table[positions // BLOCK_TOKENS])
        return widen(self.vectors[layer][slots, positions % BLOCK_TOKENS])

    def write_parts(
        self, layer: int, key: str, blocks: NDArray[np.int32], slots: NDArray[np.int32], parts: Float32
    ) -> None:
        """Stores what entries are made of, [tokens, 2, width (twice that where entries overlap)]: values, then gates."""
        self._parts[layer][key][self._slot(blocks), slots] = parts

    def parts(self, layer: int, key: str, table: NDArray[np.int32], positions: NDArray[np.intp]) -> Float32:
        """Returns the same of a sequence at positions."""
        slots = self._slot(table[positions // BLOCK_TOKENS])
        return self._parts[layer][key][slots, positions % BLOCK_TOKENS]

    def write_entry(self, layer: int, key: str, block: int, slot: int, entry: Float32) -> None:
        """Stores an entry, [width], in the block of its last token."""
        self._entries[layer][key][block, slot] = self._stored(entry)

    def entries(self, layer: int, key: str, table: NDArray[np.int32], count: int, rate: int) -> Float32:
        """Returns the first entries of a sequence, [count, width]."""
        last = (np.arange(count) + 1) * rate - 1
        slots = last % BLOCK_TOKENS // rate if rate < BLOCK_TOKENS else np.zeros(count, np.intp)
        return widen(self._entries[layer][key][table[last // BLOCK_TOKENS], slots])


def collapsed(spec: HyperSpec, streams: Float32) -> tuple[Float32, Float32, Float32]:
    """Returns the input of a layer [rows, hidden], and by what its output and the streams become the next streams.

    Args:
        streams: [rows, streams, hidden].

    Returns:
        Input, weights of the output [rows, streams], weights of the streams [rows, streams (old), streams (new)], whose rows
        and columns sum to 1: Sinkhorn and Knopp's rounds over a softmax.
    """
    count, eps = spec.streams, spec.eps
    mixes = _mixes(spec.weights, streams, spec.norm_eps)
    pre, post, comb = np.split(mixes, [count, 2 * count], axis=1)
    base_pre, base_post, base_comb = np.split(spec.base.astype(np.float64), [count, 2 * count])
    scale = spec.scale.astype(np.float64)
    pre = _sigmoid(pre * scale[0] + base_pre) + eps
    post = 2 * _sigmoid(post * scale[1] + base_post)
    comb = (comb * scale[2] + base_comb).reshape(-1, count, count)
    comb = np.exp(comb - comb.max(axis=-1, keepdims=True))
    comb = comb / comb.sum(axis=-1, keepdims=True) + eps
    comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    for _ in range(spec.rounds - 1):
        comb = comb / (comb.sum(axis=-1, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    joined = np.einsum("rn,rnh->rh", pre, streams, dtype=np.float64)
    return joined.astype(np.float32), post.astype(np.float32), comb.astype(np.float32)


def expanded(streams: Float32, output: Float32, post: Float32, comb: Float32) -> Float32:
    """Returns the next streams of a layer's output [rows, hidden]; see `collapsed`."""
    kept = np.einsum("rjk,rjh->rkh", comb, streams, dtype=np.float64)
    return (post[:, :, None].astype(np.float64) * output[:, None] + kept).astype(np.float32)


def mixed(spec: HyperHeadSpec, streams: Float32) -> Float32:
    """Returns what the final norm reads of the streams: [rows, streams, hidden] -> [rows, hidden]."""
    weights = _mixes(spec.weights, streams, spec.norm_eps) * spec.scale.astype(np.float64) + spec.base
    return np.einsum("rn,rnh->rh", _sigmoid(weights) + spec.eps, streams, dtype=np.float64).astype(np.float32)


def _mixes(weights: Float32, streams: Float32, eps: float) -> Float64:
    flat = streams.reshape(len(streams), -1).astype(np.float64)
    flat = flat / np.sqrt((flat * flat).mean(axis=1, keepdims=True) + eps)
    return flat @ weights.T.astype(np.float64)


def _sigmoid(x: Float64) -> Float64:
    return 1.0 / (1.0 + np.exp(-x))


def _rotated(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotates the last dimensions in pairs (2i, 2i + 1): x [tokens, ..., dim], tables [tokens, rope / 2]."""
    rope = 2 * cos.shape[1]
    result = x.copy()
    shape = (len(x), *(1,) * (x.ndim - 2), rope // 2)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    even, odd = x[..., -rope::2], x[..., x.shape[-1] - rope + 1 :: 2]
    result[..., -rope::2] = even * cos - odd * sin
    result[..., x.shape[-1] - rope + 1 :: 2] = odd * cos + even * sin
    return result


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Holds what one projection of a row gives: the query before its second half, the vector, parts of entries."""

    query: Float32
    vector: Float32
    parts: dict[str, Float32]


class CompressedAttention:
    """streams = post * o(attend(q, vectors and entries)) + comb streams; see `specs.CompressedAttentionSpec`."""

    def __init__(self, spec: CompressedAttentionSpec) -> None:
        self.spec = spec
        self.a, self.q_b, self.o_a, self.o_b = own(spec.a), own(spec.q_b), own(spec.o_a), own(spec.o_b)
        rows, self._low = self.o_a.rows // spec.o_groups, self.o_b.cols // spec.o_groups
        self._o_a = [self.o_a.part(g * rows, rows) for g in range(spec.o_groups)]

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Matrices that adapters may change."""
        return ("a", "q_b", "o_b")

    def forward(
        self, streams: Float32, batch: Batch, cache: CompressedCache, layer: int, adapters: Adapters
    ) -> Float32:
        """The residual streams after this layer, [rows, streams, hidden]."""
        spec = self.spec
        x, post, comb = collapsed(spec.hyper, streams)
        h = rms_norm(x, spec.norm, spec.eps)
        made = self._inputs(h, adapters)
        starts, positions = batch.seq_starts, batch.positions
        cos, sin = spec.cos[positions], spec.sin[positions]
        low = rms_norm(made.query, spec.q_norm, spec.eps)
        queries = adapters.matmul(low, self.q_b, "q_b").reshape(len(x), spec.num_heads, spec.head_dim)
        queries = _rotated(rms_norm(queries, np.ones(1, np.float32), spec.eps), cos, sin)
        vectors = _rotated(rms_norm(made.vector, spec.kv_norm, spec.eps), cos, sin)
        tables = np.repeat(batch.block_tables, np.diff(starts), axis=0)  # [tokens, max_blocks]
        at = tables[np.arange(len(x)), positions // BLOCK_TOKENS], positions % BLOCK_TOKENS
        cache.write(layer, *at, vectors)
        for key, one in spec.compressors:
            parts = made.parts[key]
            parts[:, 1] += one.bias[positions % one.rate]
            cache.write_parts(layer, key, *at, parts)
        index = None if spec.indexer is None else _index_inputs(spec.indexer, low, h, cos, sin)
        attended = np.empty_like(queries)
        for s, table in enumerate(batch.block_tables):
            rows = slice(int(starts[s]), int(starts[s + 1]))
            self._close(cache, layer, table, positions[rows])
            picked = None if index is None else (index[0][rows], index[1][rows])
            attended[rows] = self._attend(queries[rows], cache, layer, table, positions[rows], picked)
        attended = _rotated(attended, cos, -sin)
        grouped = attended.reshape(len(x), spec.o_groups, -1)
        parts_of_o = [
            matmul(np.ascontiguousarray(grouped[:, g]), one)[:, : self._low]
            for g, one in enumerate(self._o_a)
        ]
        output = adapters.matmul(np.concatenate(parts_of_o, axis=1), self.o_b, "o_b")
        return expanded(streams, output, post, comb)

    def _inputs(self, h: Float32, adapters: Adapters) -> _Inputs:
        spec = self.spec
        y = adapters.matmul(h, self.a, "a")
        query, vector, rest = np.split(y, [spec.q_lora_rank, spec.q_lora_rank + spec.head_dim], axis=1)
        parts: dict[str, Float32] = {}
        for key, one in spec.compressors:
            width = one.width * (1 + one.overlap)
            parts[key], rest = rest[:, : 2 * width].reshape(len(h), 2, width).copy(), rest[:, 2 * width :]
        return _Inputs(query, vector, parts)

    def _close(
        self, cache: CompressedCache, layer: int, table: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> None:
        """Makes the entries whose last token is among these positions, which follow each other."""
        if not len(positions):
            return
        for key, one in self.spec.compressors:
            for entry in range(int(positions[0]) // one.rate, (int(positions[-1]) + 1) // one.rate):
                made = _entry(one, cache, layer, key, table, entry, self.spec.eps)
                cos, sin = self.spec.cos[entry * one.rate, None], self.spec.sin[entry * one.rate, None]
                last = (entry + 1) * one.rate - 1
                slot = last % BLOCK_TOKENS // one.rate if one.rate < BLOCK_TOKENS else 0
                cache.write_entry(
                    layer, key, int(table[last // BLOCK_TOKENS]), slot, _rotated(made[None], cos, sin)[0]
                )

    def _attend(
        self,
        queries: Float32,
        cache: CompressedCache,
        layer: int,
        table: NDArray[np.int32],
        positions: NDArray[np.int32],
        index: tuple[Float32, Float32] | None,
    ) -> Float32:
        """Attention of one sequence, [tokens, heads, head_dim], in float64 up to the last rounding."""
        spec = self.spec
        if not len(positions):
            return queries
        first = max(0, int(positions[0]) - spec.window + 1)
        near = np.arange(first, int(positions[-1]) + 1)
        keys = [cache.read(layer, table, near)]
        distance = positions[:, None] - near[None]
        visible = [(distance >= 0) & (distance < spec.window)]
        if spec.compressor is not None:
            rate = spec.compressor.rate
            count = (int(positions[-1]) + 1) // rate
            ended = (positions + 1) // rate  # entries that a query may see
            keys.append(cache.entries(layer, "entries", table, count, rate))
            if spec.indexer is None or index is None:
                visible.append(np.arange(count)[None] < ended[:, None])
            else:
                of_index = cache.entries(layer, "index", table, count, rate)
                scores = _entry_scores(spec.indexer, *index, of_index)
                visible.append(select(scores, ended - 1, spec.indexer.top_k))
        vectors = np.concatenate(keys).astype(np.float64)
        scores = np.einsum("thd,ld->htl", queries, vectors, dtype=np.float64) * spec.head_dim**-0.5
        scores = np.where(np.concatenate(visible, axis=1)[None], scores, -np.inf)
        sinks = spec.sinks.astype(np.float64)[:, None, None]
        top = np.maximum(scores.max(axis=-1, keepdims=True), sinks)
        weights = np.exp(scores - top)
        weights /= weights.sum(axis=-1, keepdims=True) + np.exp(sinks - top)
        return np.einsum("htl,ld->thd", weights, vectors).astype(np.float32)


def _entry(
    spec: CompressorSpec,
    cache: CompressedCache,
    layer: int,
    key: str,
    table: NDArray[np.int32],
    number: int,
    eps: float,
) -> Float32:
    """Returns an entry before its rotation, [width]: by dimension the mean of the values, weighted by a softmax of the gates.

    Entries that overlap take the second half of each part, and the first half of the parts before.
    """
    own_parts = cache.parts(layer, key, table, np.arange(number * spec.rate, (number + 1) * spec.rate))
    parts = own_parts[..., -spec.width :]
    if spec.overlap and number:
        before = cache.parts(layer, key, table, np.arange((number - 1) * spec.rate, number * spec.rate))
        parts = np.concatenate([before[..., : spec.width], parts])
    values, gates = parts[:, 0].astype(np.float64), parts[:, 1].astype(np.float64)
    weights = np.exp(gates - gates.max(axis=0))
    mean = (values * weights).sum(axis=0) / weights.sum(axis=0)
    return rms_norm(mean[None].astype(np.float32), spec.norm, eps)[0]


def _index_inputs(
    indexer: EntryIndexer, low: Float32, h: Float32, cos: Float32, sin: Float32
) -> tuple[Float32, Float32]:
    """Queries [tokens, heads, dim] and weights [tokens, heads] of the indexer."""
    queries = matmul(low, indexer.q_b).reshape(len(h), indexer.num_heads, -1)
    weights = h.astype(np.float64) @ indexer.weights.T.astype(np.float64)
    return _rotated(queries, cos, sin), weights.astype(np.float32)


def _entry_scores(indexer: EntryIndexer, queries: Float32, weights: Float32, entries: Float32) -> Float32:
    """The score of every entry, [tokens, entries], in float64 up to the last rounding."""
    products = np.einsum("thd,ld->thl", queries, entries, dtype=np.float64) * queries.shape[-1] ** -0.5
    weighted = weights.astype(np.float64) * indexer.num_heads**-0.5
    return np.einsum("th,thl->tl", weighted, np.maximum(products, 0.0)).astype(np.float32)
