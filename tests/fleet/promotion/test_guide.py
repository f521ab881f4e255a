"""The guide to promotion: its program runs, prints what it shows, and is the same in both languages."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from deepwell.fleet.promotion.gates import GATES, Bars
from deepwell.fleet.promotion.judge import Plan

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("promotion.md") == blocks("promotion.zh-CN.md")


def test_the_program_prints_what_the_guide_shows(capsys: pytest.CaptureFixture[str]) -> None:
    for (language, code), (_, printed) in pairwise(blocks("promotion.md")):
        if language == "python":
            exec(compile(code, "guide", "exec"), {})
            assert capsys.readouterr().out == printed


def test_the_figures_of_the_guide_are_those_of_the_code() -> None:
    bars, plan = Bars(), Plan()
    assert (bars.least_votes, bars.least_users, bars.most_share) == (50, 5, 0.25)
    assert (bars.most_loss, bars.most_unended, bars.most_refused, bars.most_time) == (0.02, 0.02, 0.05, 1.05)
    assert [getattr(plan, one.name) for one in fields(plan)] == [0.05, 0.05, 5000, 30.0]
    for name in ("promotion.md", "promotion.zh-CN.md"):
        text = (GUIDES / name).read_text(encoding="utf-8")
        assert all(f"\n| {gate}" in text for gate in GATES)
