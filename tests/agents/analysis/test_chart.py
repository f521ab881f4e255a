"""Rows become a bar chart, or the error says why they do not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from deepwell.agents.analysis import Rows, draw_bars
from deepwell.errors import InvalidRequest

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
        ((("open", 3),), "no/chart.svg"),
        ((("open", math.inf),), "chart.svg"),
    ],
)
def test_what_is_no_chart_is_refused_and_writes_nothing(
    tmp_path: Path, rows: tuple[tuple[Any, ...], ...], name: str
) -> None:
    with pytest.raises(InvalidRequest):
        draw_bars(Rows(("status", "n"), rows, more=False), "How many?", tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
def test_names_of_any_length_with_any_characters_are_drawn(tmp_path: Path) -> None:
    rows = Rows(("s", "n"), (("a\x01\n\x1b[31m", 3), ("b" * 5000, 2**63), ("c", math.inf)), more=False)
    assert draw_bars(rows, "How many\x07\n" * 100, tmp_path / "chart.svg") == 2
    assert not any(one in (tmp_path / "chart.svg").read_text() for one in "\x01\x1b\x07")


def test_a_folder_is_no_chart(tmp_path: Path) -> None:
    (tmp_path / "chart.svg").mkdir()
    with pytest.raises(InvalidRequest, match="is a folder"):
        draw_bars(ROWS, "How many?", tmp_path / "chart.svg")
