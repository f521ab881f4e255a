"""Embeddings: tokens a second of a batch of texts, against the int8 roof and onnxruntime."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.engine import Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import measure_roof
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import Engine
from deepwell.errors import DeepwellError
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import bench_cache, repository
from deepwell_bench.harness.comparison import Comparison, compare
from deepwell_bench.peers.onnx import OnnxRuntime, minilm_onnx, onnx_python
from deepwell_bench.workloads.text import cranfield_text

__all__ = ["bench_embeddings", "encoder_macs", "texts"]


def encoder_macs(config: ModelConfig, lengths: Sequence[int]) -> int:
    """Returns the multiply-adds of sequences of these lengths: every product, and attention of every token to its sequence."""
    hidden, inner = config.hidden_size, config.intermediate_size
    token = 4 * hidden * hidden + 2 * hidden * inner
    return config.num_hidden_layers * sum(n * token + 2 * n * n * hidden for n in lengths)


def texts(model: Path, length: int, count: int, number: int) -> list[list[int]]:
    """Returns the `number`-th group of `count` runs of the fixed text, each of `length` tokens, its frame included."""
    tokenizer = Tokenizer.load(model)
    ids = tokenizer.encode(cranfield_text())
    inside = length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    room = len(ids) - inside
    starts = [(number * count + i) * inside for i in range(count)]
    runs = [ids[start % room + start // room :][:inside] for start in starts]
    return [[*tokenizer.prefix_ids, *run, *tokenizer.suffix_ids] for run in runs]


def bench_embeddings(
    report: Report,
    model: Path,
    *,
    threads: int,
    rounds: int = 9,
    sequences: int = 32,
    tokens: int = 128,
    with_peer: bool = True,
) -> dict[str, Any]:
    """Embeds `sequences` texts of `tokens` tokens at once, through the engine as a server would, in interleaved rounds.

    The cosine is the lowest to transformers' fp32 vectors of the golden texts. The peer's time holds its model, mean and
    scaling.
    """
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    config = open_checkpoint(model).config
    with ExitStack() as stack:
        engine = open_engine(
            model, EngineOptions(precision="int8", threads=threads, cache_dir=bench_cache()), quiet=True
        )
        stack.callback(engine.close)
        about = engine.capabilities()
        if about.backend != "native":
            raise DeepwellError(
                "benchmarks do not run on the numpy reference", fix="install g++ and reinstall"
            )
        cosine = _least_cosine(engine)
        sides = {"deepwell int8": lambda number: _timed(engine, texts(model, tokens, sequences, number))}
        peers: list[OnnxRuntime] = []
        cosines: dict[str, float] = {}
        if with_peer:
            python, file = onnx_python(report.console), minilm_onnx(report.console)
            for dynamic in (True, False):
                peer = OnnxRuntime(python, file, threads=threads, dynamic=dynamic)
                stack.callback(peer.close)
                peers.append(peer)
                sides[peer.name] = lambda number, peer=peer: peer.embed(
                    texts(model, tokens, sequences, number)
                )[0]
                cosines[peer.name] = rounded(_cosine_of(peer), 4)
                report.note(f"{peer.name}: least cosine to fp32 {cosines[peer.name]}; {peer.build}")
        peaks: list[float] = []
        result = compare(sides, rounds, lambda: peaks.append(measure_roof("int8", threads, seconds=0.2)))
    rates = result.rates["deepwell int8"]
    token_macs = encoder_macs(config, [tokens]) / tokens
    roofs = [peak * 1e9 / token_macs for peak in peaks]
    share = statistics.median(rate / roof for rate, roof in zip(rates, roofs, strict=True))
    sizes = {"deepwell int8": about.weights_bytes} | {peer.name: peer.weights_bytes for peer in peers}
    rows = _rows(result, sizes)
    roof_rate = statistics.median(roofs)
    rows.append(["int8 roof", "", roof_rate, f"{min(peaks):.0f}-{max(peaks):.0f} GMAC/s", rounded(share, 3)])
    report.table(
        f"Embeddings, {sequences} x {tokens} tokens",
        ["engine", "weights MB", "tokens/s", "spread", "ours / this"],
        rows,
    )
    value: dict[str, Any] = {
        "tokens_per_s": rounded(result.median("deepwell int8")),
        "texts_per_s": rounded(result.median("deepwell int8") / tokens),
        "roof": rounded(share, 3),
        "roof_tokens_per_s": rounded(roof_rate),
        "int8_gmac_per_s": rounded(statistics.median(peaks)),
        "gmac": rounded(token_macs * tokens * sequences / 1e9),
        "cosine": rounded(cosine, 6),
    }
    if peers:
        best = result.best([peer.name for peer in peers])
        value |= {
            "ratio": rounded(result.ratio("deepwell int8", best), 3),
            "peer": best,
            "peer_tokens_per_s": rounded(result.median(best)),
            "ratios": {p.name: rounded(result.ratio("deepwell int8", p.name), 3) for p in peers},
            "peer_cosines": cosines,
        }
    return value


def _rows(result: Comparison, sizes: Mapping[str, int]) -> list[list[Any]]:
    return [
        [
            name,
            size / 1e6,
            result.median(name),
            "{:,.0f}-{:,.0f}".format(*result.spread(name)),
            "" if name == "deepwell int8" else rounded(result.ratio("deepwell int8", name), 3),
        ]
        for name, size in sizes.items()
    ]


def _timed(engine: Engine, sequences: Sequence[Sequence[int]]) -> Run:
    start = time.perf_counter()
    asyncio.run(_embed(engine, sequences))
    return Run(time.perf_counter() - start, sum(map(len, sequences)), ())


async def _embed(engine: Engine, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    return await asyncio.gather(*(engine.embed(sequence) for sequence in sequences))


def _golden() -> tuple[list[list[int]], NDArray[np.float32]]:
    folder = repository() / "tests" / "golden"
    rows = json.loads((folder / "minilm.json").read_text(encoding="utf-8"))
    return [row["tokens"] for row in rows], np.load(folder / "minilm.npz", allow_pickle=False)["vectors"]


def _least_cosine(engine: Engine) -> float:
    tokens, expected = _golden()
    return float((np.stack(asyncio.run(_embed(engine, tokens))) * expected).sum(axis=1).min())


def _cosine_of(peer: OnnxRuntime) -> float:
    """Does the same for a peer, one text at a time."""
    tokens, expected = _golden()
    ours = np.concatenate([peer.embed([sequence])[1] for sequence in tokens])
    return float((ours * expected).sum(axis=1).min())
