"""The guide to world models: its program prints what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


@pytest.mark.parametrize("name", ["world-model.md", "world-model.zh-CN.md"])
def test_the_program_of_the_guide_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (GUIDES / name).read_text(encoding="utf-8")
    ((program, shown),) = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", page, re.DOTALL)
    exec(compile(program, name, "exec"), {})
    # Numbers may differ in the last place on other processors: the words and the recommendation do not.
    printed = capsys.readouterr().out
    assert re.sub(r"[-\d.]+", "#", printed).split()[:3] == re.sub(r"[-\d.]+", "#", shown).split()[:3]
    assert printed.split("(")[0] == shown.split("(")[0]
