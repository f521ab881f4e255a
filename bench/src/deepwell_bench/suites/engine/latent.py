"""Latent attention: bytes of its cache, decoding at length, and where V3.2's sparse form beats the dense one.

All models are random weights in DeepSeek's dimensions: fewer layers, the same matrices, bytes and arithmetic a layer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import measure_roof
from deepwell.engine.architectures import build_model
from deepwell.engine.backends import native
from deepwell.engine.backends.backend import Backend, KVCache, Matrix, Model
from deepwell.engine.backends.native import select_backend
from deepwell.engine.backends.specs import Indexer, LatentAttentionSpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype, Scheme
from deepwell.engine.weights import quantize
from deepwell.engine.weights.load import load_weights
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell.models.formats.checkpoint import open_checkpoint

__all__ = [
    "LITE",
    "V3",
    "V32",
    "FilledSequence",
    "LatentShape",
    "bench_latent_context",
    "bench_latent_size",
    "bench_latent_sparse",
    "one_latent_layer",
]

DTYPES: Final[tuple[KVDtype, ...]] = ("bf16", "int8")
LITE_LAYERS: Final = 4  # of V2-Lite's 27, one of them dense; embedding and head shrink alike
FILL_TOKENS: Final = (
    1024  # a context is filled as so many prompts of this length, whose pages are then one sequence's
)


@dataclass(frozen=True, slots=True)
class LatentShape:
    """DeepSeek's own dimensions of one layer of attention."""

    heads: int
    hidden: int
    q_rank: int
    index_heads: int = 0
    top_k: int = 0
    layers: int = 1
    nope: int = 128
    rope: int = 64
    value: int = 128
    rank: int = 512
    index_dim: int = 128

    @property
    def expanded_values(self) -> int:
        """Returns the keys and values of all heads, as an engine without latents caches them."""
        return self.heads * (self.nope + self.rope + self.value)

    @property
    def absorbed_macs(self) -> int:
        """Returns the products a context token costs a decoding row."""
        return self.heads * (2 * self.rank + self.rope)


LITE: Final = LatentShape(16, 2048, 0, layers=27)
V3: Final = LatentShape(128, 7168, 1536, layers=61)
V32: Final = LatentShape(128, 7168, 1536, index_heads=64, top_k=2048)


