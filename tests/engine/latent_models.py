"""Random decoders with latent attention, and the steps that run sequences through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.specs import Indexer, LatentAttentionSpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import Scheme
from deepwell.engine.weights import quantize

VOCAB, POSITIONS, EPS = 50, 800, 1e-6
MLP_WIDTH = 16


@dataclass(frozen=True)
class Shape:
    """Dimensions of latent attention; `q_rank` 0: queries come straight from the hidden state.

    `top_k` 0: no indexer.
    """

    heads: int
    nope: int
    rope: int
    value: int
    rank: int
    q_rank: int = 0
    hidden: int = 48
    layers: int = 2
    top_k: int = 0
    index_heads: int = 5
    index_dim: int = 12


class Weights:
    """Random weights of one shape; `on(backend, scheme)` composes them into a model."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape

        def random(*dims: int) -> NDArray[np.float32]:
            return rng.standard_normal(dims, dtype=np.float32) / np.float32(np.sqrt(dims[-1]))

        s = shape
        queries = s.heads * (s.nope + s.rope)
        self.embed, self.head = random(VOCAB, s.hidden) * 8, random(VOCAB, s.hidden)
        self.norms = 1 + random(2 * s.layers + 1, s.hidden)
        self.layers = [
            {
                "a": random((s.q_rank or queries) + s.rank + s.rope, s.hidden),
                "q_norm": 1 + random(s.q_rank) if s.q_rank else None,
                "q_b": random(queries, s.q_rank) if s.q_rank else None,
                "kv_norm": 1 + random(s.rank),
                "k": random(s.heads, s.nope, s.rank),
                "v": random(s.heads, s.value, s.rank),
                "o": random(s.hidden, s.heads * s.value),
                "gate_up": random(2 * MLP_WIDTH, s.hidden),
                "down": random(s.hidden, MLP_WIDTH),
                "index_q": random(s.index_heads * s.index_dim, max(1, s.q_rank)),
                "index_k": random(s.index_dim, s.hidden),
                "index_norm": 1 + random(s.index_dim),
                "index_shift": random(s.index_dim),
                "index_weights": random(s.index_heads, s.hidden),
            }
            for _ in range(s.layers)
        ]
        angles = np.arange(POSITIONS)[:, None] * 0.7 ** np.arange(s.rope // 2)
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def on(self, backend: Any, scheme: Scheme = "fp32") -> Any:
        s = self.shape

        def packed(weights: Any) -> Any:
            return backend.matrix(quantize.pack(weights, scheme), *weights.shape, scheme)

        def by_head(heads: NDArray[np.float32]) -> Any:
            rows = -(-heads.shape[1] // 32) * 32
            return packed(
                np.pad(heads, ((0, 0), (0, rows - heads.shape[1]), (0, 0))).reshape(-1, heads.shape[2])
            )

        def indexer(layer: dict[str, Any]) -> Indexer:
            return Indexer(
                packed(layer["index_q"]),
                packed(layer["index_k"]),
                layer["index_norm"],
                layer["index_shift"],
                layer["index_weights"],
                s.index_heads,
                s.index_dim,
                s.top_k,
            )

        layers: list[Any] = []
        for index, layer in enumerate(self.layers):
            layers += [
                backend.latent_attention(
                    LatentAttentionSpec(
                        self.norms[2 * index],
                        packed(layer["a"]),
                        layer["q_norm"],
                        None if layer["q_b"] is None else packed(layer["q_b"]),
                        layer["kv_norm"],
                        by_head(layer["k"]),
                        by_head(np.ascontiguousarray(layer["k"].swapaxes(1, 2))),
                        by_head(layer["v"]),
                        packed(layer["o"]),
                        num_heads=s.heads,
                        qk_nope_head_dim=s.nope,
                        qk_rope_head_dim=s.rope,
                        v_head_dim=s.value,
                        kv_lora_rank=s.rank,
                        scale=(s.nope + s.rope) ** -0.5,
                        eps=EPS,
                        indexer=indexer(layer) if s.top_k else None,
                    )
                ),
                backend.mlp(
                    self.norms[2 * index + 1], packed(layer["gate_up"]), packed(layer["down"]), eps=EPS
                ),
            ]
        return backend.model(
            packed(self.embed), layers, self.norms[-1], packed(self.head), self.cos, self.sin, eps=EPS
        )

    def cache(self, backend: Any, tokens: int, dtype: str = "fp32") -> Any:
        blocks = -(-tokens // BLOCK_TOKENS) + 1
        index_dim = self.shape.index_dim if self.shape.top_k else 0
        return backend.latent_cache(
            self.shape.layers, blocks, self.shape.rank, self.shape.rope, dtype, index_dim
        )


@dataclass(frozen=True)
class Span:
    """Some tokens of one sequence in a step: its block table, its prompt length, what is computed now."""

    tokens: NDArray[np.int32]
    first: int
    table: NDArray[np.int32]
    prompt: int


def step(spans: Sequence[Span], outputs: Sequence[int] | None = None) -> Batch:
    """A batch of several sequences; all rows are wanted unless `outputs` says otherwise."""
    tokens = np.concatenate([span.tokens for span in spans]).astype(np.int32)
    positions = np.concatenate([np.arange(s.first, s.first + len(s.tokens)) for s in spans]).astype(np.int32)
    starts = np.cumsum([0, *(len(span.tokens) for span in spans)], dtype=np.int32)
    width = max(len(span.table) for span in spans)
    tables = np.stack([np.pad(span.table, (0, width - len(span.table))) for span in spans]).astype(np.int32)
    wanted = np.arange(len(tokens)) if outputs is None else np.asarray(outputs)
    prompts = np.array([span.prompt for span in spans], np.int32)
    return replace(Batch(tokens, positions, starts, tables, wanted.astype(np.int32)), prompt_lengths=prompts)


def table_for(tokens: int, first_block: int = 0) -> NDArray[np.int32]:
    """Descending blocks: a backend that ignored the table would read the wrong ones."""
    blocks = -(-tokens // BLOCK_TOKENS)
    return np.arange(first_block + blocks - 1, first_block - 1, -1, dtype=np.int32)


def logits(
    model: Any, cache: Any, tokens: NDArray[np.int32], prompt: int, chunks: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Logits of every position, [tokens, vocab]; `chunks` are the rows of the first steps, the last takes the rest."""
    out = np.empty((len(tokens), VOCAB), np.float32)
    table, first = table_for(len(tokens)), 0
    for count in [*chunks, len(tokens)]:
        part = tokens[first : first + count]
        if len(part) == 0:
            break
        model.forward(step([Span(part, first, table, prompt)]), cache, logits=out[first : first + len(part)])
        first += len(part)
    return out


def random_tokens(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)
