"""Conversion of MLPs to mixtures of experts measured: exactness, loss over sparsity, groupings by chance, and recovery.

Calibration is the pool of BBC News; what is measured are documents of its held-out set, which is frozen by hash.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.compress.convert.experts import (
    Experts,
    Layout,
    layouts_for,
    random_experts,
    shared_channels,
)
from deepwell.tuning.compress.shapes import shape_of
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news, drawn

if TYPE_CHECKING:
    from deepwell.tuning.compress.training.layers import Predictions
    from deepwell.tuning.compress.training.mixtures import Grouping, Mixtures
    from deepwell.tuning.compress.training.run import Donor

__all__ = ["bench_convert_moe"]

SPARSITIES: Final = (0.25, 0.5)
_COMPARED_AT: Final = 0.25
_CALIBRATION: Final = 400
_FITTED: Final = 48  # windows of the calibration text that group, route and refit
_HELD_OUT: Final = 24  # documents, of which whole windows are measured


@dataclass(frozen=True, slots=True)
class _Point:
    """A model that was measured."""

    name: str
    found: Predictions
    made: Mixtures | None = None
    seconds: float = 0.0


def bench_convert_moe(
    report: Report,
    model: Path,
    *,
    windows: int = 12,
    fitted: int = _FITTED,
    seeds: int = 2,
    minutes: float = 15.0,
) -> dict[str, Any]:
    """Measures mixtures of two sparsities, groupings by chance at 25 %, and what recovery brings back there.

    Args:
        windows: held-out windows of 256 tokens.
        fitted: windows of the pool that the conversion sees.
        seeds: groupings by chance, of every channel and of those that are not shared.
        minutes: time of the recovery.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("convert-moe")
    from deepwell.tuning.compress.training.mixtures import by_activation, chosen_layout
    from deepwell.tuning.compress.training.recover import Recovery, distil
    from deepwell.tuning.compress.training.run import Donor, windows_of
    from deepwell.tuning.train.bases import load_model, open_base

    data = bbc_news()
    base = open_base(str(model))
    donor = Donor(base, windows_of(base.codec, _texts(drawn(data.pool, _CALIBRATION, "prune"))))
    curve = _Curve(report, donor, windows_of(base.codec, _texts(data.held_out[:_HELD_OUT]))[:windows], fitted)
    channels = base.config.intermediate_size
    layout = chosen_layout(donor.model, curve.fit[: max(2, fitted // 2)], layouts_for(channels, _COMPARED_AT))
    report.note(f"layout: {layout}")
    first = curve.measure("donor", donor.model)
    exact = curve.exactness(layout)
    for sparsity in SPARSITIES:
        curve.convert(f"{sparsity:.1%} left out", _at(layout, sparsity), by_activation)
    for seed in range(seeds):
        curve.convert(f"all by chance, {seed}", layout, partial(_by_chance, seed))
        curve.convert(f"routed by chance, {seed}", layout, partial(_routed_by_chance, seed))
    cut = replace(shape_of(base.config), channels=channels - round(_COMPARED_AT * channels))
    curve.measure("25.0% cut for every token", donor.built(donor.chosen(cut)))
    student = curve.built(f"{_COMPARED_AT:.1%} left out", load_model(base))
    begin = time.perf_counter()
    tokens = distil(student, donor.model, donor.learning, Recovery(minutes))
    spent = (time.perf_counter() - begin) / 60
    curve.measure("25.0% left out, recovered", student)
    curve.show()
    ours = [curve.points[f"{one:.1%} left out"] for one in SPARSITIES]
    plain, excess = curve.points[f"{_COMPARED_AT:.1%} left out"], curve.excess
    chance = [excess(f"all by chance, {seed}") for seed in range(seeds)]
    half = [excess(f"routed by chance, {seed}") for seed in range(seeds)]
    healed = curve.points["25.0% left out, recovered"]
    return {
        "tokens": curve.windows.numel(),
        "layout": f"{layout.shared} shared + {layout.active} of {layout.routed} experts of {layout.width}",
        "exact_logits": rounded(exact, 3),
        "loss_donor": rounded(first.found.loss, 4),
        "loss": [rounded(one.found.loss, 4) for one in ours],
        "agreement": [rounded(one.found.agreed, 3) for one in ours],
        "divergence": [rounded(one.found.divergence, 3) for one in ours],
        "load_entropy": [rounded(mean(one.made.entropies), 3) for one in ours if one.made],
        "excess": rounded(excess(plain.name), 3),
        "excess_all_by_chance": [rounded(one, 3) for one in chance],
        "excess_routed_by_chance": [rounded(one, 3) for one in half],
        "excess_cut_for_every_token": rounded(excess("25.0% cut for every token"), 3),
        "grouping_gain": rounded(1 - excess(plain.name) / min(chance), 3),
        "grouping_gain_routed": rounded(1 - excess(plain.name) / min(half), 3),
        "recovery_tokens": tokens,
        "recovery_minutes": rounded(spent, 3),
        "recovery_closes": rounded(1 - excess(healed.name) / excess(plain.name), 3),
        "recovery_divergence_closes": rounded(1 - healed.found.divergence / plain.found.divergence, 3),
    }


class _Curve:
    """Converted models on held-out text.

    Attributes:
        windows: held-out text, int64 [windows, tokens].
        fit: calibration text of the conversions.
        points: what was measured, by name.
    """

    def __init__(self, report: Report, donor: Donor, windows: Any, fitted: int) -> None:
        self.windows, self.fit = windows, donor.learning[:fitted]
        self.points: dict[str, _Point] = {}
        self._report, self._donor = report, donor
        self._dense = [layer.mlp for layer in donor.model.model.layers]

    def measure(self, name: str, model: Any, made: Mixtures | None = None, seconds: float = 0.0) -> _Point:
        """Measures a model."""
        point = self.points[name] = _Point(name, self._donor.compared(model, self.windows), made, seconds)
        self._report.note(f"{name}: loss {point.found.loss:.3f}")
        return point

    def convert(self, name: str, layout: Layout, grouping: Grouping) -> None:
        """Converts the donor's MLPs, and measures it with them."""
        from deepwell.tuning.compress.training.mixtures import converted_mlps

        begin = time.perf_counter()
        made = converted_mlps(self._donor.model, self.fit, layout, grouping)
        seconds = time.perf_counter() - begin
        with self._replaced(made) as model:
            self.measure(name, model, made, seconds)

    def exactness(self, layout: Layout) -> float:
        """Returns the largest difference of a logit from the donor's when every expert of a fitted router is computed."""
        from deepwell.tuning.compress.training.layers import final_states
        from deepwell.tuning.compress.training.mixtures import converted_mlps

        part = self.windows[:2]
        made = converted_mlps(self._donor.model, self.fit[:16], replace(layout, active=layout.routed))

        def logits(model: Any) -> Any:
            return model.lm_head(final_states(model, part))

        wanted = logits(self._donor.model)
        with self._replaced(made) as model:
            return float((logits(model) - wanted).abs().max())

    def built(self, name: str, model: Any) -> Any:
        """Returns a model with the mixtures of a point."""
        from deepwell.tuning.compress.training.mixtures import placed

        made = self.points[name].made
        if made is None:
            raise ValueError(f"{name} is no mixture")
        return placed(model, made)

    def excess(self, name: str) -> float:
        """Returns how much more a point's loss is than the donor's."""
        return self.points[name].found.loss - self.points["donor"].found.loss

    def show(self) -> None:
        """Prints all points."""
        self._report.table(
            f"Mixtures made of {self._donor.base.name} on {self.windows.numel():,} held-out tokens of BBC News",
            ["model", "loss", "donor's first choice", "divergence", "load entropy", "seconds"],
            [
                [
                    one.name,
                    f"{one.found.loss:.3f}",
                    f"{one.found.agreed:.1%}",
                    f"{one.found.divergence:.3f}",
                    f"{mean(one.made.entropies):.3f}" if one.made else "",
                    f"{one.seconds:.0f}" if one.made else "",
                ]
                for one in self.points.values()
            ],
        )

    @contextmanager
    def _replaced(self, made: Mixtures) -> Iterator[Any]:
        """Replaces the donor's MLPs for a while."""
        from deepwell.tuning.compress.training.mixtures import placed

        try:
            yield placed(self._donor.model, made)
        finally:
            for layer, mlp in zip(self._donor.model.model.layers, self._dense, strict=True):
                layer.mlp = mlp


def _at(layout: Layout, sparsity: float) -> Layout:
    """Returns the layout of the same shared parts, if it has one, that leaves out another share."""
    found = layouts_for(layout.channels, sparsity, experts=layout.shared + layout.routed)
    return min(found, key=lambda one: abs(one.shared - layout.shared))


def _by_chance(seed: int, layer: int, hidden: Any, down: Any, layout: Layout) -> Experts:
    return random_experts(layout, 1000 * seed + layer)


def _routed_by_chance(seed: int, layer: int, hidden: Any, down: Any, layout: Layout) -> Experts:
    """Groups by chance what is not shared; what is shared is chosen as ours is."""
    return random_experts(layout, 1000 * seed + layer, shared_channels(hidden, down, layout))


def _texts(documents: Sequence[LabelledText]) -> list[str]:
    return [one.text + "\n\n" for one in documents]
