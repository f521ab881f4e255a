"""Pruning measured: the curve of loss over size beside cuts by chance and by block influence alone, and its recovery.

Calibration is the pool of BBC News; what is measured are documents of its held-out set, which is frozen by hash.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import LLM
from deepwell.tuning.compress.cut import Cut, chosen_cut, random_cut
from deepwell.tuning.compress.shapes import WAYS, parameters_of, shape_of
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news, drawn

if TYPE_CHECKING:
    from deepwell.tuning.compress.training.layers import Predictions
    from deepwell.tuning.compress.training.run import Donor

__all__ = ["bench_prune_curve", "calibrated", "low_gain", "packed_in", "plain_card"]

SHARES: Final = (0.1, 0.2, 0.3)
_RECOVERED_AT: Final = 0.2
_INFLUENCE_AT: Final = (0.2, 0.3)
_CALIBRATION: Final = 400
_HELD_OUT: Final = 24  # documents, of which whole windows are measured
_RESAMPLES: Final = 2000
_PROMPT: Final = "The newspaper reported this morning that"


@dataclass(frozen=True, slots=True)
class _Point:
    """A model of the curve."""

    name: str
    weights: int
    found: Predictions
    rate: float | None = None


def bench_prune_curve(
    report: Report, model: Path, *, windows: int = 12, seeds: int = 3, minutes: float = 5.0
) -> dict[str, Any]:
    """Measures cuts of 10, 20 and 30 %, each beside others of its size, and what recovery brings back at 20 %.

    Args:
        windows: held-out windows of 256 tokens.
        seeds: cuts by chance at each size.
        minutes: time of the recovery.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("prune-curve")
    from deepwell.tuning.compress.training.recover import Recovery, distil
    from deepwell.tuning.compress.training.run import windows_of

    donor = calibrated(model)
    base = donor.base
    curve = _Curve(report, donor, windows_of(base.codec, _texts(bbc_news().held_out[:_HELD_OUT]))[:windows])
    layers = list(range(base.config.num_hidden_layers))
    whole = chosen_cut(base.config, shape_of(base.config), layers, donor.tensor, donor.analysis.inverse)
    first = curve.point("donor", whole, donor.model, timed=True)
    for share in SHARES:
        curve.compare(share, seeds)
    made = donor.built(curve.cuts[_RECOVERED_AT])
    tokens = distil(made, donor.model, donor.learning, Recovery(minutes))
    plain = curve.ours[_RECOVERED_AT]
    better = curve.point(f"{_RECOVERED_AT:.0%} recovered", curve.cuts[_RECOVERED_AT], made)
    curve.show()
    points = [first, *curve.ours.values()]
    return {
        "tokens": curve.windows.numel(),
        "loss": [rounded(one.found.loss, 4) for one in points],
        "agreement": [rounded(one.found.agreed, 3) for one in points],
        "divergence": [rounded(one.found.divergence, 3) for one in points],
        "tokens_s": [rounded(one.rate or 0.0, 3) for one in points],
        "behind": curve.behind,
        "gain_low": rounded(min(curve.lows), 3),
        "recovery_tokens": tokens,
        "recovery_closes": rounded(
            (plain.found.loss - better.found.loss) / (plain.found.loss - first.found.loss), 3
        ),
        "recovery_divergence_closes": rounded(1 - better.found.divergence / plain.found.divergence, 3),
    }


def calibrated(model: Path) -> Donor:
    """Returns a model with documents of the pool of BBC News as its calibration text; the held-out set has no part in it."""
    from deepwell.tuning.compress.training.run import Donor, windows_of
    from deepwell.tuning.train.bases import open_base

    base = open_base(str(model))
    return Donor(base, windows_of(base.codec, _texts(drawn(bbc_news().pool, _CALIBRATION, "prune"))))