def bench_latent_size(report: Report) -> dict[str, Any]:
    """Measures bytes of a token in pages that were really allocated, against expanded keys and values in bf16."""
    run, tokens = select_backend(), 4096
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for name, shape in (("v2_lite", LITE), ("v3", V3)):
        expanded = 2 * shape.expanded_values * shape.layers
        for dtype in DTYPES:
            cache = run.latent_cache(shape.layers, tokens // BLOCK_TOKENS, shape.rank, shape.rope, dtype)
            token_bytes = cache.nbytes / tokens
            ratio = expanded / token_bytes
            value[f"{name}_{dtype}_ratio"] = rounded(ratio)
            rows.append([f"{name} {dtype}", token_bytes, expanded, ratio])
    report.table(
        "bytes a token over all layers; expanded: keys and values of every head in bf16",
        ["", "latent", "expanded", "ratio"],
        rows,
    )
    return value


class FilledSequence:
    """One sequence of a model whose context can be any length up to `tokens`."""

    def __init__(self, model: Model, cache: KVCache, tokens: int) -> None:
        self._model, self._cache = model, cache
        self._table = np.arange(-(-tokens // BLOCK_TOKENS), dtype=np.int32)
        self._best = np.empty(1, np.int32)
        rng = np.random.default_rng(0)
        per_fill = FILL_TOKENS // BLOCK_TOKENS
        for first in range(0, len(self._table) - per_fill + 1, per_fill):
            ids = rng.integers(0, model.vocab_size, FILL_TOKENS).astype(np.int32)
            self._forward(ids, 0, self._table[first : first + per_fill], FILL_TOKENS)

    def _forward(self, ids: NDArray[np.int32], first: int, table: NDArray[np.int32], prompt: int) -> None:
        count = len(ids)
        batch = Batch(
            ids,
            np.arange(first, first + count, dtype=np.int32),
            np.array([0, count], np.int32),
            table[None],
            np.array([count - 1], np.int32),
            prompt_lengths=np.array([prompt], np.int32),
        )
        self._model.forward(batch, self._cache, argmax=self._best)

    def decode(self, context: int, steps: int) -> float:
        """Times a step that reads `context` tokens: the seconds of the fastest of `steps`."""
        fastest = float("inf")
        for step in range(steps):
            ids = np.array([step % self._model.vocab_size], np.int32)
            start = time.perf_counter()
            self._forward(ids, context - 1, self._table, 0)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest


def bench_latent_context(
    report: Report, *, threads: int, rounds: int = 9, context: int = 8192, steps: int = 5
) -> dict[str, Any]:
    """Times decoding of one sequence of a V2-Lite-shaped model behind `context` tokens, against behind none."""
    run = select_backend()
    native.set_threads(threads)
    config = shape_config("deepseek-v2-lite", LITE_LAYERS)
    config["vocab_size"] = config["vocab_size"] * LITE_LAYERS // LITE.layers // 32 * 32
    value: dict[str, Any] = {"layers": LITE_LAYERS, "context": context, "threads": threads}
    rows: list[list[Any]] = []
    with TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        weights_bytes = synthesize(path, config, "int8")
        checkpoint = open_checkpoint(path)
        model = build_model(run, load_weights(checkpoint, "int8"), checkpoint.config, context)
        sequences = {
            dtype: FilledSequence(
                model,
                run.latent_cache(LITE_LAYERS, -(-context // BLOCK_TOKENS), LITE.rank, LITE.rope, dtype),
                context,
            )
            for dtype in DTYPES
        }
        report.note(f"{LITE_LAYERS} layers of V2-Lite, int8, {weights_bytes / 1e9:.2f} GB of random weights")
        for dtype, sequence in sequences.items():
            ratios: list[float] = []
            shares: list[float] = []
            rates: list[float] = []
            for _ in range(rounds):
                empty, full = sequence.decode(1, steps), sequence.decode(context, steps)
                alone = _on_one_thread(
                    threads, lambda one=sequence: one.decode(context, steps) - one.decode(1, steps)
                )
                ratios.append(empty / full)
                rates.append(LITE.absorbed_macs * context * LITE_LAYERS / (full - empty) / 1e9)
                shares.append(alone / (full - empty))
            ratio, rate, share = (statistics.median(figures) for figures in (ratios, rates, shares))
            value |= {
                f"{dtype}_ratio": rounded(ratio),
                f"{dtype}_attention_gmac_per_s": rounded(rate),
                f"{dtype}_attention_one_thread_over_all": rounded(share, 3),
            }
            rows.append([f"{dtype} pages", ratio, rate, share])
    roof = measure_roof("fp32", threads)
    value |= {
        "ratio": max(value[f"{dtype}_ratio"] for dtype in DTYPES),
        "attention_one_thread_over_all": max(
            value[f"{dtype}_attention_one_thread_over_all"] for dtype in DTYPES
        ),
        "fp32_roof_gmac_per_s": rounded(roof),
    }
    report.table(
        f"decode of one sequence at {context} tokens of context, {threads} threads; fp32 roof {roof:.0f} GMAC/s",
        ["", "x speed at 0", "attention GMAC/s", "attention, one thread / all"],
        rows,
    )
    return value


def _on_one_thread(threads: int, measure: Callable[[], float]) -> float:
    native.set_threads(1)
    try:
        return measure()
    finally:
        native.set_threads(threads)


def bench_latent_sparse(
    report: Report,
    *,
    threads: int,
    rounds: int = 5,
    contexts: Sequence[int] = (2048, 3072, 4096, 6144, 8192, 16384),
    steps: int = 3,
) -> dict[str, Any]:
    """Times one layer of V3.2's attention, decoding one row: the indexer and its 2048 tokens against all tokens."""
    run = select_backend()
    native.set_threads(threads)
    most = max(contexts)
    sparse, dense = (one_latent_layer(run, V32, indexed=indexed, positions=most) for indexed in (True, False))
    blocks = -(-most // BLOCK_TOKENS)
    value: dict[str, Any] = {"top_k": V32.top_k, "threads": threads}
    rows: list[list[Any]] = []
    crossover: int | None = None
    sequences = [
        FilledSequence(model, run.latent_cache(1, blocks, V32.rank, V32.rope, "bf16", index_dim), most)
        for model, index_dim in ((sparse, V32.index_dim), (dense, 0))
    ]
    for context in sorted(contexts):
        ratios: list[float] = []
        times: list[tuple[float, float]] = []
        for _ in range(rounds):
            chosen, everything = (sequence.decode(context, steps) for sequence in sequences)
            ratios.append(everything / chosen)
            times.append((chosen, everything))
        ratio = statistics.median(ratios)
        fastest = [1e3 * min(side) for side in zip(*times, strict=True)]
        if ratio > 1.0 and crossover is None:
            crossover = context
        if ratio <= 1.0:
            crossover = None
        value[f"ratio_{context}"] = rounded(ratio)
        rows.append([f"{context} tokens", *fastest, ratio])
    value["crossover_tokens"] = crossover
    value["ratio"] = value[f"ratio_{most}"]
    report.table(
        "one layer of V3.2, ms a decoded row (fastest), and the median of ratios",
        ["", "sparse", "dense", "dense / sparse"],
        rows,
    )
    report.note(f"sparse is ahead from {crossover} tokens on" if crossover else "sparse is never ahead")
    return value


def one_latent_layer(run: Backend, shape: LatentShape, *, indexed: bool, positions: int) -> Model:
    """Makes a model of one layer of attention, int8."""
    rng = np.random.default_rng(0)
    ones, vocab, s = np.ones, 256, shape

    def matrix(rows: int, cols: int, scheme: Scheme = "int8") -> Matrix:
        part = quantize.pack(
            rng.standard_normal((256, cols), dtype=np.float32) / np.float32(cols**0.5), scheme
        )
        return run.matrix(np.resize(part, quantize.packed_nbytes(rows, cols, scheme)), rows, cols, scheme)

    indexer = Indexer(
        matrix(s.index_heads * s.index_dim, s.q_rank),
        matrix(s.index_dim, s.hidden),
        ones(s.index_dim, np.float32),
        np.zeros(s.index_dim, np.float32),
        rng.standard_normal((s.index_heads, s.hidden), dtype=np.float32),
        s.index_heads,
        s.index_dim,
        s.top_k,
    )
    layer = run.latent_attention(
        LatentAttentionSpec(
            ones(s.hidden, np.float32),
            matrix(s.q_rank + s.rank + s.rope, s.hidden),
            ones(s.q_rank, np.float32),
            matrix(s.heads * (s.nope + s.rope), s.q_rank),
            ones(s.rank, np.float32),
            matrix(s.heads * s.nope, s.rank),
            matrix(s.heads * s.rank, s.nope),
            matrix(s.heads * s.value, s.rank),
            matrix(s.hidden, s.heads * s.value),
            num_heads=s.heads,
            qk_nope_head_dim=s.nope,
            qk_rope_head_dim=s.rope,
            v_head_dim=s.value,
            kv_lora_rank=s.rank,
            scale=(s.nope + s.rope) ** -0.5,
            eps=1e-6,
            indexer=indexer if indexed else None,
        )
    )
    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(0, s.rope, 2) / s.rope)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    embed = matrix(vocab, s.hidden)
    return run.model(embed, [layer], ones(s.hidden, np.float32), embed, cos, sin, eps=1e-6)
