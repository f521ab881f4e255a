"""DeepSeek-V4's attention: bytes of its cache by the configuration, and decoding at length against V3's dense attention."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.architectures.deepseek_v4 import horizon
from deepwell.engine.backends import native
from deepwell.engine.backends.backend import Backend, Matrix, Model
from deepwell.engine.backends.native import select_backend
from deepwell.engine.backends.specs import (
    CompressedAttentionSpec,
    CompressedPage,
    CompressorSpec,
    EntryIndexer,
    EntryShape,
    HyperHeadSpec,
    HyperSpec,
)
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.plan import kv_token_bytes, slot_bytes
from deepwell.engine.recents import blocks_held
from deepwell.engine.weights import quantize
from deepwell.engine.weights.synth import shape_config
from deepwell.models.formats.config_reader import config_from_directory
from deepwell_bench.suites.engine.latent import V32, FilledSequence, one_latent_layer

__all__ = ["bench_compressed"]

CONTEXTS: Final = (8192, 65536, 1 << 20)
_V32: Final = {  # beyond V3's shape
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "num_hidden_layers": 61,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """One layer as wide as V3's: hidden size, heads and compressed queries are equal, so that attention alone differs."""

    heads: int = 128
    hidden: int = 7168
    q_rank: int = 1536
    head_dim: int = 512
    rope: int = 64
    o_groups: int = 16
    o_rank: int = 1024
    window: int = 128
    index_heads: int = 64
    index_dim: int = 128
    top_k: int = 1024
    streams: int = 4
    sparse_rate: int = 4
    heavy_rate: int = 128


def bench_compressed(
    report: Report, *, threads: int, rounds: int = 5, context: int = 65536, steps: int = 3
) -> dict[str, Any]:
    """Counts bytes a token by the configuration beside V3.2's, and times one layer of each kind beside V3's dense attention.

    Args:
        context: tokens behind which one row is decoded.
        steps: of which the fastest counts.
    """
    return _bytes(report) | _speed(report, threads, rounds, context, steps)


def _bytes(report: Report) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        configs = {}
        for name, shape in (
            ("v32", shape_config("deepseek-v3-8layers") | _V32),
            ("v4", shape_config("deepseek-v4-flash")),
        ):
            directory = Path(folder) / name
            directory.mkdir()
            (directory / "config.json").write_text(_json(shape))
            configs[name] = config_from_directory(directory)
    old, new = configs["v32"], configs["v4"]
    slots = blocks_held(horizon(new)) * slot_bytes(new, "bf16")
    value: dict[str, Any] = {"slots_mb_per_sequence": rounded(slots / 1e6)}
    rows: list[list[Any]] = []
    for context in CONTEXTS:
        theirs = kv_token_bytes(old, "bf16")
        ours = kv_token_bytes(new, "bf16") + slots / context
        value[f"bytes_ratio_{context >> 10}k"] = rounded(theirs / ours)
        rows.append(
            [f"{context:,}", theirs, ours, theirs / ours, theirs * context / 1e9, ours * context / 1e9]
        )
    report.table(
        "bytes of the cache a token, bf16: V3.2 with 61 layers, V4-Flash with 43 and one sequence's slots",
        ["tokens", "V3.2", "V4-Flash", "ratio", "V3.2 GB", "V4-Flash GB"],
        rows,
    )
    return value


def _json(shape: dict[str, Any]) -> str:
    import json

    return json.dumps(shape)


