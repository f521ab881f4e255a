"""The guide to evaluation: its program runs on the task that it shows, and is the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def blocks(name: str) -> dict[str, str]:
    text = (GUIDES / name).read_text(encoding="utf-8")
    return dict(re.findall(r"```(jsonl|yaml|python)\n(.*?)```", text, re.DOTALL))


def test_both_languages_show_the_same() -> None:
    assert blocks("evaluate.md") == blocks("evaluate.zh-CN.md")


@pytest.mark.model
def test_the_program_runs(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = blocks("evaluate.md")
    (tmp_path / "topics.yaml").write_text(shown["yaml"], encoding="utf-8")
    (tmp_path / "topics.jsonl").write_text(shown["jsonl"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    program = (
        shown["python"]
        .replace("smollm2:runs/home/adapter", str(smollm2_path))
        .replace('"smollm2"', f'"{smollm2_path}"')
    )
    exec(compile(program, "guide", "exec"), {})
    assert "topics" in capsys.readouterr().out
