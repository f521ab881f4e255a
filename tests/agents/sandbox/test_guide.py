"""The blocks of the guide print what the guide shows, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.needs import SANDBOX

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


@pytest.mark.needs(SANDBOX)
@pytest.mark.parametrize("name", ["sandbox.md", "sandbox.zh-CN.md"])
def test_blocks_print_what_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDES / name).read_text(encoding="utf-8")
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert len(pairs) == 2
    for code, shown in pairs:
        exec(compile(code, name, "exec"), {})
        assert capsys.readouterr().out == shown
