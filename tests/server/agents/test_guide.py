"""The blocks of the guide on agents run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.server.agents.serving import agent_server, call

from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def block_with(text: str) -> str:
    [found] = [one for one in python_blocks("agents.md") if text in one]
    return found


def test_both_languages_have_the_same_blocks() -> None:
    assert python_blocks("agents.md") == python_blocks("agents.zh-CN.md")


def test_the_block_of_a_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block_with("Clues"), "guide", "exec"), {})
    assert capsys.readouterr().out.strip() == "Clues(weight=0.9, mentions=('oak',))"


def test_the_block_of_the_api_runs(codec: Codec, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = block_with("127.0.0.1:8000")
    lines = (call("calculate", expression="20 + 22"), "It is 42.")
    with agent_server(codec, tmp_path, *lines) as live:
        exec(compile(code.replace("http://127.0.0.1:8000", live.url), "guide", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "completed It is 42.",
        "['started', 'turn', 'call', 'result', 'note', 'turn', 'end']",
    ]


def test_the_block_of_a_program_runs(capsys: pytest.CaptureFixture[str], smollm2_path: Path) -> None:
    code = block_with("AsyncLLM").replace('AsyncLLM("smollm2")', f"AsyncLLM({str(smollm2_path)!r})")
    exec(compile(code, "guide", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.split()[0] in ("completed", "incomplete")
