"""The guide to the router: its program routes the request that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


@pytest.mark.parametrize("name", ["router.md", "router.zh-CN.md"])
def test_the_program_of_the_guide_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (GUIDES / name).read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (program,) = [one for one in programs if "OpenAI" not in one]  # the other one needs a server
    exec(compile(program, name, "exec"), {})
    assert capsys.readouterr().out.startswith("('transcription',)")
