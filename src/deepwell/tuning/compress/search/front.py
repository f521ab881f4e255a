"""The Pareto front of a search: points that no other point beats, as rows, as JSON and as a picture."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepwell.tuning.compress.search.space import Candidate

__all__ = ["Point", "draw_front", "front_of"]


@dataclass(frozen=True)
class Point:
    """A finalist with what was measured of it, and what was predicted.

    Attributes:
        number: its number on the front, 0 for the donor.
        share: part of the donor's weights that is left out.
        proxy_loss: loss on the text of the search; final_loss: on text that no step of the search has seen.
        loss_rise: final_loss over the donor's, less 1.
        predicted_tokens_s: by the table of parts.
        tokens_s: measured; speedup: over the donor's shape in the same rounds.
        joules_per_token: None where it cannot be read.
        loads_in: programs that read a folder of this shape.
    """

    number: int
    candidate: Candidate
    parameters: int
    share: float
    proxy_loss: float
    final_loss: float
    loss_rise: float
    predicted_tokens_s: float
    tokens_s: float
    speedup: float
    cpu_seconds_per_token: float
    bytes_per_token: int
    joules_per_token: float | None
    loads_in: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the point as plain JSON values."""
        return asdict(self) | {
            "candidate": self.candidate.to_json(),
            "layers": self.candidate.layers,
            "loads_in": list(self.loads_in),
        }

    @property
    def described(self) -> str:
        """Shape in a few words."""
        one = self.candidate
        mlps = [width for width in one.channels if width]
        heads = f", {one.kv_heads} key heads" if self.number else ""
        mean = sum(mlps) / len(mlps)
        return f"{len(one.layers)} layers, {sum(one.attention)} attentions, {len(mlps)} MLPs of {mean:.0f}{heads}"


def front_of(figures: Mapping[Candidate, Sequence[float]]) -> list[Candidate]:
    """Returns the candidates that no other one equals or beats in every figure; less is better."""
    kept: list[Candidate] = []
    for one, mine in figures.items():
        beaten = any(
            all(b <= a for a, b in zip(mine, theirs, strict=True)) and tuple(theirs) != tuple(mine)
            for other, theirs in figures.items()
            if other != one
        )
        if not beaten:
            kept.append(one)
    return kept


def draw_front(path: Path, points: Sequence[Point], name: str) -> None:
    """Draws loss over speed and loss over size, with the numbers of the points, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    sides = (
        ("tokens/s, measured", [one.tokens_s for one in points]),
        ("weights, millions", [one.parameters / 1e6 for one in points]),
    )
    losses = [one.final_loss for one in points]
    for axis, (label, values) in zip(axes, sides, strict=True):
        order = sorted(range(len(points)), key=values.__getitem__)
        axis.plot(
            [values[one] for one in order], [losses[one] for one in order], "o-", markersize=4, linewidth=0.8
        )
        for point, value in zip(points, values, strict=True):
            axis.annotate(
                str(point.number) if point.number else "donor",
                (value, point.final_loss),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize=8,
            )
        axis.set_xlabel(label, fontsize=9)
        axis.set_ylabel("loss on text kept apart, before recovery", fontsize=9)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{name}: smaller models that no other one beats", fontsize=10, parse_math=False)
    FigureCanvasAgg(figure).print_png(str(path))
