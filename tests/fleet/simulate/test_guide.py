"""The guide to capacity: its program prints what it shows, and it is the same in both languages."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from deepwell.fleet.simulate.profile import Profile, read_profile

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("capacity.md") == blocks("capacity.zh-CN.md")


def test_the_program_prints_what_the_guide_shows(capsys: pytest.CaptureFixture[str]) -> None:
    for (language, code), (_, printed) in pairwise(blocks("capacity.md")):
        if language == "python":
            exec(compile(code, "guide", "exec"), {})
            assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", ["capacity.md", "capacity.zh-CN.md"])
def test_every_field_of_a_profile_is_explained(name: str) -> None:
    explained = set(re.findall(r"`(\w+)`", (GUIDES / name).read_text(encoding="utf-8")))
    assert {field.name for field in fields(Profile)} - {"name", "measured"} <= explained


def test_the_profile_of_the_guide_comes_along() -> None:
    assert read_profile(ROOT / "bench" / "data" / "fleet" / "smollm2.json").kind == "steps"