def _speed(report: Report, threads: int, rounds: int, context: int, steps: int) -> dict[str, Any]:
    run, shape = select_backend(), _Shape()
    native.set_threads(threads)
    blocks = -(-context // BLOCK_TOKENS)
    dense = one_latent_layer(run, V32, indexed=False, positions=context)
    sides = {
        "V3, dense": FilledSequence(dense, run.latent_cache(1, blocks, V32.rank, V32.rope, "bf16"), context)
    }
    for kind in ("sparse", "heavy"):
        model, page = _one_layer(run, shape, kind, context)
        cache = run.compressed_cache([page], blocks, "bf16")
        sides[f"V4, {kind}"] = FilledSequence(model, cache, context)
        report.note(f"V4, {kind}: {cache.nbytes / 1e6:,.0f} MB of cache, a slot for every block")
    # The layer, and of it attention alone: indexer, scores, softmax, values. The rest reads weights, as behind one token.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            native.switch_profile(True)
            whole = side.decode(context, steps)
            profile, _ = native.switch_profile(False)
            times[name].append((whole, profile.seconds["attention"] / profile.steps))
    base = times["V3, dense"]
    value: dict[str, Any] = {"context": context, "threads": threads, "isa": native.isa()}
    rows: list[list[Any]] = []
    for name, found in times.items():
        layer, attention = (
            statistics.median(theirs[part] / ours[part] for theirs, ours in zip(base, found, strict=True))
            for part in (0, 1)
        )
        medians = [1e3 * statistics.median(one[part] for one in found) for part in (0, 1)]
        rows.append([name, medians[0], layer, medians[1], attention])
        if name != "V3, dense":
            value |= {f"ratio_{name[4:]}": rounded(attention), f"layer_ratio_{name[4:]}": rounded(layer)}
    value["ratio"] = min(value["ratio_sparse"], value["ratio_heavy"])
    report.table(
        f"one layer, int8, one row decoded behind {context:,} tokens, {threads} threads, median of {rounds}",
        ["", "layer ms", "V3 / this", "attention ms", "V3 / this"],
        rows,
    )
    return value


def _one_layer(run: Backend, s: _Shape, kind: str, positions: int) -> tuple[Model, CompressedPage]:
    """Makes a model of one layer of attention, int8, and says what its cache holds."""
    rng = np.random.default_rng(0)
    ones, vocab = np.ones, 256
    sparse = kind == "sparse"
    rate, wide = (s.sparse_rate, 2) if sparse else (s.heavy_rate, 1)
    made: Sequence[int] = (s.head_dim, s.index_dim) if sparse else (s.head_dim,)

    def matrix(rows: int, cols: int) -> Matrix:
        part = quantize.pack(
            rng.standard_normal((256, cols), dtype=np.float32) / np.float32(cols**0.5), "int8"
        )
        return run.matrix(np.resize(part, quantize.packed_nbytes(rows, cols, "int8")), rows, cols, "int8")

    def compressor(width: int) -> CompressorSpec:
        bias = np.zeros((rate, width * wide), np.float32)
        return CompressorSpec(rate, width, sparse, bias, ones(width, np.float32))

    indexer = None
    if sparse:
        weights = rng.standard_normal((s.index_heads, s.hidden), dtype=np.float32)
        queries = matrix(s.index_heads * s.index_dim, s.q_rank)
        indexer = EntryIndexer(compressor(s.index_dim), queries, weights, s.index_heads, s.top_k)
    outputs = (2 + s.streams) * s.streams
    mixes = rng.standard_normal((outputs, s.streams * s.hidden), dtype=np.float32) * np.float32(0.01)
    angles = np.arange(positions)[:, None] * 160000.0 ** (-np.arange(0, s.rope, 2) / s.rope)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    layer = run.compressed_attention(
        CompressedAttentionSpec(
            ones(s.hidden, np.float32),
            matrix(s.q_rank + s.head_dim + sum(2 * wide * width for width in made), s.hidden),
            ones(s.q_rank, np.float32),
            matrix(s.heads * s.head_dim, s.q_rank),
            ones(s.head_dim, np.float32),
            matrix(s.o_groups * s.o_rank, s.heads // s.o_groups * s.head_dim),
            matrix(s.hidden, s.o_groups * s.o_rank),
            np.zeros(s.heads, np.float32),
            cos,
            sin,
            HyperSpec(mixes, np.zeros(outputs, np.float32), ones(3, np.float32), s.streams, 20, 1e-6, 1e-6),
            num_heads=s.heads,
            head_dim=s.head_dim,
            q_lora_rank=s.q_rank,
            o_groups=s.o_groups,
            window=s.window,
            eps=1e-6,
            compressor=compressor(s.head_dim),
            indexer=indexer,
        )
    )
    embed = matrix(vocab, s.hidden)
    zeros, one = np.zeros(s.streams, np.float32), ones(1, np.float32)
    head = HyperHeadSpec(np.ascontiguousarray(mixes[: s.streams]), zeros, one, s.streams, 1e-6, 1e-6)
    norm = ones(s.hidden, np.float32)
    model = run.model(embed, [layer], norm, embed, cos, sin, eps=1e-6, streams=head)
    return model, CompressedPage(s.head_dim, tuple(EntryShape(rate, width, sparse) for width in made))
