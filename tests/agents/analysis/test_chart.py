"""Rows become a bar chart, or the error says why they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepwell.agents.analysis import Rows, draw_bars
from deepwell.errors import InvalidRequest

pytest.importorskip("matplotlib")
ROWS = Rows(("status", "n"), (("open", 3), ("$x^2$ 已完成", 4.5), (None, None)), more=False)


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_chart_has_a_bar_for_every_row_with_a_number(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"chart.{ending}"
    assert draw_bars(ROWS, "How many have $ in {their} name?", path) == 2
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ((("open", None), ("closed", "3")), "chart.svg"),
        ((), "chart.svg"),
        ((("open", 3),), "chart.exe"),
        ((("open", 3),), "chart"),
    ],
)
def test_what_is_no_chart_is_refused_and_writes_nothing(
    tmp_path: Path, rows: tuple[tuple[Any, ...], ...], name: str
) -> None:
    with pytest.raises(InvalidRequest):
        draw_bars(Rows(("status", "n"), rows, more=False), "How many?", tmp_path / name)
    assert not list(tmp_path.iterdir())
