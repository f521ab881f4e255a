"""Pruning measured: the curve of loss over size beside cuts by chance and by block influence alone, and its recovery.

Calibration is the pool of BBC News; what is measured are documents of its held-out set, which is frozen by hash.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.suites.tuning.runs import need_torch
from deepwell.bench.workloads.tuning.labelled import LabelledText, bbc_news, drawn
from deepwell.llm import LLM
from deepwell.tuning.compress.cut import Cut, chosen_cut, random_cut
from deepwell.tuning.compress.shapes import WAYS, parameters_of, shape_of

if TYPE_CHECKING:
    from deepwell.tuning.compress.training.layers import Predictions
    from deepwell.tuning.compress.training.run import Donor

__all__ = ["bench_prune_curve"]

SHARES: Final = (0.2, 0.3, 0.1)
_INFLUENCE_AT: Final = (0.2, 0.3)
_CALIBRATION: Final = 120
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
    import torch

    from deepwell.tuning.compress.training.layers import final_states, predictions
    from deepwell.tuning.compress.training.recover import Recovery, distil
    from deepwell.tuning.compress.training.run import Donor, windows_of
    from deepwell.tuning.train.bases import open_base

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    data = bbc_news()
    base = open_base(str(model))
    donor = Donor(base, windows_of(base.codec, _texts(drawn(data.pool, _CALIBRATION, "prune"))))
    measured = windows_of(base.codec, _texts(data.held_out[:_HELD_OUT]))[:windows]
    with torch.inference_mode():
        states = torch.cat([final_states(donor.model, part) for part in measured.split(4)])

    def point(name: str, cut: Cut, made: Any = None, *, timed: bool = False) -> _Point:
        made = made or donor.built(cut)
        found = predictions(made, measured, donor.model, states=states)
        rate = _rate(donor, cut, made) if timed else None
        report.note(
            f"{name}: {cut.shape}, loss {found.loss:.3f}, first choice {found.agreed:.1%}, "
            f"divergence {found.divergence:.3f}"
        )
        return _Point(name, parameters_of(base.config, cut.shape), found, rate)

    whole = chosen_cut(
        base.config, shape_of(base.config), donor.greedy(0), donor.tensor, donor.analysis.inverse
    )
    points = [point("donor", whole, donor.model, timed=True)]
    lows: list[float] = []
    behind: list[str] = []
    for share in SHARES:
        label = f"{share:.0%}"
        cut = donor.best(share, WAYS)
        made = donor.built(cut)
        ours = point(label, cut, made, timed=True)
        points.append(ours)
        others = [
            point(f"{label} by chance, {n}", random_cut(base.config, cut.shape, n)) for n in range(seeds)
        ]
        if share in _INFLUENCE_AT:
            others.append(point(f"{label} by block influence", _influence(donor, share)))
        points += others
        lows += [_low(ours.found, one.found) for one in others]
        behind += [one.name for one in others if not _beats(ours.found, one.found)]
        if share == 0.2:
            tokens = distil(made, donor.model, donor.learning, Recovery(minutes))
            recovered = point(f"{label} recovered", cut, made)
            points.append(recovered)
            gap = ours.found.loss - points[0].found.loss
            closed = (ours.found.loss - recovered.found.loss) / gap
            divergence = 1 - recovered.found.divergence / ours.found.divergence
    report.table(
        f"Pruned {base.name} on {measured.numel():,} held-out tokens of BBC News",
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
            for one in points
        ],
    )
    curve = sorted((one for one in points if one.rate is not None), key=lambda one: -one.weights)
    return {
        "tokens": measured.numel(),
        "loss": [rounded(one.found.loss, 3) for one in curve],
        "agreement": [rounded(one.found.agreed, 3) for one in curve],
        "divergence": [rounded(one.found.divergence, 3) for one in curve],
        "tokens_s": [rounded(one.rate or 0.0, 1) for one in curve],
        "behind": behind,
        "gain_low": rounded(min(lows), 3),
        "recovery_tokens": tokens,
        "recovery_closes": rounded(closed, 3),
        "recovery_divergence_closes": rounded(divergence, 3),
    }


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


def _low(ours: Predictions, other: Predictions) -> float:
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
        card = _card(donor, cut)
        write_pruned(donor, Pruned(made, cut, card), path, gguf=False)
        best = 0.0
        with LLM(path, context=512) as llm:
            for _ in range(3):
                begin = time.perf_counter()
                llm.generate(_PROMPT, max_tokens=48, temperature=0, ignore_eos=True)
                best = max(best, 48 / (time.perf_counter() - begin))
    return best


def _card(donor: Donor, cut: Cut) -> dict[str, Any]:
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
