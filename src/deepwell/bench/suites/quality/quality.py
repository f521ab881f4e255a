"""The cost of rounding: perplexity, KL divergence and top-1 agreement against fp32 of the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.peers.ours import PRECISIONS
from deepwell.bench.peers.scorer import Scorer
from deepwell.bench.workloads.text import text_tokens
from deepwell.engine.backends.native import select_backend

__all__ = ["bench_quality"]


@dataclass(slots=True)
class _Sums:
    tokens: int = 0
    loss: float = 0.0
    kl: float = 0.0
    same_top: int = 0

    def add(self, ours: NDArray[np.float32], base: NDArray[np.float32], targets: NDArray[np.int32]) -> None:
        self.tokens += len(targets)
        self.loss -= float(ours[np.arange(len(targets)), targets].sum(dtype=np.float64))
        self.kl += float((np.exp(base) * (base - ours)).sum(axis=1, dtype=np.float64).sum())
        self.same_top += int((ours.argmax(axis=1) == base.argmax(axis=1)).sum())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss / self.tokens))


def bench_quality(report: Report, model: Path, *, tokens: int = 20_480, window: int = 512) -> dict[str, Any]:
    """Scores windows of the fixed text, each from an empty context; every precision sees the same ones.

    The GGUF donor is a 4-bit file: fp32 of its dequantised weights is both "fp32" and "the 4-bit source".
    """
    ids = np.array(text_tokens(model)[:tokens], np.int32)
    backend = select_backend()
    base = Scorer(backend, model, "fp32", window)
    scorers = {precision: Scorer(backend, model, precision, window) for precision in PRECISIONS}
    sums = {precision: _Sums() for precision in ("fp32", *PRECISIONS)}
    for start in range(0, len(ids) - 1, window):
        part = ids[start : start + window]
        expected = base.logprobs(part)
        sums["fp32"].add(expected, expected, part[1:])
        for precision, scorer in scorers.items():
            sums[precision].add(scorer.logprobs(part), expected, part[1:])
    reference = sums["fp32"].perplexity
    value: dict[str, Any] = {
        "tokens": len(ids),
        "window": window,
        "backend": backend.name,
        "fp32_perplexity": rounded(reference, 6),
    }
    rows: list[list[Any]] = [["fp32", f"{reference:.4f}", "", "", ""]]
    for precision in PRECISIONS:
        name, total = precision.replace("-", "_"), sums[precision]
        increase = total.perplexity / reference - 1
        value |= {
            f"{name}_perplexity_increase": rounded(increase, 3),
            f"{name}_kl": rounded(total.kl / total.tokens, 3),
            f"{name}_top1_agreement": rounded(total.same_top / total.tokens),
        }
        rows.append(
            [
                precision,
                f"{total.perplexity:.4f}",
                f"{increase:+.3%}",
                f"{total.kl / total.tokens:.5f}",
                f"{total.same_top / total.tokens:.2%}",
            ]
        )
    report.table(
        f"{len(ids)} tokens of Cranfield text, window {window}",
        ["precision", "perplexity", "increase", "KL (nats)", "top-1 agreement"],
        rows,
    )
    return value
