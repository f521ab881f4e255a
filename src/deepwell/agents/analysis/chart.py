"""`draw_bars`: the rows of a query as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepwell.agents.analysis.run import Rows
from deepwell.errors import InvalidRequest, MissingDependency

__all__ = ["MOST_BARS", "draw_bars"]

MOST_BARS: Final = 40
_FONTS: Final = ["Noto Sans CJK SC", "WenQuanYi Zen Hei", "DejaVu Sans"]
_ENDINGS: Final = (".svg", ".png", ".pdf")


def draw_bars(rows: Rows, title: str, path: Path) -> int:
    """Draws rows as bars: the first text of a row names its bar, the first number is its length.

    Returns the number of bars. Rows without a number have none, and there are at most `MOST_BARS`.

    Raises:
        InvalidRequest: no row has a number, or the name of the file does not end as a picture's.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise InvalidRequest(
            f"{path} does not end as a picture does", fix=f"end it with {', '.join(_ENDINGS)}"
        )
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            "the chart needs matplotlib, which is not installed", fix="pip install 'deepwell[eval]'"
        ) from error
    bars = [row for row in rows.rows if any(isinstance(cell, int | float) for cell in row)][:MOST_BARS]
    if not bars:
        raise InvalidRequest(
            "no row has a number, so there is no chart", fix="ask for a count, a sum or a mean"
        )
    lengths = [next(float(cell) for cell in row if isinstance(cell, int | float)) for row in bars]
    names = [
        next((str(cell) for cell in row if isinstance(cell, str)), str(place))
        for place, row in enumerate(bars, 1)
    ]
    with mpl.rc_context({"font.sans-serif": _FONTS}):
        figure = Figure(figsize=(8, 0.4 * len(bars) + 1.5), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(bars)), lengths)
        axes.set_yticks(range(len(bars)), names)
        axes.invert_yaxis()
        axes.set_title(title, parse_math=False)
        figure.savefig(path)
    return len(bars)
