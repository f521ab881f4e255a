"""The cost of rounding: perplexity, KL divergence and top-1 agreement against fp32 of the same weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.engine import PRECISIONS
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.scorer import Scorer
from deepwell.engine.backends.native import select_backend
from deepwell.engine.layouts import Precision

__all__ = ["SHORT_PRECISIONS", "SHORT_TOKENS", "bench_quality", "increase_error"]

SHORT_PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "int4")
SHORT_TOKENS: Final = 2048  # four windows: seconds


@dataclass(slots=True)
class _Sums:
    tokens: int = 0
    loss: float = 0.0
    kl: float = 0.0
    same_top: int = 0
    windows: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])  # tokens, loss of each

    def add(self, ours: NDArray[np.float32], base: NDArray[np.float32], targets: NDArray[np.int32]) -> None:
        loss = -float(ours[np.arange(len(targets)), targets].sum(dtype=np.float64))
        self.windows.append((len(targets), loss))
        self.tokens += len(targets)
        self.loss += loss
        self.kl += float((np.exp(base) * (base - ours)).sum(axis=1, dtype=np.float64).sum())
        self.same_top += int((ours.argmax(axis=1) == base.argmax(axis=1)).sum())

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss / self.tokens))


def increase_error(counts: Sequence[int], ours: Sequence[float], base: Sequence[float]) -> float:
    """Estimates the standard error of a perplexity increase by a jackknife over windows.

    Tokens of one window share a context, so their losses move together: each estimate leaves a whole window out. Both
    precisions score the same tokens, so the error is that of the paired difference, not of either perplexity. The
    spread between windows holds both the choice of the text and the chance of the rounding: activations that fall on
    another integer, as after one changed bit anywhere, are another draw.

    Args:
        counts: the scored tokens of each window.
        ours: the summed loss of each window in the precision that is judged.
        base: the same in the precision it is held against.

    Returns:
        The standard error, a fraction like the increase itself; NaN for fewer than two windows.
    """
    windows = len(counts)
    if windows < 2:
        return math.nan
    lost = np.subtract(ours, base, dtype=np.float64)
    kept_tokens = sum(counts) - np.asarray(counts, np.float64)
    estimates = np.expm1((lost.sum() - lost) / kept_tokens)
    return float(np.sqrt((windows - 1) * estimates.var()))


def _error(total: _Sums, base: _Sums) -> float:
    counts = [count for count, _ in base.windows]
    return increase_error(counts, [loss for _, loss in total.windows], [loss for _, loss in base.windows])


def bench_quality(
    report: Report,
    model: Path,
    ids: Sequence[int],
    *,
    window: int = 512,
    precisions: Sequence[Precision] = PRECISIONS,
    isa: str | None = None,
) -> dict[str, Any]:
    """Scores windows of a text in tokens, each from an empty context; every precision sees the same ones.

    Of a 4-bit file, fp32 of its dequantised weights is both "fp32" and "the 4-bit source". A few
    windows tell a fault from rounding by KL divergence, which hardly moves with the text; the increase of perplexity
    needs all of it.
    """
    tokens = np.array(ids, np.int32)
    backend = select_backend(isa=isa)
    base = Scorer(backend, model, "fp32", window)
    scorers = {precision: Scorer(backend, model, precision, window) for precision in precisions}
    sums = {precision: _Sums() for precision in ("fp32", *precisions)}
    for start in range(0, len(tokens) - 1, window):
        part = tokens[start : start + window]
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
    for precision in precisions:
        name, total = precision.replace("-", "_"), sums[precision]
        increase, error = total.perplexity / reference - 1, _error(total, sums["fp32"])
        value[f"{name}_perplexity_increase"] = rounded(increase, 3)
        if not math.isnan(error):
            value[f"{name}_perplexity_increase_se"] = rounded(error, 2)
            value[f"{name}_perplexity_increase_less_se"] = rounded(increase - error, 3)
        value |= {
            f"{name}_kl": rounded(total.kl / total.tokens, 3),
            f"{name}_top1_agreement": rounded(total.same_top / total.tokens),
        }
        rows.append(
            [
                precision,
                f"{total.perplexity:.4f}",
                f"{increase:+.3%}" if math.isnan(error) else f"{increase:+.3%} ± {error:.3%}",
                f"{total.kl / total.tokens:.5f}",
                f"{total.same_top / total.tokens:.2%}",
            ]
        )
    report.table(
        f"{len(ids)} tokens of text, window {window}",
        ["precision", "perplexity", "increase", "KL (nats)", "top-1 agreement"],
        rows,
    )
    return value
