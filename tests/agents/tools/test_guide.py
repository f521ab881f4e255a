"""The guide's Python blocks run in their order, and print what the guide shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

_GUIDES = Path(__file__).parents[3] / "docs" / "guides"


@pytest.mark.parametrize("name", ["agent-tools.md", "agent-tools.zh-CN.md"])
def test_the_blocks_print_what_the_guide_shows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (_GUIDES / name).read_text(encoding="utf-8")
    shared: dict[str, Any] = {}
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert len(pairs) == 2
    for code, shown in pairs:
        exec(compile(code, name, "exec"), shared)
        assert capsys.readouterr().out == shown
