"""The guide to evaluation: its program runs on the task that it shows, and is the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def program(name: str) -> str:
    text = (GUIDES / name).read_text(encoding="utf-8")
    (found,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return found


def files(name: str) -> dict[str, str]:
    """Returns the files that the guide lets its reader write, by name."""
    text = (GUIDES / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^cat > (\S+) <<'EOF'\n(.*?)^EOF$", text, re.DOTALL | re.MULTILINE))


def test_both_languages_show_the_same() -> None:
    assert program("evaluate.md") == program("evaluate.zh-CN.md")
    assert files("evaluate.md") == files("evaluate.zh-CN.md")


@pytest.mark.model
def test_the_program_runs(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files("evaluate.md").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code = program("evaluate.md").replace("smollm2:runs/home/adapter", str(smollm2_path))
    exec(compile(code.replace('"smollm2"', f'"{smollm2_path}"'), "guide", "exec"), {})
    assert "topics" in capsys.readouterr().out
