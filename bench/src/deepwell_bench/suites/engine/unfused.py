"""The bottom of the ladder: a decoder as one would write it in numpy, one call an operation, one sequence at a time.

Products run on two threads, in BLAS or in one compiled kernel; everything else is numpy on float32 over a contiguous cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.backends import native
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.weights.packed import Weights
from deepwell.engine.weights.quantize import interleave_gate_up
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig

__all__ = ["Products", "Unfused", "blas_products", "native_products"]

Float32 = NDArray[np.float32]
Products = Callable[
    [Float32, str], Float32
]  # x [tokens, cols], name of W [rows, cols] -> x W^T [tokens, rows]

_PREFILL_ROWS = 512
_QUERY_ROWS = 256  # scores of 9 heads x 256 x 1,500 keys stay below 16 MB


def blas_products(checkpoint: Checkpoint) -> Products:
    """Returns products in numpy's BLAS, on dense float32 matrices."""
    dense: dict[str, Float32] = {}
    for plan in tensor_plan(checkpoint.config).matrices:
        parts = [checkpoint.tensor(name).float32() for name in plan.sources]
        whole = interleave_gate_up(*parts) if plan.order == "interleave" else np.concatenate(parts)
        if whole.shape[1] != plan.cols:
            whole = np.pad(whole, ((0, 0), (0, plan.cols - whole.shape[1])))
        dense[plan.name] = np.ascontiguousarray(whole, np.float32)
    return lambda x, name: x @ dense[name].T


def native_products(weights: Weights) -> Products:
    """Returns products in the compiled kernel of the weights' own scheme; activations are quantised in each call if need be."""
    matrices = {
        name: native.matrix(packed.data, packed.rows, packed.cols, packed.scheme)
        for name, packed in weights.matrices.items()
    }
    return lambda x, name: native.matmul(np.ascontiguousarray(x, np.float32), matrices[name])


def _rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight


class Unfused:
    """A Llama-shaped decoder with one contiguous float32 cache, [layers, kv_heads, capacity, head_dim] each.

    `embedding` is [vocab, hidden]: the rows of tokens are looked up in it.
    """

    def __init__(
        self,
        config: ModelConfig,
        vectors: dict[str, Float32],
        embedding: Float32,
        products: Products,
        *,
        capacity: int,
    ) -> None:
        self._config = config
        self._vectors = vectors
        self._embedding = embedding
        self._products = products
        self._head = "embed" if config.tie_word_embeddings else "head"
        self._cos, self._sin = rope_tables(config, capacity)
        shape = (config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self.cache_bytes = self._keys.nbytes + self._values.nbytes

    def generate(self, prompt: Sequence[int], count: int, follow: Sequence[int] = ()) -> list[int]:
        """Returns the `count` most likely tokens after `prompt`, each after those before it: its own, or those of `follow`."""
        ids = np.asarray(prompt, np.int64)
        hidden = np.empty((0, self._config.hidden_size), np.float32)
        for start in range(0, len(ids), _PREFILL_ROWS):
            hidden = self._forward(ids[start : start + _PREFILL_ROWS], start)
        position, tokens = len(ids), [self._draw(hidden)]
        while len(tokens) < count:
            before = follow[len(tokens) - 1] if follow else tokens[-1]
            hidden = self._forward(np.asarray([before], np.int64), position)
            position += 1
            tokens.append(self._draw(hidden))
        return tokens

    def _draw(self, hidden: Float32) -> int:
        last = _rms_norm(hidden[-1:], self._vectors["norm"], self._config.rms_norm_eps)
        return int(np.argmax(self._products(last, self._head)))

    def _forward(self, ids: NDArray[np.int64], start: int) -> Float32:
        config, vectors, products = self._config, self._vectors, self._products
        x = self._embedding[ids]
        for i in range(config.num_hidden_layers):
            h = _rms_norm(x, vectors[f"{i}.attention_norm"], config.rms_norm_eps)
            qkv = products(h, f"{i}.qkv")
            if config.attention_bias:
                qkv = qkv + vectors[f"{i}.qkv_bias"]
            x = x + products(self._attend(qkv, i, start), f"{i}.o")
            h = _rms_norm(x, vectors[f"{i}.mlp_norm"], config.rms_norm_eps)
            both = products(h, f"{i}.gate_up").reshape(
                len(x), -1, 2, 16
            )  # 16 rows of gate, 16 of up, in turn
            gate, up = both[:, :, 0], both[:, :, 1]
            x = x + products((gate / (np.float32(1) + np.exp(-gate)) * up).reshape(len(x), -1), f"{i}.down")
        return x

    def _attend(self, qkv: Float32, layer: int, start: int) -> Float32:
        config = self._config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        rows, end = len(qkv), start + len(qkv)
        split = qkv.reshape(rows, heads + 2 * kv_heads, dim).transpose(1, 0, 2)  # [heads, rows, dim]
        cos, sin = self._cos[start:end], self._sin[start:end]
        queries = _rotate(split[:heads], cos, sin).reshape(kv_heads, heads // kv_heads, rows, dim)
        queries *= np.float32(dim**-0.5)
        self._keys[layer, :, start:end] = _rotate(split[heads : heads + kv_heads], cos, sin)
        self._values[layer, :, start:end] = split[heads + kv_heads :]
        out = np.empty((rows, heads, dim), np.float32)
        for first in range(0, rows, _QUERY_ROWS):
            last = min(first + _QUERY_ROWS, rows)
            seen = start + last
            keys, values = self._keys[layer, :, :seen], self._values[layer, :, :seen]
            some = queries[:, :, first:last].reshape(kv_heads, -1, dim)
            scores = some @ keys.transpose(0, 2, 1)  # [kv_heads, group * rows, seen]
            if last - first > 1:
                future = np.arange(seen)[None, :] > np.arange(start + first, seen)[:, None]
                scores.reshape(kv_heads, -1, last - first, seen)[:, :, future] = -np.inf
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed = (scores @ values).reshape(heads, last - first, dim)
            out[first:last] = mixed.transpose(1, 0, 2)
        return out.reshape(rows, heads * dim)


def _rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1, dtype=np.float32)
