"""A picture of figures against rank, as PNG, by matplotlib."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepwell.errors import MissingDependency

__all__ = ["Curve", "draw_curves"]

_FACTORS, _GREY = "#1a7f37", "#57606a"
_LINES: Final = ("--", ":", "-.")


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure at each rank.

    Attributes:
        beside: the same figure of what has no rank, drawn as level lines, by name.
    """

    name: str
    values: Sequence[float]
    beside: Mapping[str, float] = field(default_factory=dict[str, float])


def draw_curves(path: Path, ranks: Sequence[str], curves: Sequence[Curve]) -> None:
    """Draws each curve on axes of its own.

    Args:
        ranks: labels below the points, a rank and the share of bytes that it takes.

    Raises:
        MissingDependency: matplotlib, which comes with `[eval]`, is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("the picture needs matplotlib", fix="pip install 'deepwell[eval]'") from None
    figure = Figure(figsize=(3.4 * len(curves), 3.4), layout="constrained", dpi=140)
    axes: Any = figure.subplots(1, len(curves), squeeze=False)[0]
    places = range(len(ranks))
    for axis, curve in zip(axes, curves, strict=True):
        axis.plot(places, curve.values, "o-", color=_FACTORS, linewidth=2, label="factors")
        for style, (name, value) in zip(_LINES, curve.beside.items(), strict=False):
            axis.axhline(value, linestyle=style, color=_GREY, linewidth=1.5, label=name)
        low, high = axis.get_ylim()
        axis.set_ylim(low - 0.05 * (high - low), high + 0.35 * (high - low))  # room for the legend
        axis.set_xticks(places, ranks, fontsize=9)
        axis.tick_params(axis="y", labelsize=9)
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(curve.name, fontsize=10)
        axis.set_xlabel("rank, and its share of the bytes", fontsize=9)
        axis.legend(fontsize=8, loc="upper right")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
