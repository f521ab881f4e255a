"""`draw_bars`: the rows of a query as a picture."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.agents.analysis.run import Rows
from deepwell.errors import InvalidRequest, MissingDependency

__all__ = ["MOST_BARS", "check_chart", "draw_bars"]

MOST_BARS: Final = 40
_FONTS: Final = ["Noto Sans CJK SC", "WenQuanYi Zen Hei", "DejaVu Sans"]
_ENDINGS: Final = (".svg", ".png", ".pdf")
_NAME_CHARACTERS: Final = 60
_TITLE_CHARACTERS: Final = 120
_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # no font has them


def check_chart(path: Path) -> None:
    """Checks that a chart can be drawn into a file, before anything is asked for its rows.

    Raises:
        InvalidRequest: the name of the file does not end as a picture's, it is a folder, or it has no folder.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise InvalidRequest(
            f"{path} does not end as a picture does", fix=f"end it with {', '.join(_ENDINGS)}"
        )
    if path.is_dir():
        raise InvalidRequest(f"{path} is a folder", fix="name a file for the chart")
    if not path.parent.is_dir():
        raise InvalidRequest(f"there is no folder {path.parent}", fix="make it, or name another file")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency(
            "the chart needs matplotlib, which is not installed", fix="pip install 'deepwell[eval]'"
        )


def draw_bars(rows: Rows, title: str, path: Path) -> int:
    """Draws rows as bars: the first text of a row names its bar, the first number is its length.

    Returns the number of bars. Rows without a finite number have none, and there are at most `MOST_BARS`.

    Raises:
        InvalidRequest: no row has a number, or a chart cannot be drawn into the file.
        MissingDependency: matplotlib is not installed.
    """
    check_chart(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    bars = [row for row in rows.rows if _length(row) is not None][:MOST_BARS]
    if not bars:
        raise InvalidRequest(
            "no row has a number, so there is no chart", fix="ask for a count, a sum or a mean"
        )
    lengths = [_length(row) or 0.0 for row in bars]
    names = [
        next((_line(cell, _NAME_CHARACTERS) for cell in row if isinstance(cell, str)), str(place))
        for place, row in enumerate(bars, 1)
    ]
    with mpl.rc_context({"font.sans-serif": _FONTS}):
        figure = Figure(figsize=(8, 0.4 * len(bars) + 1.5), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(bars)), lengths)
        axes.set_yticks(range(len(bars)), names, parse_math=False)
        axes.invert_yaxis()
        axes.set_title(_line(title, _TITLE_CHARACTERS), parse_math=False)
        figure.savefig(path)
    return len(bars)


def _length(row: Sequence[Any]) -> float | None:
    """Returns the first finite number of a row."""
    numbers = (float(cell) for cell in row if isinstance(cell, int | float))
    return next((one for one in numbers if math.isfinite(one)), None)


def _line(text: str, most: int) -> str:
    """Returns a text as one line, with an ellipsis in place of what is longer than a chart has room for."""
    text = _UNSHOWN.sub(" ", text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