class _Curve:
    """Points of the curve and those that they are compared with.

    Attributes:
        cuts: ours by share.
        ours: points of ours by share, not recovered.
        lows: lower ends of the intervals of how much less our loss is.
        behind: names of cuts that ours do not beat by each measure.
    """

    def __init__(self, report: Report, donor: Donor, windows: Any) -> None:
        self.windows = windows
        self.cuts: dict[float, Cut] = {}
        self.ours: dict[float, _Point] = {}
        self.lows: list[float] = []
        self.behind: list[str] = []
        self._report, self._donor = report, donor
        self._points: list[_Point] = []

    def point(self, name: str, cut: Cut, made: Any = None, *, timed: bool = False) -> _Point:
        """Measures one model."""
        made = self._donor.built(cut) if made is None else made
        found = self._donor.compared(made, self.windows)
        rate = _rate(self._donor, cut, made) if timed else None
        point = _Point(name, parameters_of(self._donor.base.config, cut.shape), found, rate)
        self._report.note(f"{name}: {cut.shape}, loss {found.loss:.3f}")
        self._points.append(point)
        return point

    def compare(self, share: float, seeds: int) -> None:
        """Measures our cut of a share, and others of its size."""
        config = self._donor.base.config
        cut = self.cuts[share] = self._donor.best(share, WAYS)
        ours = self.ours[share] = self.point(f"{share:.0%}", cut, timed=True)
        others = [
            self.point(f"{share:.0%} by chance, {seed}", random_cut(config, cut.shape, seed))
            for seed in range(seeds)
        ]
        if share in _INFLUENCE_AT:
            others.append(self.point(f"{share:.0%} by block influence", _influence(self._donor, share)))
        self.lows += [low_gain(ours.found, one.found) for one in others]
        self.behind += [one.name for one in others if not _beats(ours.found, one.found)]

    def show(self) -> None:
        """Prints all points."""
        self._report.table(
            f"Pruned {self._donor.base.name} on {self.windows.numel():,} held-out tokens of BBC News",
            ["cut", "weights", "loss", "donor's first choice", "divergence", "tokens/s"],
            [
                [
                    one.name,
                    f"{one.weights:,}",
                    f"{one.found.loss:.3f}",
                    f"{one.found.agreed:.1%}",
                    f"{one.found.divergence:.3f}",
                    "" if one.rate is None else f"{one.rate:.0f}",
                ]
                for one in self._points
            ],
        )


def _texts(documents: Sequence[LabelledText]) -> list[str]:
    return [one.text + "\n\n" for one in documents]


def _influence(donor: Donor, share: float) -> Cut:
    """Returns the cut of whole layers by block influence alone; it leaves out no more than the share, which favours it."""
    config = donor.base.config
    count = 0
    while True:
        shape = replace(shape_of(config), layers=config.num_hidden_layers - count - 1)
        if parameters_of(config, shape) < (1 - share) * parameters_of(config):
            break
        count += 1
    shape = replace(shape_of(config), layers=config.num_hidden_layers - count)
    layers = donor.analysis.by_influence(count)
    return chosen_cut(config, shape, layers, donor.tensor, donor.analysis.inverse)


def _beats(ours: Predictions, other: Predictions) -> bool:
    return ours.loss < other.loss and ours.agreed > other.agreed and ours.divergence < other.divergence


def low_gain(ours: Predictions, other: Predictions) -> float:
    """Returns the lower end of the 95 % bootstrap interval, over positions in pairs, of how much less our loss is."""
    gains = (other.losses - ours.losses).float().numpy()
    rng = np.random.default_rng(0)
    means = [gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(_RESAMPLES)]
    return float(np.quantile(means, 0.025))


def _rate(donor: Donor, cut: Cut, made: Any) -> float:
    """Returns the tokens a second that our engine writes for one reader, the best of three."""
    from deepwell.tuning.compress.training.run import Pruned, write_pruned

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        card = plain_card(donor, cut)
        write_pruned(donor, Pruned(made, cut, card), path, gguf=False)
        best = 0.0
        with packed_in(Path(folder)), LLM(path, context=512) as llm:
            for _ in range(3):
                begin = time.perf_counter()
                llm.generate(_PROMPT, max_tokens=48, temperature=0, ignore_eos=True)
                best = max(best, 48 / (time.perf_counter() - begin))
    return best


@contextmanager
def packed_in(folder: Path) -> Iterator[None]:
    """Puts packed weights of models that are deleted afterwards into a folder, not beside those of the store."""
    before = os.environ.get("DEEPWELL_PACKED_DIR")
    os.environ["DEEPWELL_PACKED_DIR"] = str(folder / "packed")
    try:
        yield
    finally:
        if before is None:
            del os.environ["DEEPWELL_PACKED_DIR"]
        else:
            os.environ["DEEPWELL_PACKED_DIR"] = before


def plain_card(donor: Donor, cut: Cut) -> dict[str, Any]:
    """Returns what the record of a folder says about a cut that was not measured."""
    config = donor.base.config
    whole, left = parameters_of(config), parameters_of(config, cut.shape)
    return {
        "base": donor.base.name,
        "base_fingerprint": donor.base.checkpoint.fingerprint,
        "cut": 1 - left / whole,
        "parameters": left,
        "base_parameters": whole,
        "shape": {"layers": cut.shape.layers, "channels": cut.shape.channels, "kv_heads": cut.shape.kv_heads},
        "layers": list(cut.layers),
        "calibration": {"tokens": 0, "sha256": ""},
        "recovery": {},
        "loss_before": 0.0,
        "loss": 0.0,
    }
