"""Calibrated quantisation beside rounding to nearest: what each adds to the perplexity of text that calibrates nothing.

One model is tiny and was trained here in float32. The other, qwen2.5-coder-0.5b, can be had as a 4-bit file alone: its weights
are what that file stands for. Calibration is text of BBC News' pool; what is measured are documents of its held-out set.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.quality import increase_error
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.scorer import Scorer
from deepwell.engine.backends.native import select_backend
from deepwell.engine.layouts import Precision
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news, drawn

if TYPE_CHECKING:
    from deepwell.tuning.compress.training.quantise import Method
    from deepwell.tuning.train.bases import Base

__all__ = ["QuantisationSizes", "bench_quantisation"]

_CALIBRATION: Final = 200  # documents, none of which the tiny model learns
_WINDOW: Final = 256
_TINY_WINDOWS: Final = 160  # of calibration, of 256 tokens
_FOUR_BITS: Final = "q4_0"
_THREE_BITS: Final = "q3_1"  # Q3_K needs rows that 256 divides, which neither model has everywhere


@dataclass(frozen=True, slots=True)
class QuantisationSizes:
    """Amounts of text.

    Attributes:
        learned: tokens that the tiny model sees; 0: it is left out.
        tiny, large: held-out tokens that each model is measured on.
        windows: calibration windows of the large model, of 256 tokens.
    """

    learned: int = 2_000_000
    tiny: int = 120_000
    large: int = 6144
    windows: int = 40


@dataclass(frozen=True, slots=True)
class _Scores:
    """Summed losses of windows, and the number of scored tokens of each."""

    losses: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.losses.sum() / self.counts.sum()))

    def over(self, base: _Scores) -> float:
        """Returns the relative increase of the perplexity."""
        return self.perplexity / base.perplexity - 1

    def error(self, base: _Scores) -> float:
        """Returns the standard error of the increase."""
        return increase_error(self.counts.tolist(), self.losses.tolist(), base.losses.tolist())


def bench_quantisation(
    report: Report, large: Path | None, sizes: QuantisationSizes | None = None
) -> dict[str, Any]:
    """Measures both models at 4 bits (Q4_0), and the tiny one at 3, rounded to nearest and calibrated.

    Args:
        large: the model that is a 4-bit file; None: the tiny one alone.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("quantisation")
    from deepwell_bench.workers.tuning.tiny_model import TinyRecipe, tiny_model

    sizes = sizes or QuantisationSizes()
    data = bbc_news()
    calibration = drawn(data.pool, _CALIBRATION, "quantise")
    kept = {id(one) for one in calibration}
    value: dict[str, Any] = {}
    rows: list[list[str]] = []

    def said(step: int, loss: float) -> None:
        if step % 250 == 0:
            report.note(f"the tiny model: step {step}, loss {loss:.3f}")

    if sizes.learned:
        learned = [one.text for one in data.pool if id(one) not in kept]
        folder = tiny_model(learned, TinyRecipe(tokens=sizes.learned), said)
        small = _Case(report, "tiny", folder, _texts(calibration), _texts(data.held_out), sizes.tiny)
        value |= small.measured((_FOUR_BITS, _THREE_BITS), _TINY_WINDOWS, rows)
    if large is not None:
        case = _Case(report, "large", large, _texts(calibration), _texts(data.held_out), sizes.large)
        value |= case.measured((_FOUR_BITS,), sizes.windows, rows)
    report.table(
        "Perplexity of held-out text of BBC News, computed in float32 of the quantised weights",
        [
            "model",
            "type",
            "perplexity",
            "nearest",
            "calibrated",
            "of nearest's increase",
            "nearest int4",
            "calibrated int4",
        ],
        rows,
    )
    return value


class _Case:
    """A model, and the text that calibrates and measures it."""

    def __init__(
        self,
        report: Report,
        name: str,
        model: Path,
        calibration: Sequence[str],
        held_out: Sequence[str],
        tokens: int,
    ) -> None:
        from deepwell.tuning.train.bases import open_base

        self._report, self._name = report, name
        self._base: Base = open_base(str(model))
        self._calibration = calibration
        ids = np.array([token for text in held_out for token in self._base.codec.encode(text)], np.int32)
        self._windows = ids[: min(tokens, len(ids)) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
        self._backend = select_backend()

    def measured(self, kinds: Sequence[str], windows: int, rows: list[list[str]]) -> dict[str, Any]:
        """Returns the figures of types; the first is computed as the engine serves it too, in int4."""
        base = self._scores(self._base.path, "fp32")
        value: dict[str, Any] = {
            f"{self._name}_tokens": int(base.counts.sum()),
            f"{self._name}_perplexity": rounded(base.perplexity, 6),
        }
        for kind in kinds:
            first = kind == kinds[0]
            with tempfile.TemporaryDirectory() as scratch:
                nearest = self._made(kind, "none", windows, Path(scratch))
                made = self._made(kind, "auto", windows if first else windows // 2, Path(scratch))
                scores = [self._scores(path, "fp32") for path in (nearest, made)]
                served = [self._scores(path, "int4") for path in (nearest, made)] if first else []
            increases = [one.over(base) for one in scores]
            ratio = increases[1] / increases[0]
            key = f"{self._name}_{'4' if first else '3'}_bits"
            value |= {
                f"{key}_nearest": rounded(increases[0], 4),
                f"{key}_calibrated": rounded(increases[1], 4),
                f"{key}_ratio": rounded(ratio, 3),
            }
            value |= {
                f"{key}_{way}_int4": rounded(one.over(base), 4)
                for way, one in zip(("nearest", "calibrated"), served, strict=False)
            }
            rows.append(
                [
                    self._base.name,
                    kind,
                    f"{base.perplexity:.3f}",
                    *(f"{one.over(base):+.3%} ± {one.error(base):.3%}" for one in scores),
                    f"{ratio:.2f}",
                    *(f"{one.over(base):+.3%}" for one in served),
                ]
            )
            rows[-1] += [""] * (8 - len(rows[-1]))
            self._report.note(" | ".join(rows[-1]))
        return value

    def _made(self, kind: str, method: Method, windows: int, folder: Path) -> Path:
        from deepwell.tuning.compress.training.quantise import quantise

        path = folder / f"{kind}-{method}.gguf"
        card = quantise(
            self._base.path, path, kind=kind, method=method, texts=self._calibration, most_windows=windows
        )
        self._report.note(f"{self._name}: {kind} by {method}, {card['weights']}")
        return path

    def _scores(self, path: Path, precision: Precision) -> _Scores:
        losses: list[float] = []
        with tempfile.TemporaryDirectory() as packed:  # some gigabytes in float32, which no later run needs
            scorer = Scorer(self._backend, path, precision, _WINDOW, cache_dir=Path(packed))
            for window in self._windows:
                found = scorer.logprobs(window)
                losses.append(-float(found[np.arange(_WINDOW - 1), window[1:]].sum(dtype=np.float64)))
        return _Scores(np.array(losses), np.full(len(losses), _WINDOW - 1))


def _texts(documents: Sequence[LabelledText]) -> list[str]:
    return [one.text + "\n\n" for one in documents]
