"""A picture of figures against rank, as PNG, by matplotlib."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepwell.errors import MissingDependency

__all__ = ["draw_curve"]


def draw_curve(
    path: Path, ranks: Sequence[int], curves: Mapping[str, Sequence[float]], lines: Mapping[str, float]
) -> None:
    """Draws each curve on its own axis, with what truncation gives as a dashed line.

    Raises:
        MissingDependency: matplotlib, which comes with `[eval]`, is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("the picture needs matplotlib", fix="pip install 'deepwell[eval]'") from None
    figure = Figure(figsize=(3.4 * len(curves), 3.2), layout="constrained")
    axes: Any = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.plot(ranks, values, "o-", color="#1a7f37", label="factors")
        if name in lines:
            axis.axhline(lines[name], linestyle="--", color="#8a8f98", label="truncation")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("rank", fontsize=9)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
