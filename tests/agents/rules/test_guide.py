"""The guide on rules prints what it shows."""

from __future__ import annotations

import re

import pytest

from deepwell_bench.harness.assets import repository


@pytest.mark.parametrize("name", ["rules.md", "rules.zh-CN.md"])
def test_the_block_of_the_guide_prints_what_stands_beneath_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository())
    text = (repository() / "docs" / "guides" / name).read_text(encoding="utf-8")
    ((code, shown),) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "guide", "exec"), {})
    assert capsys.readouterr().out == shown
