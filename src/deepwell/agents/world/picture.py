"""Draws imagination beside reality, with matplotlib: curves where observations are numbers, views where they are maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.agents.world.environments import Float
from deepwell.agents.world.environments.grid import KINDS, SIDE
from deepwell.agents.world.imagine import Beside
from deepwell.errors import MissingDependency

__all__ = ["draw_beside"]

_CURVES: Final = {
    "cart-pole": ((0, 2.4, "position, m"), (2, 12.0, "angle, degrees")),
    "inventory": ((0, 20.0, "stock, units"), (4, 20.0, "demand, units")),
}
"""For each environment: number of the observation, what scales it back, and the label."""

_COLOURS: Final = np.array([[0.36, 0.38, 0.42], [0.95, 0.77, 0.06], [0.63, 0.32, 0.18], [0.20, 0.66, 0.33]])
_REAL, _IMAGINED = "#1f2937", "#2563eb"
_VIEWS: Final = 12


def draw_beside(rows: Sequence[Beside], path: Path) -> None:
    """Writes a picture with one row for each environment.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "the picture needs matplotlib, which is not installed", fix="pip install 'deepwell[eval]'"
        ) from error
    figure = Figure(figsize=(10, 2.7 * len(rows)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        (_curves if row.environment in _CURVES else _views)(part, row)
    figure.savefig(path)


def _curves(part: Any, row: Beside) -> None:
    part.suptitle(
        f"{row.environment}: {row.seen} steps shown, the rest imagined", fontsize=10, x=0.01, ha="left"
    )
    of_row = _CURVES[row.environment]
    steps = np.arange(len(row.real))
    imagined = steps[row.seen :]
    for axes, (number, scale, label) in zip(part.subplots(1, len(of_row)), of_row, strict=True):
        values = row.imagined[..., number] * scale
        axes.axvspan(0, row.seen - 1, color="#e5e7eb")
        low, high = np.quantile(values, (0.05, 0.95), axis=0)
        axes.fill_between(
            imagined, low, high, color=_IMAGINED, alpha=0.2, linewidth=0, label="90 % of the futures"
        )
        axes.plot(imagined, values.mean(0), color=_IMAGINED, linestyle="--", label="imagined, mean")
        axes.plot(steps, row.real[:, number] * scale, color=_REAL, linewidth=1.4, label="real")
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=8)
    part.axes[0].legend(fontsize=7, loc="best")


def _views(part: Any, row: Beside) -> None:
    part.suptitle(
        f"{row.environment}: what the agent sees; {row.seen} steps shown, the rest imagined",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    mean = row.imagined.mean(0)
    begin = max(0, row.seen - 3)
    shown = list(range(begin, min(len(row.real), begin + _VIEWS)))
    grid = part.subplots(2, len(shown), squeeze=False)
    for column, step in enumerate(shown):
        for line, name in ((0, "real"), (1, "imagined")):
            axes = grid[line, column]
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(name, fontsize=8)
            if line == 0:
                axes.set_title(f"{step}", fontsize=8)
                axes.imshow(_view(row.real[step]))
            elif step >= row.seen:
                axes.imshow(_view(mean[step - row.seen]))
            else:
                axes.imshow(_view(row.real[step]), alpha=0.25)
            axes.plot(SIDE // 2, SIDE // 2, marker="o", color="#dc2626", markersize=5)


def _view(observation: Float) -> Float:
    """Returns a picture [side, side, 3] of a view; a doubtful cell has a mixed colour."""
    maps = np.clip(observation[:-1].reshape(len(KINDS), SIDE, SIDE), 0, 1)
    picture = np.ones((SIDE, SIDE, 3))
    for kind, colour in enumerate(_COLOURS):
        share = maps[kind][..., None]
        picture = picture * (1 - share) + colour * share
    return picture.astype(np.float32)
